package detector

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"interrex/internal/topology"
)

func TestSilentHost(t *testing.T) {
	for phase := range 4 {
		inWorld(t, 3, func(t *testing.T, w *world) {
			time.Sleep(time.Duration(phase) * 23 * ms)
			w.net.isolate(addr(0), true)
			for i := 1; i < 3; i++ {
				w.views[i][0].set(func(s *server) { s.hang, s.err = true, errConnect })
			}
			took := w.until(1, 0, topology.Failed, 2*time.Second)
			t.Log("silent host declared after", took)
			least, most := w.dets[0].Windows().SilentHost()
			require.GreaterOrEqual(t, took, least-w.dets[0].Windows().Interval)
			require.LessOrEqual(t, took, most)
			j := w.dets[1].Judgement(name(0))
			require.Equal(t, SilentHost, j.Cause)
			require.Less(t, j.LastGood, took+150*ms)
			// Its agent is declared gone as well.
			start := time.Now()
			for w.dets[1].JudgeMember(name(0)).Verdict != topology.Failed {
				require.Less(t, time.Since(start), 3*time.Second, w.dets[1].JudgeMember(name(0)).Explanation)
				time.Sleep(10 * ms)
			}
			t.Log("its member declared after", took+time.Since(start))
			require.Equal(t, topology.Suspect, w.judgeAtIsolated(), "the cut-off member has its own word only")
		})
	}
}

// judgeAtIsolated cuts the first member off from the second's server too and
// returns what it makes of it after a while.
func (w *world) judgeAtIsolated() topology.Verdict {
	w.views[0][1].set(func(s *server) { s.hang, s.err = true, errConnect })
	time.Sleep(3 * time.Second)
	return w.dets[0].Judgement(name(1)).Verdict
}

func TestFrozenServer(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.all(0, func(s *server) { s.hang = true })
		took := w.until(2, 0, topology.Failed, 2*time.Second)
		require.LessOrEqual(t, took, 900*ms)
		j := w.dets[2].Judgement(name(0))
		require.Equal(t, Frozen, j.Cause, j.Explanation)
		w.all(0, func(s *server) { s.hang = false })
		require.Less(t, w.until(2, 0, topology.Healthy, 2*time.Second), 600*ms)
	})
}

func TestShortPauseIsNoFailure(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		for range 10 {
			w.all(0, func(s *server) { s.hang = true })
			w.quiet(0, 240*ms)
			w.all(0, func(s *server) { s.hang = false })
			w.quiet(0, 700*ms)
		}
	})
}

func TestOneObserverMovesNothing(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.views[1][0].set(func(s *server) { s.err = errRefused })
		w.quiet(0, 5*time.Second)
		j := w.dets[2].Judgement(name(0))
		require.Equal(t, topology.Suspect, j.Verdict)
		require.Equal(t, Refused, j.Cause)
	})
}

// The kernel tears a killed server down for a while: the process counts as
// exited, connections stay open and nothing answers.
func TestKilledServerWhileItIsTornDown(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.all(0, func(s *server) { s.hang = true })
		time.Sleep(ms)
		require.NoError(t, w.dets[0].Report(Evidence{Subject: "n1", Kind: ProcessExited}))
		took := w.until(1, 0, topology.Failed, time.Second)
		require.LessOrEqual(t, took, 50*ms)
		require.Equal(t, ProcessExited, w.dets[1].Judgement(name(0)).Cause)
	})
}

func TestKilledServerIsRefused(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		time.Sleep(40 * ms) // between two ticks
		probes := w.views[1][0].count() + w.views[2][0].count()
		w.all(0, func(s *server) { s.err = errRefused })
		require.NoError(t, w.dets[0].Report(Evidence{Subject: "n1", Kind: ProcessExited}))
		took := w.until(2, 0, topology.Failed, time.Second)
		require.LessOrEqual(t, took, 12*ms, "nudged by the agent's report, not at the next tick")
		require.Greater(t, w.views[1][0].count()+w.views[2][0].count(), probes)
		// The server comes back in place.
		w.all(0, func(s *server) { s.err = nil })
		require.NoError(t, w.dets[0].Report(Evidence{Subject: "n1", Kind: ProcessRunning}))
		require.Less(t, w.until(2, 0, topology.Healthy, time.Second), 250*ms)
	})
}

func TestRefusedWithoutItsAgent(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.net.isolate(addr(0), true)
		w.all(0, func(s *server) { s.err = errRefused })
		took := w.until(1, 0, topology.Failed, time.Second)
		require.GreaterOrEqual(t, took, 100*ms)
		require.LessOrEqual(t, took, 300*ms)
	})
}

// Its host is gone, and its address is another server's, which is well.
func TestAnotherServerInItsPlace(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		writers := w.writable()
		w.net.isolate(addr(0), true)
		w.all(0, func(s *server) { s.err = errOther })
		took := w.until(1, 0, topology.Failed, time.Second)
		require.LessOrEqual(t, took, 300*ms)
		j := w.dets[1].Judgement(name(0))
		require.Equal(t, AnotherServer, j.Cause)
		require.Contains(t, j.Explanation, "found another server in its place")
		require.Contains(t, j.Explanation, "(another server)", "which one")
		tried, _ := writers[0].count()
		time.Sleep(2 * time.Second)
		again, _ := writers[0].count()
		require.Equal(t, tried, again, "it is not written to")
	})
}

func TestBrokenConnectionIsLookedAtOnce(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		v := w.views[1][0]
		before := v.count()
		v.set(func(s *server) { s.err = errBroken })
		w.dets[1].Nudge(name(0))
		time.Sleep(30 * ms)
		require.GreaterOrEqual(t, v.count(), before+2, "the nudged probe and the one after the break")
		time.Sleep(time.Second)
		require.LessOrEqual(t, v.count(), before+14, "but no storm")
	})
}

func TestNudgesAreBounded(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		before := w.views[1][0].count()
		for range 1000 {
			w.dets[1].Nudge(name(0))
			time.Sleep(ms)
		}
		require.LessOrEqual(t, w.views[1][0].count()-before, 105)
	})
}

func TestSaturatedAndErringAreNotAgainst(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.all(0, func(s *server) { s.reading.Saturated = true })
		w.quiet(0, 2*time.Second)
		require.Equal(t, Saturated, w.dets[0].Judgement(name(0)).Cause)
		w.all(0, func(s *server) { s.err = errDenied })
		w.quiet(0, 3*time.Second)
		require.Equal(t, topology.Unknown, w.dets[0].Judgement(name(0)).Verdict)
	})
}

func TestReceiverLost(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		for i := 1; i < 3; i++ {
			w.views[i][i].set(func(s *server) { s.reading.Receiver = &Receiver{Source: "n1"} })
		}
		time.Sleep(time.Second)
		require.Len(t, filter(w.dets[0].Evidence("n1"), func(e Evidence) bool { return e.Kind != DiskWell }), 7, "3 probes, 2 receivers, 2 presences")
		for i := 1; i < 3; i++ {
			w.views[i][0].set(func(s *server) { s.err = errDenied }) // they know nothing by themselves
			w.views[i][i].set(func(s *server) { s.reading.Receiver = &Receiver{Source: "n1", Lost: true} })
		}
		w.quiet(0, time.Second)
		for i := 1; i < 3; i++ {
			w.views[i][0].set(func(s *server) { s.err = errRefused })
		}
		w.until(1, 0, topology.Failed, time.Second)
	})
}

// A prober that does not return counts as timed out.
func TestProberOverstays(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.all(0, func(s *server) { s.hang, s.deaf = true, 5*time.Second })
		w.until(1, 0, topology.Failed, 2*time.Second)
	})
}

func TestCutAndHeal(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.net.isolate(addr(2), true)
		time.Sleep(45 * time.Second)
		require.Equal(t, topology.Failed, w.dets[0].JudgeMember(name(2)).Verdict)
		require.Equal(t, topology.Suspect, w.dets[2].JudgeMember(name(0)).Verdict, "alone it judges nobody")
		w.quiet(0, 100*ms)
		w.net.isolate(addr(2), false)
		start := time.Now()
		for w.dets[0].JudgeMember(name(2)).Verdict != topology.Healthy || w.dets[2].JudgeMember(name(0)).Verdict != topology.Healthy {
			require.Less(t, time.Since(start), 10*time.Second, w.dets[0].JudgeMember(name(2)).Explanation)
			time.Sleep(10 * ms)
		}
		t.Log("members rejoined after", time.Since(start))
	})
}

// A-B cut, both see C: nobody is declared failed.
func TestPartialCut(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.net.set(addr(0), addr(1), true)
		w.net.set(addr(1), addr(0), true)
		w.views[1][0].set(func(s *server) { s.hang, s.err = true, errConnect })
		w.views[0][1].set(func(s *server) { s.hang, s.err = true, errConnect })
		w.quiet(0, 10*time.Second)
		w.quiet(1, time.Second)
	})
}

func TestLeaveIsToldFromDeath(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.stop[2]()
		time.Sleep(3 * time.Second)
		j := w.dets[0].JudgeMember(name(2))
		require.Equal(t, topology.Failed, j.Verdict, j.Explanation)
		require.Equal(t, MemberLeft, j.Cause)
		require.Equal(t, topology.Healthy, w.dets[0].Judgement(name(2)).Verdict, "its instance lives")
	})
}

func TestSubjectsChange(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		moved := &server{}
		d := w.dets[0]
		d.SetSubjects([]Subject{{Name: "n1", Address: "elsewhere:1", Prober: moved, Local: true}})
		time.Sleep(time.Second)
		require.Greater(t, moved.count(), 5)
		before := w.views[0][0].count()
		time.Sleep(time.Second)
		require.Equal(t, before, w.views[0][0].count(), "the former prober is left alone")
		require.Equal(t, topology.Unknown, d.Judgement("n2").Verdict)
		require.Empty(t, filter(d.Evidence("n2"), func(e Evidence) bool { return e.Kind.group() != groupMember }))
	})
}

func filter(evs []Evidence, keep func(Evidence) bool) []Evidence {
	var out []Evidence
	for _, e := range evs {
		if keep(e) {
			out = append(out, e)
		}
	}
	return out
}

func TestDatagramsStaySmall(t *testing.T) {
	inWorld(t, 5, func(t *testing.T, w *world) {
		w.all(0, func(s *server) { s.err = fmt.Errorf("%w: %0500d", errRefused, 7) })
		time.Sleep(2 * time.Second)
		require.Equal(t, topology.Failed, w.dets[4].Judgement(name(0)).Verdict)
		w.net.mu.Lock()
		defer w.net.mu.Unlock()
		for _, size := range w.net.sizes {
			require.Less(t, size, 1400)
		}
	})
}

// Ages stay right when this process was stopped: what it thought to be a
// time-out is void.
func TestStalledProbeIsVoid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Kind
		stalls := 0
		w := lanWindows(t)
		p := &probeLoop{
			w: w, classify: classifyTest, tell: func(_ Subject, a answer) { told = append(told, a.kind) },
			stalled: func() { stalls++ },
		}
		began := time.Now()
		require.True(t, p.settle(outcome{err: errQuery, at: began.Add(3 * time.Second)}, began))
		require.Empty(t, told)
		require.Equal(t, 1, stalls)
		require.True(t, p.settle(outcome{err: errQuery, at: began.Add(w.Timeout + ms)}, began))
		require.Equal(t, []Kind{Frozen}, told)
		require.Equal(t, 1, p.misses)
	})
}

func TestReportRefuses(t *testing.T) {
	d, err := New(validConfig(), Deps{Log: zap.NewNop(), Classify: classifyTest})
	require.NoError(t, err)
	require.ErrorContains(t, d.Report(Evidence{Subject: "n2", Kind: ProcessExited}), "own agent")
	require.ErrorIs(t, d.Report(Evidence{Subject: "n2", Kind: "nonsense"}), errMalformed)
	require.ErrorIs(t, d.Broadcast("x", nil), ErrNotRunning)
	require.ErrorIs(t, d.Broadcast("x", make([]byte, MaxMessageBytes+1)), ErrTooLarge)
	_, err = New(validConfig(), Deps{})
	require.ErrorContains(t, err, "required")
}
