package failover

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// told is what a node was heard to have in the epoch of the view.
func told(n topology.NodeName, has string, change ...func(*Sighting)) func(*View) {
	return func(v *View) {
		s := Sighting{Epoch: v.State.Primary.Epoch, ServerUUID: uuidOf(string(n[1:])), Has: gtids(has), At: time.Unix(100, 0)}
		for _, c := range change {
			c(&s)
		}
		if v.Sighted == nil {
			v.Sighted = map[topology.NodeName]Sighting{}
		}
		v.Sighted[n] = s
	}
}

func exited(v *View) {
	failed(v)
	v.Primary.Votes = []Vote{{Observer: "n1", Kind: causeProcessExited, Against: true}}
}

func TestBoundLoss(t *testing.T) {
	uncertified := func(n topology.NodeName) func(*View) {
		return with(n, func(s *NodeStatus, _ *dbrepl.Status) { s.Certified = false })
	}
	received := func(n topology.NodeName, set string) func(*View) {
		return with(n, func(_ *NodeStatus, i *dbrepl.Status) { i.Received = gtids(set) })
	}
	lost := []func(*View){exited, mysqldGone("n1"), mysqldGone("n3")}
	for _, c := range []struct {
		name      string
		change    []func(*View)
		confirm   string
		missing   string
		candidate topology.NodeName
		statement string
	}{
		{name: "proven", change: []func(*View){exited, mysqldGone("n1"), told("n1", "1:1-12")}, confirm: "0", candidate: "n2", statement: "nothing acknowledged is lost"},
		{name: "told by the primary", change: append(lost, told("n1", "1:1-12")), confirm: "3", missing: "1:10-12", candidate: "n2", statement: "3 commits that members told of are not on n2, and what n1 acknowledged between its last answer and its end"},
		{name: "told by the lost acker", change: append(lost, told("n1", "1:1-9"), told("n3", "1:1-11")), confirm: "2", missing: "1:10-11", candidate: "n2"},
		{name: "what an acker has of others is its own affair", change: append(lost, told("n1", "1:1-9"), told("n3", "1:1-9,3:1-5")), confirm: "0", candidate: "n2"},
		{name: "of a former epoch", change: append(lost, told("n1", "1:1-9"), told("n3", "1:1-50", func(s *Sighting) { s.Epoch = 4 })), confirm: "0", candidate: "n2"},
		{name: "nobody remembers", change: lost, confirm: Unbounded, candidate: "n2", statement: "unbounded: not known"},
		{name: "the server there was another one", change: append(lost, told("n1", "1:1-12", func(s *Sighting) { s.ServerUUID = uuidOf("7") })), confirm: Unbounded, candidate: "n2"},
		{name: "nobody saw it end", change: []func(*View){failed, gone("n1"), gone("n3"), told("n1", "1:1-12")}, confirm: Unbounded, missing: "1:10-12", candidate: "n2", statement: "unbounded: not known. 3 commits that members told of are not on n2"},
		{name: "the most complete is promoted, also if it proves nothing", change: []func(*View){exited, mysqldGone("n1"), uncertified("n3"), received("n2", "1:1-7"), told("n1", "1:1-9")}, confirm: "0", candidate: "n3"},
		{name: "history from before the epoch counts, too", change: append(lost, received("n2", "1:1-3"), told("n1", "1:1-3")), confirm: "2", missing: "1:4-5", candidate: "n2"},
		{name: "nobody is left", change: append(lost, mysqldGone("n2"), told("n1", "1:1-12")), confirm: "12", missing: "1:1-12", statement: "no instance may be promoted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := boundLoss(quietView(c.change...))
			require.Equal(t, c.confirm, b.Confirm, "%+v", b)
			require.Equal(t, c.candidate, b.Candidate)
			require.Contains(t, b.Statement, c.statement)
			if c.missing != "" {
				require.True(t, gtids(c.missing).Equal(b.Missing), "%s", b.Missing)
				require.Equal(t, gtids(c.missing).Count(), b.Count)
			}
		})
	}
}

// A member that forgot something in a restart has told of it all the same.
func TestSightingForgetsNothingOfItsEpoch(t *testing.T) {
	st := func(set string) dbrepl.Status { return dbrepl.Status{ServerUUID: uuidOf("2"), Received: gtids(set)} }
	now := time.Unix(100, 0)
	s := Sighting{}.with(st("1:1-9"), 5, now).with(st("1:1-7"), 5, now.Add(time.Second))
	require.True(t, gtids("1:1-9").Equal(s.Has))
	require.Equal(t, now.Add(time.Second), s.At)
	require.True(t, gtids("1:1-7").Equal(s.with(st("1:1-7"), 6, now).Has), "of another primary nothing is kept")
	other := st("1:1-2")
	other.ServerUUID = uuidOf("8")
	require.True(t, gtids("1:1-2").Equal(s.with(other, 5, now).Has))
	require.True(t, s.Has.Of(uuidOf("2")).Equal(gtid.Set{}))
}

func TestWhoseReturnMakesTheProof(t *testing.T) {
	p := primaryOf("1:1-5")
	for _, c := range []struct {
		name   string
		seen   []Frozen
		silent map[topology.NodeName]string
		reg    election.Register
		want   string
	}{
		{"one of two", []Frozen{replica("n2", "1:1-9")}, map[topology.NodeName]string{"n3": "gone"}, register(1, "n2", "n3"), "1 of [n3], if the server there has not restarted, or for the old primary n1 itself"},
		{"one of several", []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-9")}, map[topology.NodeName]string{"n4": "", "n5": ""}, register(2, "n2", "n3", "n4", "n5"), "1 of [n4 n5]"},
		{"an amnesiac one proves nothing by answering", []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-9", amnesiac)}, nil, register(1, "n2", "n3"), "the old primary n1 itself"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := surveyOf(c.seen, c.silent, p, c.reg)
			require.False(t, s.proven())
			require.Contains(t, missingFor(s, c.reg, "n1"), c.want)
		})
	}
}
