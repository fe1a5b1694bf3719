package cutoff

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"interrex/failover/api"
	"interrex/internal/nethost"
	"interrex/internal/sandbox"
)

const patience = 90 * time.Second

// cluster is a sandbox whose nodes are hosts of the network.
type cluster struct {
	sandbox.Cluster
	info sandbox.Info
	http *http.Client
}

func up(t *testing.T) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "interrex-cutoff-") // short: sockets are in it
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var hosts []sandbox.Host
	for _, h := range network.Hosts() {
		hosts = append(hosts, sandbox.Host{Address: h.Address, Enter: h.Enter()})
	}
	_, err = sandbox.Plan(t.Context(), filepath.Join(dir, "c"), hosts)
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), os.Getenv(programVariable), "sandbox", "up", "--dir", filepath.Join(dir, "c")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	c := &cluster{}
	c.Cluster, err = sandbox.Load(filepath.Join(dir, "c"))
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			c.dump(t)
		}
		require.NoError(t, c.Down(ctx))
	})
	c.info, err = sandbox.ReadInfo(c.Dir())
	require.NoError(t, err)
	c.http, err = c.HTTPClient()
	require.NoError(t, err)
	return c
}

func (c *cluster) dump(t *testing.T) {
	for _, n := range c.info.Nodes {
		text, err := os.ReadFile(n.Agent.LogFile)
		if err != nil {
			continue
		}
		lines := strings.Split(string(text), "\n")
		t.Logf("%s:\n%s", n.Name, strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

func (c *cluster) index(name string) int {
	return slices.IndexFunc(c.Nodes, func(n sandbox.Node) bool { return n.Name == name })
}

// get asks an agent's API.
func (c *cluster) get(name, path string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.Nodes[c.index(name)].APIBase()+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

func (c *cluster) view(t *testing.T, name string) (v api.Cluster) {
	t.Helper()
	_, text, err := c.get(name, "/api/v1/cluster")
	if err == nil {
		_ = json.Unmarshal([]byte(text), &v)
	}
	return v
}

// await waits until look is satisfied, and returns how long that took.
func await(t *testing.T, what string, look func() (bool, string)) time.Duration {
	t.Helper()
	began, tick := time.Now(), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for {
		done, state := look()
		if done {
			return time.Since(began)
		}
		if time.Since(began) > patience {
			require.FailNow(t, "waited in vain for "+what, "%s", state)
		}
		<-tick.C
	}
}

// healthy waits until a node finds the cluster healthy, and names the primary.
func (c *cluster) healthy(t *testing.T, by string) string {
	t.Helper()
	var v api.Cluster
	await(t, "a healthy cluster", func() (bool, string) {
		v = c.view(t, by)
		return v.Status == api.StatusHealthy, fmt.Sprint(v.Status, v.Reasons)
	})
	return string(v.Primary.Node)
}

func (c *cluster) others(name string) (out []string) {
	for _, n := range c.Nodes {
		if n.Name != name {
			out = append(out, n.Name)
		}
	}
	return out
}

// open is an application's way to an address; no connection is kept.
func (c *cluster) open(t *testing.T, address string) *sql.DB {
	t.Helper()
	app := c.info.Nodes[0].MySQL
	m := mysql.NewConfig()
	m.Net, m.Addr, m.User, m.Passwd, m.DBName = "tcp", address, app.AppUser, app.AppPassword, app.AppDatabase
	m.Timeout, m.ReadTimeout = 2*time.Second, 2*time.Second
	m.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(m)
	require.NoError(t, err)
	db := sql.OpenDB(connector)
	db.SetMaxIdleConns(0)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// cutOff cuts a host off from the other hosts, not from this process.
func (c *cluster) cutOff(t *testing.T, name string) (heal func()) {
	t.Helper()
	hosts := network.Hosts()
	at := hosts[c.index(name)]
	var drops []nethost.Drop
	for _, h := range hosts {
		if h != at {
			drops = append(drops, nethost.Drop{At: at, In: true, Out: true, Peer: h.Address})
		}
	}
	cut, err := network.Cut(t.Context(), drops...)
	require.NoError(t, err)
	healed := false
	heal = func() {
		if !healed {
			healed = true
			require.NoError(t, cut.Heal(context.Background()))
		}
	}
	t.Cleanup(heal)
	return heal
}

// TestPrimaryCutOff is row W1: the primary's host is cut off from the others,
// and clients still reach it. The majority promotes another server; the old
// node closes its read-write route, refuses reads after their limit, says so, and
// opens to the new primary by itself when the cut heals.
func TestPrimaryCutOff(t *testing.T) {
	c := up(t)
	old := c.healthy(t, c.Nodes[0].Name)
	watch := c.others(old)[0]
	rw, ro := c.open(t, c.info.Nodes[c.index(old)].Agent.RW), c.open(t, c.info.Nodes[c.index(old)].Agent.RO)
	_, err := rw.ExecContext(t.Context(), "CREATE TABLE cut (id INT PRIMARY KEY)")
	require.NoError(t, err)
	_, err = rw.ExecContext(t.Context(), "INSERT INTO cut VALUES (1)")
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

	heal := c.cutOff(t, old)
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
	require.NoError(t, read(), "reads go on for a while")
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
	require.Less(t, refused, 20*time.Second)
	require.Greater(t, refused, 9*time.Second)

	heal()
	back := await(t, "the old node's route to the new primary", func() (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := rw.ExecContext(ctx, "INSERT INTO cut VALUES (2)")
		return err == nil, fmt.Sprint(err)
	})
	t.Logf("a write by the old node's route %.1f s after the cut healed", back.Seconds())
	require.NotEqual(t, old, c.healthy(t, old))
	require.NoError(t, read())
}

// TestEtcdCutOffClosesNothing is row W7 at all nodes: etcd's ports are cut
// everywhere, the members see each other, and every route goes on (I9).
func TestEtcdCutOffClosesNothing(t *testing.T) {
	c := up(t)
	primary := c.healthy(t, c.Nodes[0].Name)
	var ways []*sql.DB
	for _, n := range c.info.Nodes {
		ways = append(ways, c.open(t, n.Agent.RW))
	}
	_, err := ways[0].ExecContext(t.Context(), "CREATE TABLE cut (id INT AUTO_INCREMENT PRIMARY KEY)")
	require.NoError(t, err)
	var drops []nethost.Drop
	for i, h := range network.Hosts() {
		p := c.Nodes[i].Ports
		drops = append(drops, nethost.Drop{At: h, In: true, Out: true, Ports: []int{p.EtcdClient, p.EtcdPeer}})
	}
	cut, err := network.Cut(t.Context(), drops...)
	require.NoError(t, err)
	defer func() { require.NoError(t, cut.Heal(context.Background())) }()
	await(t, "etcd to be out of reach", func() (bool, string) { v := c.view(t, primary); return !v.EtcdReachable, "it answers" })
	for began := time.Now(); time.Since(began) < 15*time.Second; {
		for i, way := range ways {
			_, err := way.ExecContext(t.Context(), "INSERT INTO cut VALUES ()")
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
