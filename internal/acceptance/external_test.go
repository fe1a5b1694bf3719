package acceptance

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"interrex/election/embedded/etcdtest"
)

// TestExternalEtcd: agents that agree in an etcd of somebody else's, over
// mutual TLS and with an account that may touch nothing but the cluster's keys,
// form the cluster on the servers that they find, under a higher epoch, and
// fail over. Their API is not for everybody to read.
func TestExternalEtcd(t *testing.T) {
	files, client := etcdtest.NewTLS(t)
	etcd := etcdtest.New(t, 1, zap.NewNop())
	var endpoints []string
	for _, m := range etcd.Members {
		// Not the test's own program: the race detector makes etcd's check of a
		// password take seconds, and the agents give up on it.
		m.Config.Exe = program
		m.Config.TLS, m.TLS = files, client
		m.Start()
		endpoints = append(endpoints, "https://"+m.Config.ClientURL)
	}
	etcd.WaitReady(t)
	etcd.AskForPasswords(t, "agent", "of-the-agents", "/interrex/")
	password := filepath.Join(t.TempDir(), "etcd.password")
	require.NoError(t, os.WriteFile(password, []byte("of-the-agents\n"), 0o600))

	c := own(t)
	before := c.healthy(t)
	w := c.load(t, c.names()[0])
	await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })
	r := w.Stop()
	for _, n := range c.names() {
		c.order(t, "stop-agent", n)
		file := c.node(n).Agent.ConfigFile
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		section, err := yaml.Marshal(map[string]any{"etcd": map[string]any{
			"mode": "external", "endpoints": endpoints, "username": "agent", "password_file": password,
			"tls": map[string]string{"ca_file": files.CAFile, "cert_file": files.CertFile, "key_file": files.KeyFile},
		}})
		require.NoError(t, err)
		text = bytes.Replace(text, []byte("\nsecurity:\n"), []byte("\nsecurity:\n  reads: token\n"), 1)
		require.NoError(t, os.WriteFile(file, append(text, section...), 0o600))
	}
	began := time.Now()
	for _, n := range c.names() {
		c.order(t, "start-agent", n)
	}
	v := c.healthy(t)
	took, old := time.Since(began), string(v.Primary.Node)
	require.Empty(t, c.etcdChildren(t), "nobody else's etcd runs beside it")
	require.Greater(t, v.Epoch, before.Epoch, "an epoch went back")
	for path, want := range map[string]int{"/api/v1/cluster": http.StatusUnauthorized, "/metrics": http.StatusUnauthorized, "/health": http.StatusOK} {
		status, text, err := c.call(http.MethodGet, old, path, "", "")
		require.NoError(t, err)
		require.Equal(t, want, status, "%s: %s", path, text)
	}
	again := c.load(t, c.names()[0])
	c.order(t, "kill", old)
	after := c.moved(t, v, c.names(old)[0])
	acked := again.Acknowledged()
	await(t, patience, "writes after the failover", func() (bool, string) { return again.Acknowledged() > acked+enough, "too few rows" })
	last := again.Stop()
	c.order(t, "start", old)
	c.healthy(t)
	c.verify(t, r)
	c.verify(t, last)
	t.Logf("healthy %.1f s after the agents started, epoch %d (before: %d); failed over from %s to %s", took.Seconds(), v.Epoch, before.Epoch, old, after.Primary.Node)
}
