package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Finding is the result of one check.
type Finding struct {
	Name string `json:"name"`
	// Checked is how many things were looked at, and Of says what they are.
	Checked int    `json:"checked"`
	Of      string `json:"of"`
	// Violations are broken promises: any fails the run. At most shown are
	// listed; Count has all.
	Count      int      `json:"count"`
	Violations []string `json:"violations"`
	// Note is a figure for the reader.
	Note string `json:"note,omitempty"`
}

// shown is how many violations of a check are told in words.
const shown = 20

// Violate notes a broken promise.
func (f *Finding) Violate(format string, args ...any) {
	f.Count++
	if len(f.Violations) < shown {
		f.Violations = append(f.Violations, fmt.Sprintf(format, args...))
	}
}

// Evidence is what the servers had at the end, when every replica had executed
// all that the primary had: the log table of each, read twice, a while apart.
type Evidence struct {
	Primary string
	First   map[string]Committed // by node
	Second  map[string]Committed
}

// Check makes all checks. Glances may be as old as staleness says.
func Check(h *History, e Evidence, staleness time.Duration) []Finding {
	truth := e.First[e.Primary]
	return []Finding{
		checkKept(h, e),
		checkRefused(h, e),
		checkSettled(e),
		checkLines(h, truth),
		checkOneServer(h),
		checkNoneStale(h),
		checkLinearizable(h, truth),
		checkFresh(h, staleness),
		checkMonotonic(h, staleness),
	}
}

// checkKept: every acknowledged operation is on every server.
func checkKept(h *History, e Evidence) Finding {
	f := Finding{Name: "no acknowledged write is lost", Of: "acknowledged operations on each server"}
	for _, node := range slices.Sorted(maps.Keys(e.First)) {
		for _, op := range h.Ops {
			if op.Outcome != Acknowledged {
				continue
			}
			f.Checked++
			if _, there := e.First[node][op.ID]; !there {
				f.Violate("%s lacks operation %s", node, op.words())
			}
		}
	}
	return f
}

// checkRefused: what clients were told is not committed is on no server.
func checkRefused(h *History, e Evidence) Finding {
	f := Finding{Name: "nothing that was refused is there", Of: "refused operations on each server"}
	for _, node := range slices.Sorted(maps.Keys(e.First)) {
		for _, op := range h.Ops {
			if op.Outcome != Refused {
				continue
			}
			f.Checked++
			if _, there := e.First[node][op.ID]; there {
				f.Violate("%s has operation %s", node, op.words())
			}
		}
	}
	return f
}

// checkSettled: all servers have the same operations, and at the second look
// the same again. So those without an answer are settled, once and for all.
func checkSettled(e Evidence) Finding {
	f := Finding{Name: "operations without an answer are settled", Of: "log tables compared"}
	truth := e.First[e.Primary]
	for pass, tables := range []map[string]Committed{e.First, e.Second} {
		for _, node := range slices.Sorted(maps.Keys(tables)) {
			f.Checked++
			for id, line := range tables[node] {
				if want, there := truth[id]; !there || want != line {
					f.Violate("look %d: %s has operation %d as %+v, %s had it as %+v at first", pass+1, node, id, line, e.Primary, want)
				}
			}
			for id := range truth {
				if _, there := tables[node][id]; !there {
					f.Violate("look %d: %s lacks operation %d, which %s had at first", pass+1, node, id, e.Primary)
				}
			}
		}
	}
	return f
}

// checkLines: what is committed is what the client sent, and nothing else.
func checkLines(h *History, truth Committed) Finding {
	f := Finding{Name: "what is committed is what was sent", Of: "committed operations", Checked: len(truth)}
	sent := make(map[int64]Line, len(h.Ops))
	for _, op := range h.Ops {
		sent[op.ID] = op.Line
	}
	for id, line := range truth {
		if want, known := sent[id]; !known || want != line {
			f.Violate("operation %d is there as %+v and was sent as %+v", id, line, want)
		}
	}
	return f
}

// checkOneServer: the acknowledged operations of an epoch are of one server.
func checkOneServer(h *History) Finding {
	f := Finding{Name: "one server acknowledges in an epoch", Of: "acknowledged operations"}
	first := map[uint64]Op{}
	for _, op := range h.Ops {
		if op.Outcome != Acknowledged {
			continue
		}
		f.Checked++
		if other, known := first[op.Epoch]; !known {
			first[op.Epoch] = op
		} else if other.Server != op.Server {
			f.Violate("epoch %d: %s and %s", op.Epoch, other.words(), op.words())
		}
	}
	return f
}

// checkNoneStale: no acknowledged operation of an epoch begins after one of a
// higher epoch was answered.
func checkNoneStale(h *History) Finding {
	f := Finding{Name: "no server of a past epoch acknowledges", Of: "acknowledged operations"}
	begun := slices.DeleteFunc(slices.Clone(h.Ops), func(op Op) bool { return op.Outcome != Acknowledged })
	ended := slices.Clone(begun)
	slices.SortFunc(begun, func(a, b Op) int { return cmp.Compare(a.Invoked, b.Invoked) })
	slices.SortFunc(ended, func(a, b Op) int { return cmp.Compare(a.Returned, b.Returned) })
	var newest Op // the highest epoch that was answered by then
	next := 0
	for _, op := range begun {
		f.Checked++
		for ; next < len(ended) && ended[next].Returned < op.Invoked; next++ {
			if ended[next].Epoch > newest.Epoch {
				newest = ended[next]
			}
		}
		if op.Epoch < newest.Epoch {
			f.Violate("%s, after %s", op.words(), newest.words())
		}
	}
	return f
}

// checkFresh: a read through a read-only route shows every write that was
// acknowledged longer before than staleness.
func checkFresh(h *History, staleness time.Duration) Finding {
	f := Finding{Name: "reads on ro are within the lag limit", Of: "reads"}
	type version struct {
		at time.Duration
		n  int64
	}
	written := map[int64][]version{} // by register, the highest version acknowledged by then
	ended := slices.DeleteFunc(slices.Clone(h.Ops), func(op Op) bool { return op.Outcome != Acknowledged })
	slices.SortFunc(ended, func(a, b Op) int { return cmp.Compare(a.Returned, b.Returned) })
	for _, op := range ended {
		list := written[op.Key]
		if len(list) == 0 || op.Version > list[len(list)-1].n {
			written[op.Key] = append(list, version{op.Returned, op.Version})
		}
	}
	var stalest time.Duration
	for _, g := range h.Glances {
		f.Checked++
		list := written[g.Key]
		// The first one that the read does not show.
		missed, _ := slices.BinarySearchFunc(list, g.Version+1, func(v version, n int64) int { return cmp.Compare(v.n, n) })
		if missed < len(list) {
			stalest = max(stalest, g.Invoked-list[missed].at)
		}
		// The first one that is not old enough to be sure of.
		i, _ := slices.BinarySearchFunc(list, g.Invoked-staleness, func(v version, at time.Duration) int { return cmp.Compare(v.at, at) })
		if i > 0 && list[i-1].n > g.Version {
			f.Violate("client %d by way of %s read version %d of register %d on server %s at %s: version %d was acknowledged %s before",
				g.Client, g.Route, g.Version, g.Key, g.Server, stamp(g.Invoked), list[missed].n, stamp(g.Invoked-list[missed].at))
		}
	}
	f.Note = "the stalest did not show a write that was acknowledged " + stamp(stalest) + " before"
	return f
}

// checkMonotonic: what a client has read through a read-only route it does not
// see undone later than staleness after.
func checkMonotonic(h *History, staleness time.Duration) Finding {
	f := Finding{Name: "reads on ro are monotonic within the lag limit", Of: "reads"}
	type place struct {
		client int
		key    int64
	}
	seen := map[place][]Glance{}  // with ever higher versions
	for _, g := range h.Glances { // each client's in their order
		f.Checked++
		at := place{g.Client, g.Key}
		list := seen[at]
		i, _ := slices.BinarySearchFunc(list, g.Version+1, func(o Glance, n int64) int { return cmp.Compare(o.Version, n) })
		if i < len(list) && list[i].Returned < g.Invoked-staleness {
			f.Violate("client %d by way of %s read version %d of register %d on server %s at %s, and %d on server %s %s before",
				g.Client, g.Route, g.Version, g.Key, g.Server, stamp(g.Invoked), list[i].Version, list[i].Server, stamp(g.Invoked-list[i].Returned))
		}
		if len(list) == 0 || g.Version > list[len(list)-1].Version {
			seen[at] = append(list, g)
		}
	}
	return f
}

// words is an operation in one line.
func (op Op) words() string {
	return fmt.Sprintf("%d (%s of register %d by client %d by way of %s, %s to %s, epoch %d, server %s)",
		op.ID, op.Kind, op.Key, op.Client, op.Route, stamp(op.Invoked), stamp(op.Returned), op.Epoch, op.Server)
}

func stamp(d time.Duration) string { return d.Round(time.Millisecond).String() }

// longestOutage is LongestOutage on the history's clock.
func longestOutage(ops []Op, from, to time.Duration) time.Duration {
	ends := []time.Duration{0, to}
	for _, op := range ops {
		if op.Outcome == Acknowledged && op.Returned < to {
			ends = append(ends, op.Returned)
		}
	}
	slices.Sort(ends)
	var longest time.Duration
	for i, end := range ends[1:] {
		if end > from {
			longest = max(longest, end-ends[i])
		}
	}
	return longest
}
