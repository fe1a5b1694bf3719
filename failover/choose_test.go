package failover

import (
	"testing"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/internal/topology"
)

func TestChooseCandidate(t *testing.T) {
	failover := choosePolicy{kind: election.Failover, from: "n1", minFollowers: 1}
	ailing := func(ill topology.NodeName) choosePolicy {
		p := failover
		p.ailing = func(n topology.NodeName) bool { return n == ill }
		return p
	}
	doubted := failover
	doubted.doubters = func(n topology.NodeName) names { return map[topology.NodeName]names{"n2": {"n3"}}[n] }
	doubtedOfFour := doubted
	doubtedOfFour.instances = 4
	forcedAiling := ailing("n2")
	forcedAiling.forced = true
	switchTo := func(to topology.NodeName) choosePolicy {
		return choosePolicy{kind: election.Switchover, from: "n1", to: to, minFollowers: 1}
	}
	for _, c := range []struct {
		name      string
		seen      []Frozen
		policy    choosePolicy
		reg       election.Register
		want      topology.NodeName
		followers names
		refusal   string // of the error, when there is no candidate
	}{
		{
			name: "it must contain the union", policy: failover,
			seen: []Frozen{replica("n2", "1:1-8", priority(9)), replica("n3", "1:1-9")}, want: "n3", followers: names{"n2"},
		},
		{
			name: "nobody contains it", policy: failover, reg: register(1, "n2", "n3", "n4"),
			seen:    []Frozen{replica("n2", "1:1-8,3:1"), replica("n3", "1:1-9")},
			refusal: "n2: it lacks 1 transactions that may have been acknowledged; n3: it lacks 1",
		},
		{
			name: "an uncounted one may be chosen if it contains it", policy: failover,
			seen: []Frozen{replica("n2", "1:1-8", broken), replica("n3", "1:1-8", broken), replica("n4", "1:1-9", amnesiac)},
			want: "n4", followers: names{"n2", "n3"},
		},
		{
			name: "an applier that was ended in the middle of what will never come has nothing left to apply", policy: failover, reg: register(1, "n2", "n3"),
			seen: []Frozen{replica("n2", "1:1-9", func(f *Frozen) { f.ApplierError = "error 1756" }), replica("n3", "1:1-8")},
			want: "n2", followers: names{"n3"},
		},
		{
			name: "and is for when nobody else fits", policy: failover, reg: register(1, "n2", "n3"),
			seen: []Frozen{replica("n2", "1:1-9", priority(10), func(f *Frozen) { f.ApplierError = "error 1032" }), replica("n3", "1:1-9", unapplied("1:1-5"))},
			want: "n3", followers: names{"n2"},
		},
		{
			name: "an errant one never, however much it holds", policy: failover,
			seen: []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-9"), replica("n4", "1:1-9,4:1", priority(9))},
			want: "n2", followers: names{"n3"},
		},
		{
			name: "the old primary's unacknowledged tail is not errant", policy: failover,
			seen: []Frozen{replica("n2", "1:1-8", unapplied("1:1")), replica("n3", "1:1-8", unapplied("1:1")), replica("n4", "1:1-9")},
			want: "n4", followers: names{"n2", "n3"},
		},
		{
			name: "fewest to apply first", policy: failover,
			seen: []Frozen{replica("n2", "1:1-9", unapplied("1:1-7"), priority(9)), replica("n3", "1:1-9", unapplied("1:1-8"))},
			want: "n3", followers: names{"n2"},
		},
		{
			name: "then priority", policy: failover,
			seen: []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-9", priority(1))}, want: "n3", followers: names{"n2"},
		},
		{
			name: "then the name", policy: failover,
			seen: []Frozen{replica("n3", "1:1-9"), replica("n2", "1:1-9")}, want: "n2", followers: names{"n3"},
		},
		{
			name: "one whose own agent speaks against it comes last", policy: ailing("n2"),
			seen: []Frozen{replica("n2", "1:1-9", priority(9)), replica("n3", "1:1-9", unapplied("1:1-8"))}, want: "n3", followers: names{"n2"},
		},
		{
			name: "and is taken where nobody else can be", policy: ailing("n2"),
			seen: []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-8")}, want: "n2", followers: names{"n3"},
		},
		{
			name: "but where its loss is accepted, it is who loses least", policy: forcedAiling, reg: register(1, "n2", "n3", "n4"),
			seen: []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-8")}, want: "n2", followers: names{"n3"},
		},
		{
			name: "one that another member does not reach comes after an equal", policy: doubted,
			seen: []Frozen{replica("n2", "1:1-900", priority(9)), replica("n3", "1:1-900", unapplied("1:1-500"))}, want: "n3", followers: names{"n2"},
		},
		{
			name: "but not after one that has much to apply", policy: doubted,
			seen: []Frozen{replica("n2", "1:1-900"), replica("n3", "1:1-900", unapplied("1:1-300")), replica("n4", "1:1-900", unapplied("1:1-300"))}, want: "n2", followers: names{"n3", "n4"},
		},
		{
			name: "unless nobody is left to acknowledge for it", policy: doubted,
			seen: []Frozen{replica("n2", "1:1-900"), replica("n3", "1:1-900", unapplied("1:1-300"))}, want: "n3", followers: names{"n2"},
		},
		{
			name: "nor if too few are for what the register will ask for", policy: doubtedOfFour,
			seen: []Frozen{replica("n2", "1:1-900"), replica("n3", "1:1-900", unapplied("1:1-300")), replica("n4", "1:1-900", unapplied("1:1-300"))}, want: "n3", followers: names{"n2", "n4"},
		},
		{
			name: "the old primary is no way out of a doubt", policy: doubted,
			seen: []Frozen{replica("n1", "1:1-900"), replica("n2", "1:1-900"), replica("n3", "1:1-900", broken)}, want: "n2", followers: names{"n1", "n3"},
		},
		{
			name: "never with a negative priority", policy: failover,
			seen:    []Frozen{replica("n2", "1:1-9", priority(-1)), replica("n3", "1:1-9", priority(-1))},
			refusal: "its priority forbids promotion",
		},
		{
			name: "never with a stopped applier (M5)", policy: failover,
			seen: []Frozen{replica("n2", "1:1-9", broken), replica("n3", "1:1-9", unapplied("1:1"))}, want: "n3", followers: names{"n2"},
		},
		{
			name: "never one that leaves something out, and nobody counts on its acknowledgements (M11)", policy: failover,
			seen: []Frozen{replica("n2", "1:1-9", priority(1), filtered), replica("n3", "1:1-9"), replica("n4", "1:1-9")}, want: "n3", followers: names{"n2", "n4"},
		},
		{
			name: "nor if it alone could acknowledge (M11)", policy: failover,
			seen: []Frozen{replica("n2", "1:1-9", filtered), replica("n3", "1:1-9")}, refusal: "0 of the 1 needed instances could acknowledge",
		},
		{
			name: "not newer than those that will follow (U3)", policy: failover,
			seen: []Frozen{replica("n2", "1:1-9", version("9.7.4"), priority(1)), replica("n3", "1:1-9", version("8.4.9"))},
			want: "n3", followers: names{"n2"},
		},
		{
			name: "a newer patch release is no newer version", policy: failover,
			seen: []Frozen{replica("n2", "1:1-9", version("8.4.9")), replica("n3", "1:1-9", version("8.4.3"))},
			want: "n2", followers: names{"n3"},
		},
		{
			name: "there must be enough to acknowledge", policy: choosePolicy{kind: election.Failover, from: "n1", minFollowers: 2},
			seen: []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-9")}, refusal: "1 of the 2 needed instances could acknowledge",
		},
		{
			name: "the old primary that came back only if nobody else fits", policy: failover,
			seen: []Frozen{replica("n1", "1:1-9", priority(9)), replica("n2", "1:1-9", unapplied("1:1")), replica("n3", "1:1-9", unapplied("1:1"))},
			want: "n2", followers: names{"n1", "n3"},
		},
		{
			name: "and then it is", policy: failover,
			seen: []Frozen{replica("n1", "1:1-10"), replica("n2", "1:1-9"), replica("n3", "1:1-9")},
			want: "n1", followers: names{"n2", "n3"},
		},
		{
			name: "switchover: the wanted one, if it lags too", policy: switchTo("n3"),
			seen: []Frozen{replica("n1", "1:1-9"), replica("n2", "1:1-9"), replica("n3", "1:1-7", unapplied("1:1-6"))},
			want: "n3", followers: names{"n1", "n2"},
		},
		{
			name: "switchover: what is not received is work, too", policy: switchTo(""),
			seen: []Frozen{replica("n1", "1:1-9"), replica("n2", "1:1-2"), replica("n3", "1:1-9", unapplied("1:1-7"))},
			want: "n3", followers: names{"n1", "n2"},
		},
		{
			name: "switchover: the primary is open until it is closed", policy: switchTo("n2"),
			seen: []Frozen{replica("n1", "1:1-9", opened), replica("n2", "1:1-9")}, want: "n2", followers: names{"n1"},
		},
		{
			name: "switchover: not to the primary", policy: switchTo("n1"),
			seen: []Frozen{replica("n1", "1:1-9"), replica("n2", "1:1-9")}, refusal: "n1: it is the primary already; n2: n1 is wanted",
		},
		{
			name: "resume takes the primary as it is", policy: choosePolicy{kind: election.Resume, from: "n1", to: "n1", minFollowers: 1},
			seen: []Frozen{replica("n1", "1:1-9", priority(-1), broken, version("9.7.4"), opened), replica("n2", "1:1-10")},
			want: "n1", followers: names{"n2"},
		},
		{
			name: "one with commits of its own that wait cannot follow", policy: failover,
			seen: []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-9"), replica("n4", "1:1-9", waiting("4:1-2"))},
			want: "n2", followers: names{"n3"},
		},
		{
			name: "nor one that is open for more of them", policy: failover,
			seen: []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-9"), replica("n4", "1:1-9", opened)},
			want: "n2", followers: names{"n3"},
		},
		{
			name: "nor acknowledge the primary that is resumed", policy: choosePolicy{kind: election.Resume, from: "n1", to: "n1", minFollowers: 1},
			seen: []Frozen{replica("n1", "1:1-9"), replica("n2", "1:1-9,2:1"), replica("n3", "1:1-10")},
			want: "n1", followers: names{"n3"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.reg.K == 0 {
				c.reg = register(1, "n2", "n3")
			}
			s := surveyOf(c.seen, map[topology.NodeName]string{"n9": "timeout"}, primaryOf("1:1-5"), c.reg)
			if c.policy.kind != election.Failover {
				s.union = c.seen[0].Executed // of n1
			}
			got, followers, err := chooseCandidate(s, c.policy)
			if c.refusal != "" {
				require.ErrorIs(t, err, ErrNoCandidate)
				require.ErrorContains(t, err, c.refusal)
				require.ErrorContains(t, err, "n9: timeout")
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got.Node)
			var gotFollowers names
			for _, f := range followers {
				gotFollowers = append(gotFollowers, f.Node)
			}
			require.ElementsMatch(t, c.followers, gotFollowers)
		})
	}
}

func TestBootstrapChoosesTheOneThatIsOpen(t *testing.T) {
	p := choosePolicy{kind: election.Bootstrap, minFollowers: 1}
	s := surveyOf([]Frozen{replica("n1", "2:1-9"), replica("n2", "2:1-9", opened)}, nil, nil, election.Register{})
	got, _, err := chooseCandidate(s, p)
	require.NoError(t, err)
	require.Equal(t, topology.NodeName("n2"), got.Node, "n1 comes first by name, but n2's commits go on")

	s = surveyOf([]Frozen{replica("n1", "2:1-9", opened), replica("n2", "2:1-9", opened)}, nil, nil, election.Register{})
	_, _, err = chooseCandidate(s, p)
	require.ErrorContains(t, err, "another instance is open for writes")
}

func TestNewerVersion(t *testing.T) {
	for _, c := range []struct {
		source, replica string
		want            bool
	}{
		{"8.4.5", "8.4.1", false}, {"8.0.36", "8.4.1", false}, {"8.4.1", "8.0.36", true},
		{"9.7.4-log", "8.4.1", true}, {"8.4.1", "9.7.4", false}, {"10.1.0", "9.9.9", true}, {"", "8.4.1", false},
	} {
		require.Equal(t, c.want, newerVersion(c.source, c.replica), "%s to %s", c.source, c.replica)
	}
}
