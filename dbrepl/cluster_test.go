package dbrepl_test

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"interrex/dbrepl"
	"interrex/internal/sandbox/mysqld"
	"interrex/internal/sandbox/mysqld/mysqldtest"
	"interrex/internal/topology"
)

// patience is for what happens on any machine in the end.
const patience = time.Minute

var accounts = dbrepl.GrantSpec{
	Controller: dbrepl.Account{User: "controller", Host: "%", Password: `con'tr\oller`},
	Repl: []dbrepl.Account{
		{User: "replication_a", Host: "%", Password: "repl'ica"},
		{User: "replication_b", Host: "%", Password: "repl'ica"},
		{User: "replication_c", Host: "%", Password: "repl'ica"},
	},
	Clone: []dbrepl.Account{{User: "cloner", Host: "%", Password: "clo'ne"}},
}

// initSQL prepares servers with exactly what Grants says, and an application.
func initSQL() []string {
	return append(dbrepl.Grants(accounts),
		"CREATE USER 'app'@'%' IDENTIFIED BY 'app'",
		"CREATE SCHEMA app",
		"CREATE TABLE app.t (id BIGINT PRIMARY KEY, v VARCHAR(64))",
		"GRANT ALL ON app.* TO 'app'@'%'",
	)
}

// node is one real server, its controller, and the views of others on it.
type node struct {
	*dbrepl.Instance
	name   string
	spec   mysqld.Spec
	server *mysqld.Server
	host   string
	port   int
	root   *sql.DB // for what only a test does
	app    *sql.DB // as a client over TCP
}

// newNode starts a server and opens its instance. logs go to t.
func newNode(t *testing.T, name string, id uint32, args ...string) *node {
	t.Helper()
	n := &node{name: name, spec: mysqldtest.NewSpec(t, initSQL(), id, args...)}
	n.server = mysqldtest.Run(t, n.spec)
	host, port, err := net.SplitHostPort(n.server.Addr)
	require.NoError(t, err)
	n.host = host
	n.port, err = strconv.Atoi(port)
	require.NoError(t, err)
	n.Instance = open(t, n.config(t))
	n.root = connect(t, "unix", n.server.Socket, "root", "")
	n.app = connect(t, "tcp", n.server.Addr, "app", "app")
	return n
}

func (n *node) config(t *testing.T) dbrepl.Config {
	t.Helper()
	cfg := dbrepl.DefaultConfig()
	cfg.Address, cfg.AdminAddress = n.server.Addr, n.server.AdminAddr
	cfg.User, cfg.Password = accounts.Controller.User, accounts.Controller.Password
	cfg.ReplUser, cfg.ReplPassword = "replication_"+n.name, accounts.Repl[0].Password
	cfg.ConnectTimeout, cfg.QueryTimeout = 5*time.Second, 5*time.Second
	cfg.MysqlBinlog = mysqldtest.Distribution(t).Command("mysqlbinlog")
	return cfg
}

func open(t *testing.T, cfg dbrepl.Config) *dbrepl.Instance {
	t.Helper()
	i, err := dbrepl.Open(cfg, zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel)))
	require.NoError(t, err)
	t.Cleanup(func() { _ = i.Close() })
	return i
}

func connect(t *testing.T, network, address, user, password string) *sql.DB {
	t.Helper()
	cfg := mysql.NewConfig()
	cfg.Net, cfg.Addr, cfg.User, cfg.Passwd = network, address, user, password
	cfg.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(cfg)
	require.NoError(t, err)
	db := sql.OpenDB(connector)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func (n *node) exec(t *testing.T, statements ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := n.root.Conn(ctx)
	require.NoError(t, err)
	defer conn.Close()
	for _, statement := range statements {
		_, err := conn.ExecContext(ctx, statement)
		require.NoError(t, err, "%s: %s", n.name, statement)
	}
}

func (n *node) status(t *testing.T) dbrepl.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := n.Probe(ctx)
	require.NoError(t, err, n.name)
	return s
}

// insert writes one row as a client.
func (n *node) insert(ctx context.Context, id int) error {
	_, err := n.app.ExecContext(ctx, "INSERT INTO app.t VALUES (?, 'x')", id)
	return err
}

func (n *node) rows(t *testing.T) int {
	t.Helper()
	var rows int
	require.NoError(t, n.root.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM app.t").Scan(&rows))
	return rows
}

// until waits for a state of the node and prints the last one otherwise.
func (n *node) until(t *testing.T, what string, ok func(dbrepl.Status) bool) dbrepl.Status {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		s := n.status(t)
		if ok(s) {
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s: not within %v, last seen %+v source %+v", n.name, what, patience, s, s.Source)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func acking(s dbrepl.Status) bool {
	return s.Source != nil && s.Source.ReceiverOn && s.SemiSync.ReplicaActive
}

// restart starts the server again, on what it has.
func (n *node) restart(t *testing.T) {
	t.Helper()
	require.NoError(t, n.server.Kill())
	n.server = mysqldtest.Run(t, n.spec)
}

// cluster is three servers: a is the primary that two ackers follow.
type cluster struct {
	t       *testing.T // of the whole fixture
	a, b, c *node
	rowID   int
}

func newCluster(t *testing.T) *cluster {
	return &cluster{t: t, a: newNode(t, "a", 1), b: newNode(t, "b", 2), c: newNode(t, "c", 3)}
}

func (c *cluster) nodes() []*node { return []*node{c.a, c.b, c.c} }

// establish brings the fixture into its first state, whatever a test left: a
// open at epoch 1 with k acknowledgements, b and c following as ackers, equal
// and without rows.
func (c *cluster) establish(t *testing.T, k int) {
	t.Helper()
	for _, n := range c.nodes() {
		c.reset(t, n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, n := range []*node{c.b, c.c} {
		require.NoError(t, n.Follow(ctx, dbrepl.FollowSpec{Host: c.a.host, Port: c.a.port, Acker: true}))
	}
	require.NoError(t, c.a.Arm(ctx, k))
	_, err := c.a.WriteMarker(ctx, topology.Marker{Epoch: 1, Node: "a", At: time.Now()}, k)
	require.NoError(t, err)
	require.NoError(t, c.a.OpenWrites(ctx, k))
	require.NoError(t, c.a.Retire(ctx))
	for _, n := range []*node{c.b, c.c} {
		n.until(t, "acknowledges", acking)
	}
	c.rowID = 0
}

// reset empties a server of history and rows; one with waiting commits is
// started anew first.
func (c *cluster) reset(t *testing.T, n *node) {
	t.Helper()
	select {
	case <-n.server.Done():
		n.restart(c.t)
	default:
	}
	if n.status(t).SemiSync.WaitSessions > 0 {
		n.restart(c.t)
	}
	n.exec(t, "STOP REPLICA", "RESET REPLICA ALL", "SET GLOBAL super_read_only = OFF, GLOBAL read_only = OFF",
		"SET GLOBAL rpl_semi_sync_source_enabled = OFF, GLOBAL rpl_semi_sync_replica_enabled = OFF",
		"SET SESSION sql_log_bin = OFF", "TRUNCATE app.t", "TRUNCATE interrex.marker", "TRUNCATE interrex.nudge", "SET SESSION sql_log_bin = ON",
		resetLogs(n.status(t).Version), "SET GLOBAL super_read_only = ON")
}

func resetLogs(version string) string {
	if version < "8.4" && version[0] == '8' {
		return "RESET MASTER"
	}
	return "RESET BINARY LOGS AND GTIDS"
}

// write inserts n more rows on the primary as a client.
func (c *cluster) write(t *testing.T, on *node, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for range n {
		c.rowID++
		require.NoError(t, on.insert(ctx, c.rowID))
	}
}

// commit starts a client that commits one row; its answer comes later or
// never.
func (c *cluster) commit(t *testing.T, on *node) <-chan error {
	t.Helper()
	c.rowID++
	id := c.rowID
	answer := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	go func() {
		defer cancel()
		answer <- on.insert(ctx, id)
	}()
	return answer
}

// waiting starts n clients whose commits wait for an acknowledgement.
func (c *cluster) waiting(t *testing.T, on *node, n int) []<-chan error {
	t.Helper()
	var answers []<-chan error
	for range n {
		answers = append(answers, c.commit(t, on))
	}
	// The server counts those who wait as one where they commit as a group.
	on.until(t, fmt.Sprintf("%d commits wait", n), func(s dbrepl.Status) bool {
		return s.SemiSync.WaitSessions > 0 && s.Committing.Count() == uint64(n)
	})
	return answers
}

// answer waits for what a client is told.
func answer(t *testing.T, ch <-chan error) error {
	t.Helper()
	select {
	case err := <-ch:
		return err
	case <-time.After(patience):
		t.Fatalf("no answer within %v", patience)
		return nil
	}
}

// silent checks that none of the clients was answered.
func silent(t *testing.T, answers []<-chan error) {
	t.Helper()
	for _, ch := range answers {
		select {
		case err := <-ch:
			t.Fatalf("a commit that nobody acknowledged was answered: %v", err)
		default:
		}
	}
}
