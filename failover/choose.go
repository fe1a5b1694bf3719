package failover

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"interrex/election"
	"interrex/internal/topology"
)

// choosePolicy is what the choice depends on besides the survey.
type choosePolicy struct {
	kind         election.Kind
	to           topology.NodeName // wanted candidate, empty for the best
	from         topology.NodeName // the old primary
	minFollowers int               // instances that must remain to acknowledge
	policy       Policy            // which of them may, and from where
	// forced: without the proof, whoever has the most may be promoted.
	forced bool
	// past: nor is anything in the record true.
	past bool
	// ailing tells whether something speaks against an instance as a primary that
	// does not keep it from answering; nil: nothing is known of any.
	ailing func(topology.NodeName) bool
	// instances is how many the cluster has.
	instances int
	// doubters are those that would have to follow an instance, and have no answer
	// from it; nil: nothing is known of any.
	doubters func(topology.NodeName) []topology.NodeName
}

// history is what a candidate must hold: everything acknowledged or, where a
// failover without that proof is forced, what it happens to have.
func (p choosePolicy) history(s survey, candidate Frozen) survey {
	if p.forced && !s.proven() {
		s.union = candidate.Received
	}
	return s
}

// chooseCandidate picks the instance to promote and those that will follow
// it. Ties go to the fewest unapplied transactions, then priority, then name;
// if no instance qualifies, the error says why each does not.
func chooseCandidate(s survey, p choosePolicy) (Frozen, []Frozen, error) {
	var (
		fit      []Frozen
		rejected []string
	)
	for _, f := range s.seen {
		why := unfit(f, p.history(s, f), p)
		if why == "" && isErrant(f, s) && p.kind != election.Resume {
			why = errantText(f, s)
		}
		if why != "" {
			rejected = append(rejected, fmt.Sprintf("%s: %s", f.Node, why))
			continue
		}
		fit = append(fit, f)
	}
	for n, why := range s.silent {
		if !s.has(n) {
			rejected = append(rejected, fmt.Sprintf("%s: %s", n, why))
		}
	}
	slices.Sort(rejected)
	if len(fit) == 0 {
		return Frozen{}, nil, fmt.Errorf("%w: %s", ErrNoCandidate, strings.Join(rejected, "; "))
	}
	slices.SortFunc(fit, func(a, b Frozen) int { return compareCandidates(a, b, s, p) })
	if !p.forced || s.proven() { // otherwise what the first one lacks is lost
		fit = p.undoubted(s, p.wellFirst(fit))
	}
	best := fit[0]
	return best, followersOf(best, p.history(s, best), p), nil
}

// wellFirst keeps the order, but for those that something speaks against.
func (p choosePolicy) wellFirst(fit []Frozen) []Frozen {
	if p.ailing == nil || len(fit) == 1 {
		return fit
	}
	var well, ill []Frozen
	for _, f := range fit {
		if p.ailing(f.Node) {
			ill = append(ill, f)
		} else {
			well = append(well, f)
		}
	}
	return append(well, ill...)
}

// undoubted puts in front the first of those that nobody doubts. Where enough are
// left to acknowledge for the one that is doubted, that may cost no more than what
// a level one may be behind: one member alone, however sure, moves nothing else.
func (p choosePolicy) undoubted(s survey, fit []Frozen) []Frozen {
	if p.doubters == nil || len(p.doubters(fit[0].Node)) == 0 {
		return fit
	}
	doubters := p.doubters(fit[0].Node)
	able, sites := p.policy.ackersAt(fit[0].Site, followersOf(fit[0], p.history(s, fit[0]), p))
	needed := max(p.minFollowers, min(p.policy.acks(p.instances, sites), len(able)), 1) // as the register will have it
	left := slices.DeleteFunc(able, func(f Frozen) bool { return slices.Contains(doubters, f.Node) })
	anyWork := len(left) < needed
	i := slices.IndexFunc(fit, func(f Frozen) bool {
		old := f.Node == p.from && p.kind != election.Switchover // for when nobody else fits
		return !old && (p.ailing == nil || !p.ailing(f.Node)) && len(p.doubters(f.Node)) == 0 &&
			(anyWork || s.work(f) <= s.work(fit[0])+caughtUpWithin)
	})
	if i < 0 {
		return fit
	}
	return slices.Concat(fit[i:i+1], fit[:i], fit[i+1:])
}

func compareCandidates(a, b Frozen, s survey, p choosePolicy) int {
	if p.kind != election.Switchover {
		// An old primary that came back is chosen only when nobody else fits.
		if aOld, bOld := a.Node == p.from, b.Node == p.from; aOld != bOld {
			if aOld {
				return 1
			}
			return -1
		}
	}
	if p.past {
		// Who is open, under the newest marker, is the primary, and lacks nothing that
		// it acknowledged. One that is open under an older one was replaced.
		newest := s.newestMarker()
		if d := cmp.Compare(b.under(newest), a.under(newest)); d != 0 {
			return d
		}
		if a.refuses() != b.refuses() {
			if a.refuses() {
				return 1
			}
			return -1
		}
	}
	if p.forced && !s.proven() {
		if d := cmp.Compare(s.beyond(a).Count(), s.beyond(b).Count()); d != 0 {
			return d // what it lacks is lost
		}
	}
	// One whose applier has stopped may have diverged, in what has come in part.
	if aStopped, bStopped := a.ApplierError != "", b.ApplierError != ""; aStopped != bStopped {
		if aStopped {
			return 1
		}
		return -1
	}
	if d := cmp.Compare(s.work(a), s.work(b)); d != 0 {
		return d
	}
	if a.Priority != b.Priority {
		return b.Priority - a.Priority
	}
	return strings.Compare(string(a.Node), string(b.Node))
}

// unfit says why an instance may not be promoted; empty means it may.
func unfit(f Frozen, s survey, p choosePolicy) string {
	if p.to != "" && f.Node != p.to {
		return fmt.Sprintf("%s is wanted", p.to)
	}
	if p.kind != election.Resume { // which takes the primary as it is
		if why := unpromotable(f, s, p); why != "" {
			return why
		}
	}
	followers := followersOf(f, s, p)
	ackers, sites := p.policy.ackersAt(f.Site, followers)
	switch n := p.policy.Sites; {
	case len(ackers) < p.minFollowers && n > 0:
		return fmt.Sprintf("%d of the %d needed instances of other sites could acknowledge its commits", len(ackers), p.minFollowers)
	case len(ackers) < p.minFollowers:
		return fmt.Sprintf("%d of the %d needed instances could acknowledge its commits", len(ackers), p.minFollowers)
	case n > 0 && p.minFollowers > 0 && certain(sites, n) == unmeetable:
		return fmt.Sprintf("those that could acknowledge its commits are in fewer than %d other sites (durability.sites)", n)
	}
	if p.kind == election.Resume {
		return ""
	}
	for _, other := range followers {
		if newerVersion(f.Version, other.Version) {
			return fmt.Sprintf("its version %s is newer than %s of %s, which could not replicate from it", f.Version, other.Version, other.Node)
		}
	}
	return ""
}

// unpromotable says what of the instance itself forbids that it becomes
// another primary.
func unpromotable(f Frozen, s survey, p choosePolicy) string {
	switch {
	case p.kind == election.Switchover && f.Node == p.from:
		return "it is the primary already"
	case f.Priority < 0:
		return "its priority forbids promotion"
	case f.Inadmissible != "":
		return f.Inadmissible
	case f.ApplierError != "" && (f.Unapplied > 0 || p.kind == election.Switchover):
		// With nothing left to apply, and nothing to come, it is for when nobody
		// else fits: Isolate leaves one where it ended an applier in the middle
		// of what will never come.
		return "its applier stopped: " + f.ApplierError
	case p.kind != election.Switchover && !f.Received.Contains(s.union):
		// A switchover's candidate is still receiving; catch up waits for it.
		return fmt.Sprintf("it lacks %d transactions that may have been acknowledged", s.union.Minus(f.Received).Count())
	case p.kind == election.Bootstrap && slices.ContainsFunc(s.seen, func(o Frozen) bool { return !o.Closed && o.Node != f.Node }):
		// Its commits would go on, and be lost with it.
		return "another instance is open for writes"
	case isErrant(f, s):
		return errantText(f, s)
	}
	return ""
}

func errantText(f Frozen, s survey) string {
	return "it holds transactions that no primary gave it: " + f.Received.Minus(s.union).String()
}

// isErrant tells whether an instance holds what neither the union has nor the
// old primary wrote. The latter is the old primary's unacknowledged tail: in
// doubt, and welcome.
func isErrant(f Frozen, s survey) bool {
	return s.oldUUID != "" && slices.ContainsFunc(f.Received.Minus(s.union).UUIDs(),
		func(uuid string) bool { return uuid != s.oldUUID })
}

// followersOf are the surveyed instances that can replicate from the
// candidate: what they hold, and what waits in their binary logs, is contained
// in what it will hold, and nobody can add to it.
func followersOf(candidate Frozen, s survey, p choosePolicy) []Frozen {
	will := candidate.Received.Union(s.union).Union(candidate.Committing)
	// While the source of both still sends, which of them has more of its
	// commits at the moment says nothing.
	live := p.kind == election.Switchover || p.kind == election.Resume
	var out []Frozen
	for _, f := range s.seen {
		if f.Node == candidate.Node {
			continue
		}
		if !f.Closed && !(p.kind == election.Switchover && f.Node == p.from) { // which is closed in its course
			continue
		}
		if f.Closed && p.kind != election.Resume && !will.Of(f.ServerUUID).Minus(f.Received).Minus(f.Committing).IsEmpty() {
			// It has lost them, and nobody can send it what it wrote itself. Where it is
			// all that there is for a primary that stays, it is rebuilt afterwards.
			continue
		}
		more := f.Received.Union(f.Committing).Minus(will).UUIDs()
		if len(more) == 0 || (live && slices.Equal(more, []string{s.oldUUID})) {
			out = append(out, f)
		}
	}
	return out
}

// newerVersion compares MySQL versions by their first two numbers: a source
// may be of the same series as its replicas or older, never newer.
func newerVersion(source, replica string) bool {
	var a, b [2]int
	_, errA := fmt.Sscanf(source, "%d.%d", &a[0], &a[1])
	_, errB := fmt.Sscanf(replica, "%d.%d", &b[0], &b[1])
	if errA != nil || errB != nil {
		return false
	}
	return slices.Compare(a[:], b[:]) > 0
}
