package acceptance

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"interrex/failover/api"
	"interrex/internal/sandbox"
)

// TestAgentsOverTLS: agents that have certificates and talk to one another and
// to their etcd over mutual TLS fail over and switch over like others; the
// command line finds all it needs in the configuration; and who has no
// certificate is no member.
func TestAgentsOverTLS(t *testing.T) {
	dir := folder(t)
	// One address, as etcd compares a peer's with those in its certificate.
	host := sandbox.Host{Address: "127.0.0.1"}
	_, err := sandbox.Plan(t.Context(), dir, []sandbox.Host{host, host, host})
	require.NoError(t, err)
	c := ownIn(t, dir)
	v := c.healthy(t)
	home := string(v.Primary.Node)
	w := c.load(t, c.names(home)[0])
	await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })
	r := w.Stop()
	story := c.failsOver(t)
	_, err = c.run("switchover", "--to", home, "--yes", "--config", c.node(home).Agent.ConfigFile)
	require.NoError(t, err)
	text, err := c.run("status", "-o", "json", "--config", c.node(c.names(home)[0]).Agent.ConfigFile)
	require.NoError(t, err)
	var seen api.Cluster
	require.NoError(t, json.Unmarshal([]byte(text), &seen), text)
	require.Equal(t, home, string(seen.Primary.Node))
	c.verify(t, r)

	// Who has no certificate gets no further with the members' token, and
	// nowhere with their etcd.
	plan, err := sandbox.Load(dir)
	require.NoError(t, err)
	token, err := os.ReadFile(plan.MemberTokenFile())
	require.NoError(t, err)
	status, answer, err := c.call(http.MethodPost, home, "/internal/v1/node/status", strings.TrimSpace(string(token)), `{}`)
	require.NoError(t, err)
	require.Equal(t, http.StatusUnauthorized, status, string(answer))
	for _, port := range []int{plan.Nodes[0].Ports.EtcdClient, plan.Nodes[0].Ports.EtcdPeer} {
		response, err := c.http.Get("https://" + plan.Nodes[0].Addr(port) + "/version")
		if err == nil {
			_ = response.Body.Close()
		}
		require.ErrorContains(t, err, "certificate required")
	}
	t.Logf("over TLS: epoch %s", story)
}
