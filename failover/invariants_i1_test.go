package failover

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"interrex/election"
)

// N8: the only acker of a commit restarts and has forgotten it. Counted, it
// would prove that n2 has everything.
func TestInvariant_I1_AmnesiacAckerProvesNothing(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.fleet.change(func() { c.fleet.servers["n3"].held = true })
		c.stall(true, "n2")
		require.NoError(t, c.commitBy("n1", time.Second), "n3 acknowledges it")
		c.server("n3").kill()
		c.server("n1").kill()
		c.server("n3").start(true)
		c.stall(false, "n2")
		c.fleet.change(func() { c.fleet.servers["n3"].held = false })
		time.Sleep(30 * time.Second)
		require.Empty(t, c.writable())
		require.Contains(t, closedGate(c.agents["a1"].control.Gates(), election.Failover).Reason, "n3: its server restarted")
		c.server("n1").start(false)
		c.check()
	})
}

// n4's agent dies after n4 was counted as a follower of n2 and before the order
// arrives, so its server goes on acknowledging n1. When n1 is primary again,
// n4 must be in its register.
func TestInvariant_I1_OrderThatNeverArrived(t *testing.T) {
	withCluster(t, 4, func(t *testing.T, c *cluster) {
		c.hook(func(e event) error {
			if e.what == "follow" && e.to == "n4" {
				c.reach("n4", false)
				return errors.New("connection reset")
			}
			return nil
		})
		control := c.agents["a1"].control
		_, err := control.Switchover(t.Context(), "n2")
		require.NoError(t, err)
		c.check()
		c.hook(nil)
		time.Sleep(time.Second)
		_, err = control.Switchover(t.Context(), "n1")
		require.NoError(t, err)
		c.check()
		require.True(t, c.state().Register.Has("n4"), "it may acknowledge n1")

		time.Sleep(time.Second)
		c.stall(true, "n2", "n3")
		require.NoError(t, c.commitBy("n1", time.Second), "n4 did acknowledge it")
		c.server("n1").kill()
		c.stall(false, "n2", "n3")
		time.Sleep(30 * time.Second)
		require.Empty(t, c.writable(), "n2 and n3 are no proof")
		c.reach("n4", true)
		c.check()
	})
}

// The new primary of a switchover dies before its former receiver was removed,
// and comes back unseen: the old primary, promoted again, must not be
// acknowledged by it.
func TestInvariant_I1_CandidateKeepsNoReceiver(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.hook(func(e event) error {
			if e.what == "promote" && e.to == "n2" && !e.after {
				assert.False(t, c.receives("n2"), "frozen before it was recorded")
				_, kept := c.state().Sources["n2"]
				assert.False(t, kept)
				c.reach("n2", false)
				return errors.New("connection reset")
			}
			return nil
		})
		_, err := c.agents["a1"].control.Switchover(t.Context(), "n2")
		require.Error(t, err)
		require.Empty(t, c.writable())
		c.hook(nil)
		c.reach("n2", true)
		c.check()
	})
}

// The register changes in the very moment between looking and claiming.
func TestInvariant_I1_ClaimOnAChangedRegister(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		control := c.agents["a1"].control
		v := c.agents["a1"].watcher.RefreshAll(t.Context())
		c.record(func(s *election.State) { s.Register = register(1, "n2", "n3", "n4") })
		_, err := control.operate(t.Context(), control.plan(v, election.Failover, "test", ""))
		require.ErrorIs(t, err, election.ErrConflict)
		require.EqualValues(t, 1, c.state().Epoch)
	})
}
