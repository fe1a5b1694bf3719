package failover

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"interrex/internal/topology"
)

// whileOneRuns runs a test of a gate that a command of epoch 5 has entered.
func whileOneRuns(t *testing.T, name string, test func(t *testing.T, g *commandGate, running context.Context, leave func())) {
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var g commandGate
			running, leave, err := g.enter(t.Context(), 5)
			require.NoError(t, err)
			test(t, &g, running, leave)
		})
	})
}

// enterSecond lets another command come to the gate; it leaves as soon as it
// has entered. What is returned tells, once all is quiet, whether it has.
func enterSecond(t *testing.T, g *commandGate, epoch topology.Epoch) (entered *bool) {
	entered = new(bool)
	go func() {
		_, leave, err := g.enter(t.Context(), epoch)
		*entered = err == nil
		leave()
	}()
	return entered
}

func TestCommandGate(t *testing.T) {
	whileOneRuns(t, "an equal epoch waits its turn", func(t *testing.T, g *commandGate, running context.Context, leave func()) {
		entered := enterSecond(t, g, 5)
		synctest.Wait()
		require.False(t, *entered)
		require.NoError(t, running.Err())
		leave()
		synctest.Wait()
		require.True(t, *entered)
		require.ErrorIs(t, running.Err(), context.Canceled, "a command that has left is over")
	})
	whileOneRuns(t, "a lower epoch waits as well, and is refused by the promise", func(t *testing.T, g *commandGate, running context.Context, leave func()) {
		entered := enterSecond(t, g, 4)
		synctest.Wait()
		require.False(t, *entered)
		require.NoError(t, running.Err(), "not interrupted")
		leave()
		synctest.Wait()
		require.True(t, *entered)
	})
	whileOneRuns(t, "a higher epoch interrupts, and waits for the end", func(t *testing.T, g *commandGate, running context.Context, leave func()) {
		entered := enterSecond(t, g, 6)
		synctest.Wait()
		require.ErrorIs(t, context.Cause(running), errInterrupted)
		require.False(t, *entered, "the interrupted one is still ending its statement")
		leave()
		synctest.Wait()
		require.True(t, *entered)
	})
	whileOneRuns(t, "it interrupts one that entered while it waited", func(t *testing.T, g *commandGate, _ context.Context, leave func()) {
		for range 8 {
			go func() {
				if ctx, leave, err := g.enter(t.Context(), 5); err == nil {
					<-ctx.Done() // never ends by itself
					leave()
				}
			}()
		}
		won := enterSecond(t, g, 6)
		synctest.Wait()
		leave()
		synctest.Wait()
		require.True(t, *won)
		for g.running != nil { // let the others go
			g.running.cancel(nil)
			synctest.Wait()
		}
	})
	whileOneRuns(t, "a waiter whose caller is gone leaves no trace", func(t *testing.T, g *commandGate, _ context.Context, leave func()) {
		ctx, cancel := context.WithCancel(t.Context())
		var werr error
		go func() { _, _, werr = g.enter(ctx, 5) }()
		synctest.Wait()
		cancel()
		synctest.Wait()
		require.ErrorIs(t, werr, context.Canceled)
		leave()
		_, leave, err := g.enter(t.Context(), 1)
		require.NoError(t, err)
		leave()
		_, _, err = g.enter(ctx, 9)
		require.ErrorIs(t, err, context.Canceled, "not even an open gate")
		require.Nil(t, g.running)
	})
}
