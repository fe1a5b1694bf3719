package detector

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func validConfig() Config {
	c := DefaultConfig()
	c.Self, c.Cluster, c.Key, c.Bind = "n1", "test", []byte("0123456789abcdef"), "127.0.0.1:7946"
	return c
}

func TestProfilesAreValid(t *testing.T) {
	for _, p := range []Profile{LAN, WAN, ""} {
		c := validConfig()
		c.Profile = p
		require.NoError(t, c.Validate())
	}
	c := validConfig()
	c.Profile = Custom
	require.NoError(t, c.Validate(), "the default windows as custom ones")
}

func TestValidateReportsEveryFault(t *testing.T) {
	c := Config{Self: "a b", Key: []byte("short"), Bind: "nowhere", Advertise: "x:0", Peers: []string{"y"}, Profile: "moon"}
	err := c.Validate()
	for _, part := range []string{"self:", "cluster:", "key:", "bind:", "advertise:", "peers[0]:", `"moon"`} {
		require.ErrorContains(t, err, part)
	}
	c = validConfig()
	c.Bind = "0.0.0.0:7946"
	require.ErrorContains(t, c.Validate(), "advertise: must be set")
	c.Advertise = "127.0.0.1:7946"
	require.NoError(t, c.Validate())
}

func TestValidateArithmetic(t *testing.T) {
	cases := []struct {
		name   string
		change func(*Windows)
		want   string
	}{
		{"freshness too short", func(w *Windows) { w.Freshness = 449 * ms }, "freshness (449ms) is under 2*interval + timeout (450ms)"},
		{"freshness under two time-outs", func(w *Windows) { w.Freshness = 600 * ms; w.Timeout = 350 * ms }, "freshness (600ms) is under 2*timeout"},
		{"hint beyond timeout", func(w *Windows) { w.Hint = w.Timeout }, "hint"},
		{"timeout under half an interval", func(w *Windows) { w.Timeout = 40 * ms }, "timeout (40ms)"},
		{"settle beyond freshness", func(w *Windows) { w.Settle = time.Second }, "settle"},
		{"gossip timeout that hurts its asker", func(w *Windows) { w.Gossip.ProbeTimeout = 100 * ms }, "gossip.probe_interval (200ms) is under 2.2*gossip.probe_timeout"},
		{"no misses", func(w *Windows) { w.Misses = 0 }, "misses is 0"},
		{"zero", func(w *Windows) { *w = Windows{} }, "gossip.push_pull is 0s"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := lanWindows(t)
			c.change(&w)
			require.ErrorContains(t, w.Validate(), c.want)
		})
	}
}

func TestExplainStatesTheBars(t *testing.T) {
	w := lanWindows(t)
	least, most := w.SilentHost()
	require.Equal(t, 500*ms, least)
	require.LessOrEqual(t, most, 900*ms)
	text := strings.Join(w.Explain(), "\n")
	require.Contains(t, text, "a silent or frozen host is declared after 500ms-650ms because")
	require.Contains(t, text, "evidence older than 1s")
}
