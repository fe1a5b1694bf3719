package detector

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/topology"
)

const ms = time.Millisecond

func lanWindows(t testing.TB) Windows {
	t.Helper()
	w, err := ProfileWindows(LAN)
	require.NoError(t, err)
	return w
}

// evb builds evidence about n1.
type evb struct{ Evidence }

func says(observer topology.NodeName, k Kind) *evb {
	return &evb{Evidence{Observer: observer, Subject: "n1", Kind: k, Since: 500 * ms, LastGood: -1, Age: 20 * ms, Misses: 2, Round: 7}}
}

func (b *evb) age(d time.Duration) *evb   { b.Age = d; b.Since = max(b.Since, d); return b }
func (b *evb) since(d time.Duration) *evb { b.Since = d; b.Age = min(b.Age, d); return b }
func (b *evb) misses(n int) *evb          { b.Misses = n; return b }
func (b *evb) slow() *evb                 { b.Slow = true; return b }
func (b *evb) round(n uint64) *evb        { b.Round = n; return b }
func (b *evb) detail(s string) *evb       { b.Detail = s; return b }
func (b *evb) good(d time.Duration) *evb  { b.LastGood = d; return b }

// at is evidence that was seen at now.
func at(now time.Time, evidence ...*evb) (tab table) {
	for _, e := range evidence {
		tab = append(tab, seen{e.Evidence, now})
	}
	return tab
}

var three = []topology.NodeName{"n1", "n2", "n3"}

func TestJudge(t *testing.T) {
	five := []topology.NodeName{"n1", "n2", "n3", "n4", "n5"}
	arbiter := []topology.NodeName{"arb", "n1", "n2"}
	cases := []struct {
		name       string
		registered []topology.NodeName
		evidence   []*evb
		want       topology.Verdict
		cause      Kind
		says       string
	}{
		{"nothing known", three, nil, topology.Unknown, "", "n1 (own agent) has said nothing"},
		{"all see it alive", three, []*evb{says("n1", Alive), says("n2", Alive), says("n3", Alive)}, topology.Healthy, Alive, "n2 saw it answer 20 ms ago"},
		{"a replica is closed and well", three, []*evb{says("n1", Closed), says("n2", Closed), says("n3", Closed)}, topology.Healthy, Closed, "closed for writes"},
		{"alone and seeing it alive", three, []*evb{says("n1", Alive)}, topology.Healthy, Alive, "n3 has said nothing"},
		{"one observer alone moves nothing", three, []*evb{says("n2", Refused)}, topology.Suspect, Refused, "1 of 3 registered members are against it and 2 are needed, 1 more missing"},
		{"one observer against two that see it alive", three, []*evb{says("n2", Refused), says("n1", Alive), says("n3", Alive)}, topology.Suspect, Refused, "1 more missing"},
		{"own agent alone, however sure", three, []*evb{says("n1", ProcessExited)}, topology.Suspect, ProcessExited, "n1 (own agent) saw its process exit"},
		{"own agent's exit and probe are one vote", three, []*evb{says("n1", ProcessExited), says("n1", Refused)}, topology.Suspect, ProcessExited, "1 more missing"},
		{"two of three refused", three, []*evb{says("n2", Refused), says("n3", Refused)}, topology.Failed, Refused, "2 of 3"},
		{"time-outs of others beside its own agent, which is answered", three, []*evb{says("n2", Frozen), says("n3", Frozen), says("n1", Alive)}, topology.Suspect, Frozen, "time-outs do not count while it answers its own agent"},
		{"refusals of others count beside its own agent", three, []*evb{says("n2", Refused), says("n3", Frozen), says("n1", Alive)}, topology.Failed, Refused, ""},
		{"an old answer of its own agent spares it nothing", three, []*evb{says("n2", Frozen), says("n3", Frozen), says("n1", Alive).age(501 * ms)}, topology.Failed, Frozen, ""},
		{"frozen: all get no answer", three, []*evb{says("n1", Frozen), says("n2", Frozen), says("n3", Frozen)}, topology.Failed, Frozen, "got no answer in time"},
		{"silent host: the own agent is silent too", three, []*evb{says("n2", SilentHost), says("n3", SilentHost), says("n1", Alive).age(2 * time.Second)}, topology.Failed, SilentHost, "n1 (own agent) is silent for 2.0 s"},
		{"one time-out is not enough", three, []*evb{says("n2", Frozen).misses(1), says("n3", Frozen)}, topology.Suspect, Frozen, "not counted: it missed too few answers yet"},
		{"refusals that have not lasted", three, []*evb{says("n2", Refused).since(40 * ms), says("n3", Refused).since(99 * ms)}, topology.Suspect, Refused, "has not lasted long enough yet"},
		{"refusals that just have", three, []*evb{says("n2", Refused).since(100 * ms), says("n3", Refused).since(100 * ms)}, topology.Failed, Refused, ""},
		{"stale evidence is none", three, []*evb{says("n2", Refused).age(1001 * ms), says("n3", Refused).age(1001 * ms)}, topology.Unknown, "", "n2 is silent for 1.0 s"},
		{"one of two accusations is stale", three, []*evb{says("n2", Refused).age(1001 * ms), says("n3", Refused)}, topology.Suspect, Refused, ""},
		{"evidence at the edge counts", three, []*evb{says("n2", Refused).age(time.Second), says("n3", Refused)}, topology.Failed, Refused, ""},
		{"recovered: one answered again", three, []*evb{says("n2", Alive).age(5 * ms), says("n3", Refused)}, topology.Suspect, Refused, ""},
		{"recovered: an answer after the lost receiver cancels it", three, []*evb{says("n2", ReceiverLost), says("n2", Alive), says("n3", Alive)}, topology.Healthy, Alive, ""},
		{"recovered: restarted in place", three, []*evb{says("n1", ProcessExited).since(300 * ms), says("n1", Alive).age(20 * ms), says("n2", Alive), says("n3", Alive)}, topology.Healthy, Alive, ""},
		{"exit after the last good probe stands", three, []*evb{says("n1", ProcessExited).since(5 * ms), says("n1", Alive).age(60 * ms), says("n2", Refused).since(2 * ms)}, topology.Failed, ProcessExited, ""},
		{"saturated is never against", three, []*evb{says("n1", Saturated).detail("it is full"), says("n2", Saturated), says("n3", Saturated)}, topology.Healthy, Saturated, "saw it answer, saturated 20 ms ago (it is full)"},
		{"saturated, as its own agent finds; the others came in by the reserved connection", three, []*evb{says("n1", Saturated), says("n2", Alive), says("n3", Alive)}, topology.Healthy, Saturated, ""},
		{"saturated for two, one timed out", three, []*evb{says("n1", Saturated), says("n2", Saturated), says("n3", Frozen)}, topology.Suspect, Frozen, ""},
		{"access denied is neither", three, []*evb{says("n2", Erring), says("n3", Erring)}, topology.Unknown, "", "got an error for an answer"},
		{"receivers lost count as the replicas' votes", three, []*evb{says("n2", ReceiverLost), says("n3", ReceiverLost)}, topology.Failed, ReceiverLost, "lost replication"},
		{"receiver lost beside an unripe time-out", three, []*evb{says("n2", ReceiverLost), says("n2", Frozen).misses(1), says("n3", Refused)}, topology.Failed, Refused, ""},
		{"a slow observer does not accuse", three, []*evb{says("n2", Frozen).slow(), says("n3", Frozen)}, topology.Suspect, Frozen, "says of itself that it is slow"},
		{"a slow observer's good word counts", three, []*evb{says("n2", Alive).slow()}, topology.Healthy, Alive, ""},
		{"a slow own agent knows its process", three, []*evb{says("n1", ProcessExited).slow(), says("n2", Refused)}, topology.Failed, ProcessExited, ""},
		{"exit: a slow observer's refusal counts", three, []*evb{says("n1", ProcessExited), says("n2", Refused).slow()}, topology.Failed, ProcessExited, ""},
		{"exit: a slow observer's waiting does not", three, []*evb{says("n1", ProcessExited), says("n2", Unanswered).slow()}, topology.Suspect, ProcessExited, ""},
		{"exit: waiting times are waived", three, []*evb{says("n1", ProcessExited).since(ms), says("n2", ConnectionBroken).since(0)}, topology.Failed, ProcessExited, "lost its connection"},
		{"exit: one time-out confirms", three, []*evb{says("n1", ProcessExited), says("n3", Frozen).misses(1)}, topology.Failed, ProcessExited, ""},
		{"exit: a probe that waits confirms", three, []*evb{says("n1", ProcessExited), says("n3", Alive).round(7), says("n3", Unanswered).round(8)}, topology.Failed, ProcessExited, "was waiting for an answer"},
		{"exit: a probe that was answered after all does not", three, []*evb{says("n1", ProcessExited), says("n3", Alive).round(8), says("n3", Unanswered).round(8)}, topology.Suspect, ProcessExited, ""},
		{"waiting alone is nothing", three, []*evb{says("n2", Unanswered), says("n3", Unanswered)}, topology.Unknown, "", ""},
		{"exit: lost receiver confirms", three, []*evb{says("n1", ProcessExited), says("n3", ReceiverLost).since(ms)}, topology.Failed, ProcessExited, ""},
		{"exit seen by its agent while others see it alive: wrong pid", three, []*evb{says("n1", ProcessExited), says("n2", Alive), says("n3", Alive)}, topology.Suspect, ProcessExited, ""},
		{"somebody else's exit is no proof", three, []*evb{says("n2", ProcessExited), says("n3", Frozen).misses(1)}, topology.Suspect, Frozen, ""},
		{"its agent is gone and it lives: no failover", three, []*evb{says("n2", MemberGone), says("n3", MemberGone), says("n2", Alive), says("n3", Alive)}, topology.Healthy, AgentGone, "which is no reason for a failover"},
		{"its agent is gone to one of them only", three, []*evb{says("n2", MemberGone), says("n3", MemberPresent), says("n2", Alive)}, topology.Healthy, Alive, ""},
		{"arbiter and replica agree", arbiter, []*evb{says("arb", SilentHost), says("n2", SilentHost)}, topology.Failed, SilentHost, ""},
		{"arbiter alone", arbiter, []*evb{says("arb", SilentHost), says("n2", Alive)}, topology.Suspect, SilentHost, ""},
		{"two members need both", three[:2], []*evb{says("n2", Refused)}, topology.Suspect, Refused, "1 of 2 registered members are against it and 2 are needed"},
		{"two members, exit and refusal", three[:2], []*evb{says("n1", ProcessExited), says("n2", Refused)}, topology.Failed, ProcessExited, ""},
		{"five: two are a minority", five, []*evb{says("n2", Refused), says("n3", Refused)}, topology.Suspect, Refused, "2 of 5"},
		{"five: three are enough", five, []*evb{says("n2", Refused), says("n3", Refused), says("n4", Refused)}, topology.Failed, Refused, ""},
		{"five: exit and one refusal are not", five, []*evb{says("n1", ProcessExited), says("n2", Refused)}, topology.Suspect, ProcessExited, "2 of 5"},
		{"five: exit and two unripe are", five, []*evb{says("n1", ProcessExited), says("n2", Refused).since(0), says("n3", Frozen).misses(1)}, topology.Failed, ProcessExited, ""},
		{"four: half is no majority", five[:4], []*evb{says("n2", Refused), says("n3", Refused)}, topology.Suspect, Refused, "3 are needed"},
		{"unregistered observers do not vote", three, []*evb{says("x", Refused), says("y", Refused), says("n2", Refused)}, topology.Suspect, Refused, ""},
		{"nobody registered", nil, []*evb{says("n2", Refused)}, topology.Unknown, "", "no member is registered"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			now := time.Now()
			tab := at(now, c.evidence...)
			j := judge(now, lanWindows(t), c.registered, "n1", tab)
			require.Equal(t, c.want, j.Verdict, j.Explanation)
			require.Equal(t, c.cause, j.Cause, j.Explanation)
			require.Contains(t, j.Explanation, c.says)
			require.Len(t, j.Votes, len(c.registered))
			require.True(t, strings.HasPrefix(j.Explanation, "n1 is "+c.want.String()), j.Explanation)
		})
	}
}

func TestJudgeTimes(t *testing.T) {
	now := time.Now()
	w := lanWindows(t)
	tab := table{
		{says("n2", Refused).since(700 * ms).good(800 * ms).Evidence, now.Add(-50 * ms)},
		{says("n3", Refused).since(300 * ms).good(400 * ms).Evidence, now},
	}
	j := judge(now, w, three, "n1", tab)
	require.Equal(t, topology.Failed, j.Verdict)
	require.Equal(t, 750*ms, j.FirstBad, "the oldest accusation, counted on by our clock")
	require.Equal(t, 400*ms, j.LastGood, "the youngest good word")
	require.Equal(t, 70*ms, j.Votes[1].Age)
	require.Equal(t, 930*ms+time.Microsecond, j.next, "when the first vote grows stale")

	frozen := append(tab,
		seen{says("n2", ReceiverOn).good(20 * ms).Evidence, now}, seen{says("n1", ProcessRunning).good(0).Evidence, now})
	j = judge(now, w, three, "n1", frozen)
	require.Equal(t, 400*ms, j.LastGood, "a connected receiver and a living process are no answer")

	j = judge(now, w, three, "n1", table{{says("n2", Refused).since(40 * ms).Evidence, now}})
	require.Equal(t, 60*ms, j.next, "when the refusal has settled")
	require.Equal(t, time.Duration(-1), j.LastGood)
	require.Zero(t, judge(now, w, three, "n1", nil).next)
}

// Judging at j.next finds what changed, and never the same moment again.
func TestJudgeNextComesToAnEnd(t *testing.T) {
	now, w := time.Now(), lanWindows(t)
	tab := table{{says("n2", Refused).since(0).Evidence, now}, {says("n3", Refused).since(30 * ms).Evidence, now}}
	var verdicts []string
	for range 10 {
		j := judge(now, w, three, "n1", tab)
		verdicts = append(verdicts, j.Verdict.String())
		if j.next == 0 {
			break
		}
		now = now.Add(j.next)
	}
	require.Equal(t, []string{"suspect", "suspect", "failed", "suspect", "unknown"}, verdicts)
}

func TestJudgeMember(t *testing.T) {
	cases := []struct {
		name     string
		evidence []*evb
		heard    time.Duration
		want     topology.Verdict
		cause    Kind
	}{
		{"heard and no complaint", nil, 50 * ms, topology.Healthy, MemberPresent},
		{"never heard of", nil, -1, topology.Unknown, ""},
		{"one sees it gone", []*evb{says("n2", MemberGone)}, 3 * time.Second, topology.Suspect, MemberGone},
		{"both others see it gone", []*evb{says("n2", MemberGone), says("n3", MemberGone)}, 3 * time.Second, topology.Failed, MemberGone},
		{"both see it gone and we just heard it", []*evb{says("n2", MemberGone), says("n3", MemberGone)}, 200 * ms, topology.Suspect, MemberGone},
		{"it left", []*evb{says("n2", MemberLeft), says("n3", MemberLeft)}, 3 * time.Second, topology.Failed, MemberLeft},
		{"one report is stale", []*evb{says("n2", MemberGone), says("n3", MemberGone).age(1100 * ms)}, 3 * time.Second, topology.Suspect, MemberGone},
		{"one reporter is slow", []*evb{says("n2", MemberGone), says("n3", MemberGone).slow()}, 3 * time.Second, topology.Suspect, MemberGone},
		{"one has it back", []*evb{says("n2", MemberGone), says("n3", MemberPresent)}, 3 * time.Second, topology.Suspect, MemberGone},
		{"it does not vote on itself", []*evb{says("n1", MemberGone), says("n3", MemberGone)}, -1, topology.Suspect, MemberGone},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			now := time.Now()
			tab := at(now, c.evidence...)
			j := judgeMember(now, lanWindows(t), three, "n1", tab, c.heard)
			require.Equal(t, c.want, j.Verdict, j.Explanation)
			require.Equal(t, c.cause, j.Cause)
		})
	}
}
