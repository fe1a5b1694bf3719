package acceptance

import (
	"bytes"
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
	"interrex/internal/alonetest"
	"interrex/internal/sandbox"
	"interrex/internal/workload"
)

// cluster is a running sandbox.
type cluster struct {
	program string // that runs it
	dir     string
	info    sandbox.Info
	upTook  time.Duration // how long `sandbox up` took
	http    *http.Client
	bases   map[string]string // URLs of the agents' APIs, by node
	// guard holds a pipe to a process that ends the sandbox when this one is
	// gone, however it went.
	guard io.Closer
	roots map[string]*sql.DB // by node, as root on its socket
}

// shared is the sandbox that tests hand to one another; nil before the first,
// and after one that failed.
var shared *cluster

// borrow returns a healthy cluster. A test that fails does not hand it on.
func borrow(t *testing.T) *cluster {
	t.Helper()
	alonetest.Beside(t)
	if shared != nil {
		if v, err := shared.healthyWithin(patience); err != nil {
			t.Logf("the shared cluster is not healthy and is replaced: %v; %s", err, words(v))
			shared.down()
			shared = nil
		}
	}
	if shared == nil {
		shared = upIn(t, program, folder(t))
	}
	c := shared
	t.Cleanup(func() {
		c.keepLogs(t)
		if t.Failed() {
			c.dump(t)
			c.down()
			shared = nil
		}
	})
	return c
}

// own brings up a cluster for this test alone.
func own(t *testing.T, args ...string) *cluster {
	t.Helper()
	return ownIn(t, folder(t), args...)
}

// ownIn is own in a folder, where one may be planned.
func ownIn(t *testing.T, dir string, args ...string) *cluster {
	t.Helper()
	return ownOf(t, program, dir, args...)
}

// ownOf is ownIn with a program of its own.
func ownOf(t *testing.T, program, dir string, args ...string) *cluster {
	t.Helper()
	alonetest.Beside(t)
	c := upIn(t, program, dir, args...)
	t.Cleanup(func() {
		c.keepLogs(t)
		if t.Failed() {
			c.dump(t)
		}
		c.down()
	})
	return c
}

// folder is a new folder for a sandbox.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "interrex-accept-") // short: sockets are in it
	require.NoError(t, err)
	return dir
}

// upIn brings up a sandbox of three nodes as a user does, in a folder, where one
// may be planned.
func upIn(t *testing.T, program, dir string, args ...string) *cluster {
	t.Helper()
	c := &cluster{program: program, dir: dir, roots: map[string]*sql.DB{}}
	c.startGuard(t)
	began := time.Now()
	out, err := c.run(append([]string{"sandbox", "up", "--dir", dir}, args...)...)
	if err != nil {
		c.down()
	}
	require.NoError(t, err, out)
	c.upTook = time.Since(began)
	t.Logf("cluster is up after %.1f s", c.upTook.Seconds())
	c.readInfo(t)
	return c
}

func (c *cluster) readInfo(t *testing.T) {
	t.Helper()
	var err error
	c.info, err = sandbox.ReadInfo(c.dir)
	require.NoError(t, err)
	plan, err := sandbox.Load(c.dir)
	require.NoError(t, err)
	c.http, err = plan.HTTPClient()
	require.NoError(t, err)
	c.bases = map[string]string{}
	for _, n := range plan.Nodes {
		c.bases[n.Name] = n.APIBase()
	}
	for _, n := range c.info.Nodes {
		if c.roots[n.Name] == nil {
			c.roots[n.Name] = openDB(t, "unix", n.MySQL.Socket, "root", "", "", 10*time.Second)
		}
	}
}

// startGuard starts a shell that waits for its input to end, and then ends the
// sandbox: it does so also when this process was killed.
func (c *cluster) startGuard(t *testing.T) {
	t.Helper()
	guard := exec.Command("sh", "-c", `cat >/dev/null; "$0" sandbox down --dir "$1"; rm -rf "$1"`, c.program, c.dir)
	pipe, err := guard.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, guard.Start())
	c.guard = closer(func() error {
		_ = pipe.Close()
		return guard.Wait()
	})
}

type closer func() error

func (f closer) Close() error { return f() }

// down ends every process of the sandbox and removes its folder.
func (c *cluster) down() {
	for _, db := range c.roots {
		_ = db.Close()
	}
	_ = c.guard.Close()
}

// run executes the program and returns what it printed.
func (c *cluster) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, c.program, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("interrex %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// order is a sandbox command about one node: kill, start, freeze, thaw …
func (c *cluster) order(t *testing.T, command, node string) {
	t.Helper()
	said, err := c.run("sandbox", command, node, "--dir", c.dir)
	require.NoError(t, err)
	if !strings.HasSuffix(command, "-agent") { // those are for tests only
		require.Contains(t, said, node+"'s server")
	}
}

func (c *cluster) node(name string) sandbox.NodeInfo {
	i := slices.IndexFunc(c.info.Nodes, func(n sandbox.NodeInfo) bool { return n.Name == name })
	return c.info.Nodes[i]
}

// names are the nodes, but for those left out.
func (c *cluster) names(except ...string) []string {
	var names []string
	for _, n := range c.info.Nodes {
		if !slices.Contains(except, n.Name) {
			names = append(names, n.Name)
		}
	}
	return names
}

func openDB(t *testing.T, network, address, user, password, database string, limit time.Duration) *sql.DB {
	t.Helper()
	m := mysql.NewConfig()
	m.Net, m.Addr, m.User, m.Passwd, m.DBName = network, address, user, password, database
	m.Timeout, m.ReadTimeout, m.WriteTimeout = limit, limit, limit
	m.InterpolateParams = true
	m.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(m)
	require.NoError(t, err)
	db := sql.OpenDB(connector)
	db.SetMaxIdleConns(2)
	return db
}

// app is an application's connections to an address; they are closed when the
// test ends.
func (c *cluster) app(t *testing.T, address string, limit time.Duration) *sql.DB {
	t.Helper()
	m := c.info.Nodes[0].MySQL
	db := openDB(t, "tcp", address, m.AppUser, m.AppPassword, m.AppDatabase, limit)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// exec runs a statement on a node as root.
func (c *cluster) exec(t *testing.T, node, statement string) {
	t.Helper()
	_, err := c.roots[node].ExecContext(t.Context(), statement)
	require.NoError(t, err, "%s: %s", node, statement)
}

// ask reads one value from a node as root.
func (c *cluster) ask(ctx context.Context, node, query string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var value sql.NullString
	err := c.roots[node].QueryRowContext(ctx, query).Scan(&value)
	return value.String, err
}

// load writes through a node's read-write route with 8 writers, some sixty rows
// a second: enough that each fault hits commits, and no more, as the servers and
// the tests beside them share the processors. TestAlternatingKillsAndSwitchovers
// and TestEtcdGone write as fast as they are told to.
func (c *cluster) load(t *testing.T, route string) *workload.Workload {
	t.Helper()
	return c.loadAt(t, c.node(route).Agent.RW, "load", 5*time.Second)
}

func (c *cluster) loadAt(t *testing.T, address, table string, limit time.Duration) *workload.Workload {
	t.Helper()
	m := c.info.Nodes[0].MySQL
	w, err := workload.Start(context.WithoutCancel(t.Context()), workload.Config{
		Address: address, User: m.AppUser, Password: m.AppPassword, Database: m.AppDatabase,
		Table: table, Writers: 8, Timeout: limit, Pause: *pause,
	})
	require.NoError(t, err)
	t.Cleanup(func() { w.Stop() })
	return w
}

// dump prints the last warnings and errors of every agent.
func (c *cluster) dump(t *testing.T) {
	const lines = 50
	for _, n := range c.info.Nodes {
		text, err := os.ReadFile(n.Agent.LogFile)
		if err != nil {
			t.Log(err)
			continue
		}
		var bad []string
		for line := range bytes.Lines(text) {
			var entry struct{ Level string }
			if json.Unmarshal(line, &entry) != nil || entry.Level == "warn" || entry.Level == "error" {
				bad = append(bad, strings.TrimSpace(string(line)))
			}
		}
		t.Logf("%s, last warnings and errors:\n%s", n.Name, strings.Join(bad[max(0, len(bad)-lines):], "\n"))
	}
}

// keepLogs copies every agent's log to the folder that INTERREX_KEEP_LOGS
// names, if it does.
func (c *cluster) keepLogs(t *testing.T) {
	folder := os.Getenv("INTERREX_KEEP_LOGS")
	for _, n := range c.info.Nodes {
		if text, err := os.ReadFile(n.Agent.LogFile); folder != "" && err == nil {
			_ = os.WriteFile(filepath.Join(folder, t.Name()+"-"+n.Name+".log"), text, 0o600)
		}
	}
}

// patience is how long tests wait for what must come; on a machine that does
// nothing else it takes a small part of it.
const patience = 3 * time.Minute

// await waits until look is satisfied; it prints the last state seen. Who looks
// oftener keeps the agents busy with being looked at.
func await(t *testing.T, limit time.Duration, what string, look func() (done bool, state string)) time.Duration {
	t.Helper()
	began, tick := time.Now(), time.NewTicker(100*time.Millisecond)
	defer tick.Stop()
	for {
		done, state := look()
		if done {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			require.FailNow(t, "waited in vain for "+what, "after %s; last state seen: %s", limit, state)
		}
		<-tick.C
	}
}

// enough rows acknowledged one after the other say that clients are served.
const enough = 25

// rest lets time pass in which something must not happen.
func rest(d time.Duration) { <-time.After(d) }

// words is a cluster in one line.
func words(v api.Cluster) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, epoch %d, leader %s, %q", v.Status, v.Epoch, v.Leader, v.Reasons)
	if v.Primary != nil {
		fmt.Fprintf(&b, ", primary %s of epoch %d (%s, %s)", v.Primary.Node, v.Primary.Epoch, v.Primary.Phase, v.Primary.Verdict)
	}
	fmt.Fprintf(&b, ", ackers %v", v.Durability.Ackers)
	for _, m := range v.Members {
		fmt.Fprintf(&b, "; %s %s acker=%v/%v writable=%v %s %s", m.Name, m.Role, m.Acker, m.Acknowledging, m.Writable, m.Errant, m.Error)
	}
	return b.String()
}
