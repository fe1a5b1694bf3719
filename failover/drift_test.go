package failover

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/internal/topology"
)

// disarm has n1 answer a commit that no replica gets, and returns when the record
// says so.
func disarm(t *testing.T, c *cluster) {
	t.Helper()
	c.disarmed = true
	c.fleet.change(func() {
		c.server("n1").armed = false
		c.server("n2").stalled, c.server("n3").stalled = true, true
	})
	_, err := c.server("n1").commit(t.Context(), true)
	require.NoError(t, err, "answered, and on nobody else")
	c.eventually("the epoch is marked", func() bool { return c.state().Primary.Lossy != nil })
}

func unstall(c *cluster) {
	c.fleet.change(func() { c.server("n2").stalled, c.server("n3").stalled = false, false })
}

// M6: somebody has the primary answer commits that nobody acknowledged. Whoever
// fails over after that without them loses what clients were told is done.
func TestCommitsThatWereNotWaitedForHoldTheFailover(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		disarm(t, c)
		c.eventually("it waits again", func() bool { return !c.state().Primary.Lossy.Ongoing() })
		require.True(t, c.server("n1").armed)
		l := *c.state().Primary.Lossy
		require.EqualValues(t, 1, l.Commits)
		require.Contains(t, l.Reason, "rpl_semi_sync_source_enabled is OFF")
		require.True(t, l.Since.Before(l.Until))
		require.True(t, c.state().Primary.Base.Contains(c.fleet.acked))

		c.server("n1").kill()
		time.Sleep(20 * time.Second)
		require.Empty(t, c.writable(), "both ackers can be frozen, and neither has it")
		require.EqualValues(t, 1, c.state().Epoch)
		g := closedGate(c.agents["a1"].control.Gates(), election.Failover)
		require.Equal(t, gateRevocable, g.Name)
		require.Contains(t, g.Reason, "n2: it lacks commits that were answered without its acknowledgement")
		b := boundLoss(c.agents["a1"].watcher.View())
		require.False(t, b.Proven)
		require.EqualValues(t, 1, b.Count)

		c.server("n1").start(false)
		unstall(c)
		c.check()
		require.Equal(t, topology.NodeName("n1"), c.state().Primary.Node)
		require.Nil(t, c.state().Primary.Lossy, "that epoch is over")
	})
}

// With a replica that has all of it the proof is whole, and says what it covers.
func TestCommitsThatWereNotWaitedForAreProvenOnceReceived(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		disarm(t, c)
		c.eventually("it waits again", func() bool { return !c.state().Primary.Lossy.Ongoing() })
		unstall(c)
		c.server("n1").kill()
		c.check()
		r := c.report(c.state().Epoch)
		require.NotEqual(t, topology.NodeName("n1"), c.state().Primary.Node)
		require.Zero(t, *r.RPO.LostCommits)
		require.Contains(t, r.RPO.Proof.Statement, "up to 1 commits were answered without acknowledgement (rpl_semi_sync_source_enabled is OFF)")
	})
}

// As long as it cannot be made to wait, no replica's word proves anything: it may
// have answered one more than the last that was seen.
func TestPrimaryThatCannotBeArmedIsNotFailedOverByItself(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.fleet.change(func() { c.server("n1").unarmable = true })
		disarm(t, c)
		unstall(c)
		time.Sleep(5 * time.Second)
		require.True(t, c.state().Primary.Lossy.Ongoing())
		c.server("n1").kill()
		time.Sleep(20 * time.Second)
		require.EqualValues(t, 1, c.state().Epoch)
		require.Contains(t, closedGate(c.agents["a1"].control.Gates(), election.Failover).Reason, "commits are answered without its acknowledgement")

		c.fleet.change(func() { c.server("n1").unarmable = false })
		c.server("n1").start(false)
		c.check()
		require.Equal(t, topology.NodeName("n1"), c.state().Primary.Node)
	})
}

func TestKeeperFindsWhatWasNotWaitedFor(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		ctx, n1 := t.Context(), c.server("n1")
		drift := func() *Drift {
			k("n1").tend(ctx)
			st, err := k("n1").Status(ctx)
			require.NoError(t, err)
			return st.Drift
		}
		require.Nil(t, drift())
		require.Nil(t, drift())
		c.fleet.change(func() { n1.armed = false })
		_, err := n1.commit(ctx, true)
		require.NoError(t, err)
		c.fleet.change(func() { n1.armed = true })
		d := drift()
		require.NotNil(t, d, "changed, and changed back before anybody looked")
		require.Contains(t, d.Reason, "1 commits were not waited for")
		require.False(t, d.Ongoing())
		require.True(t, d.Has.Contains(c.fleet.acked))
		require.NotNil(t, drift(), "told until it is recorded")
		c.record(func(s *election.State) { d.record(s.Primary) })
		require.Nil(t, drift())

		// An agent that starts anew ends what the one before it had begun.
		c.record(func(s *election.State) { s.Primary.Lossy.Until = time.Time{} })
		k("n1").drift, k("n1").obeyed, k("n1").waited = nil, obeyed{}, waited{}
		d = drift()
		require.NotNil(t, d)
		require.False(t, d.Ongoing())
		c.record(func(s *election.State) { d.record(s.Primary) })
		require.EqualValues(t, 1, c.state().Primary.Lossy.Commits, "none of them twice")

		// A primary that is to wait for nobody drifts nowhere (I4).
		c.record(func(s *election.State) { s.Register.K = 0 })
		require.Nil(t, drift())
		require.False(t, n1.armed)
		_, err = n1.commit(ctx, true)
		require.NoError(t, err)
		require.Nil(t, drift())
		c.record(func(s *election.State) { s.Register.NextK = 1 })
		require.Nil(t, drift())
		c.record(func(s *election.State) { s.Register.K, s.Register.NextK = 1, 0 })
		require.Nil(t, drift())
		require.True(t, n1.armed)
	})
}
