package failover

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// order is an order to force a failover that a1 would accept now.
func (c *cluster) forceOrder() ForceOrder {
	c.t.Helper()
	now, err := c.agents["a1"].control.PreviewForce()
	require.NoError(c.t, err)
	return ForceOrder{Cluster: now.Cluster, Epoch: now.Epoch, Confirm: now.Bound.Confirm, By: "kim"}
}

func (c *cluster) force(o ForceOrder) (Report, error) {
	return c.agents["a1"].control.Force(context.Background(), o)
}

// doubleFailure kills the primary n1, and n3 with it.
func (c *cluster) doubleFailure() {
	c.server("n3").kill()
	c.server("n1").kill()
	c.eventually("a1 sees it", func() bool {
		v := c.agents["a1"].watcher.View()
		return v.Nodes["n1"].Instance == nil && v.Nodes["n3"].Instance == nil
	})
	time.Sleep(10 * time.Second) // what was begun before that has ended
}

// X4: primary and an acker are lost. Nothing is promoted, the gate names whose
// return makes the proof, and with that one it goes on without loss.
func TestPrimaryAndAnAckerLost(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		stop := c.clients()
		defer stop()
		time.Sleep(time.Second)
		c.reach("n3", false)
		c.stall(true, "n2") // n3 alone acknowledges the last ones
		time.Sleep(3 * time.Second)
		c.server("n1").kill()
		c.stall(false, "n2")
		time.Sleep(20 * time.Second)
		require.EqualValues(t, 1, c.state().Epoch)
		require.Empty(t, c.writable())
		g := closedGate(c.agents["a1"].control.Gates(), election.Failover)
		require.Equal(t, gateRevocable, g.Name)
		require.Contains(t, g.Reason, "waiting for 1 of [n3], if the server there has not restarted, or for the old primary n1 itself")

		c.reach("n3", true)
		c.check()
		require.Equal(t, topology.NodeName("n3"), c.state().Primary.Node, "who holds what was acknowledged last")
		require.Nil(t, c.state().Primary.Forced)
		require.Nil(t, c.report(c.state().Epoch).Forced)
		require.Zero(t, *c.report(c.state().Epoch).RPO.LostCommits)
	})
}

// The same, but they do not come back: an operator accepts what may be lost.
func TestForcedFailover(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		for range 5 {
			require.NoError(t, c.commitBy("n1", time.Second))
		}
		c.stall(true, "n2")
		require.NoError(t, c.commitBy("n1", time.Second), "n3 acknowledges")
		require.NoError(t, c.commitBy("n1", time.Second))
		time.Sleep(time.Second) // the members hear of them
		c.doubleFailure()
		o := c.forceOrder()
		require.Equal(t, "2", o.Confirm)
		r, err := c.force(o)
		require.NoError(t, err)
		require.Equal(t, Completed, r.Outcome)

		s := c.state()
		require.True(t, c.settled())
		require.Equal(t, topology.NodeName("n2"), s.Primary.Node)
		require.Equal(t, election.Forced{By: "kim", At: r.Forced.At, Accepted: "2", Epoch: r.Epoch}, *s.Primary.Forced)
		require.Zero(t, s.Register.K)
		require.NotNil(t, s.Degraded, "nobody acknowledges: the record says so (I4)")
		r = c.report(r.Epoch)
		require.Nil(t, r.RPO.LostCommits, "not known")
		require.Contains(t, r.RPO.Proof.Statement, `not proven: forced by kim, who accepted "2"`)
		require.Contains(t, r.RPO.Proof.Statement, "waiting for 1 of [n3]")
		require.True(t, r.Forced.Lossy)
		require.EqualValues(t, 2, r.Forced.Bound.Count)
		require.NoError(t, c.commitBy("n2", time.Second))

		// They come back: closed, and their own transactions are not thrown away.
		c.stall(false, "n2")
		c.server("n1").start(false)
		c.server("n3").start(false)
		c.eventually("what n1 had alone is in the ledger", func() bool { return c.report(r.Epoch).RPO.InDoubt != nil })
		require.EqualValues(t, 2, *c.report(r.Epoch).RPO.InDoubt)
		require.Nil(t, c.report(r.Epoch).RPO.LostCommits)
		time.Sleep(time.Minute)
		require.Empty(t, c.state().Register.Ackers, "with errant transactions nobody follows before they are saved (O5)")
		require.Equal(t, []topology.NodeName{"n2"}, c.writable())
	})
}

// With nothing alone on them, the returning ones make it lossless again.
func TestForcedFailoverBecomesLosslessAgain(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		require.NoError(t, c.commitBy("n1", time.Second))
		time.Sleep(time.Second)
		c.doubleFailure()
		o := c.forceOrder()
		require.Equal(t, "0", o.Confirm)
		_, err := c.force(o)
		require.NoError(t, err)
		c.server("n1").start(false)
		c.server("n3").start(false)
		c.eventually("lossless", func() bool {
			s := c.state()
			return s.Degraded == nil && s.Register.K == 1 && len(s.Register.Ackers) == 2
		})
		require.NotNil(t, c.state().Primary.Forced, "how it became primary is not forgotten")
		c.server("n2").kill()
		c.eventually("a failover as usual", func() bool { return c.settled() && c.state().Primary.Node != "n2" })
		require.Nil(t, c.state().Primary.Forced)
	})
}

func TestForceIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*cluster, *ForceOrder)
		field  string // of a confirmation
		gate   string
	}{
		"another cluster":           {change: func(_ *cluster, o *ForceOrder) { o.Cluster = "staging" }, field: "cluster"},
		"another epoch":             {change: func(_ *cluster, o *ForceOrder) { o.Epoch-- }, field: "epoch"},
		"no number":                 {change: func(_ *cluster, o *ForceOrder) { o.Confirm = "" }, field: "confirm"},
		"another number":            {change: func(_ *cluster, o *ForceOrder) { o.Confirm = "1" }, field: "confirm"},
		"the word for the number":   {change: func(_ *cluster, o *ForceOrder) { o.Confirm = Unbounded }, field: "confirm"},
		"the primary is back":       {change: func(c *cluster, _ *ForceOrder) { c.server("n1").start(false) }, gate: gateFailed},
		"nobody knows if it ended":  {change: func(c *cluster, _ *ForceOrder) { c.reach("n1", false) }, field: "confirm"},
		"nobody is left to promote": {change: func(c *cluster, _ *ForceOrder) { c.server("n2").kill() }, gate: gateCandidate},
	} {
		t.Run(name, func(t *testing.T) {
			withCluster(t, 3, func(t *testing.T, c *cluster) {
				require.NoError(t, c.commitBy("n1", time.Second))
				time.Sleep(time.Second)
				c.doubleFailure()
				o := c.forceOrder()
				test.change(c, &o)
				before := c.state()
				_, err := c.force(o)
				if test.gate != "" {
					var gate *GateError
					require.ErrorAs(t, err, &gate)
					require.Equal(t, test.gate, gate.Gate.Name)
				} else {
					var no *ConfirmationError
					require.ErrorAs(t, err, &no)
					require.Equal(t, test.field, no.Field)
				}
				require.Equal(t, before.Epoch, c.state().Epoch, "nothing was begun")
				require.Empty(t, c.writable())
			}, func(c *cluster) { c.policy(func(p *Policy) { p.Automatic = false }) })
		})
	}
}

// What was confirmed is what may be lost, also when the best candidate dies
// between the order and its freeze.
func TestForceLosesNoMoreThanWasConfirmed(t *testing.T) {
	withCluster(t, 5, func(t *testing.T, c *cluster) {
		c.stall(true, "n3", "n4")
		require.NoError(t, c.commitBy("n1", time.Second))
		require.NoError(t, c.commitBy("n1", time.Second))
		time.Sleep(time.Second)
		c.server("n5").kill()
		c.server("n1").kill()
		c.stall(false, "n3", "n4")
		time.Sleep(10 * time.Second)
		o := c.forceOrder()
		require.Equal(t, "0", o.Confirm, "n2 has all that anybody told of")
		c.hook(func(e event) error {
			if e.what == "freeze" && e.to == "n2" {
				c.server("n2").kill()
			}
			return nil
		})
		r, err := c.force(o)
		require.ErrorIs(t, err, ErrNotConfirmed)
		require.Empty(t, c.writable())
		c.hook(nil)
		require.Equal(t, Failure, c.report(r.Epoch).Outcome)
		require.Equal(t, "kim", c.report(r.Epoch).Forced.By)

		time.Sleep(time.Second)
		o = c.forceOrder()
		require.Equal(t, "2", o.Confirm)
		r, err = c.force(o)
		require.NoError(t, err)
		require.Equal(t, 1, c.state().Register.K, "it has one to acknowledge")
		require.Nil(t, c.state().Degraded)
		require.True(t, r.Forced.Lossy)
	}, acks(1))
}

// The proof comes back after the order was accepted: it is made use of.
func TestForceThatFindsTheProofIsNotLossy(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		require.NoError(t, c.commitBy("n1", time.Second))
		c.reach("n3", false)
		time.Sleep(time.Second)
		c.server("n1").kill()
		time.Sleep(10 * time.Second)
		o := c.forceOrder()
		c.hook(func(e event) error {
			if e.what == "claim" && e.after {
				c.reach("n3", true)
			}
			return nil
		})
		r, err := c.force(o)
		require.NoError(t, err)
		require.False(t, r.Forced.Lossy)
		require.Zero(t, *r.RPO.LostCommits)
		require.Nil(t, c.state().Primary.Forced)
		c.check()
	})
}

// I2: a former primary and the acker that nobody could freeze are on the other
// side of a broken network, and acknowledge on: that is what forcing gives up.
// When the acker's agent is back, they can no more, even if the primary's is
// not, and even where errant instances are left as they are.
func TestInvariant_I2_ForcedOutPrimaryComesBackWithItsAcker(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		require.NoError(t, c.commitBy("n1", time.Second))
		time.Sleep(time.Second)
		c.reach("n1", false)
		c.reach("n3", false)
		c.judge("n1", true)
		time.Sleep(10 * time.Second)
		o := c.forceOrder()
		require.Equal(t, Unbounded, o.Confirm)
		r, err := c.force(o)
		require.NoError(t, err)
		require.Equal(t, Unbounded, r.Forced.Accepted)
		require.NoError(t, c.commitBy("n1", time.Second), "what was given up")
		require.True(t, c.receives("n3"))

		c.reach("n3", true)
		c.eventually("n3 does not receive from n1 any more", func() bool { return !c.receives("n3") })
		require.ErrorIs(t, c.commitBy("n1", 5*time.Second), context.DeadlineExceeded)
		require.NoError(t, c.commitBy("n2", time.Second))

		c.reach("n1", true)
		c.judge("n1", false)
		c.eventually("n1 is closed", func() bool { return len(c.writable()) == 1 })
		time.Sleep(time.Minute)
		require.Equal(t, []topology.NodeName{"n2"}, c.writable())
		require.False(t, c.receives("n3"), "it has what n2 lacks, and is left as it is")
	})
}

// I7: the leader dies in the middle. Before the record names the candidate, the
// order is void; after that it is finished, and is a forced one in the ledger.
func TestLeaderDiesWhileForcing(t *testing.T) {
	for _, at := range []struct {
		die
		finished bool
	}{
		{die{"after the claim", "claim", "", true}, false},
		{die{"after the freeze", "freeze", "n2", true}, false},
		{die{"before the record", "record", "", false}, false},
		{die{"after the record", "record", "", true}, true},
		{die{"before promoting", "promote", "n2", false}, true},
		{die{"after promoting", "promote", "n2", true}, true},
		{die{"before the record is closed", "end", "", false}, true},
	} {
		t.Run(at.name, func(t *testing.T) {
			withCluster(t, 3, func(t *testing.T, c *cluster) {
				require.NoError(t, c.commitBy("n1", time.Second))
				time.Sleep(time.Second)
				c.doubleFailure()
				o := c.forceOrder()
				died := c.killLeader(at.die)
				_, _ = c.force(o)
				require.True(t, died())
				if !at.finished {
					time.Sleep(20 * time.Second)
					require.Empty(t, c.writable(), "nobody goes on without the operator")
					now, err := c.agents["a2"].control.PreviewForce()
					require.NoError(t, err)
					_, err = c.agents["a2"].control.Force(t.Context(), ForceOrder{Cluster: now.Cluster, Epoch: now.Epoch, Confirm: now.Bound.Confirm, By: "lee"})
					require.NoError(t, err)
				}
				c.eventually("n2 serves", func() bool { return c.settled() && c.state().Primary.Node == "n2" })
				forced := c.state().Primary.Forced
				require.NotNil(t, forced)
				c.eventually("it is in the ledger", func() bool { return c.store.has(forced.Epoch) })
				r := c.report(forced.Epoch)
				require.True(t, r.Forced.Lossy)
				require.Equal(t, forced.By, r.Forced.By)
				require.Nil(t, r.RPO.LostCommits)
			})
		})
	}
}

// Whoever is asked on a member that does not lead says so: its bound is not the
// one that counts.
func TestForceOnlyOnTheLeader(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		_, err := c.agents["a2"].control.PreviewForce()
		require.ErrorIs(t, err, ErrNotLeader)
		_, err = c.agents["a2"].control.Force(t.Context(), ForceOrder{})
		require.ErrorIs(t, err, ErrNotLeader)
	})
}

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
