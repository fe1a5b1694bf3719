package failover

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/internal/topology"
)

// An operation that needs a former primary as an acker orders it to follow again
// and again; in between there is no time to isolate it.
func TestFormerPrimaryWhoseCommitsWaitFollows(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		n1, n2 := c.server("n1"), c.server("n2")
		for _, n := range []topology.NodeName{"n2", "n3"} {
			_, err := k(n).Freeze(t.Context(), FreezeRequest{Epoch: 6})
			require.NoError(t, err)
		}
		answer := make(chan error, 1)
		go func() {
			_, err := n1.commit(context.WithoutCancel(t.Context()), true)
			answer <- err
		}()
		synctest.Wait()
		c.fleet.change(func() { // only the acknowledgement was lost
			n2.executed = n2.executed.Union(n1.executed).Union(n1.committing)
			n2.received = n2.executed
		})
		c.record(recordPrimary("n2", 6))
		c.record(func(s *election.State) { s.Register = register(1, "n1") })
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		require.NoError(t, k("n1").Follow(ctx, followRequest(6, n2, true)))
		require.ErrorContains(t, <-answer, "outcome unknown", "no OK by a restart (I2)")
		st, err := n1.Probe(t.Context())
		require.NoError(t, err)
		require.Equal(t, n2.uuid, st.Source.ServerUUID)
		require.True(t, st.SuperReadOnly)
	})
}
