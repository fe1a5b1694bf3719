package proxy

import (
	"bytes"
	"context"
	"database/sql"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"interrex/internal/sandbox/mysqld"
	"interrex/internal/sandbox/mysqld/mysqldtest"
	"interrex/internal/topology"
	"interrex/router"
)

// startMySQL starts a writable server with a backlog so small that a crowd of
// clients released at once would overflow it.
func startMySQL(t testing.TB, id uint32) (*mysqld.Server, router.Backend) {
	t.Helper()
	server := mysqldtest.Start(t, []string{
		"CREATE USER 'tester'@'%' IDENTIFIED BY 'tester'",
		"GRANT ALL ON *.* TO 'tester'@'%' WITH GRANT OPTION",
	}, id, "--super-read-only=OFF", "--read-only=OFF", "--max-connections=1100", "--back-log=50")
	return server, router.Backend{Node: topology.NodeName(rune('a' + id - 1)), Address: server.Addr}
}

func openDB(t testing.TB, address string) *sql.DB {
	t.Helper()
	cfg := mysql.NewConfig()
	cfg.User, cfg.Passwd, cfg.Net, cfg.Addr = "tester", "tester", "tcp", address
	cfg.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(cfg)
	require.NoError(t, err)
	db := sql.OpenDB(connector)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func serverID(ctx context.Context, t testing.TB, q interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}) (id int) {
	t.Helper()
	require.NoError(t, q.QueryRowContext(ctx, "SELECT @@server_id").Scan(&id))
	return id
}

func TestMySQL(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	first, a := startMySQL(t, 1)
	second, b := startMySQL(t, 2)

	t.Run("errors are those of a server", func(t *testing.T) {
		r := startRig(t, func(c *Config) { c.HoldTime = 50 * time.Millisecond })
		r.closed(7)
		err := openDB(t, r.proxy.Address(ReadWrite)).PingContext(ctx)
		var refused *mysql.MySQLError
		require.ErrorAs(t, err, &refused)
		require.EqualValues(t, 3168, refused.Number)
		require.Contains(t, refused.Message, "epoch 7")
		require.Contains(t, refused.Message, "failover")
		require.Equal(t, serversOwnRefusal(ctx, t, second), errorPacket(codeTooManyConnections, "Too many connections"))
	})

	t.Run("drain keeps transactions", func(t *testing.T) {
		r := startRig(t, nil)
		r.open(1, a)
		db := openDB(t, r.proxy.Address(ReadWrite))
		tx, err := db.BeginTx(ctx, nil)
		require.NoError(t, err)
		r.drain(2, a)
		require.Equal(t, 1, serverID(ctx, t, tx))
		require.NoError(t, tx.Commit())
		r.open(2, b)
		require.Eventually(t, func() bool { return r.stats(ReadWrite).Cut == 1 }, deadline, time.Millisecond)
		require.Equal(t, 2, serverID(ctx, t, db))
	})

	t.Run("frozen server", func(t *testing.T) {
		r := startRig(t, nil)
		r.open(1, a)
		require.NoError(t, first.Signal(syscall.SIGSTOP))
		defer func() { require.NoError(t, first.Signal(syscall.SIGCONT)) }()
		expectMove(ctx, t, r, b)
	})

	t.Run("crowd is released at once", func(t *testing.T) { releaseCrowd(t, b) })

	t.Run("killed server", func(t *testing.T) { // the last: it stays dead
		r := startRig(t, nil)
		r.open(1, a)
		db := openDB(t, r.proxy.Address(ReadWrite))
		conn, err := db.Conn(ctx)
		require.NoError(t, err)
		require.Equal(t, 1, serverID(ctx, t, conn))
		require.NoError(t, first.Kill())
		require.Error(t, conn.PingContext(ctx), "its session died with it")
		_ = conn.Close() // broken
		require.Eventually(t, func() bool { return r.brokenCalls("a") > 0 }, deadline, time.Millisecond)
		expectMove(ctx, t, r, b)
	})
}

// expectMove has a client come while the route leads to a server that does not
// answer, and be served by the other once the route moves.
func expectMove(ctx context.Context, t *testing.T, r *rig, to router.Backend) {
	t.Helper()
	served := make(chan int, 1)
	db := openDB(t, r.proxy.Address(ReadWrite))
	var wg sync.WaitGroup
	wg.Go(func() { served <- serverID(ctx, t, db) })
	r.until(ReadWrite, "held", func(s PortStats) bool { return s.Held == 1 })
	r.closed(2)
	began := time.Now()
	r.open(2, to)
	wg.Wait()
	require.Equal(t, 2, <-served)
	t.Logf("first answer %s after the route opened", time.Since(began))
}

// releaseCrowd holds as many clients as are held by default, and has them all
// greeted by a real server when the route opens.
func releaseCrowd(t *testing.T, to router.Backend) {
	const crowd = 1000
	r := startRig(t, nil)
	var guests []*guest
	for range crowd {
		guests = append(guests, r.dial(ReadWrite))
	}
	r.until(ReadWrite, "held", func(s PortStats) bool { return s.Held == crowd })
	took := make([]time.Duration, crowd)
	began := time.Now()
	r.open(1, to)
	var wg sync.WaitGroup
	for i, g := range guests {
		wg.Go(func() {
			greeting := make([]byte, 5)
			if _, err := io.ReadFull(g, greeting); err != nil || greeting[4] != 10 {
				t.Errorf("client %d: greeting %x: %v", i, greeting, err)
			}
			took[i] = time.Since(began)
		})
	}
	wg.Wait()
	slices.Sort(took)
	t.Logf("first byte after the route opened: first %s, median %s, last %s", took[0], took[crowd/2], took[crowd-1])
	require.Less(t, took[crowd-1], 10*time.Second)
	for _, g := range guests {
		require.NoError(t, g.Close())
	}
}

// serversOwnRefusal is what a real server answers with when it is full.
func serversOwnRefusal(ctx context.Context, t *testing.T, server *mysqld.Server) []byte {
	t.Helper()
	db := openDB(t, server.Addr)
	conn, err := db.Conn(ctx)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = conn.ExecContext(ctx, "SET GLOBAL max_connections = 1")
	require.NoError(t, err)
	defer func() {
		_, err := conn.ExecContext(ctx, "SET GLOBAL max_connections = 1100")
		require.NoError(t, err)
	}()
	var packet []byte
	require.Eventually(t, func() bool { // one more is let in, for an administrator
		raw, err := net.Dial("tcp", server.Addr)
		require.NoError(t, err)
		t.Cleanup(func() { _ = raw.Close() })
		require.NoError(t, raw.SetReadDeadline(time.Now().Add(time.Second)))
		packet, _ = io.ReadAll(raw) // a deadline for the one let in
		return bytes.Contains(packet, []byte("Too many"))
	}, deadline, time.Millisecond)
	return packet
}
