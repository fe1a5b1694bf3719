package detector

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/topology"
)

// What answers and does not work, and what works and does not answer everybody.
func TestJudgeGreyFailures(t *testing.T) {
	five := []topology.NodeName{"n1", "n2", "n3", "n4", "n5"}
	// answering is an instance that all three members get answers from.
	answering := func(more ...*evb) []*evb {
		return append([]*evb{says("n1", Alive), says("n2", Alive), says("n3", Alive)}, more...)
	}
	// unreached is one that only its own agent has got answers from for a while.
	unreached := func(more ...*evb) []*evb {
		return append([]*evb{says("n1", Alive), says("n2", SilentHost).since(time.Second), says("n3", SilentHost).since(time.Second)}, more...)
	}
	cases := []struct {
		name       string
		registered []topology.NodeName
		evidence   []*evb
		want       topology.Verdict
		cause      Kind
		says       string
	}{
		{"its own agent finds the disk full, alone", three, answering(says("n1", DiskFull)), topology.Suspect, DiskFull, "found its disk full"},
		{"full disk, another member's write is refused", three, answering(says("n1", DiskFull), says("n2", WriteRefused)), topology.Failed, DiskFull, "n2 was refused a durable write to it"},
		{"full disk, the refusal has not lasted", three, answering(says("n1", DiskFull), says("n2", WriteRefused).since(50*ms)), topology.Suspect, DiskFull, "not lasted long enough"},
		{"full disk, another member's write hangs", three, answering(says("n1", DiskFull), says("n2", WriteStalled).since(0)), topology.Failed, DiskFull, ""},
		{"full disk, the binary log is stuck", three, answering(says("n1", DiskFull), says("n3", LogBusy).since(0)), topology.Failed, DiskFull, "writer of its binary log stuck"},
		{"full disk, the others' writes are done", three, answering(says("n1", DiskFull), says("n2", Writes), says("n3", Writes)), topology.Suspect, DiskFull, "1 more missing"},
		{"full disk, but its agent says that it is slow", three, answering(says("n1", DiskFull).slow(), says("n2", WriteStalled).since(400*ms)), topology.Suspect, WriteStalled, ""},
		{"another's word on the disk is none", three, answering(says("n2", DiskFull), says("n3", WriteStalled).since(400*ms)), topology.Suspect, WriteStalled, ""},
		{"five: a full disk takes two more", five, answering(says("n4", Alive), says("n5", Alive), says("n1", DiskFull), says("n2", WriteRefused)), topology.Suspect, DiskFull, "2 of 5"},
		{"five: and has them", five, answering(says("n4", Alive), says("n5", Alive), says("n1", DiskFull), says("n2", WriteRefused), says("n5", LogBusy)), topology.Failed, DiskFull, "3 of 5"},
		{"read-only disk", three, answering(says("n1", DiskReadOnly), says("n3", WriteRefused)), topology.Failed, DiskReadOnly, "refused writes"},
		{"stalled disk", three, answering(says("n1", DiskStalled), says("n3", WriteStalled).since(400*ms)), topology.Failed, DiskStalled, "completed no writes"},
		{"stalled disk, the others' writes are done", three, answering(says("n1", DiskStalled), says("n2", Writes), says("n3", Writes)), topology.Suspect, DiskStalled, ""},
		{"no agent sees the disk, the server says that it is full", three, answering(says("n2", WriteRefused), says("n3", WriteRefused)), topology.Failed, WriteRefused, ""},
		{"writes hang, the disk is well: not yet", three, answering(says("n1", DiskWell), says("n2", WriteStalled).since(4*time.Second), says("n3", WriteStalled).since(4*time.Second)), topology.Suspect, WriteStalled, "not lasted long enough"},
		{"writes hang, the disk is well: a majority, for long", three, answering(says("n1", DiskWell), says("n2", WriteStalled).since(5*time.Second), says("n3", WriteStalled).since(5*time.Second)), topology.Failed, WriteStalled, "was waiting for a durable write"},
		{"writes hang, it is saturated, the disk is well: its load", three, []*evb{says("n1", Saturated), says("n1", DiskWell), says("n1", WriteStalled).since(59 * time.Second), says("n2", Alive), says("n2", WriteStalled).since(59 * time.Second), says("n3", Alive), says("n3", WriteStalled).since(59 * time.Second)}, topology.Suspect, WriteStalled, "not lasted long enough"},
		{"the same for a minute: it is stuck", three, []*evb{says("n1", Saturated), says("n1", DiskWell), says("n2", Alive), says("n2", WriteStalled).since(time.Minute), says("n3", Alive), says("n3", WriteStalled).since(time.Minute)}, topology.Failed, WriteStalled, ""},
		{"saturated, as its disk stalls", three, []*evb{says("n1", Saturated), says("n1", DiskStalled), says("n2", Alive), says("n2", WriteStalled).since(400 * ms), says("n3", Alive)}, topology.Failed, DiskStalled, ""},
		{"writes hang from elsewhere only", three, answering(says("n1", Writes), says("n2", WriteStalled).since(9*time.Second), says("n3", WriteStalled).since(9*time.Second)), topology.Suspect, WriteStalled, "contradicted by its own agent"},
		{"a large transaction keeps the binary log busy", three, answering(says("n1", LogBusy).since(20*time.Second), says("n2", LogBusy).since(20*time.Second), says("n3", LogBusy)), topology.Healthy, Alive, ""},
		{"starved is not dead", three, answering(says("n1", Starved)), topology.Suspect, Starved, "it is not dead: its ackers or the way to them are"},
		{"starved, and one cannot reach it", three, []*evb{says("n1", Alive), says("n1", Starved), says("n2", SilentHost), says("n3", Alive)}, topology.Suspect, SilentHost, "1 more missing"},
		{"only its own agent reaches it, and its commits starve", three, unreached(says("n1", Starved)), topology.Failed, CutOff, "no client elsewhere reaches it"},
		{"its commits starve, and the others have had no answer for a moment only", three, []*evb{says("n1", Alive), says("n1", Starved), says("n2", SilentHost).since(2 * time.Second), says("n3", Frozen).since(700 * ms)}, topology.Suspect, Frozen, "time-outs do not count"},
		{"only its own agent reaches it, which hears no majority", three, unreached(says("n1", Isolated).since(time.Second).slow()), topology.Failed, CutOff, "heard no majority"},
		{"only its own agent reaches it, which has not heard the others for a moment", three, unreached(says("n1", Isolated)), topology.Suspect, SilentHost, "time-outs do not count"},
		{"only its own agent reaches it, and all replicas have lost it", three, unreached(says("n2", ReceiverLost), says("n3", ReceiverLost)), topology.Failed, CutOff, "no replica can acknowledge"},
		{"one replica still hears it", three, unreached(says("n2", ReceiverLost), says("n3", ReceiverOn)), topology.Suspect, SilentHost, "time-outs do not count"},
		{"a replica has just lost it", three, unreached(says("n2", ReceiverLost).since(50*ms), says("n3", ReceiverLost)), topology.Suspect, SilentHost, "time-outs do not count"},
		{"one has a time-out, the other has lost replication", three, []*evb{says("n1", Alive), says("n2", SilentHost), says("n2", ReceiverOn), says("n3", SilentHost).misses(1), says("n3", ReceiverLost)}, topology.Suspect, SilentHost, "time-outs do not count"},
		{"the same, and its agent's last answer is old", three, []*evb{says("n1", Alive).age(600 * ms), says("n2", SilentHost), says("n2", ReceiverOn), says("n3", ReceiverLost)}, topology.Failed, SilentHost, ""},
		{"one was refused, the other has lost replication", three, []*evb{says("n1", Alive), says("n2", Refused), says("n3", ReceiverLost)}, topology.Failed, Refused, ""},
		{"nobody knows of its receivers", three, unreached(), topology.Suspect, SilentHost, "time-outs do not count"},
		{"what was said of receivers is stale", three, unreached(says("n2", ReceiverLost).age(1100*ms), says("n3", ReceiverLost).age(1100*ms)), topology.Suspect, SilentHost, ""},
		{"its agent is slow, and its commits starve all the same", three, unreached(says("n1", Starved).slow()), topology.Failed, CutOff, ""},
		{"its agent's last answer is old, and it is isolated", three, []*evb{says("n1", Alive).age(600 * ms), says("n1", Isolated).since(time.Second), says("n2", SilentHost).since(time.Second), says("n3", SilentHost).since(time.Second)}, topology.Failed, CutOff, ""},
		{"isolated, as itself sees it", three, []*evb{says("n1", Alive), says("n1", Isolated)}, topology.Suspect, Isolated, "heard no majority of the members"},
		{"restarted in place", three, answering(says("n1", Restarted)), topology.Healthy, Restarted, "saw its process come back"},
		{"restarted long ago", three, answering(says("n1", Restarted).since(31 * time.Second)), topology.Healthy, Alive, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			now := time.Now()
			j := judge(now, lanWindows(t), c.registered, "n1", at(now, c.evidence...))
			require.Equal(t, c.want, j.Verdict, j.Explanation)
			require.Equal(t, c.cause, j.Cause, j.Explanation)
			require.Contains(t, j.Explanation, c.says)
		})
	}
}

// What answers all the time did not work all the time.
func TestJudgeLastGoodOfWhatAnswers(t *testing.T) {
	now, w := time.Now(), lanWindows(t)
	alive := func(n topology.NodeName) *evb { return says(n, Alive).good(20 * ms) }
	j := judge(now, w, three, "n1", at(now, alive("n1"), alive("n2"), alive("n3"), says("n1", DiskFull).good(700*ms), says("n2", WriteRefused)))
	require.Equal(t, 700*ms, j.LastGood, "when its disk was last well")
	j = judge(now, w, three, "n1", at(now, alive("n1"), alive("n2"), alive("n3"), says("n2", WriteStalled).since(6*time.Second), says("n3", WriteStalled).since(5*time.Second)))
	require.Equal(t, 6*time.Second, j.LastGood, "nobody has seen it write: when it was first seen not to")
	j = judge(now, w, three, "n1", at(now, alive("n1"), says("n1", Starved), says("n2", SilentHost).since(time.Second).good(1200*ms), says("n3", SilentHost).since(time.Second).good(1100*ms)))
	require.Equal(t, 1100*ms, j.LastGood, "when somebody else last had an answer")
}

// A primary that starves is judged again when the others have had no answer for
// as long.
func TestJudgeCutOffRipens(t *testing.T) {
	now, w := time.Now(), lanWindows(t)
	accused := func(since time.Duration) Judgement {
		return judge(now, w, three, "n1", at(now, says("n1", Alive), says("n1", Starved), says("n2", SilentHost).since(since), says("n3", Frozen).since(2*time.Second)))
	}
	j := accused(900 * ms)
	require.Equal(t, topology.Suspect, j.Verdict)
	require.Equal(t, 100*ms, j.next)
	require.Equal(t, CutOff, accused(time.Second).Cause)
}

// A hanging write is judged again when it has hung for long enough.
func TestJudgeRipens(t *testing.T) {
	now, w := time.Now(), lanWindows(t)
	w.Freshness = 10 * time.Second
	j := judge(now, w, three, "n1", table{{says("n2", WriteStalled).since(3 * time.Second).Evidence, now}})
	require.Equal(t, 2*time.Second, j.next)
}

func TestStarvation(t *testing.T) {
	var s starvation
	after := func(d time.Duration) time.Time { return time.Unix(0, 0).Add(d) }
	require.Zero(t, s.look(after(0), nil))
	require.Zero(t, s.look(after(1), &Acks{Acknowledged: 5}))
	require.Equal(t, after(2), s.look(after(2), &Acks{Waiting: 1, Acknowledged: 5}))
	require.Equal(t, after(2), s.look(after(9), &Acks{Waiting: 3, Acknowledged: 5}), "none was acknowledged since")
	require.Equal(t, after(10), s.look(after(10), &Acks{Waiting: 3, Acknowledged: 6}), "one was")
	require.Zero(t, s.look(after(11), &Acks{Acknowledged: 9}))
	require.Equal(t, after(12), s.look(after(12), &Acks{Waiting: 1, Acknowledged: 9}))
	require.Zero(t, s.look(after(13), nil), "closed, or disarmed")
}

func TestDiskWatch(t *testing.T) {
	w := lanWindows(t)
	start := time.Unix(0, 0)
	for _, c := range []struct {
		name     string
		progress func(time.Duration) (uint64, bool)
		want     time.Duration
	}{
		{"the device does nothing", func(time.Duration) (uint64, bool) { return 7, true }, w.WriteTimeout},
		{"nothing is known of the device", func(time.Duration) (uint64, bool) { return 0, false }, w.WriteTimeout},
		{"the device stops after a while", func(d time.Duration) (uint64, bool) { return uint64(min(d, time.Second)) + 7, true }, time.Second + w.WriteTimeout},
		{"the device is busy with other things", func(d time.Duration) (uint64, bool) { return uint64(d) + 7, true }, w.WriteStall},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := diskWatch{began: start, completed: 7, moved: start}
			for d := time.Duration(0); ; d += 10 * ms {
				n, known := c.progress(d)
				if kind, bad := k.judge(start.Add(d), w, n, known); bad {
					require.Equal(t, DiskStalled, kind)
					require.InDelta(t, c.want, d, float64(10*ms))
					return
				}
				require.Less(t, d, time.Minute)
			}
		})
	}
}

func TestRoomWatch(t *testing.T) {
	began := time.Unix(0, 0)
	type look struct {
		at   time.Duration
		disk Kind
		own  Kind
		age  time.Duration // of own
		want bool
	}
	for _, c := range []struct {
		name  string
		looks []look
	}{
		{"never full", []look{{0, DiskWell, LogBusy, 0, false}}},
		{"it hangs from when there was no room on, until it looks again", []look{
			{0, DiskFull, Writes, 0, false}, {ms, DiskWell, LogBusy, 0, true}, {time.Minute, DiskWell, WriteStalled, 0, true}, {looksAgain, DiskWell, LogBusy, 0, false},
		}},
		{"nothing is known of its writes for a while", []look{
			{0, DiskFull, "", 0, false}, {100 * ms, DiskWell, "", 0, false}, {900 * ms, DiskWell, LogBusy, 0, true}, {1900 * ms, DiskWell, "", 0, false}, {3 * time.Second, DiskWell, LogBusy, 0, true},
		}},
		{"a write is done that began when there was none", []look{
			{0, DiskFull, Writes, 0, false}, {100 * ms, DiskWell, Writes, 50 * ms, false}, {time.Second, DiskWell, LogBusy, 0, true},
		}},
		{"a write is done that began when there was some", []look{
			{0, DiskFull, LogBusy, 0, false}, {100 * ms, DiskWell, LogBusy, 0, true}, {200 * ms, DiskWell, Writes, 50 * ms, false}, {time.Second, DiskWell, LogBusy, 0, false}, {time.Minute, DiskWell, WriteStalled, 0, false},
		}},
		{"full again after that", []look{
			{0, DiskFull, "", 0, false}, {100 * ms, DiskWell, Writes, 0, false}, {200 * ms, DiskWell, Writes, 50 * ms, false}, {300 * ms, DiskFull, LogBusy, 0, false}, {400 * ms, DiskWell, LogBusy, 0, true},
		}},
		{"another fault of the disk is told as that", []look{{0, DiskFull, "", 0, false}, {100 * ms, DiskReadOnly, LogBusy, 0, false}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r roomWatch
			for _, l := range c.looks {
				require.Equal(t, l.want, r.waits(began.Add(l.at), l.disk, Evidence{Kind: l.own, Age: l.age}), l.at)
			}
		})
	}
}
