package failover

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestCommandGate(t *testing.T) {
	t.Run("an equal epoch waits its turn", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var g commandGate
			running, leave, err := g.enter(t.Context(), 5)
			require.NoError(t, err)
			entered := false
			go func() {
				_, leave, err := g.enter(t.Context(), 5)
				entered = err == nil
				leave()
			}()
			synctest.Wait()
			require.False(t, entered)
			require.NoError(t, running.Err())
			leave()
			synctest.Wait()
			require.True(t, entered)
			require.ErrorIs(t, running.Err(), context.Canceled, "a command that has left is over")
		})
	})
	t.Run("a lower epoch waits as well, and is refused by the promise", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var g commandGate
			running, leave, err := g.enter(t.Context(), 5)
			require.NoError(t, err)
			go func() {
				_, leave, _ := g.enter(t.Context(), 4)
				leave()
			}()
			synctest.Wait()
			require.NoError(t, running.Err(), "not interrupted")
			leave()
			synctest.Wait()
		})
	})
	t.Run("a higher epoch interrupts, and waits for the end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var g commandGate
			running, leave, err := g.enter(t.Context(), 5)
			require.NoError(t, err)
			entered := false
			go func() {
				_, leave, err := g.enter(t.Context(), 6)
				entered = err == nil
				leave()
			}()
			synctest.Wait()
			require.ErrorIs(t, context.Cause(running), errInterrupted)
			require.False(t, entered, "the interrupted one is still ending its statement")
			leave()
			synctest.Wait()
			require.True(t, entered)
		})
	})
	t.Run("it interrupts one that entered while it waited", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var g commandGate
			_, leave, err := g.enter(t.Context(), 5)
			require.NoError(t, err)
			for range 8 {
				go func() {
					if ctx, leave, err := g.enter(t.Context(), 5); err == nil {
						<-ctx.Done() // never ends by itself
						leave()
					}
				}()
			}
			won := false
			go func() {
				_, leave, err := g.enter(t.Context(), 6)
				won = err == nil
				leave()
			}()
			synctest.Wait()
			leave()
			synctest.Wait()
			require.True(t, won)
			for g.running != nil { // let the others go
				g.running.cancel(nil)
				synctest.Wait()
			}
		})
	})
	t.Run("a waiter whose caller is gone leaves no trace", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var g commandGate
			_, leave, err := g.enter(t.Context(), 5)
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			var werr error
			go func() { _, _, werr = g.enter(ctx, 5) }()
			synctest.Wait()
			cancel()
			synctest.Wait()
			require.ErrorIs(t, werr, context.Canceled)
			leave()
			_, leave, err = g.enter(t.Context(), 1)
			require.NoError(t, err)
			leave()
			_, _, err = g.enter(ctx, 9)
			require.ErrorIs(t, err, context.Canceled, "not even an open gate")
			require.Nil(t, g.running)
		})
	})
}
