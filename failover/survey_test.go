package failover

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/internal/topology"
)

type names = []topology.NodeName

// replica is a certified instance that executed all it received.
func replica(name topology.NodeName, received string, change ...func(*Frozen)) Frozen {
	f := Frozen{
		Node: name, ServerUUID: uuidOf(strings.TrimPrefix(string(name), "n")), Version: "8.4.5",
		Executed: gtids(received), Received: gtids(received), Closed: true,
	}
	for _, c := range change {
		c(&f)
	}
	return f
}

func unapplied(executed string) func(*Frozen) {
	return func(f *Frozen) { f.Executed = gtids(executed); f.Unapplied = f.Received.Minus(f.Executed).Count() }
}

func amnesiac(f *Frozen)                { f.Amnesiac = true }
func opened(f *Frozen)                  { f.Closed = false }
func priority(p int) func(*Frozen)      { return func(f *Frozen) { f.Priority = p } }
func version(v string) func(*Frozen)    { return func(f *Frozen) { f.Version = v } }
func broken(f *Frozen)                  { f.ApplierError = "error 1062" }
func serverUUID(n string) func(*Frozen) { return func(f *Frozen) { f.ServerUUID = uuidOf(n) } }

// primaryOf is n1, recorded when it held base.
func primaryOf(base string) *election.Primary {
	return &election.Primary{Node: "n1", ServerUUID: uuidOf("1"), Address: "127.0.0.1:3301", Epoch: 5, Phase: election.Open, Base: gtids(base)}
}

func register(k int, ackers ...topology.NodeName) election.Register {
	return election.Register{Ackers: ackers, K: k}
}

func TestSurvey(t *testing.T) {
	for _, c := range []struct {
		name      string
		answers   []Frozen
		reg       election.Register
		counted   names
		union     string
		oldClosed bool
		proven    bool
		silent    map[topology.NodeName]string
	}{
		{
			name: "3 nodes, k=1: both ackers", reg: register(1, "n2", "n3"),
			answers: []Frozen{replica("n3", "1:1-9"), replica("n2", "1:1-8")},
			counted: names{"n2", "n3"}, union: "1:1-9", proven: true,
		},
		{
			name: "3 nodes, k=1: one acker is no proof", reg: register(1, "n2", "n3"),
			answers: []Frozen{replica("n2", "1:1-9")}, counted: names{"n2"}, union: "1:1-9",
		},
		{
			name: "3 nodes, k=2: one acker has them all", reg: register(2, "n2", "n3"),
			answers: []Frozen{replica("n2", "1:1-9")}, counted: names{"n2"}, union: "1:1-9", proven: true,
		},
		{
			name: "5 nodes, k=1: three of four are no proof", reg: register(1, "n2", "n3", "n4", "n5"),
			answers: []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-9"), replica("n4", "1:1-9")},
			counted: names{"n2", "n3", "n4"}, union: "1:1-9",
		},
		{
			name: "5 nodes, k=2: three of four are", reg: register(2, "n2", "n3", "n4", "n5"),
			answers: []Frozen{replica("n2", "1:1-7"), replica("n3", "1:1-8"), replica("n4", "1:1-9")},
			counted: names{"n2", "n3", "n4"}, union: "1:1-9", proven: true,
		},
		{
			name: "an amnesiac acker does not count, nor does what it holds", reg: register(1, "n2", "n3"),
			answers: []Frozen{replica("n2", "1:1-8"), replica("n3", "1:1-9", amnesiac)},
			counted: names{"n2"}, union: "1:1-8", silent: map[topology.NodeName]string{"n3": "restarted"},
		},
		{
			name: "one that lacks Base does not count", reg: register(1, "n2", "n3"),
			answers: []Frozen{replica("n2", "1:1-8"), replica("n3", "1:1-4")},
			counted: names{"n2"}, union: "1:1-8", silent: map[topology.NodeName]string{"n3": "before the epoch"},
		},
		{
			name: "an unregistered one does not count", reg: register(1, "n2", "n3"),
			answers: []Frozen{replica("n2", "1:1-8"), replica("n4", "1:1-9")},
			counted: names{"n2"}, union: "1:1-8", silent: map[topology.NodeName]string{"n4": "not a registered acker"},
		},
		{
			name: "the closed old primary proves it alone", reg: register(1, "n2", "n3"),
			answers: []Frozen{replica("n1", "1:1-9")}, union: "1:1-9", oldClosed: true, proven: true,
		},
		{
			name: "the open old primary proves nothing", reg: register(1, "n2", "n3"),
			answers: []Frozen{replica("n1", "1:1-9", opened)}, union: "1:1-5",
			silent: map[topology.NodeName]string{"n1": "open for writes"},
		},
		{
			name: "another server in the old primary's place proves nothing", reg: register(1, "n2", "n3"),
			answers: []Frozen{replica("n1", "1:1-9", serverUUID("7"))}, union: "1:1-5",
			silent: map[topology.NodeName]string{"n1": "another server"},
		},
		{
			name: "an old primary that lost what it had proves nothing", reg: register(1, "n2", "n3"),
			answers: []Frozen{replica("n1", "1:1-3")}, union: "1:1-5",
			silent: map[topology.NodeName]string{"n1": "lacks commits"},
		},
		{
			name: "k above the number of ackers: never proven by nobody", reg: register(2, "n2"), union: "1:1-5",
		},
		{name: "no ackers at all", reg: register(1), union: "1:1-5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := surveyOf(c.answers, map[topology.NodeName]string{"n9": "no route to host"}, primaryOf("1:1-5"), c.reg)
			require.Equal(t, c.counted, s.counted)
			require.True(t, s.union.Equal(gtids(c.union)), "union is %s", s.union)
			require.Equal(t, c.oldClosed, s.oldClosed)
			require.Equal(t, c.proven, s.proven(), s.summary())
			require.Len(t, s.silent, len(c.silent)+1)
			for n, why := range c.silent {
				require.Contains(t, s.silent[n], why)
			}
			require.Contains(t, s.summary(), "n9: no route to host")
		})
	}
}

func TestSurveyOfBootstrapCountsEverybody(t *testing.T) {
	s := surveyOf([]Frozen{replica("n2", "2:1"), replica("n1", "1:1-3", amnesiac)}, nil, nil, election.Register{})
	require.Equal(t, names{"n1", "n2"}, s.counted)
	require.True(t, s.union.Equal(gtids("1:1-3,2:1")))
	require.True(t, s.proven())
}

func TestChooseCandidate(t *testing.T) {
	failover := choosePolicy{kind: election.Failover, from: "n1", minFollowers: 1}
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
			name: "never with a negative priority", policy: failover,
			seen:    []Frozen{replica("n2", "1:1-9", priority(-1)), replica("n3", "1:1-9", priority(-1))},
			refusal: "its priority forbids promotion",
		},
		{
			name: "never with a stopped applier (M5)", policy: failover,
			seen: []Frozen{replica("n2", "1:1-9", broken), replica("n3", "1:1-9", unapplied("1:1"))}, want: "n3", followers: names{"n2"},
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
			seen: []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-9")}, refusal: "only 1 instances could acknowledge",
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
			name: "switchover: not to the primary", policy: switchTo("n1"),
			seen: []Frozen{replica("n1", "1:1-9"), replica("n2", "1:1-9")}, refusal: "n1: it is the primary already; n2: n1 is wanted",
		},
		{
			name: "resume takes the primary as it is", policy: choosePolicy{kind: election.Resume, from: "n1", to: "n1", minFollowers: 1},
			seen: []Frozen{replica("n1", "1:1-9", priority(-1), broken, version("9.7.4"), opened), replica("n2", "1:1-10")},
			want: "n1", followers: names{"n2"},
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

func TestNextRegister(t *testing.T) {
	type sources = map[topology.NodeName]topology.NodeName
	for _, c := range []struct {
		name    string
		kind    election.Kind
		to      topology.NodeName
		seen    []Frozen
		reg     election.Register
		before  sources
		acks    int
		want    election.Register
		sources sources
	}{
		{
			name: "failover: the followers that proved to be complete", kind: election.Failover, to: "n2",
			seen: []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-8"), replica("n4", "1:1-3")},
			reg:  register(1, "n2", "n3", "n4"), before: sources{"n2": "n1", "n3": "n1", "n4": "n1"},
			want: register(1, "n3"), sources: sources{"n3": "n2"},
		},
		{
			name: "failover: all, where too few are complete", kind: election.Failover, to: "n2",
			seen: []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-8", amnesiac), replica("n4", "1:1-9", amnesiac)},
			reg:  register(3, "n2", "n3", "n4"), acks: 1,
			want: register(1, "n3", "n4"), sources: sources{"n3": "n2", "n4": "n2"},
		},
		{
			name: "failover: who was not reached and was ordered to the candidate before is registered again", kind: election.Failover, to: "n2",
			seen: []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-9")},
			reg:  register(2, "n2", "n3"), before: sources{"n2": "n1", "n3": "n1", "n4": "n2", "n5": "n1"},
			want: register(1, "n3", "n4"), sources: sources{"n3": "n2", "n4": "n2", "n5": "n1"},
		},
		{
			name: "failover: so is one whose last order may not have arrived", kind: election.Failover, to: "n2",
			seen: []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-9")},
			reg:  register(1, "n2", "n3"), before: sources{"n2": "n1", "n3": anyPrimary, "n4": anyPrimary},
			want: register(1, "n3", "n4"), sources: sources{"n3": "n2", "n4": anyPrimary},
		},
		{
			name: "switchover: nobody is frozen, so orders are not certain", kind: election.Switchover, to: "n2",
			seen: []Frozen{replica("n1", "1:1-9"), replica("n2", "1:1-9"), replica("n3", "1:1-9")},
			reg:  register(1, "n2", "n3"), before: sources{"n2": "n1", "n3": "n1"},
			want: register(1, "n1", "n3"), sources: sources{"n1": "n2", "n3": anyPrimary},
		},
		{
			name: "the same primary keeps its register, reached or not", kind: election.Resume, to: "n1",
			seen: []Frozen{replica("n1", "1:1-9"), replica("n2", "1:1-9"), replica("n4", "1:1-9")},
			reg:  register(1, "n2", "n3"), before: sources{"n2": "n1", "n3": "n1"},
			want: register(1, "n2", "n3"), sources: sources{"n2": "n1", "n3": "n1"},
		},
		{
			name: "and k, whatever the configuration says by now (I3)", kind: election.Resume, to: "n1",
			seen: []Frozen{replica("n1", "1:1-9"), replica("n2", "1:1-9")}, acks: 2,
			reg: register(1, "n2", "n3"), want: register(1, "n2", "n3"), sources: sources{"n2": "n1", "n3": "n1"},
		},
		{
			name: "if none of it is there, those that are there join it", kind: election.Resume, to: "n1",
			seen: []Frozen{replica("n1", "1:1-9"), replica("n4", "1:1-9", amnesiac)},
			reg:  register(1, "n2", "n3"), want: register(1, "n2", "n3", "n4"), sources: sources{"n2": "n1", "n3": "n1", "n4": "n1"},
		},
		{
			name: "failover back to the old primary that returned", kind: election.Failover, to: "n1",
			seen: []Frozen{replica("n1", "1:1-10"), replica("n2", "1:1-9")},
			reg:  register(1, "n2", "n3"), before: sources{"n2": "n1", "n3": "n1"},
			want: register(1, "n2", "n3"), sources: sources{"n2": "n1", "n3": "n1"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			plan := Plan{Kind: c.kind, From: "n1", Old: primaryOf("1:1-5"), Register: c.reg, Acks: max(c.acks, 1)}
			s := surveyOf(c.seen, nil, plan.Old, c.reg)
			var up caughtUp
			up.survey = s
			for _, f := range c.seen {
				if f.Node == c.to {
					up.candidate = f
				} else {
					up.followers = append(up.followers, f)
				}
			}
			state := election.State{Register: c.reg, Sources: c.before}
			reg, got := nextRegister(&state, plan, up)
			require.Equal(t, c.want, reg)
			require.Equal(t, c.sources, got)
			for n := range c.before {
				require.Contains(t, state.Sources, n, "the snapshot's map is not changed")
			}
		})
	}
}

func TestProveRPO(t *testing.T) {
	old := primaryOf("1:1-5")
	up := func(to topology.NodeName, seen ...Frozen) caughtUp {
		var u caughtUp
		u.survey = surveyOf(seen, nil, old, register(1, "n2", "n3"))
		u.candidate, u.executed = Frozen{Node: to}, gtids("1:1-9")
		return u
	}
	for _, c := range []struct {
		name    string
		kind    election.Kind
		up      caughtUp
		says    string
		inDoubt bool // known to be none
	}{
		{"bootstrap", election.Bootstrap, up("n1"), "contains everything that any instance holds", true},
		{"switchover", election.Switchover, up("n2", replica("n1", "1:1-9")), "the old primary was closed", true},
		{"resume", election.Resume, up("n1"), "stayed the same instance", true},
		{"failover by ackers", election.Failover, up("n2", replica("n2", "1:1-9"), replica("n3", "1:1-8")), "2 of 2 registered ackers were frozen, 2 were needed", false},
		{"failover by the old primary's agent", election.Failover, up("n2", replica("n1", "1:1-9"), replica("n2", "1:1-9")), "closed by its own agent", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := proveRPO(Plan{Kind: c.kind, From: "n1", Register: register(1, "n2", "n3")}, c.up)
			require.EqualValues(t, 0, *r.LostCommits)
			require.Equal(t, c.inDoubt, r.InDoubt != nil)
			require.Contains(t, r.Proof.Statement, c.says)
			require.Equal(t, gtids("1:1-9"), r.Proof.Promoted)
			require.Equal(t, c.up.survey.counted, r.Proof.Frozen)
		})
	}
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
