package acceptance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/sandbox/mysqld/mysqldtest"
)

// forgetful is a mysqld that runs with relay_log_recovery ON: after a crash it
// drops what it has received and not applied. A setting that interrex advises
// against, and that it must not trust to be off.
func forgetful(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	dist := mysqldtest.Distribution(t)
	for _, tool := range []string{"mysqld", "mysqlbinlog"} {
		command := dist.Command(tool)
		var quoted []string
		for _, word := range command {
			quoted = append(quoted, "'"+word+"'")
		}
		program := strings.Join(quoted, " ")
		script := "#!/bin/sh\nexec " + program + " \"$@\"\n"
		if tool == "mysqld" {
			// The server finds its files beside itself, and is told so where it is
			// run through a loader. --no-defaults must stay in front.
			root := filepath.Dir(filepath.Dir(command[len(command)-1]))
			script = fmt.Sprintf(`#!/bin/sh
first=$1; shift
set -- "$first" --basedir='%[2]s' "$@"
[ -d '%[2]s/share/mysql/charsets' ] && set -- "$@" --lc-messages-dir='%[2]s/share/mysql' --character-sets-dir='%[2]s/share/mysql/charsets'
[ -d '%[2]s/lib/mysql/plugin' ] && set -- "$@" --plugin-dir='%[2]s/lib/mysql/plugin'
exec %[1]s "$@" --relay-log-recovery=ON
`, program, root)
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, tool), []byte(script), 0o755))
	}
	return filepath.Join(dir, "mysqld")
}

// holdApplier keeps a replica from applying what touches a table, by a read
// lock in a session of root; it goes on receiving and acknowledging.
func (c *cluster) holdApplier(t *testing.T, node, table string) (release func()) {
	t.Helper()
	conn, err := c.roots[node].Conn(t.Context())
	require.NoError(t, err)
	_, err = conn.ExecContext(t.Context(), "LOCK TABLES app.`"+table+"` READ")
	require.NoError(t, err)
	released := false
	release = func() {
		if !released {
			released = true
			_, _ = conn.ExecContext(context.Background(), "UNLOCK TABLES")
			_ = conn.Close()
		}
	}
	t.Cleanup(release)
	return release
}

// closedGate returns the gate if an agent shows it closed.
func (c *cluster) closedGate(node, name string) *failover.Gate {
	var list api.GateList
	if err := c.get(node, "/api/v1/gates", &list); err != nil {
		return nil
	}
	i := slices.IndexFunc(list.Gates, func(g failover.Gate) bool { return g.Operation == "failover" && g.Name == name && !g.Open })
	if i < 0 {
		return nil
	}
	return &list.Gates[i]
}

// TestRestartedAckerCountsAsNotRevoked: an acker that crashed with unapplied
// relay log has forgotten what it acknowledged. It proves nothing until it has
// caught up: nothing is promoted, and what is needed is named. Counting it
// would have lost the rows that it is shown to lack.
func TestRestartedAckerCountsAsNotRevoked(t *testing.T) {
	c := own(t, "--mysqld", forgetful(t))
	first := c.healthy(t)
	gone := string(first.Primary.Node)
	// A failover without the old primary leaves one acker, so that one answer
	// would be proof enough.
	c.direct(t, gone, "kept", 1, 5).done.Wait()
	c.order(t, "kill", gone)
	second := c.moved(t, first, c.names(gone)[0])
	primary := string(second.Primary.Node)
	acker := c.names(gone, primary)[0]
	require.Len(t, second.Durability.Ackers, 1, words(second))
	require.Equal(t, 1, second.Durability.Needed)
	c.direct(t, primary, "kept", 1, 5).done.Wait()
	await(t, patience, "the table on the acker", func() (bool, string) {
		n, err := c.ask(t.Context(), acker, "SELECT COUNT(*) FROM app.kept")
		return n == "10", fmt.Sprint(n, err)
	})

	c.holdApplier(t, acker, "kept")
	clients := c.direct(t, primary, "kept", 8, 25)
	clients.done.Wait()
	require.Equal(t, 200, clients.count(told), clients.errors())
	c.order(t, "kill", acker)
	c.order(t, "kill", primary)
	c.order(t, "start", acker)
	c.order(t, "start", gone)

	var gate *failover.Gate
	await(t, patience, "the closed gate", func() (bool, string) {
		gate = c.closedGate(acker, "ackers_revocable")
		return gate != nil && strings.Contains(gate.Reason, acker+": its server restarted"), fmt.Sprintf("%+v", gate)
	})
	rest(5 * time.Second) // in which a controller that counted it would have promoted it
	v := c.see(t)
	require.Equal(t, primary, string(v.Primary.Node), "promoted without proof")
	require.Equal(t, second.Epoch, v.Epoch, words(v))
	require.Empty(t, c.writable(t))
	lost := clients.missing(t, c, acker)
	received, err := c.ask(t.Context(), acker, "SELECT received_transaction_set FROM performance_schema.replication_connection_status")
	require.NoError(t, err)
	require.NotEmpty(t, lost, "the acker has forgotten nothing: this test shows nothing")

	c.order(t, "start", primary)
	c.healthy(t)
	require.Empty(t, clients.missing(t, c, c.primary(t)))
	c.following(t)
	c.ledger(t)
	t.Logf("counting %s would have lost %d of 200 acknowledged rows (it has received %q); gate: %s", acker, len(lost), bytes.TrimSpace([]byte(received)), gate.Reason)
}
