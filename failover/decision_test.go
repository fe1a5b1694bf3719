package failover

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"interrex/election"
	"interrex/internal/topology"
)

// accusedBy is a judgement on n1 by three members of which so many are against.
func accusedBy(against int) Judgement {
	j := Judgement{Subject: "n1", Verdict: topology.Healthy, Cause: "alive", Needed: 2}
	for i := range 3 {
		v := Vote{Observer: topology.NodeName(fmt.Sprintf("n%d", i+1)), Kind: "alive", For: true}
		if i < against {
			v = Vote{Observer: v.Observer, Kind: "refused", Against: true}
		}
		j.Votes = append(j.Votes, v)
	}
	switch {
	case against >= j.Needed:
		j.Verdict, j.Cause = topology.Failed, "refused"
	case against > 0:
		j.Verdict, j.Cause = topology.Suspect, "refused"
	}
	return j
}

// look is one look at the cluster.
type look struct {
	after   time.Duration // since the one before
	against int
	change  []func(*View)
	gates   []Gate
}

func TestEpisodes(t *testing.T) {
	held := func(name, reason string) []Gate {
		return []Gate{
			{Name: gateFailed, Operation: election.Failover, Reason: "the primary is well"},
			{Name: name, Operation: election.Failover, Reason: reason},
			{Name: "other", Operation: election.Failover, Open: true},
			{Name: "asked", Operation: election.Switchover, Reason: "nobody asked"},
		}
	}
	movedTo := func(n topology.NodeName) func(*View) {
		return func(v *View) {
			p := *v.State.Primary
			p.Node, p.Epoch, p.Phase = n, 6, election.Open
			v.State.Primary, v.State.Epoch = &p, 6
		}
	}
	for _, c := range []struct {
		name  string
		looks []look
		want  []Decision // Outcome, Epoch, Times, Lasted, Held and the number against are compared
		open  int
	}{
		{name: "quiet times leave no trace", looks: []look{{}, {after: time.Minute}}},
		{
			name:  "a suspicion that passes",
			looks: []look{{}, {against: 1}, {after: 300 * time.Millisecond}, {after: 11 * time.Second}},
			want:  []Decision{{Outcome: DecisionRecovered, Times: 1, Lasted: 300 * time.Millisecond, Worst: accusedBy(1)}},
		},
		{
			name:  "is not over before it has stayed away",
			looks: []look{{against: 1}, {after: time.Second}, {after: 9 * time.Second}},
			open:  1,
		},
		{
			name: "one that comes and goes is one",
			looks: []look{
				{against: 1}, {after: time.Second}, {after: time.Second, against: 1}, {after: time.Second},
				{after: 2 * time.Second, against: 1}, {after: time.Second}, {after: 10 * time.Second},
			},
			want: []Decision{{Outcome: DecisionRecovered, Times: 3, Lasted: 6 * time.Second, Worst: accusedBy(1)}},
		},
		{
			name: "failed, and held back by a gate",
			looks: []look{
				{against: 1, gates: held(gateNotPaused, "paused by kim")}, // not due yet
				{after: time.Second, against: 3, gates: held(gateNotPaused, "paused by kim")},
				{after: 4 * time.Second, against: 2, gates: held(gateNotPaused, "paused by kim: moving racks")},
				{after: time.Second}, {after: 10 * time.Second},
			},
			want: []Decision{{
				Outcome: DecisionRecovered, Times: 1, Lasted: 6 * time.Second, Worst: accusedBy(3),
				Held: []HeldBack{{Gate: gateNotPaused, Reason: "paused by kim: moving racks", For: 4 * time.Second}},
			}},
		},
		{
			name:  "failed over",
			looks: []look{{against: 2}, {after: time.Second, against: 3, change: []func(*View){movedTo("n2")}}},
			want:  []Decision{{Outcome: DecisionFailedOver, Epoch: 6, Times: 1, Lasted: time.Second, Worst: accusedBy(3)}},
		},
		{
			name: "suspected as a replica, and failed over as the primary soon after",
			looks: []look{
				{against: 1, change: []func(*View){movedTo("n2")}}, {after: time.Second, change: []func(*View){movedTo("n2")}},
				{after: 2 * time.Second, against: 2}, {after: time.Second, against: 3, change: []func(*View){movedTo("n2")}},
			},
			want: []Decision{
				{Outcome: DecisionRecovered, Times: 1, Lasted: time.Second, Worst: accusedBy(1)},
				{Outcome: DecisionFailedOver, Epoch: 6, Times: 1, Lasted: time.Second, Worst: accusedBy(3)},
			},
		},
		{
			name:  "the operation that moves it is not over yet",
			looks: []look{{against: 2}, {after: time.Second, against: 2, change: []func(*View){inOperation(election.Failover, stepRevoke)}}},
			open:  1,
		},
		{
			name:  "resumed",
			looks: []look{{against: 2}, {after: time.Second, change: []func(*View){movedTo("n1")}}, {after: 10 * time.Second, change: []func(*View){movedTo("n1")}}},
			want:  []Decision{{Outcome: DecisionResumed, Epoch: 6, Times: 1, Lasted: time.Second, Worst: accusedBy(2)}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := episodes{self: "a1", open: map[topology.NodeName]*Decision{}}
			now := time.Now()
			var got []Decision
			for _, l := range c.looks {
				now = now.Add(l.after)
				got = append(got, e.observe(now, quietView(l.change...), []Judgement{accusedBy(l.against)}, l.gates)...)
			}
			require.Len(t, got, len(c.want))
			require.Len(t, e.open, c.open)
			for i, w := range c.want {
				d := got[i]
				require.Equal(t, w.Outcome, d.Outcome)
				require.Equal(t, w.Epoch, d.Epoch)
				require.Equal(t, w.Times, d.Times)
				require.Equal(t, w.Lasted, d.Lasted)
				require.Equal(t, w.Worst, d.Worst)
				for i := range d.Held {
					d.Held[i].since = time.Time{}
				}
				require.Equal(t, w.Held, d.Held)
				require.Equal(t, decisionID("a1", i+1), d.ID)
				require.Equal(t, !strings.HasPrefix(c.name, "suspected as a replica") || i > 0, d.Primary)
				require.True(t, d.Led)
			}
		})
	}
}

// A replica's failures are kept, and push out nothing of what was decided about
// the primary.
func TestJournalIsBoundedBySubject(t *testing.T) {
	var past []Decision
	past = append(past, Decision{ID: "a1-1", Subject: "n1"})
	for i := range 3 * journalPerSubject {
		past = append(past, Decision{ID: decisionID("a1", i+2), Subject: "n2"})
	}
	kept := bounded(past)
	require.Len(t, kept, journalPerSubject+1)
	require.Equal(t, "a1-1", kept[0].ID)
	require.Equal(t, decisionID("a1", 3*journalPerSubject+1), kept[len(kept)-1].ID)
}

// scriptedDetector says what it is told to.
type scriptedDetector struct{ against *int }

func (d scriptedDetector) Judge(topology.NodeName) Judgement   { return accusedBy(*d.against) }
func (d scriptedDetector) MemberFailed(topology.NodeName) bool { return false }

func TestJournalOutlivesTheAgent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "decisions.json")
	synctest.Test(t, func(t *testing.T) {
		against := 0
		v := quietView()
		v.Members = v.Members[:1]
		start := func() *Journal {
			return NewJournal(file, "a1", func() View { return v }, scriptedDetector{&against}, func() []Gate { return nil }, zap.NewNop())
		}
		j := start()
		changes := make(chan struct{}, 1)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- j.Run(ctx, changes) }()
		against = 1
		changes <- struct{}{}
		synctest.Wait()
		against = 0
		changes <- struct{}{}
		time.Sleep(11 * time.Second)
		require.Equal(t, DecisionRecovered, j.Decisions()[0].Outcome)
		against = 2
		changes <- struct{}{}
		synctest.Wait()
		require.Equal(t, DecisionOpen, j.Decisions()[0].Outcome, "what goes on comes first")
		stop()
		require.NoError(t, <-ended)

		again := start().Decisions()
		require.Len(t, again, 2)
		require.Equal(t, "a1-2", again[0].ID)
		require.Equal(t, DecisionLapsed, again[0].Outcome, "nobody saw how it ended")
		require.Equal(t, DecisionRecovered, again[1].Outcome)
		require.Equal(t, accusedBy(1).Votes, again[1].Worst.Votes)

		require.NoError(t, os.WriteFile(file, []byte("{torn"), 0o600))
		require.Empty(t, start().Decisions(), "a torn journal is begun anew")
	})
}
