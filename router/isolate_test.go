package router

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIsolate(t *testing.T) {
	table := NewTable()
	mustApply := func(r Route) {
		t.Helper()
		_, err := table.Apply(r)
		require.NoError(t, err)
	}
	mustApply(open(3, red, green))
	changed, cancel := table.Subscribe()
	defer cancel()
	<-changed
	told := func() bool {
		select {
		case <-changed:
			return true
		default:
			return false
		}
	}

	table.Isolate("cut off", []Backend{red})
	require.True(t, told())
	require.Equal(t, Route{Epoch: 3, Phase: Closed, Replicas: []Backend{red}, Reason: "cut off"}, table.Current())
	table.Isolate("cut off", []Backend{red})
	require.False(t, told(), "nothing changed")
	table.SetReplicas([]Backend{blue})
	require.False(t, told(), "what the route says is not obeyed")
	table.Isolate("cut off", nil)
	require.True(t, told())
	require.Empty(t, table.Current().Replicas)

	mustApply(Route{Epoch: 3, Phase: Open, Primary: &red}) // of the epoch that may be past
	require.Equal(t, Closed, table.Current().Phase, "the same epoch opens nothing")
	_, err := table.Apply(open(2, green))
	require.ErrorIs(t, err, ErrStaleRoute, "the route beneath is still there")

	table.Rejoin()
	require.True(t, told())
	require.Equal(t, open(3, red, blue), table.Current(), "with what came meanwhile")
	table.Rejoin()
	require.False(t, told())

	table.Isolate("cut off", nil)
	mustApply(closed(4))
	require.Equal(t, Route{Epoch: 4, Phase: Closed, Replicas: []Backend{blue}, Reason: "failover"}, table.Current(), "a higher epoch ends it")
	mustApply(open(4, green))
	require.Equal(t, green, *table.Current().Primary)
}
