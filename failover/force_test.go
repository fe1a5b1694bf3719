package failover

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/internal/topology"
)

// order is an order to force a failover that a1 would accept now.
func (c *cluster) forceOrder() ForceOrder {
	c.t.Helper()
	now, err := c.agents["a1"].control.PreviewForce(c.t.Context())
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
					now, err := c.agents["a2"].control.PreviewForce(t.Context())
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

// A preview is of now: what the leader last saw of a member may be less than
// that one has, and the number confirmed would be refused.
func TestForcePreviewAsksTheMembers(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.reach("n2", false)
		time.Sleep(2 * time.Second)
		require.NoError(t, c.commitBy("n1", time.Second))
		time.Sleep(time.Second)
		c.doubleFailure()
		c.reach("n2", true)
		o := c.forceOrder()
		require.Equal(t, "0", o.Confirm, "n2 has received it")
		_, err := c.force(o)
		require.NoError(t, err)
	})
}

// An operator who hangs up takes nothing of what the leader knows along.
func TestForcePreviewForNobody(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		gone, hangUp := context.WithCancel(t.Context())
		hangUp()
		_, err := c.agents["a1"].control.PreviewForce(gone)
		require.NoError(t, err)
		for name, n := range c.agents["a1"].watcher.View().Nodes {
			require.False(t, name[0] == 'n' && n.Instance == nil, "%s is not seen any more", name)
		}
		require.Len(t, c.agents["a1"].watcher.View().Nodes, len(c.store.members))
	})
}

// Whoever is asked on a member that does not lead says so: its bound is not the
// one that counts.
func TestForceOnlyOnTheLeader(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		_, err := c.agents["a2"].control.PreviewForce(t.Context())
		require.ErrorIs(t, err, ErrNotLeader)
		_, err = c.agents["a2"].control.Force(t.Context(), ForceOrder{})
		require.ErrorIs(t, err, ErrNotLeader)
	})
}

// TestLossIsAcceptedOfOnePrimary: an order names the epoch of the primary that it
// gives up. Attempts that fail meanwhile change nothing in it; a successor does.
func TestLossIsAcceptedOfOnePrimary(t *testing.T) {
	v := quietView(func(v *View) { v.State.Epoch = v.State.Primary.Epoch + 2 })
	now := previewForce(v, Policy{})
	require.Equal(t, v.State.Primary.Epoch, now.Epoch)
	order := ForceOrder{Cluster: now.Cluster, Epoch: now.Epoch, Confirm: now.Bound.Confirm, By: "kim"}
	v.State.Primary.Epoch = v.State.Epoch
	var refused *ConfirmationError
	require.ErrorAs(t, order.check(previewForce(v, Policy{})), &refused)
	require.Equal(t, "epoch", refused.Field)
}
