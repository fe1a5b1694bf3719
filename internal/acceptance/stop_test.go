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

// TestRevokedPrimaryStoppedPolitely: commits that wait for acknowledgements
// that will not come are not answered with success when the service is stopped
// by interrex's stop hook. What a plain SIGTERM does is printed: it is why
// there is a hook.
func TestRevokedPrimaryStoppedPolitely(t *testing.T) {
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
		// Of commits that are one group only one waits for the acknowledgement;
		// the others wait for it.
		await(t, patience, "5 waiting commits", func() (bool, string) {
			n, err := c.ask(t.Context(), old, `SELECT CONCAT(COUNT(IF(processlist_user = 'app' AND processlist_command = 'Query', 1, NULL)), ' amid a commit, ',
				IF(COUNT(IF(processlist_state LIKE 'Waiting for semi-sync ACK%', 1, NULL)) > 0, 'waiting', 'not waiting'))
				FROM performance_schema.threads WHERE processlist_id IS NOT NULL`)
			return err == nil && n == "5 amid a commit, waiting", fmt.Sprint(n, err)
		})
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
