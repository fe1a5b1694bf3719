package gtid

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// model is a GTID set as plainly as can be: every GTID by itself.
type model map[string]bool

// drawSet draws a text of random parts and the model of it.
func drawSet(t *rapid.T, label string) (Set, model) {
	m := model{}
	var fields []string
	for range rapid.IntRange(0, 4).Draw(t, label+" fields") {
		uuid := rapid.SampledFrom([]string{uuidA, uuidB}).Draw(t, "uuid")
		tag := rapid.SampledFrom([]string{"", "a", "b_1"}).Draw(t, "tag")
		field := uuid
		if tag != "" {
			field += ":" + tag
		}
		for range rapid.IntRange(1, 4).Draw(t, "intervals") {
			first := rapid.IntRange(1, 20).Draw(t, "first")
			last := rapid.IntRange(0, 20).Draw(t, "last")
			field += fmt.Sprintf(":%d-%d", first, last)
			for n := first; n <= last; n++ {
				m[fmt.Sprintf("%s:%s:%d", uuid, tag, n)] = true
			}
		}
		fields = append(fields, field)
	}
	s, err := Parse(strings.Join(fields, ",\n"))
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	return s, m
}

// check compares a set with a model, GTID by GTID, and checks that its text
// is canonical.
func check(t *rapid.T, what string, s Set, want model) {
	got := model{}
	for _, p := range s.parts {
		if len(p.intervals) == 0 {
			t.Fatalf("%s: %s keeps an empty source", what, s)
		}
		for i, iv := range p.intervals {
			if i > 0 && iv.first <= p.intervals[i-1].last+1 {
				t.Fatalf("%s: %s is not normalized", what, s)
			}
			for n := iv.first; n <= iv.last; n++ {
				got[fmt.Sprintf("%s:%s:%d", p.uuid, p.tag, n)] = true
			}
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: got %s, want %v", what, s, want)
	}
	for g := range want {
		if !got[g] {
			t.Fatalf("%s: %s lacks %s", what, s, g)
		}
	}
	again, err := Parse(s.String())
	if err != nil || !again.Equal(s) || again.String() != s.String() {
		t.Fatalf("%s: %q parses as %q (%v)", what, s, again, err)
	}
	if s.Count() != uint64(len(want)) || s.IsEmpty() != (len(want) == 0) {
		t.Fatalf("%s: count %d, want %d", what, s.Count(), len(want))
	}
}

func TestAgainstPlainMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, ma := drawSet(t, "a")
		b, mb := drawSet(t, "b")
		union, minus, both, contains := model{}, model{}, model{}, true
		for g := range ma {
			union[g] = true
			if mb[g] {
				both[g] = true
			} else {
				minus[g] = true
			}
		}
		for g := range mb {
			union[g] = true
			contains = contains && ma[g]
		}
		check(t, "union", a.Union(b), union)
		check(t, "minus", a.Minus(b), minus)
		check(t, "intersect", a.Intersect(b), both)
		check(t, "a is unchanged", a, ma)
		check(t, "b is unchanged", b, mb)
		if a.Contains(b) != contains {
			t.Fatalf("contains: %s, %s: want %v", a, b, contains)
		}
		if a.Equal(b) != (contains && len(ma) == len(mb)) {
			t.Fatalf("equal: %s, %s", a, b)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", uuidA + ":1-5:7", uuidA + ":tag:1-5:7:other:8-9,\n" + uuidB + ":5-1", uuidA + ":", "x:1", uuidA + ":9223372036854775806",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			if !s.IsEmpty() {
				t.Fatalf("an error and a set: %q", text)
			}
			return
		}
		again, err := Parse(s.String())
		if err != nil || !again.Equal(s) {
			t.Fatalf("%q prints as %q, which parses as %q (%v)", text, s, again, err)
		}
		if !s.Contains(s) || !s.Minus(s).IsEmpty() || !s.Union(s).Equal(s) || !s.Intersect(s).Equal(s) {
			t.Fatalf("algebra of %q with itself", text)
		}
	})
}
