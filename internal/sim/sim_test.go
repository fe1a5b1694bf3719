package sim

import (
	"flag"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

var (
	seeds = flag.Int("seeds", 20, "how many seeds")
	first = flag.Uint64("seed", 1, "the first seed")
	words = flag.Bool("trace", false, "print the trace")
)

func TestSeeds(t *testing.T) {
	began := time.Now()
	var virtual time.Duration
	turns, ties, roles, acked := 0, 0, 0, 0
	for n := range uint64(*seeds) {
		o := options{keep: *words}
		if *words {
			c := zap.NewDevelopmentConfig()
			c.Level.SetLevel(zap.InfoLevel)
			c.DisableStacktrace = true
			o.log, _ = c.Build()
		}
		out := runSeed(t, *first+n, o)
		if *words {
			t.Log(strings.Join(out.lines, "\n"))
			t.Log(out.state)
		}
		virtual += out.virtual
		turns += out.turns
		ties += out.ties
		roles += out.roles
		acked += out.acked
		if len(out.violations) > 0 {
			t.Errorf("seed %d: %v\n%s", out.seed, out.violations, describeFaults(out.faults))
		}
	}
	t.Logf("%d seeds, %s of virtual time in %s, %d turns, %d ties, %d roles, %d acked", *seeds, virtual, time.Since(began), turns, ties, roles, acked)
}

func TestReplay(t *testing.T) {
	different := 0
	for n := range uint64(*seeds) {
		a := runSeed(t, *first+n, options{keep: *words})
		b := runSeed(t, *first+n, options{keep: *words})
		if a.sum != b.sum {
			different++
			t.Errorf("seed %d: replay differs", *first+n)
			for i := range a.lines {
				if i >= len(b.lines) || a.lines[i] != b.lines[i] {
					t.Logf("first difference at %d:\n%s\n---\n%s", i, strings.Join(a.lines[max(0, i-20):min(i+5, len(a.lines))], "\n"), strings.Join(b.lines[max(0, i-5):min(i+5, len(b.lines))], "\n"))
					break
				}
			}
		}
	}
	t.Logf("%d of %d differ", different, *seeds)
}
