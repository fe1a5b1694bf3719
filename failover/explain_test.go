package failover

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/internal/topology"
)

// Every cause that a verdict can have is told apart, and says where to look.
func TestCausesAreToldApart(t *testing.T) {
	seen := map[string]string{}
	for _, cause := range []string{
		"process_exited", "refused", "connection_broken", "another_server", "silent_host", "frozen", "write_stalled", "disk_full", "disk_read_only",
		"disk_stalled", "saturated", "starved", "isolated", "agent_gone_instance_alive", "restarted", "erring", "receiver_lost", "member_gone",
	} {
		means, look := causeWords(cause)
		require.NotEmpty(t, means, cause)
		require.NotEmpty(t, look, cause)
		require.Empty(t, seen[means], "%s is told like %s", cause, seen[means])
		seen[means] = cause
	}
}

func TestExplainNow(t *testing.T) {
	suspect := func(v *View) { v.Primary = accusedBy(1) }
	dead := func(v *View) { v.Primary = accusedBy(2) }
	slowPath := func(v *View) {
		v.Primary = accusedBy(2)
		v.Primary.Verdict = topology.Suspect
	}
	for _, c := range []struct {
		name    string
		change  []func(*View)
		answer  string
		because string // in one of the reasons
		next    string
	}{
		{name: "healthy", answer: "No. n1 is healthy: the server answers", next: "nothing would hold a failover back"},
		{
			name: "healthy, and a failover would not be possible", change: []func(*View){gone("n2")},
			answer: "No. n1 is healthy", next: "would be held back: gate ackers_revocable is closed: no promotion possible: 1 of 2 needed",
		},
		{
			name: "suspect", change: []func(*View){suspect},
			answer: "Not yet. n1 is suspect: 1 of 3 members speak against it, and 2 are needed.", because: "nothing listens at the server's port",
		},
		{name: "slow way", change: []func(*View){slowPath}, answer: "the way to it is slow, not the server"},
		{name: "silence", change: []func(*View){func(v *View) { v.Primary = Judgement{Subject: "n1"} }}, answer: "silence is no vote"},
		{name: "failed", change: []func(*View){dead}, answer: "Yes. n1 has failed and nothing holds the failover back.", next: "a1 leads and begins it"},
		{
			name: "failed and paused", change: []func(*View){dead, pausedByOperator},
			answer: "No. n1 has failed, and the failover is held back by a gate.", because: "gate not_paused is closed: paused by kim",
			next: "Writes are out until then",
		},
		{
			name: "failed, paused and no proof", change: []func(*View){dead, pausedByOperator, gone("n2"), gone("n3")},
			answer: "held back by 3 gates", because: "gate ackers_revocable is closed",
		},
		{
			name: "under way", change: []func(*View){dead, inOperation(election.Failover, stepRevoke)},
			answer: "the failover of epoch 6 is at step revoke, led by a2", next: "interrex explain --epoch 6",
		},
		{
			name: "no primary yet", change: []func(*View){func(v *View) { v.State = election.State{} }, gone("n3")},
			answer: "The cluster has no primary yet.", because: "gate all_members_present is closed: no answer from n3",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := quietView(c.change...)
			if len(c.change) == 0 || v.Primary.Cause == "" && v.Primary.Verdict == topology.Healthy {
				v.Primary = accusedBy(0)
			}
			e := ExplainNow(v, decideGates(v, Policy{Automatic: true, Acks: 1, Expected: 3}, ""))
			require.Contains(t, e.Answer, c.answer)
			require.Contains(t, strings.Join(e.Because, "\n"), c.because)
			require.Contains(t, e.Next, c.next)
		})
	}
}

func TestExplainMember(t *testing.T) {
	v := quietView(gone("n2"))
	dead := accusedBy(2)
	dead.Subject = "n2"
	e := ExplainMember(v, "n2", dead)
	require.Contains(t, e.Answer, "n2 is failed, and it is not the primary")
	require.Contains(t, e.Next, "drop_after")
	v.State.Register.Ackers = nil
	require.Contains(t, ExplainMember(v, "n2", dead).Next, "no failover needs it")
	require.Contains(t, ExplainMember(v, "a1", Judgement{}).Answer, "has no server")
}

func TestExplainReport(t *testing.T) {
	zero := uint64(0)
	r := Report{
		Epoch: 6, Kind: election.Failover, Outcome: Completed, From: "n1", To: "n2", Evidence: accusedBy(2), RTOMillis: 412.4,
		RPO:   RPO{LostCommits: &zero, Proof: Proof{Statement: "2 of 2 were frozen"}},
		Gates: []Gate{{Name: gateEtcd, Operation: election.Failover, Open: true}},
	}
	e := ExplainReport(r)
	require.Equal(t, "Why was there a failover in epoch 6?", e.Question)
	require.Contains(t, e.Answer, "n1 was judged failed: its host answers, and nothing listens")
	require.Contains(t, e.Next, "n2 served writes from then on; they were out for 412 ms at most. 0 acknowledged commits were lost: 2 of 2")
	r.Outcome, r.Reason = Failure, "no proof"
	r.Steps = []Step{{Name: stepRevoke, Error: "1 of 2 frozen"}}
	e = ExplainReport(r)
	require.Equal(t, "It ended without a primary: no proof", e.Next)
	require.Contains(t, e.Because, "step revoke failed: 1 of 2 frozen")
	r.Kind = election.Switchover
	require.Equal(t, "An operator asked for it.", ExplainReport(r).Answer)
}

func TestExplainDecision(t *testing.T) {
	d := Decision{By: "n2", Subject: "n1", Primary: true, Outcome: DecisionRecovered, Lasted: 340 * time.Millisecond, Times: 1, Worst: accusedBy(1)}
	require.Equal(t, "n1 was suspect for 340 ms in the eyes of n2. No failover: 1 of 3 members spoke against it, and 2 were needed.", ExplainDecision(d).Answer)
	d.Worst, d.Times, d.Lasted = accusedBy(3), 4, 12*time.Second
	d.Held = []HeldBack{{Gate: gateNotPaused, Reason: "paused by kim", For: 3 * time.Second}}
	e := ExplainDecision(d)
	require.Equal(t, "n1 was failed for 12s, 4 times in the eyes of n2. The failover was held back.", e.Answer)
	require.Contains(t, e.Because, "gate not_paused was closed for 3s: paused by kim")
	require.Contains(t, e.Because, "n2 did not lead: the gates are as it saw them")
	d.Primary, d.Held = false, nil
	require.Contains(t, ExplainDecision(d).Answer, "It was not the primary: nothing was moved.")
	d.Outcome, d.Epoch = DecisionFailedOver, 7
	require.Contains(t, ExplainDecision(d).Next, "--epoch 7")
}

func TestExplainIsolated(t *testing.T) {
	v := quietView(func(v *View) { v.Isolated = &Isolation{For: 7 * time.Second, Seen: 1, Members: 3} })
	e := ExplainNow(v, nil)
	require.Equal(t, "a1 cannot know: it is cut off from the others.", e.Answer)
	require.Contains(t, e.Because[0], "has seen 1 of 3 members, and no quorum of etcd, for 7s; its routes are closed")
}
