package failover

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// forgetful is a server that is restarted, and so disarmed, in the middle of
// its promotion, while its agent stands still.
type forgetful struct {
	*server
	armed, marked bool // after which step
}

func (f forgetful) restart(now bool, err error) error {
	if now && err == nil {
		f.kill()
		f.start(false)
	}
	return err
}

func (f forgetful) Arm(ctx context.Context, k int) error {
	return f.restart(f.armed, f.server.Arm(ctx, k))
}

func (f forgetful) WriteMarker(ctx context.Context, m topology.Marker, k int, receivers ...string) (gtid.Set, error) {
	set, err := f.server.WriteMarker(ctx, m, k, receivers...)
	return set, f.restart(f.marked, err)
}

// A server that is restarted in the middle of its promotion answers nothing
// that no acker has: neither the marker, nor what clients write once it is open.
func TestInvariant_I3_RestartedInItsPromotion(t *testing.T) {
	promote := func(t *testing.T, c *cluster, k *Keeper, inst forgetful) <-chan error {
		c.server("n1").kill()
		c.record(recordPrimary("n2", 6))
		c.record(func(s *election.State) { s.Register = register(1, "n3") })
		k.inst = inst
		done := make(chan error, 1)
		go func() {
			_, err := k.Promote(t.Context(), PromoteRequest{Epoch: 6, K: 1, Limit: time.Hour})
			done <- err
		}()
		synctest.Wait()
		return done
	}
	t.Run("once armed", func(t *testing.T) {
		withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
			n2 := c.server("n2")
			done := promote(t, c, k("n2"), forgetful{server: n2, armed: true})
			require.Empty(t, done, "the marker waits for an acker")
			require.NoError(t, k("n3").Follow(t.Context(), followRequest(6, n2, true)))
			require.NoError(t, <-done)
			require.Equal(t, names{"n2"}, c.writable())
		})
	})
	t.Run("once marked", func(t *testing.T) {
		withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
			n2 := c.server("n2")
			c.record(recordPrimary("n2", 6))
			c.record(func(s *election.State) { s.Register = register(1, "n3") })
			require.NoError(t, k("n3").Follow(t.Context(), followRequest(6, n2, true)))
			require.NoError(t, <-promote(t, c, k("n2"), forgetful{server: n2, marked: true}))
			require.Equal(t, names{"n2"}, c.writable())
			st, err := n2.Probe(t.Context())
			require.NoError(t, err)
			require.True(t, st.SemiSync.Lossless(1), "what clients write waits for an acker")
		})
	})
}

// What is known of the register has to be of the order's epoch before a node
// may acknowledge by that order.
func TestInvariant_I3_AcknowledgesByTheRegisterOfTheOrder(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		n2 := c.server("n2")
		order := func() error { return k("n3").Follow(t.Context(), followRequest(6, n2, true)) }
		c.server("n1").kill()
		c.record(recordPrimary("n2", 6))
		c.record(func(s *election.State) { s.Register = register(0) })
		before := c.agents["n3"].registry.Snapshot()
		before.State.Epoch, before.State.Register = 5, register(1, "n2", "n3")
		c.agents["n3"].registry.pinned = &before // of the epoch before, where it was an acker
		require.ErrorIs(t, order(), ErrNotRecorded)

		c.record(func(s *election.State) { s.Register = register(1, "n3") })
		c.record(func(s *election.State) { s.Epoch = 7 })
		require.ErrorIs(t, order(), ErrStaleEpoch, "what it has read meanwhile counts")

		c.record(func(s *election.State) { s.Epoch = 5 })
		require.ErrorIs(t, order(), ErrNotRecorded, "a record that went back")

		c.record(func(s *election.State) { s.Epoch = 6 })
		require.NoError(t, order())
		st, err := c.server("n3").Probe(t.Context())
		require.NoError(t, err)
		require.Equal(t, n2.uuid, st.Source.ServerUUID)
	})
}
