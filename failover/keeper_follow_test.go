package failover

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
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

// pointed is a server whose change of source is looked at while it may drop what
// was received.
type pointed struct {
	*server
	meanwhile func()
}

func (p pointed) Follow(ctx context.Context, spec dbrepl.FollowSpec) error {
	atRisk := spec.AtRisk
	spec.AtRisk = func() error {
		err := atRisk()
		p.meanwhile()
		return err
	}
	return p.server.Follow(ctx, spec)
}

// An acker that loses its relay log in a change of source has forgotten what it
// acknowledged and had not executed, like one that was restarted.
func TestInvariant_I1_RelayLogLostInAChangeOfSource(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		ctx, n1, n2, n3 := t.Context(), c.server("n1"), c.server("n2"), c.server("n3")
		certified := func() bool {
			st, err := k("n2").Status(ctx)
			require.NoError(t, err)
			return st.Certified
		}
		commit := func() {
			_, err := n1.commit(ctx, true)
			require.NoError(t, err)
		}
		before := k("n2").beginLook()
		seen := 0
		k("n2").inst = pointed{n2, func() {
			seen++
			again, err := openPromises(k("n2").promises.file)
			require.NoError(t, err)
			require.False(t, again.certified(n2.bootID()), "nor for an agent that starts now")
			require.EqualValues(t, 5, again.epoch())
			require.ErrorIs(t, k("n2").attest(n2.bootID(), k("n2").beginLook()), ErrBusy)
		}}
		require.NoError(t, k("n2").Follow(ctx, followRequest(5, n3, true)))
		require.Zero(t, seen, "it has executed everything")

		c.fleet.change(func() { n2.held = true })
		require.NoError(t, k("n2").Follow(ctx, followRequest(5, n1, true)))
		commit()
		require.True(t, certified())
		require.NoError(t, k("n2").Follow(ctx, followRequest(5, n3, true)))
		require.Equal(t, 1, seen)
		require.True(t, certified(), "nothing was dropped")
		require.ErrorIs(t, k("n2").attest(n2.bootID(), before), ErrBusy, "a look that was begun before")

		require.NoError(t, k("n2").Follow(ctx, followRequest(5, n1, true)))
		commit()
		require.True(t, certified())
		c.fleet.change(func() { n2.frail = true })
		require.ErrorIs(t, k("n2").Follow(ctx, followRequest(5, n3, true)), dbrepl.ErrForgotten)
		require.False(t, n2.received.Contains(n1.has()), "it had acknowledged that")
		f, err := k("n2").Freeze(ctx, FreezeRequest{Epoch: 5})
		require.NoError(t, err)
		require.True(t, f.Amnesiac)

		c.fleet.change(func() { n2.frail = false })
		require.NoError(t, k("n2").Follow(ctx, followRequest(5, n1, true)))
		k("n2").tend(ctx)
		require.True(t, certified(), "it has caught up")
	})
}
