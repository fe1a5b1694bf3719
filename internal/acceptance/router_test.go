package acceptance

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"interrex/failover/api"
	"interrex/internal/porttest"
)

// TestMemberWithoutServer: a node that has no server joins as a router. Its
// routes follow the primary through a failover, its health checks say what it
// is, and nothing ever takes it for a server.
func TestMemberWithoutServer(t *testing.T) {
	c := borrow(t)
	before := c.healthy(t)
	old := string(before.Primary.Node)
	said, err := c.member("add", "--name", "web1", "--address", "127.0.0.1")
	require.NoError(t, err)
	router := c.startRouter(t, "web1", said)
	status := func(path string) int {
		response, err := http.Get("http://" + router["api"] + path)
		if err != nil {
			return 0
		}
		require.NoError(t, response.Body.Close())
		return response.StatusCode
	}
	await(t, patience, "web1 to be ready", func() (bool, string) {
		v, err := c.view(old)
		return err == nil && find(v, "web1").Role == api.RoleArbiter && status("/ready") == http.StatusOK, fmt.Sprint(words(v), err)
	})
	require.Equal(t, http.StatusOK, status("/health"))
	require.Equal(t, http.StatusServiceUnavailable, status("/primary"))
	require.Equal(t, http.StatusServiceUnavailable, status("/replica"))

	w := c.loadAt(t, router["rw"], "routed", 5*time.Second)
	await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })
	reads := c.app(t, router["ro"], 10*time.Second)
	reads.SetMaxIdleConns(-1) // each read comes anew
	primary, err := c.ask(t.Context(), old, "SELECT @@global.server_uuid")
	require.NoError(t, err)
	await(t, patience, "reads from a replica", func() (bool, string) { // from the primary as long as it knows of none
		var server string
		err := reads.QueryRowContext(t.Context(), "SELECT @@global.server_uuid").Scan(&server)
		return err == nil && server != primary, fmt.Sprint(server, err)
	})
	began := time.Now()
	c.order(t, "kill", old)
	after := c.moved(t, before, c.names(old)[0])
	acked := w.Acknowledged()
	await(t, patience, "writes after the failover", func() (bool, string) { return w.Acknowledged() > acked+enough, "too few rows" })
	r := w.Stop()
	c.order(t, "start", old)
	require.NotEqual(t, string(after.Primary.Node), "web1")
	c.healthy(t)
	c.verify(t, r)

	_, err = c.member("remove", "web1", "--yes")
	require.NoError(t, err)
	now := c.healthy(t)
	require.Len(t, now.Members, len(before.Members))
	t.Logf("epoch %s; clients of the router saw an outage of %d ms", c.story(t, before.Epoch),
		r.LongestOutage(began, began.Add(patience)).Length().Milliseconds())
}

// startRouter does on the new node what `member add` says, starts its agent,
// and returns the addresses of its listeners.
func (c *cluster) startRouter(t *testing.T, name, said string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(c.info.Nodes[0].Agent.ConfigFile)
	require.NoError(t, err)
	var file, printed map[string]any
	require.NoError(t, yaml.Unmarshal(text, &file))
	require.NoError(t, yaml.Unmarshal([]byte(said[strings.Index(said, "\ncluster:"):]), &printed))
	listeners, ports := map[string]string{}, map[string]any{}
	for _, l := range []string{"api", "gossip", "rw", "ro"} {
		port := porttest.Port(t)
		listeners[l], ports[l] = net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), port
	}
	dir := t.TempDir()
	members := printed["cluster"].(map[string]any)["members"].([]any)
	members[len(members)-1].(map[string]any)["ports"] = ports
	file["cluster"].(map[string]any)["members"] = members
	file["node"], file["listeners"] = map[string]any{"name": name, "data_dir": filepath.Join(dir, "data")}, listeners
	delete(file, "mysql")
	text, err = yaml.Marshal(file)
	require.NoError(t, err)
	config := filepath.Join(dir, "agent.yaml")
	require.NoError(t, os.WriteFile(config, text, 0o600))

	agent := exec.Command(c.program, "agent", "--config", config)
	agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(filepath.Join(dir, "agent.log"))
	require.NoError(t, err)
	agent.Stderr = log
	require.NoError(t, agent.Start())
	t.Cleanup(func() {
		require.NoError(t, agent.Process.Signal(syscall.SIGTERM))
		require.NoError(t, agent.Wait())
		require.NoError(t, log.Close())
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s:\n%s", name, text[max(0, len(text)-5000):])
		}
	})
	return listeners
}
