package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// buildAs builds the program under test once more, with another version.
func buildAs(t *testing.T, version string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "interrex")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "nomsgpack", "-ldflags", "-s -w -X main.version="+version, "-o", file, "interrex/cmd/interrex")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	return file
}

// etcdOf connects to a node's member of the embedded etcd.
func (c *cluster) etcdOf(t *testing.T, node string) *clientv3.Client {
	t.Helper()
	_, port, ok := strings.Cut(c.node(node).MySQL.Address, ":")
	require.True(t, ok)
	first, err := strconv.Atoi(port)
	require.NoError(t, err)
	// As `interrex sandbox up --help` says: etcd's is the seventh of a node's ports.
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{fmt.Sprintf("127.0.0.1:%d", first+6)}, Logger: zap.NewNop()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// recordKey is where etcd has the cluster record.
const recordKey = "/interrex/sandbox/state"

// record is the cluster record as it is stored.
func record(t *testing.T, store *clientv3.Client) (fields map[string]any, revision int64) {
	t.Helper()
	answer, err := store.Get(t.Context(), recordKey)
	require.NoError(t, err)
	require.Len(t, answer.Kvs, 1)
	require.NoError(t, json.Unmarshal(answer.Kvs[0].Value, &fields))
	return fields, answer.Kvs[0].ModRevision
}

// rewrite changes the stored record, as a build of the future would.
func rewrite(t *testing.T, store *clientv3.Client, change func(fields map[string]any)) {
	t.Helper()
	await(t, patience, "a change of the record", func() (bool, string) {
		fields, revision := record(t, store)
		change(fields)
		value, err := json.Marshal(fields)
		require.NoError(t, err)
		done, err := store.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(recordKey), "=", revision)).
			Then(clientv3.OpPut(recordKey, string(value))).Commit()
		return err == nil && done.Succeeded, fmt.Sprint(err)
	})
}

// TestRollingUpgrade: agents of two builds work together, one after the other is
// replaced, the leader last, and a record of a newer minor format keeps through
// the switchovers of both what neither knows. A record of a newer format is left
// alone by all, with the reason told, and writes go on.
func TestRollingUpgrade(t *testing.T) {
	// The sandbox runs a copy, so that it can be replaced under its agents.
	own := filepath.Join(t.TempDir(), "interrex")
	text, err := os.ReadFile(program)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(own, text, 0o700)) //nolint:gosec // a program
	c := ownOf(t, own, folder(t))
	v := c.healthy(t)
	w := c.load(t, c.names()[0])
	store := c.etcdOf(t, string(v.Leader))

	keeps := func() {
		t.Helper()
		fields, _ := record(t, store)
		require.Equal(t, "fine", fields["weather"])
		require.InDelta(t, 9, fields["minor"], 0)
		require.InDelta(t, 3, fields["register"].(map[string]any)["weights"].(map[string]any)["db1"], 0)
		require.Equal(t, "r1", fields["members"].(map[string]any)["db2"].(map[string]any)["rack"])
	}
	await(t, patience, "the members to be written down", func() (bool, string) {
		fields, _ := record(t, store)
		_, ok := fields["members"]
		return ok, fmt.Sprint(fields)
	})
	rewrite(t, store, func(fields map[string]any) {
		fields["weather"], fields["minor"] = "fine", 9
		fields["register"].(map[string]any)["weights"] = map[string]any{"db1": 3}
		fields["members"].(map[string]any)["db2"].(map[string]any)["rack"] = "r1"
	})
	switchover := func() {
		t.Helper()
		before := c.healthy(t)
		to := c.names(string(before.Primary.Node))[0]
		await(t, patience, "a switchover to "+to, func() (bool, string) {
			status, _, problem := c.switchover(t, to, to)
			return status == http.StatusOK, fmt.Sprint(status, problem.Detail)
		})
		v = c.healthy(t)
		require.Equal(t, to, string(v.Primary.Node))
		keeps()
	}
	switchover()

	next := buildAs(t, "9.9.9-next")
	text, err = os.ReadFile(next)
	require.NoError(t, err)
	order := append(c.names(string(v.Leader)), string(v.Leader))
	versions := map[string]string{}
	for i, n := range order {
		c.order(t, "stop-agent", n)
		require.NoError(t, os.WriteFile(own+".new", text, 0o700)) //nolint:gosec // a program
		require.NoError(t, os.Rename(own+".new", own))
		c.order(t, "start-agent", n)
		v = c.healthy(t)
		for _, m := range v.Members {
			versions[string(m.Name)] = m.AgentVersion
		}
		require.Equal(t, "9.9.9-next", versions[n])
		if i == 0 {
			require.NotEqual(t, "9.9.9-next", versions[order[2]], "%v", versions)
			switchover() // led by whichever leads now
		}
	}
	t.Logf("versions at the end: %v", versions)
	switchover()

	// A format of the future.
	rewrite(t, store, func(fields map[string]any) { fields["format"] = 2 })
	for _, n := range c.names() {
		c.saysSoon(t, n, "the cluster record is newer than this build: it is of format 2, this build knows 1")
		await(t, patience, n+" to say that it is too old", func() (bool, string) {
			status, text, err := c.call(http.MethodGet, n, "/health", "", "")
			return status == http.StatusServiceUnavailable && strings.Contains(string(text), "newer than this build"), fmt.Sprint(status, string(text), err)
		})
	}
	status, _, problem := c.switchover(t, c.names()[0], "")
	require.GreaterOrEqual(t, status, 400, "%+v", problem)
	acked := w.Acknowledged()
	await(t, patience, "writes all the same", func() (bool, string) { return w.Acknowledged() > acked+enough, "too few rows" })
	_, at := record(t, store)
	rest(2 * time.Second)
	_, now := record(t, store)
	require.Equal(t, at, now, "somebody changed a record that it does not understand")
	rewrite(t, store, func(fields map[string]any) { fields["format"] = 1 })
	switchover()
	c.verify(t, w.Stop())
	c.lostNothing(t)
}
