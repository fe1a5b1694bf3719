package acceptance

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// waiting waits until n clients of a server are amid a commit that waits for
// an acknowledgement. Of commits that are one group only one waits for it; the
// others wait for that one.
func (c *cluster) waiting(t *testing.T, node string, n int) {
	t.Helper()
	want := fmt.Sprintf("%d amid a commit, waiting", n)
	await(t, patience, want, func() (bool, string) {
		got, err := c.ask(t.Context(), node, `SELECT CONCAT(COUNT(IF(processlist_user = 'app' AND processlist_command = 'Query', 1, NULL)), ' amid a commit, ',
			IF(COUNT(IF(processlist_state LIKE 'Waiting for semi-sync ACK%', 1, NULL)) > 0, 'waiting', 'not waiting'))
			FROM performance_schema.threads WHERE processlist_id IS NOT NULL`)
		return err == nil && got == want, fmt.Sprint(got, err)
	})
}

// TestRevokedPrimaryStoppedPolitely: a primary that froze, was replaced, and
// goes on where no agent can close it takes commits that nobody will ever
// acknowledge. Its stop hook ends it, and no client is told of a success.
func TestRevokedPrimaryStoppedPolitely(t *testing.T) {
	c := borrow(t)
	before := c.healthy(t)
	old := string(before.Primary.Node)
	pid := pidIn(t, c.node(old).MySQL.PIDFile)
	clients := c.direct(t, old, "revoked", 5, 0)
	await(t, patience, "load", func() (bool, string) { return clients.count(told) > 100, "too few rows" })
	c.order(t, "stop-agent", old)
	c.order(t, "freeze", old)
	frozen := time.Now()
	after := c.moved(t, before, c.names(old)[0])
	c.order(t, "thaw", old)
	c.waiting(t, old, 5)
	require.Contains(t, c.writable(t), old, "it is to be stopped as it was left: open")
	began := time.Now()
	_, err := c.run("mysql", "stop", "--config", c.node(old).Agent.ConfigFile)
	require.NoError(t, err)
	took := time.Since(began)
	require.Error(t, syscall.Kill(pid, 0), "the server lives")
	clients.end()
	require.Zero(t, clients.count(func(a attempt) bool { return a.err == nil && a.began.After(frozen) }),
		"clients were told of a commit that only the stopped server has")
	// What its ackers had received before they were frozen is kept.
	require.Empty(t, clients.missing(t, c, string(after.Primary.Node)))
	c.order(t, "start", old)
	c.order(t, "start-agent", old)
	c.healthy(t)
	c.following(t)
	t.Logf("epoch %s; stopped in %.1f s with 5 commits waiting; %s", c.story(t, before.Epoch), took.Seconds(), clients.errors())
}

// TestWaitingCommitsAreNotReleased: commits that wait for acknowledgements
// that will not come are not answered with success when the service is stopped
// by interrex's stop hook. What a plain SIGTERM does is printed: it is why
// there is a hook.
func TestWaitingCommitsAreNotReleased(t *testing.T) {
	c := borrow(t)
	ways := []struct {
		name string
		stop func(t *testing.T, node string)
	}{
		{"by the stop hook", func(t *testing.T, node string) {
			_, err := c.run("mysql", "stop", "--config", c.node(node).Agent.ConfigFile)
			require.NoError(t, err)
		}},
		{"by SIGTERM", func(t *testing.T, node string) {
			require.NoError(t, syscall.Kill(pidIn(t, c.node(node).MySQL.PIDFile), syscall.SIGTERM))
		}},
	}
	for i, way := range ways {
		v := c.healthy(t)
		old := string(v.Primary.Node)
		pid := pidIn(t, c.node(old).MySQL.PIDFile)
		c.direct(t, old, "waiting", 0, 1) // makes the table while it can
		for _, n := range c.names(old) {
			c.order(t, "kill", n)
		}
		clients := c.direct(t, old, "waiting", 5, 1)
		c.waiting(t, old, 5)
		began := time.Now()
		way.stop(t, old)
		await(t, patience, "the server's end", func() (bool, string) {
			return syscall.Kill(pid, 0) != nil, "process " + strconv.Itoa(pid) + " lives"
		})
		took := time.Since(began)
		clients.end()
		acknowledged := clients.count(told)
		if i == 0 {
			require.Zero(t, acknowledged, "clients were told of a commit that only the stopped server has")
		}
		for _, n := range append([]string{old}, c.names(old)...) {
			c.order(t, "start", n)
		}
		c.healthy(t)
		require.Empty(t, clients.missing(t, c, c.primary(t)))
		t.Logf("stopped %s in %.1f s with 5 commits waiting: %d answered with success; %s", way.name, took.Seconds(), acknowledged, clients.errors())
	}
}

// pidIn reads a pid file.
func pidIn(t *testing.T, file string) int {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	require.NoError(t, err)
	return pid
}
