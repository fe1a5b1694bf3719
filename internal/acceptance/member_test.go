package acceptance

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/failover/api"
)

// member gives an order about the members, as an operator does.
func (c *cluster) member(args ...string) (string, error) {
	return c.run(append(append([]string{"member"}, args...), "--dir", c.dir)...)
}

// log is what an agent has logged.
func (c *cluster) log(t *testing.T, node string) string {
	t.Helper()
	text, err := os.ReadFile(c.node(node).Agent.LogFile)
	require.NoError(t, err)
	return string(text)
}

// saysSoon waits until an agent, which may just have been started, has logged
// something.
func (c *cluster) saysSoon(t *testing.T, node, what string) {
	t.Helper()
	await(t, patience, node+" to log "+what, func() (bool, string) {
		text, err := os.ReadFile(c.node(node).Agent.LogFile)
		return strings.Contains(string(text), what), fmt.Sprint(err)
	})
}

func find(v api.Cluster, node string) api.Member {
	for _, m := range v.Members {
		if string(m.Name) == node {
			return m
		}
	}
	return api.Member{}
}

// TestMembersComeAndGo: under load a fourth node is added, becomes an acker and
// a voter, a replica is removed, and then the primary dies: the others fail over
// by the new set, nothing is lost, and who was removed is out of everything.
func TestMembersComeAndGo(t *testing.T) {
	c := own(t)
	before := c.healthy(t)
	primary := string(before.Primary.Node)
	out := c.names(primary)[1]
	w := c.load(t, c.names(primary)[0])

	// The node runs before it is a member: it takes no part.
	_, err := c.run("sandbox", "add", "--voter", "--dir", c.dir)
	require.NoError(t, err)
	c.readInfo(t)
	c.saysSoon(t, "db4", "this node is no member of the cluster")
	_, err = c.member("remove", primary)
	require.ErrorContains(t, err, primary+" is the primary: switch over first")
	began := time.Now()
	said, err := c.member("add", "--name", "db4", "--address", "127.0.0.1", "--voter")
	require.NoError(t, err)
	require.Contains(t, said, "4 members vote, which survives no more losses than 3")
	require.Contains(t, said, "name: db4")
	_, err = c.member("add", "--name", "db4", "--address", "127.0.0.1")
	require.ErrorContains(t, err, "db4 is a member already")
	took := await(t, patience, "db4 to be an acker and a voter", func() (bool, string) {
		v, err := c.view(primary)
		m := find(v, "db4")
		return err == nil && m.Acker && m.Acknowledging && m.Etcd == "voter" && m.Route.Phase == "open" && v.Status == api.StatusHealthy, fmt.Sprint(words(v), m.Etcd, err)
	})
	t.Logf("db4 is an acker and a voter %.1f s after it was added", took.Seconds())
	require.Contains(t, c.log(t, primary), "db4 is a member and is not listed")
	c.healthy(t)

	// A replica leaves, and acknowledges nothing any more.
	removing := time.Now()
	await(t, patience, "the removal, which a gate refuses while another replica is slow to answer", func() (bool, string) {
		said, err = c.member("remove", out, "--yes")
		if err != nil {
			require.ErrorContains(t, err, "The operation is refused by a gate; nothing changed")
		}
		return err == nil, said
	})
	t.Logf("%s was removed in %.1f s", out, time.Since(removing).Seconds())
	c.reaches(t, "a cluster of three without "+out, func(v api.Cluster) bool {
		return len(v.Members) == 3 && !slices.ContainsFunc(v.Members, func(m api.Member) bool { return string(m.Name) == out })
	})
	acks, err := c.ask(t.Context(), out, "SELECT @@global.rpl_semi_sync_replica_enabled")
	require.NoError(t, err)
	require.Equal(t, "0", acks)
	c.saysSoon(t, out, "this node was removed from the cluster")
	await(t, patience, out+" to receive from nobody and say so", func() (bool, string) {
		state, err := c.ask(t.Context(), out, "SELECT service_state FROM performance_schema.replication_connection_status")
		seen, verr := c.view(out)
		return state == "OFF" && strings.Contains(strings.Join(seen.Reasons, "; "), out+" was removed from the cluster"), fmt.Sprint(state, err, verr, seen.Reasons)
	})
	closed, err := c.ask(t.Context(), out, "SELECT @@global.super_read_only")
	require.NoError(t, err)
	require.Equal(t, "1", closed)
	c.forget(t, out)

	// An agent whose file says otherwise starts again.
	stale := c.names(primary)[0]
	c.order(t, "stop-agent", stale)
	c.order(t, "start-agent", stale)
	before = c.healthy(t)
	c.order(t, "kill", primary)
	after := c.moved(t, before, c.names(primary)[0])
	acked := w.Acknowledged()
	await(t, patience, "writes after the failover", func() (bool, string) { return w.Acknowledged() > acked+enough, "too few rows" })
	c.order(t, "start", primary)
	c.healthy(t)
	c.following(t)
	r := w.Stop()
	c.verify(t, r)
	c.lostNothing(t)
	require.NotEqual(t, out, string(after.Primary.Node))
	t.Logf("%s; %d rows acknowledged, longest outage %d ms; all of it took %.1f s", c.story(t, before.Epoch),
		r.Acknowledged(), r.LongestOutage(time.Time{}, time.Time{}).Length().Milliseconds(), time.Since(began).Seconds())
}

// forget leaves a node out of what is looked at from now on.
func (c *cluster) forget(t *testing.T, node string) {
	t.Helper()
	for i, n := range c.info.Nodes {
		if n.Name == node {
			c.info.Nodes = slices.Delete(slices.Clone(c.info.Nodes), i, i+1)
			return
		}
	}
	require.FailNow(t, "no such node", node)
}
