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

func waiting(commits string) func(*Frozen) {
	return func(f *Frozen) { f.Committing = gtids(commits) }
}

func amnesiac(f *Frozen)                { f.Amnesiac = true }
func opened(f *Frozen)                  { f.Closed = false }
func priority(p int) func(*Frozen)      { return func(f *Frozen) { f.Priority = p } }
func version(v string) func(*Frozen)    { return func(f *Frozen) { f.Version = v } }
func filtered(f *Frozen)                { f.Inadmissible = "it is filtered" }
func broken(f *Frozen)                  { f.ApplierError, f.Unapplied = "error 1062", 1 }
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
			name: "what one of them alone has received is in the union, executed or not (H13)", reg: register(1, "n2", "n3"),
			answers: []Frozen{replica("n2", "1:1-8"), replica("n3", "1:1-9", unapplied("1:1-7"))},
			counted: names{"n2", "n3"}, union: "1:1-9", proven: true,
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
			require.Equal(t, c.proven, s.proven(), s.summary(areFrozen))
			require.Len(t, s.silent, len(c.silent)+1)
			for n, why := range c.silent {
				require.Contains(t, s.silent[n], why)
			}
			require.Contains(t, s.summary(areFrozen), "n9: no route to host")
		})
	}
}

func TestSurveyOfBootstrapCountsEverybody(t *testing.T) {
	s := surveyOf([]Frozen{replica("n2", "2:1"), replica("n1", "1:1-3", amnesiac)}, nil, nil, election.Register{})
	require.Equal(t, names{"n1", "n2"}, s.counted)
	require.True(t, s.union.Equal(gtids("1:1-3,2:1")))
	require.True(t, s.proven())
	require.Equal(t, "2 instances frozen", s.summary(areFrozen))
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
