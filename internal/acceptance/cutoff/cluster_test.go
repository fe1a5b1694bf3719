package cutoff

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"interrex/failover/api"
	"interrex/internal/alonetest"
	"interrex/internal/nethost"
	"interrex/internal/sandbox"
)

// patience is how long tests wait for what must come; on a machine that does
// nothing else it takes a small part of it.
const patience = 3 * time.Minute

// cluster is a sandbox whose nodes are hosts of the network.
type cluster struct {
	sandbox.Cluster
	info sandbox.Info
	http *http.Client
}

// shared is the cluster of three that tests hand to one another; nil before the
// first, and after one that failed.
var shared *cluster

// borrow returns a healthy cluster. A test that fails does not hand it on.
func borrow(t *testing.T) *cluster {
	t.Helper()
	alonetest.Beside(t)
	if shared == nil {
		shared = up(t, 3)
	}
	c := shared
	t.Cleanup(func() {
		if t.Failed() {
			c.dump(t)
			shared = nil
			require.NoError(t, c.down())
		}
	})
	return c
}

// endShared makes room for a cluster of another size.
func endShared(t *testing.T) {
	t.Helper()
	if shared != nil {
		c := shared
		shared = nil
		require.NoError(t, c.down())
	}
}

// up brings up a cluster of the first hosts.
func up(t *testing.T, nodes int) *cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "interrex-cutoff-") // short: sockets are in it
	require.NoError(t, err)
	var hosts []sandbox.Host
	for _, h := range network.Hosts()[:nodes] {
		hosts = append(hosts, sandbox.Host{Address: h.Address, Enter: h.Enter()})
	}
	_, err = sandbox.Plan(t.Context(), filepath.Join(dir, "c"), hosts)
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), os.Getenv(programVariable), "sandbox", "up", "--dir", filepath.Join(dir, "c")).CombinedOutput()
	require.NoError(t, err, "%s", out)
	c := &cluster{}
	c.Cluster, err = sandbox.Load(filepath.Join(dir, "c"))
	require.NoError(t, err)
	c.info, err = sandbox.ReadInfo(c.Dir())
	require.NoError(t, err)
	c.http, err = c.HTTPClient()
	require.NoError(t, err)
	return c
}

// down ends the cluster and removes its folder.
func (c *cluster) down() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(c.Down(ctx), os.RemoveAll(filepath.Dir(c.Dir())))
}

func (c *cluster) dump(t *testing.T) {
	for _, n := range c.info.Nodes {
		for _, file := range []string{n.Agent.LogFile, filepath.Join(c.Nodes[c.index(n.Name)].AgentDataDir(), "etcd.log")} {
			text, err := os.ReadFile(file)
			if err != nil {
				continue
			}
			lines := strings.Split(string(text), "\n")
			t.Logf("%s of %s:\n%s", filepath.Base(file), n.Name, strings.Join(lines[max(0, len(lines)-100):], "\n"))
		}
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
	began, tick := time.Now(), time.NewTicker(100*time.Millisecond)
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

// host is where a node's server and agent run.
func (c *cluster) host(name string) *nethost.Host { return network.Hosts()[c.index(name)] }

// apart cuts a node from others, both ways, and not from this process.
func (c *cluster) apart(name string, from ...string) []nethost.Drop {
	return c.drops(nethost.Drop{At: c.host(name), In: true, Out: true}, from...)
}

// drops is a drop for each of some peers.
func (c *cluster) drops(d nethost.Drop, peers ...string) (drops []nethost.Drop) {
	for _, p := range peers {
		d.Peer = c.host(p).Address
		drops = append(drops, d)
	}
	return drops
}

// cut drops packets until heal, or the end of the test.
func (c *cluster) cut(t *testing.T, drops ...nethost.Drop) (heal func()) {
	t.Helper()
	cut, err := network.Cut(t.Context(), drops...)
	require.NoError(t, err)
	return once(t, cut.Heal)
}

// delay makes packets late until heal, or the end of the test.
func (c *cluster) delay(t *testing.T, delays ...nethost.Delay) (heal func()) {
	t.Helper()
	slow, err := network.Delay(t.Context(), delays...)
	require.NoError(t, err)
	return once(t, slow.Heal)
}

// once is for what is done by the test or, at the latest, at its end.
func once(t *testing.T, do func(context.Context) error) func() {
	var first sync.Once
	once := func() { first.Do(func() { require.NoError(t, do(context.Background())) }) }
	t.Cleanup(once)
	return once
}
