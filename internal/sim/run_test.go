package sim

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"interrex/election"
)

// The phases of a run, in virtual time.
const (
	bootLimit   = 20 * time.Second
	safetyPhase = 10 * time.Second
	healLimit   = 40 * time.Second
	drainLimit  = 10 * time.Second
)

// options say how a seed is run.
type options struct {
	keep    bool    // keep the trace in words
	faults  []fault // in place of those that the seed draws
	doubles doubles
	log     *zap.Logger
}

// outcome is what came of a run.
type outcome struct {
	seed       uint64
	shape      shape
	sum        uint64
	violations []string
	faults     []fault
	lines      []string
	state      string
	turns      int
	ties       int
	acked      int
	uncovered  int
	kept       int
	roles      int
	kinds      map[election.Kind]int
	injected   map[string]int
	virtual    time.Duration
	healedIn   time.Duration
}

// runSeed runs one seed from beginning to end, in a bubble of its own.
func runSeed(t *testing.T, seed uint64, o options) (out outcome) {
	dir := tempDir()
	defer os.RemoveAll(dir)
	synctest.Test(t, func(*testing.T) {
		draw := rand.New(rand.NewPCG(seed, 1))
		sh := shape{instances: 3, arbiters: max(0, draw.IntN(5)-2), acks: 1}
		if draw.IntN(4) == 0 {
			sh.instances = 4 + draw.IntN(2)
			sh.arbiters = draw.IntN(2)
			sh.acks = draw.IntN(3)
		}
		sh.degrade = draw.IntN(8) == 0
		sh.dropAfter = time.Second + time.Duration(draw.IntN(3000))*time.Millisecond
		faults := o.faults
		if faults == nil {
			faults = schedule(draw, safetyPhase)
		}
		if o.log == nil {
			o.log = zap.NewNop()
		}
		tr := &trace{keep: o.keep}
		w := newWorld(seed, sh, tr, dir, o.doubles, o.log)
		out = w.play(faults)
		out.seed, out.shape = seed, sh
	})
	return out
}

// play runs the phases: boot, faults, healing, end.
func (w *world) play(faults []fault) (out outcome) {
	l := w.loop
	w.store.tick()
	w.gossip.tick()
	for _, a := range w.agents {
		a.start()
	}
	for range 2 {
		l.later(0, 100*time.Millisecond, (&client{w: w}).tick)
	}
	for _, s := range w.servers {
		l.later(0, 100*time.Millisecond, (&client{w: w, local: s}).tick)
	}
	w.await(bootLimit, func() string { return w.check.unsettled() }, "bootstrap")
	began := l.now()
	var heals []func()
	for _, f := range faults {
		strike := func() {
			if w.healing {
				return
			}
			w.injected[f.kind.String()]++
			w.struck++
			w.active++
			heal, over := w.strike(f), false
			once := func() {
				if !over {
					over = true
					w.active--
					l.trace.note(l.now(), "HEAL", f.kind.String())
					heal()
				}
			}
			heals = append(heals, once)
			l.after(f.length, once)
		}
		l.after(f.at, func() {
			if f.on == "" {
				strike()
				return
			}
			l.traps = append(l.traps, &trap{on: f.on, after: f.after, nth: f.nth, do: strike})
		})
	}
	l.run(func() bool { return l.now()-began > safetyPhase || len(w.check.violations) > 0 })
	w.healing = true
	for _, heal := range heals {
		heal()
	}
	for _, s := range w.servers {
		s.thaw()
		s.start(false)
	}
	for _, a := range w.agents {
		if a.proc.frozen {
			l.thaw(a.proc)
		}
		a.start()
	}
	healed := l.now()
	w.await(healLimit, w.check.unsettled, "healing")
	out.healedIn = l.now() - healed
	// What was asked for before may begin only now, and has to end.
	w.await(drainLimit, func() string {
		if why := w.check.unsettled(); why != "" || w.check.level() {
			return why
		}
		return "not all have executed the same"
	}, "draining")
	if len(w.check.violations) == 0 {
		w.check.atEnd()
	}
	out.state = w.describe()
	w.end()
	out.sum, out.violations, out.lines, out.faults = l.trace.sum, w.check.violations, l.trace.lines, faults
	out.turns, out.ties, out.acked, out.roles, out.kinds = l.turns, l.ties, int(w.check.acked.Count()), w.check.roles, w.check.kinds
	out.uncovered, out.kept = w.check.uncovered, w.check.kept
	out.virtual, out.injected = l.now(), w.injected
	return out
}

// await runs until why says nothing for a while, or it took too long.
func (w *world) await(limit time.Duration, why func() string, phase string) {
	if len(w.check.violations) > 0 {
		return
	}
	l, began, quiet := w.loop, w.loop.now(), 0
	var look func()
	look = func() {
		if why() == "" {
			quiet++
		} else {
			quiet = 0
		}
		l.after(50*time.Millisecond, look)
	}
	look()
	l.run(func() bool { return quiet >= 3 || l.now()-began > limit || len(w.check.violations) > 0 })
	if quiet < 3 && len(w.check.violations) == 0 {
		w.check.violate("liveness", "not within %s of %s: %s", limit, phase, why())
	}
	look = func() {}
}

// end kills everything and waits until every goroutine is gone.
func (w *world) end() {
	l := w.loop
	for _, a := range w.agents {
		a.kill()
	}
	gone := make(chan struct{})
	go func() { w.wg.Wait(); close(gone) }()
	ended := false
	began := l.now()
	l.run(func() bool {
		select {
		case <-gone:
			ended = true
		default:
		}
		return ended || l.now()-began > time.Hour
	})
	if !ended {
		panic(fmt.Sprint("goroutines are left after an hour: ", w.describe()))
	}
}
