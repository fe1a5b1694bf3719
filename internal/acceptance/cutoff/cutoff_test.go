package cutoff

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/failover/api"
	"interrex/internal/nethost"
)

// TestPrimaryCutOff is row W1: the primary's host is cut off from the others,
// and clients still reach it. The majority promotes another server; the old
// node closes its read-write route, refuses reads after their limit, says so, and
// opens to the new primary by itself when the cut heals.
func TestPrimaryCutOff(t *testing.T) {
	c := borrow(t)
	old := c.healthy(t, c.Nodes[0].Name)
	watch := c.others(old)[0]
	rw, ro := c.open(t, c.info.Nodes[c.index(old)].Agent.RW), c.open(t, c.info.Nodes[c.index(old)].Agent.RO)
	_, err := rw.ExecContext(t.Context(), "CREATE TABLE IF NOT EXISTS cut (id INT PRIMARY KEY)")
	require.NoError(t, err)
	_, err = rw.ExecContext(t.Context(), "REPLACE INTO cut VALUES (1)")
	require.NoError(t, err)
	read := func() error {
		var n int
		return ro.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM cut").Scan(&n)
	}
	require.NoError(t, read())
	session, err := rw.Conn(t.Context())
	require.NoError(t, err)
	defer func() { _ = session.Close() }()
	require.NoError(t, session.PingContext(t.Context()))

	heal := c.cut(t, c.apart(old, c.others(old)...)...)
	began := time.Now()
	promoted := await(t, "another primary", func() (bool, string) {
		v := c.view(t, watch)
		return v.Primary != nil && string(v.Primary.Node) != old && v.Operation == nil, fmt.Sprint(v.Status, v.Reasons)
	})
	closed := await(t, "the old node to close its routes", func() (bool, string) {
		status, text, err := c.get(old, "/ready")
		return status == http.StatusServiceUnavailable && strings.Contains(text, "isolated: this node has seen 1 of 3 members"), fmt.Sprint(text, err)
	}) + promoted
	await(t, "the session to be cut", func() (bool, string) { return session.PingContext(t.Context()) != nil, "it goes on" })
	status, text, err := c.get(old, "/primary")
	require.NoError(t, err)
	require.Equal(t, http.StatusServiceUnavailable, status, text)
	require.Equal(t, api.StatusNoPrimary, c.view(t, old).Status)
	_, text, err = c.get(old, "/api/v1/explain")
	require.NoError(t, err)
	require.Contains(t, text, old+" cannot know: it is cut off from the others.")
	await(t, "reads to be refused", func() (bool, string) { err := read(); return err != nil, "reads go on" })
	refused := time.Since(began)
	t.Logf("another primary after %.1f s, routes closed after %.1f s, reads refused after %.1f s", promoted.Seconds(), closed.Seconds(), refused.Seconds())
	require.Less(t, refused, 15*time.Second)
	require.Greater(t, refused, 4*time.Second)

	heal()
	back := await(t, "the old node's route to the new primary", func() (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := rw.ExecContext(ctx, "REPLACE INTO cut VALUES (2)")
		return err == nil, fmt.Sprint(err)
	})
	t.Logf("a write by the old node's route %.1f s after the cut healed", back.Seconds())
	require.NotEqual(t, old, c.healthy(t, old))
	require.NoError(t, read())
}

// TestEtcdCutOffClosesNothing is row W7 at all nodes: etcd's ports are cut
// everywhere, the members see each other, and every route goes on (I9).
func TestEtcdCutOffClosesNothing(t *testing.T) {
	c := borrow(t)
	primary := c.healthy(t, c.Nodes[0].Name)
	var ways []*sql.DB
	for _, n := range c.info.Nodes {
		ways = append(ways, c.open(t, n.Agent.RW))
	}
	_, err := ways[0].ExecContext(t.Context(), "CREATE TABLE IF NOT EXISTS etcd_cut (id INT AUTO_INCREMENT PRIMARY KEY)")
	require.NoError(t, err)
	var drops []nethost.Drop
	for i, n := range c.Nodes {
		h, p := network.Hosts()[i], n.Ports
		drops = append(drops, nethost.Drop{At: h, In: true, Out: true, Ports: []int{p.EtcdClient, p.EtcdPeer}})
	}
	cut, err := network.Cut(t.Context(), drops...)
	require.NoError(t, err)
	defer func() { require.NoError(t, cut.Heal(context.Background())) }()
	await(t, "etcd to be out of reach", func() (bool, string) { v := c.view(t, primary); return !v.EtcdReachable, "it answers" })
	for began := time.Now(); time.Since(began) < 8*time.Second; {
		for i, way := range ways {
			_, err := way.ExecContext(t.Context(), "INSERT INTO etcd_cut VALUES ()")
			require.NoError(t, err, "by the route of %s", c.Nodes[i].Name)
		}
		<-time.After(200 * time.Millisecond)
	}
	for _, n := range c.Nodes {
		status, text, err := c.get(n.Name, "/ready")
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, text)
	}
}
