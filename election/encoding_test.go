package election

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"

	"interrex/internal/topology"
)

func TestCheckChange(t *testing.T) {
	from := State{Format: 1, Cluster: "c", Epoch: 5, Primary: &Primary{Node: "a", Epoch: 4}}
	for name, test := range map[string]struct {
		to   State
		want string // empty: allowed
	}{
		"nothing":            {from, ""},
		"next epoch":         {State{Format: 1, Cluster: "c", Epoch: 6, Primary: &Primary{Epoch: 6}}, ""},
		"claimed only":       {State{Format: 1, Cluster: "c", Epoch: 6, Primary: from.Primary, Operation: &Operation{Epoch: 6}}, ""},
		"newer format":       {State{Format: 2, Cluster: "c", Epoch: 5, Primary: from.Primary}, ""},
		"older format":       {State{Cluster: "c", Epoch: 5, Primary: from.Primary}, "format goes back"},
		"other cluster":      {State{Format: 1, Cluster: "d", Epoch: 5, Primary: from.Primary}, `cluster is "d"`},
		"epoch back":         {State{Format: 1, Cluster: "c", Epoch: 4, Primary: from.Primary}, "epoch goes back"},
		"primary epoch back": {State{Format: 1, Cluster: "c", Epoch: 5, Primary: &Primary{Epoch: 3}}, "epoch of the primary goes back"},
		"primary forgotten":  {State{Format: 1, Cluster: "c", Epoch: 5}, "forgotten"},
		"primary not issued": {State{Format: 1, Cluster: "c", Epoch: 5, Primary: &Primary{Epoch: 6}}, "never issued"},
		"operation too new":  {State{Format: 1, Cluster: "c", Epoch: 5, Primary: from.Primary, Operation: &Operation{Epoch: 6}}, "never issued"},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkChange("c", from, test.to)
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ErrInvalidChange)
			require.ErrorContains(t, err, test.want)
		})
	}
}

func TestEncodeKeepsUnknownFields(t *testing.T) {
	for name, test := range map[string]struct {
		stored string
		change func(*State)
		want   string // members that must be there, by path
		gone   []string
	}{
		"top and nested": {
			`{"cluster":"c","epoch":1,"extra":1,"register":{"ackers":null,"k":1,"more":2},"primary":{"node":"a","epoch":1,"zone":"z"}}`,
			func(s *State) { s.Epoch = 2; s.Register.K = 2 },
			`{"extra":1,"epoch":2,"register":{"k":2,"more":2},"primary":{"zone":"z"}}`, nil,
		},
		"another primary": {
			`{"cluster":"c","epoch":1,"primary":{"node":"a","epoch":1,"zone":"z"}}`,
			func(s *State) { s.Epoch = 2; s.Primary = &Primary{Node: "b", Epoch: 2} },
			`{"primary":{"node":"b","epoch":2}}`, []string{"zone"},
		},
		"removed on purpose": {
			`{"cluster":"c","epoch":1,"paused":{"by":"me","until":3},"operation":{"kind":"failover","epoch":1,"plan":4}}`,
			func(s *State) { s.Paused = nil; s.Operation = nil },
			`{"epoch":1}`, []string{"paused", "operation", "until", "plan"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			state, err := decodeState([]byte(test.stored))
			require.NoError(t, err)
			test.change(&state)
			encoded, err := encodeState(state, []byte(test.stored))
			require.NoError(t, err)
			var got, want map[string]any
			require.NoError(t, json.Unmarshal(encoded, &got))
			require.NoError(t, json.Unmarshal([]byte(test.want), &want))
			requireHas(t, got, want)
			for _, name := range test.gone {
				require.NotContains(t, string(encoded), `"`+name+`"`)
			}
		})
	}
}

func requireHas(t *testing.T, got, want map[string]any) {
	t.Helper()
	for name, value := range want {
		if inner, ok := value.(map[string]any); ok {
			require.IsType(t, inner, got[name], name)
			requireHas(t, got[name].(map[string]any), inner)
			continue
		}
		require.Equal(t, value, got[name], name)
	}
}

func TestCloneSharesNothing(t *testing.T) {
	full := func() State {
		return State{
			Format: 1, Cluster: "c", Epoch: 2,
			Primary:   &Primary{Node: "a", Epoch: 2, Phase: Open},
			Register:  Register{Ackers: []topology.NodeName{"b", "c"}, K: 1},
			Operation: &Operation{Kind: Failover, Epoch: 2, Facts: json.RawMessage(`{"x":1}`)},
			Paused:    &Pause{By: "me"},
		}
	}
	original := full()
	copied := original.clone()
	require.Equal(t, original, copied)
	copied.Primary.Node = "z"
	copied.Register.Ackers[0] = "z"
	copied.Operation.Facts[2] = 'z'
	copied.Paused.By = "z"
	require.Equal(t, full(), original)
}

func TestViewIsMonotonic(t *testing.T) {
	k := newKeys("test", "a")
	v := newView(k, zap.NewNop())
	now := time.Unix(1, 0)
	state := func(epoch string, revision int64) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{Key: []byte(k.state), Value: []byte(`{"cluster":"test","epoch":` + epoch + `}`), ModRevision: revision}
	}
	v.put(10, k.state, state("2", 10), now)
	v.put(9, k.state, state("1", 9), now)
	require.EqualValues(t, 2, v.snapshotNow().State.Epoch, "a late event")
	require.False(t, v.replace(8, 8, []*mvccpb.KeyValue{state("1", 8)}, now), "a late reading, begun before")
	require.EqualValues(t, 2, v.snapshotNow().State.Epoch)

	v.put(11, k.state, &mvccpb.KeyValue{Value: []byte(`nonsense`), ModRevision: 11}, now)
	require.EqualValues(t, 2, v.snapshotNow().State.Epoch, "what cannot be read does not replace what is known")

	require.True(t, v.replace(5, 10, []*mvccpb.KeyValue{state("1", 5)}, now), "a store restored from a copy")
	require.EqualValues(t, 1, v.snapshotNow().State.Epoch)
	require.EqualValues(t, 5, v.snapshotNow().Revision)
}

func TestConfigValidate(t *testing.T) {
	good := DefaultConfig()
	good.Cluster, good.Self, good.Endpoints = "test", "a", []string{"127.0.0.1:1", "https://h:2"}
	require.NoError(t, good.Validate())
	require.NoError(t, good.ForRegions().Validate())
	for name, test := range map[string]struct {
		spoil func(*Config)
		want  string
	}{
		"no cluster":        {func(c *Config) { c.Cluster = "" }, "cluster:"},
		"slash in name":     {func(c *Config) { c.Self = "a/b" }, "self:"},
		"no endpoint":       {func(c *Config) { c.Endpoints = nil }, "at least one"},
		"endpoint no port":  {func(c *Config) { c.Endpoints = []string{"h"} }, "host:port"},
		"endpoint scheme":   {func(c *Config) { c.Endpoints = []string{"ftp://h:1"} }, "scheme"},
		"half a login":      {func(c *Config) { c.Username = "u" }, "both or neither"},
		"fraction of a TTL": {func(c *Config) { c.LeaderTTL = 2500 * time.Millisecond }, "whole seconds"},
		"late hedge":        {func(c *Config) { c.HedgeAfter = time.Second }, "hedge_after"},
		"long calls":        {func(c *Config) { c.CallTimeout = 2 * time.Second }, "half of leader_ttl"},
		"no probes":         {func(c *Config) { c.ProbeEvery = 0 }, "probe_every"},
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			test.spoil(&c)
			require.ErrorContains(t, c.Validate(), test.want)
			_, err := New(c, zap.NewNop())
			require.Error(t, err)
		})
	}
}
