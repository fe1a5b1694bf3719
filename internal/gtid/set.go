package gtid

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// Set is an immutable set of MySQL GTIDs (uuid[:tag]:interval…). The zero
// value is the empty set. Sets are compared with Equal, not with ==.
type Set struct {
	// parts are sorted by source, and none has empty intervals.
	parts []part
}

// part is all that a set has of one source.
type part struct {
	source
	intervals []interval
}

// source is what numbers GTIDs: a server's uuid and, since MySQL 8.3, a tag.
type source struct {
	uuid string // 36 lower-case characters: orders as the server's bytes do
	tag  string // empty for untagged, which sorts first
}

func (s source) compare(o source) int {
	if c := strings.Compare(s.uuid, o.uuid); c != 0 {
		return c
	}
	return strings.Compare(s.tag, o.tag)
}

// String prints the set as the server does (uuids in order, untagged first,
// then tags in order), but in one line. The empty set is "".
func (s Set) String() string {
	var b strings.Builder
	for i, p := range s.parts {
		switch {
		case i > 0 && s.parts[i-1].uuid == p.uuid:
		case i > 0:
			b.WriteByte(',')
			fallthrough
		default:
			b.WriteString(p.uuid)
		}
		if p.tag != "" {
			b.WriteByte(':')
			b.WriteString(p.tag)
		}
		for _, iv := range p.intervals {
			b.WriteByte(':')
			b.WriteString(strconv.FormatUint(iv.first, 10))
			if iv.last > iv.first {
				b.WriteByte('-')
				b.WriteString(strconv.FormatUint(iv.last, 10))
			}
		}
	}
	return b.String()
}

// MarshalText prints the canonical form, so that a Set in JSON is a string.
func (s Set) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText parses what Parse does.
func (s *Set) UnmarshalText(text []byte) error {
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}

// IsEmpty tells whether the set has no GTID.
func (s Set) IsEmpty() bool { return len(s.parts) == 0 }

// Count is the number of GTIDs in the set; a count above what 64 bits hold is
// math.MaxUint64.
func (s Set) Count() uint64 {
	var n uint64
	for _, p := range s.parts {
		for _, iv := range p.intervals {
			size := iv.last - iv.first + 1
			if n > math.MaxUint64-size {
				return math.MaxUint64
			}
			n += size
		}
	}
	return n
}

// UUIDs are the server uuids the set has GTIDs of, in order.
func (s Set) UUIDs() []string {
	var uuids []string
	for _, p := range s.parts {
		if len(uuids) == 0 || uuids[len(uuids)-1] != p.uuid {
			uuids = append(uuids, p.uuid)
		}
	}
	return uuids
}

// Of is what is in s of one server, under all tags.
func (s Set) Of(uuid string) Set {
	var out []part
	for _, p := range s.parts {
		if p.uuid == uuid {
			out = append(out, p)
		}
	}
	return Set{parts: out}
}

// Union is what is in s or in o.
func (s Set) Union(o Set) Set { return s.merge(o, unionIntervals) }

// Minus is what is in s and not in o (GTID_SUBTRACT).
func (s Set) Minus(o Set) Set { return s.merge(o, minusIntervals) }

// Intersect is what is in both s and o.
func (s Set) Intersect(o Set) Set { return s.merge(o, intersectIntervals) }

// Contains tells whether all of o is in s (GTID_SUBSET(o, s)).
func (s Set) Contains(o Set) bool { return o.Minus(s).IsEmpty() }

// Equal tells whether both sets have the same GTIDs.
func (s Set) Equal(o Set) bool {
	return slices.EqualFunc(s.parts, o.parts, func(a, b part) bool {
		return a.source == b.source && slices.Equal(a.intervals, b.intervals)
	})
}

// merge walks the sources of both sets in order and combines the intervals of
// each; a source that only one set has meets the empty list.
func (s Set) merge(o Set, combine func(a, b []interval) []interval) Set {
	var out []part
	add := func(src source, a, b []interval) {
		if ivs := combine(a, b); len(ivs) > 0 {
			out = append(out, part{src, ivs})
		}
	}
	a, b := s.parts, o.parts
	for len(a) > 0 || len(b) > 0 {
		order := -1
		switch {
		case len(a) == 0:
			order = 1
		case len(b) > 0:
			order = a[0].compare(b[0].source)
		}
		switch {
		case order < 0:
			add(a[0].source, a[0].intervals, nil)
			a = a[1:]
		case order > 0:
			add(b[0].source, nil, b[0].intervals)
			b = b[1:]
		default:
			add(a[0].source, a[0].intervals, b[0].intervals)
			a, b = a[1:], b[1:]
		}
	}
	return Set{parts: out}
}
