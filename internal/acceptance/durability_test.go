package acceptance

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/failover/api"
)

// reconfigure changes every agent's file, and starts the agents anew; restore
// takes that back.
func (c *cluster) reconfigure(t *testing.T, change func(text string) string) (restore func()) {
	t.Helper()
	before := map[string]string{}
	for _, n := range c.info.Nodes {
		text, err := os.ReadFile(n.Agent.ConfigFile)
		require.NoError(t, err)
		before[n.Name] = string(text)
		require.NotEqual(t, string(text), change(string(text)), "nothing is changed")
		require.NoError(t, os.WriteFile(n.Agent.ConfigFile, []byte(change(string(text))), 0o600))
	}
	c.startAgentsAnew(t)
	return func() {
		t.Helper()
		for _, n := range c.info.Nodes {
			require.NoError(t, os.WriteFile(n.Agent.ConfigFile, []byte(before[n.Name]), 0o600))
		}
		c.startAgentsAnew(t)
	}
}

func (c *cluster) startAgentsAnew(t *testing.T) {
	t.Helper()
	for _, n := range c.names() {
		c.order(t, "stop-agent", n)
		c.order(t, "start-agent", n)
	}
	c.healthy(t)
}

// withDurability adds a section to an agent's file.
func withDurability(lines ...string) func(text string) string {
	section := "\ndurability:\n  " + strings.Join(lines, "\n  ")
	return func(text string) string { return strings.Replace(text, "\nsecurity:\n", section+"\nsecurity:\n", 1) }
}

// TestN7LastAckerDiesAndWritesGoOn: with when_no_acker: degrade both replicas die.
// The record says that commits are not lossless, and since when, and they go on;
// with the replicas back they wait again, the mark goes, and what was acknowledged
// by nobody else has come to all.
func TestN7LastAckerDiesAndWritesGoOn(t *testing.T) {
	c := borrow(t)
	restore := c.reconfigure(t, withDurability("when_no_acker: degrade", "drop_after: 2s"))
	before := c.healthy(t)
	primary := string(before.Primary.Node)
	w := c.underLoad(t, before)
	died := time.Now()
	c.each(t, "kill", c.names(primary)...)
	v := c.reaches(t, "commits that wait for nobody", func(v api.Cluster) bool {
		return v.Durability.DegradedSince != nil && v.Status == api.StatusDegraded
	})
	since := *v.Durability.DegradedSince
	require.WithinRange(t, since, died.Add(2*time.Second), time.Now(), "drop_after after the death of both, not before")
	require.Zero(t, v.Durability.K)
	require.False(t, v.Durability.Lossless)
	require.Contains(t, strings.Join(v.Reasons, "; "), "commits are not lossless since "+since.Format(time.RFC3339))
	more(t, w)
	c.saysOf(t, primary, "SELECT @@global.rpl_semi_sync_source_enabled", "0")
	status, err := c.run("status", "--dir", c.dir)
	require.NoError(t, err)
	require.Contains(t, status, "not lossless")
	waited := time.Since(died)

	c.each(t, "start", c.names(primary)...)
	back := time.Now()
	v = c.reaches(t, "commits that wait again", func(v api.Cluster) bool {
		return v.Durability.DegradedSince == nil && v.Durability.K == 1 && v.Durability.Lossless
	})
	lossless := time.Since(back)
	armed, err := c.ask(t.Context(), primary, `SELECT @@global.rpl_semi_sync_source_enabled AND @@global.rpl_semi_sync_source_wait_no_replica
		AND @@global.rpl_semi_sync_source_timeout = 4294967295 AND @@global.rpl_semi_sync_source_wait_for_replica_count = 1`)
	require.NoError(t, err)
	require.Equal(t, "1", armed)
	v = c.whole(t, w)
	require.Equal(t, before.Epoch, v.Epoch, "nobody was to be moved")
	restore()
	t.Logf("writes went on %.1f s after both ackers died, and waited again %.1f s after they were back", waited.Seconds(), lossless.Seconds())
}

// TestSitesAreWaitedFor: of three sites each commit is to be in both others. One
// of them dies, and writes wait although the other acknowledges, until it is back.
func TestSitesAreWaitedFor(t *testing.T) {
	c := borrow(t)
	restore := c.reconfigure(t, func(text string) string {
		for _, n := range c.names() {
			text = strings.Replace(text, "- name: "+n+"\n", "- name: "+n+"\n    site: of-"+n+"\n", 1)
		}
		return withDurability("sites: 2")(text)
	})
	before := c.reaches(t, "two acknowledgements to be waited for", func(v api.Cluster) bool { return v.Durability.K == 2 })
	primary := string(before.Primary.Node)
	c.saysOf(t, primary, "SELECT @@global.rpl_semi_sync_source_wait_for_replica_count", "2")
	w := c.underLoad(t, before)
	dead := c.names(primary)[0]
	c.order(t, "kill", dead)
	rest(time.Second) // what was on its way
	acked := w.Acknowledged()
	for began := time.Now(); time.Since(began) < 2*time.Second; rest(100 * time.Millisecond) {
		require.Equal(t, acked, w.Acknowledged(), "acknowledged by one other site alone")
	}
	c.order(t, "start", dead)
	v := c.whole(t, w)
	require.Equal(t, before.Epoch, v.Epoch, "nobody was to be moved")
	restore()
}
