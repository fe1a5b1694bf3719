package gtid

import "slices"

// maxNumber is the largest transaction number a server hands out (2^63-2).
const maxNumber = 1<<63 - 2

// interval is a run of transaction numbers, both ends included. A list of
// intervals is sorted, and there is a gap between any two of them. Lists are
// shared between sets and never changed.
type interval struct{ first, last uint64 }

// normalize sorts the list in place and joins what overlaps or touches.
func normalize(list []interval) []interval {
	slices.SortFunc(list, func(a, b interval) int {
		if a.first < b.first {
			return -1
		}
		if a.first > b.first {
			return 1
		}
		return 0
	})
	var out []interval
	for _, iv := range list {
		if n := len(out); n > 0 && iv.first <= out[n-1].last+1 {
			out[n-1].last = max(out[n-1].last, iv.last)
			continue
		}
		out = append(out, iv)
	}
	return out
}

func unionIntervals(a, b []interval) []interval {
	switch {
	case len(a) == 0:
		return b
	case len(b) == 0:
		return a
	}
	return normalize(slices.Concat(a, b))
}

func minusIntervals(a, b []interval) []interval {
	if len(b) == 0 {
		return a
	}
	var out []interval
	for _, iv := range a {
		for len(b) > 0 && b[0].last < iv.first {
			b = b[1:]
		}
		rest, gone := iv, false
		for _, cut := range b {
			if cut.first > rest.last {
				break
			}
			if cut.first > rest.first {
				out = append(out, interval{rest.first, cut.first - 1})
			}
			if cut.last >= rest.last {
				gone = true
				break
			}
			rest.first = cut.last + 1
		}
		if !gone {
			out = append(out, rest)
		}
	}
	return out
}

func intersectIntervals(a, b []interval) []interval {
	var out []interval
	for len(a) > 0 && len(b) > 0 {
		first, last := max(a[0].first, b[0].first), min(a[0].last, b[0].last)
		if first <= last {
			out = append(out, interval{first, last})
		}
		if a[0].last < b[0].last {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return out
}
