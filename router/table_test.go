package router

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"interrex/internal/topology"
)

var (
	red   = Backend{Node: "red", Address: "127.0.0.1:3301"}
	green = Backend{Node: "green", Address: "127.0.0.1:3302"}
	blue  = Backend{Node: "blue", Address: "127.0.0.1:3303"}
)

func open(epoch topology.Epoch, primary Backend, replicas ...Backend) Route {
	return Route{Epoch: epoch, Phase: Open, Primary: &primary, Replicas: replicas}
}

func drain(epoch topology.Epoch, primary Backend) Route {
	return Route{Epoch: epoch, Phase: Closed, Primary: &primary, Reason: "switchover"}
}

func closed(epoch topology.Epoch) Route {
	return Route{Epoch: epoch, Phase: Closed, Reason: "failover"}
}

func TestApply(t *testing.T) {
	for _, tc := range []struct {
		name string
		have Route
		give Route
		want error // nil and changed, nil and unchanged, or refused
		kept bool
	}{
		{name: "higher epoch opens", have: open(1, red), give: open(2, green)},
		{name: "higher epoch closes", have: open(1, red), give: closed(2)},
		{name: "higher epoch drains", have: open(1, red), give: drain(2, red)},
		{name: "higher epoch, same primary", have: open(1, red), give: open(2, red)},
		{name: "an epoch may be skipped", have: closed(1), give: open(7, green)},
		{name: "closed opens", have: closed(2), give: open(2, green)},
		{name: "drained is cut", have: drain(2, red), give: closed(2)},
		{name: "drained opens elsewhere", have: drain(2, red), give: open(2, green)},
		{name: "drained opens where it was", have: drain(2, red), give: open(2, red)},
		{name: "replicas change", have: open(2, red, green), give: open(2, red, blue)},
		{name: "replicas go", have: open(2, red, green), give: Route{Epoch: 2, Phase: Open, Primary: &red, Replicas: []Backend{}}},
		{name: "open again", have: open(2, red), give: open(2, red), kept: true},
		{name: "closed again", have: closed(2), give: closed(2), kept: true},
		{name: "closed again for another reason", have: closed(2), give: Route{Epoch: 2, Phase: Closed, Reason: "else"}, kept: true},
		{name: "lower epoch", have: open(2, green), give: open(1, red), want: ErrStaleRoute},
		{name: "lower epoch, same primary", have: open(2, red), give: open(1, red), want: ErrStaleRoute},
		{name: "open does not close", have: open(2, red), give: closed(2), want: ErrStaleRoute},
		{name: "open does not drain", have: open(2, red), give: drain(2, red), want: ErrStaleRoute},
		{name: "cut does not drain", have: closed(2), give: drain(2, red), want: ErrStaleRoute},
		{name: "two primaries", have: open(2, red), give: open(2, green), want: ErrConflictingRoute},
		{name: "two addresses", have: open(2, red), give: open(2, Backend{Node: "red", Address: "127.0.0.1:9"}), want: ErrConflictingRoute},
		{name: "two drains", have: drain(2, red), give: drain(2, green), want: ErrConflictingRoute},
		{name: "no phase", have: closed(1), give: Route{Epoch: 2}, want: ErrInvalidRoute},
		{name: "open to nowhere", have: closed(1), give: Route{Epoch: 2, Phase: Open}, want: ErrInvalidRoute},
		{name: "no node", have: closed(1), give: open(2, Backend{Address: "h:1"}), want: ErrInvalidRoute},
		{name: "no port", have: closed(1), give: open(2, Backend{Node: "red", Address: "h"}), want: ErrInvalidRoute},
		{name: "no host", have: closed(1), give: open(2, Backend{Node: "red", Address: ":1"}), want: ErrInvalidRoute},
		{name: "port too large", have: closed(1), give: open(2, Backend{Node: "red", Address: "h:65536"}), want: ErrInvalidRoute},
		{name: "bad replica", have: closed(1), give: open(2, red, Backend{Node: "blue"}), want: ErrInvalidRoute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			table := NewTable()
			_, err := table.Apply(tc.have)
			require.NoError(t, err)
			have := table.Current()

			applied, err := table.Apply(tc.give)
			if tc.want != nil {
				require.ErrorIs(t, err, tc.want)
				require.ErrorContains(t, err, fmt.Sprintf("epoch %d", tc.give.Epoch))
				require.False(t, applied)
				require.Equal(t, have, table.Current(), "a refused route must change nothing")
				return
			}
			require.NoError(t, err)
			require.Equal(t, !tc.kept, applied)
			if tc.kept {
				require.Equal(t, have, table.Current())
				return
			}
			got := table.Current()
			require.Equal(t, tc.give.Epoch, got.Epoch)
			require.Equal(t, tc.give.Phase, got.Phase)
			require.Equal(t, tc.give.Primary, got.Primary)
		})
	}
}

func TestStaleRouteNamesBothEpochs(t *testing.T) {
	table := NewTable()
	_, err := table.Apply(open(12, red))
	require.NoError(t, err)
	_, err = table.Apply(open(7, green))
	require.EqualError(t, err, "apply route of epoch 7 at epoch 12: route is stale")
}

func TestNewTableIsClosed(t *testing.T) {
	r := NewTable().Current()
	require.Equal(t, Closed, r.Phase)
	require.Zero(t, r.Epoch)
	require.Nil(t, r.Primary)
	require.NotEmpty(t, r.Reason)
}

func TestReplicasAreKeptUnlessNamed(t *testing.T) {
	table := NewTable()
	table.SetReplicas([]Backend{green, blue})
	_, err := table.Apply(open(1, red))
	require.NoError(t, err)
	require.Equal(t, []Backend{green, blue}, table.Current().Replicas)

	// A route that crossed the network says null for nil.
	var sent Route
	b, err := json.Marshal(closed(2))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &sent))
	_, err = table.Apply(sent)
	require.NoError(t, err)
	require.Equal(t, []Backend{green, blue}, table.Current().Replicas)

	_, err = table.Apply(open(2, green, blue))
	require.NoError(t, err)
	require.Equal(t, []Backend{blue}, table.Current().Replicas)
	table.SetReplicas(nil)
	require.Empty(t, table.Current().Replicas)
}

func TestRoutesAreCopied(t *testing.T) {
	table := NewTable()
	primary, replicas := red, []Backend{green}
	_, err := table.Apply(Route{Epoch: 1, Phase: Open, Primary: &primary, Replicas: replicas})
	require.NoError(t, err)
	primary.Address, replicas[0] = "changed:1", blue
	require.Equal(t, open(1, red, green), table.Current())

	got := table.Current()
	got.Primary.Address, got.Replicas[0] = "changed:1", blue
	require.Equal(t, open(1, red, green), table.Current())

	replicas = []Backend{blue}
	table.SetReplicas(replicas)
	replicas[0] = green
	require.Equal(t, []Backend{blue}, table.Current().Replicas)
}

func TestSubscribe(t *testing.T) {
	table := NewTable()
	changed, cancel := table.Subscribe()
	require.Len(t, changed, 1, "the state at the start must be read")
	<-changed

	_, err := table.Apply(open(1, red))
	require.NoError(t, err)
	_, err = table.Apply(closed(2))
	require.NoError(t, err)
	require.Len(t, changed, 1, "two changes make one value")
	<-changed

	_, err = table.Apply(closed(2))
	require.NoError(t, err)
	_, err = table.Apply(open(1, red))
	require.ErrorIs(t, err, ErrStaleRoute)
	table.SetReplicas(nil)
	require.Empty(t, changed, "nothing changed")

	table.SetReplicas([]Backend{blue})
	require.Len(t, changed, 1)
	<-changed
	cancel()
	cancel()
	table.SetReplicas(nil)
	require.Empty(t, changed)
}

func TestTableIsSafeForConcurrentUse(t *testing.T) {
	table := NewTable()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			changed, cancel := table.Subscribe()
			defer cancel()
			var last topology.Epoch
			for e := range topology.Epoch(200) {
				if _, err := table.Apply(open(e*8+topology.Epoch(w), red)); err != nil && !errors.Is(err, ErrStaleRoute) {
					t.Error(err)
				}
				table.SetReplicas([]Backend{green})
				select {
				case <-changed:
				default:
				}
				if now := table.Current().Epoch; now < last {
					t.Errorf("epoch went from %d to %d", last, now)
				} else {
					last = now
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 199*8+7, table.Current().Epoch)
}

// anyHistory draws routes as sound operations make them: an epoch has one
// primary that is drained, if any, and one that it opens with.
func anyHistory(t *rapid.T) []Route {
	nodes := []Backend{red, green, blue}
	var routes []Route
	for e := range topology.Epoch(rapid.IntRange(1, 6).Draw(t, "epochs")) {
		drained := rapid.SampledFrom(nodes).Draw(t, "drained")
		opened := rapid.SampledFrom(nodes).Draw(t, "opened")
		for _, r := range []Route{drain(e, drained), closed(e), open(e, opened), open(e, opened, blue)} {
			for range rapid.IntRange(0, 2).Draw(t, "copies") {
				routes = append(routes, r)
			}
		}
	}
	return routes
}

// TestInvariant_I5 proves that a route never goes back, whatever the order and
// the number of copies routes arrive in, and that two members who were told the
// same agree in the end.
func TestInvariant_I5(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		routes := anyHistory(t)
		var ends []Route
		for _, name := range []string{"one order", "another order"} {
			table := NewTable()
			for _, r := range rapid.Permutation(routes).Draw(t, name) {
				before := table.Current()
				applied, err := table.Apply(r)
				after := table.Current()
				switch {
				case errors.Is(err, ErrConflictingRoute), errors.Is(err, ErrInvalidRoute):
					t.Fatalf("apply %+v to %+v: %v", r, before, err)
				case after.Epoch < before.Epoch,
					after.Epoch == before.Epoch && after.stage() < before.stage():
					t.Fatalf("went back from %+v to %+v", before, after)
				case err != nil && applied, err != nil && !before.Equal(after):
					t.Fatalf("refused %+v but went from %+v to %+v", r, before, after)
				}
			}
			ends = append(ends, table.Current())
		}
		a, b := ends[0], ends[1]
		if a.Epoch != b.Epoch || a.Phase != b.Phase || !samePrimary(a.Primary, b.Primary) {
			t.Fatalf("two members disagree: %+v and %+v", a, b)
		}
	})
}
