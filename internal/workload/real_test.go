package workload_test

import (
	"context"
	"database/sql"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/porttest"
	"interrex/internal/sandbox/mysqld"
	"interrex/internal/sandbox/mysqld/mysqldtest"
	"interrex/internal/workload"
)

const patience = 30 * time.Second

func start(t *testing.T) (*mysqld.Server, *sql.DB) {
	t.Helper()
	server := mysqldtest.Start(t, []string{
		"CREATE USER 'tester'@'%' IDENTIFIED BY 'tester'", "GRANT ALL ON *.* TO 'tester'@'%'", "CREATE DATABASE app",
	}, 7)
	db, err := sql.Open("mysql", "tester:tester@tcp("+server.Addr+")/app")
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	exec(t, db, "SET GLOBAL super_read_only = OFF")
	exec(t, db, "SET GLOBAL read_only = OFF")
	return server, db
}

func exec(t *testing.T, db *sql.DB, statement string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := db.ExecContext(ctx, statement)
	require.NoError(t, err, statement)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, patience, time.Millisecond, what)
}

// TestWhatClientsSawAgainstARealServer takes the server through a pause, a
// refusal and a frozen answer, then falsifies the table.
func TestWhatClientsSawAgainstARealServer(t *testing.T) {
	server, db := start(t)
	// One route of two leads nowhere; no writer notices.
	nowhere := porttest.Address(t)
	w, err := workload.Start(t.Context(), workload.Config{
		Address: nowhere + "," + server.Addr, User: "tester", Password: "tester", Database: "app",
		Table: "ledger", Writers: 3, Pause: time.Millisecond, Timeout: 500 * time.Millisecond,
	})
	require.NoError(t, err)
	eventually(t, "writes flow", func() bool { return w.Acknowledged() > 50 })

	// Frozen for longer than an attempt waits: no answer, though the rows may
	// be written when it goes on.
	frozen := time.Now()
	require.NoError(t, server.Freeze())
	time.Sleep(700 * time.Millisecond)
	require.NoError(t, server.Thaw())
	thawed := time.Now()
	before := w.Acknowledged()
	eventually(t, "writes go on", func() bool { return w.Acknowledged() > before+50 })

	// Refused: the server is closed for a while.
	exec(t, db, "SET GLOBAL super_read_only = ON")
	time.Sleep(50 * time.Millisecond)
	exec(t, db, "SET GLOBAL super_read_only = OFF")
	before = w.Acknowledged()
	eventually(t, "writes go on", func() bool { return w.Acknowledged() > before+50 })
	r := w.Stop()

	outage := r.LongestOutage(frozen, thawed)
	require.GreaterOrEqual(t, outage.Length(), 690*time.Millisecond)
	require.WithinRange(t, outage.From, r.Began(), frozen.Add(50*time.Millisecond))
	require.Positive(t, r.Unknown(), "errors: %v", r.Errors)
	require.Positive(t, r.Refused(), "errors: %v", r.Errors)

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := r.Verify(ctx, server.Addr)
	require.NoError(t, err)
	require.Empty(t, c.Lost)
	require.Empty(t, c.Ghosts)
	require.Equal(t, r.Acknowledged()+c.Settled, c.Present)

	// Now the table lies: an acknowledged row is gone, every refused and
	// unknown one is there.
	exec(t, db, "DELETE FROM ledger WHERE writer = 1 AND number = 3")
	last := 0
	require.NoError(t, db.QueryRowContext(ctx, "SELECT MAX(number) FROM ledger").Scan(&last))
	for writer := range 3 {
		var values []string
		for n := range last + 100 {
			values = append(values, fmt.Sprintf("(%d,%d)", writer, n))
		}
		exec(t, db, "INSERT IGNORE INTO ledger (writer, number) VALUES "+strings.Join(values, ","))
	}
	exec(t, db, "DELETE FROM ledger WHERE writer = 1 AND number = 3")
	c, err = r.Verify(ctx, server.Addr)
	require.NoError(t, err)
	require.Equal(t, []string{"writer 1 row 3"}, c.Lost)
	require.Len(t, c.Ghosts, r.Refused())
	require.Equal(t, r.Unknown(), c.Settled)

	require.NoError(t, r.Drop(ctx, server.Addr))
	_, err = r.Verify(ctx, server.Addr)
	require.ErrorContains(t, err, "doesn't exist")
}

func TestLeftoversAreDropped(t *testing.T) {
	server, db := start(t)
	c := workload.Config{Address: server.Addr, User: "tester", Password: "tester", Database: "app", Table: "drill_runs", Writers: 1}
	w, err := workload.Start(t.Context(), c)
	require.NoError(t, err)
	eventually(t, "writes flow", func() bool { return w.Acknowledged() > 5 })
	for _, table := range []string{"drill_left", "drillxleft", "drill_empty"} {
		exec(t, db, "CREATE TABLE "+table+" LIKE drill_runs")
	}
	exec(t, db, "INSERT INTO drill_left (writer, number, at) VALUES (0, 0, NOW(6) - INTERVAL 1 HOUR)")
	there := func() (names []string) {
		rows, err := db.Query("SHOW TABLES")
		require.NoError(t, err)
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			var name string
			require.NoError(t, rows.Scan(&name))
			names = append(names, name)
		}
		require.NoError(t, rows.Err())
		return names
	}
	require.NoError(t, workload.DropLeftovers(t.Context(), c, "drill_", time.Hour))
	require.Len(t, there(), 4, "none of them is an hour old")
	time.Sleep(1500 * time.Millisecond) // the age of a table is known to the second
	require.NoError(t, workload.DropLeftovers(t.Context(), c, "drill_", time.Second))
	require.Equal(t, []string{"drill_runs", "drillxleft"}, there())
	before := w.Acknowledged()
	eventually(t, "writes go on", func() bool { return w.Acknowledged() > before })
	require.Zero(t, w.Stop().Refused())
}

func TestWorkloadThatCannotBeginSaysWhy(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close() // takes connections and says nothing
	_, err = workload.Start(t.Context(), workload.Config{Address: listener.Addr().String(), Table: "x", Timeout: 50 * time.Millisecond})
	require.ErrorContains(t, err, "make table x")
}
