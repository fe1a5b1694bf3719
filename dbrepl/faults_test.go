package dbrepl_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
	"interrex/internal/topology"
)

// closingHangs: while commits wait, the statement that closes the server does,
// too, although the variable reads ON already. That is no proof and is not taken
// for one, and a closing that was given up does not take effect later.
func closingHangs(t *testing.T, c *cluster) {
	c.establish(t, 1)
	c.write(t, c.a, 1)
	for _, n := range []*node{c.b, c.c} {
		_, _, _, err := n.Freeze(limited(t, patience))
		require.NoError(t, err)
	}
	answers := c.waiting(t, c.a, 2)
	closed := make(chan error, 1)
	go func() {
		_, _, err := c.a.CloseWrites(limited(t, patience), 50*time.Millisecond, 3*time.Second)
		closed <- err
	}()
	var reads bool
	c.a.until(t, "reads as closed", func(dbrepl.Status) bool {
		require.NoError(t, c.a.root.QueryRowContext(t.Context(), "SELECT @@global.super_read_only").Scan(&reads))
		return reads
	})
	select {
	case err := <-closed:
		require.Fail(t, "closed while commits wait", "%v", err)
	default:
	}
	require.ErrorIs(t, answer(t, closed), dbrepl.ErrCloseTimedOut)
	require.True(t, c.a.status(t).Writable())
	for _, ch := range answers {
		require.Error(t, answer(t, ch), "a session that was ended is not told of a success")
	}
	require.NoError(t, c.b.Follow(limited(t, patience), dbrepl.FollowSpec{Host: c.a.host, Port: c.a.port, Acker: true}))
	time.Sleep(300 * time.Millisecond) // for a statement that was only forgotten
	require.True(t, c.a.status(t).Writable(), "the closing that was given up has taken effect")
	c.write(t, c.a, 1)
}

// damagedRelayLog: a bit of what a candidate has received is flipped. It cannot
// catch up, says so, and skips nothing.
func damagedRelayLog(t *testing.T, c *cluster) {
	c.establish(t, 1)
	c.write(t, c.a, 5)
	all := c.a.status(t).Executed
	c.b.until(t, "has executed all", func(s dbrepl.Status) bool { return s.Executed.Contains(all) })
	c.b.exec(t, "STOP REPLICA SQL_THREAD")
	c.write(t, c.a, 20)
	all = c.a.status(t).Executed
	c.b.until(t, "has received all", func(s dbrepl.Status) bool { return s.Received.Contains(all) })
	_, received, unapplied, err := c.b.Freeze(limited(t, patience))
	require.NoError(t, err)
	require.EqualValues(t, 20, unapplied)

	files, err := filepath.Glob(filepath.Join(c.b.spec.Dir, "data", "relay.[0-9]*"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	slices.Sort(files)
	damaged := ""
	for _, file := range slices.Backward(files) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		if len(text) < 4096 {
			continue // what follows the events
		}
		text[len(text)-700] ^= 4
		require.NoError(t, os.WriteFile(file, text, 0o600))
		damaged = file
		break
	}
	require.NotEmpty(t, damaged, "%v", files)

	_, err = c.b.CatchUp(limited(t, patience), received, patience)
	t.Logf("%s: %v", filepath.Base(damaged), err)
	require.ErrorIs(t, err, dbrepl.ErrApplierStopped)
	s := c.b.status(t)
	require.NotEmpty(t, s.Source.ApplierError)
	require.False(t, s.Executed.Contains(received))
	require.Equal(t, int(20-s.Received.Minus(s.Executed).Count())+5, c.b.rows(t), "a row for each executed transaction, none left out")
}

// crashWhileRetiring: a server that dies while it forgets its source follows
// again, whatever half of that was done.
func crashWhileRetiring(t *testing.T, c *cluster) {
	c.establish(t, 1)
	follow := dbrepl.FollowSpec{Host: c.a.host, Port: c.a.port, Acker: true}
	for round := range 10 {
		require.NoError(t, c.b.Follow(limited(t, patience), follow), "round %d", round)
		c.b.until(t, "acknowledges", acking)
		retired := make(chan struct{})
		go func() {
			defer close(retired)
			_ = c.b.Retire(limited(t, patience)) // it cannot succeed, unless it is over
		}()
		time.Sleep(time.Duration(round) * 700 * time.Microsecond) // it takes a few milliseconds
		c.b.restart(c.t)
		<-retired
	}
	require.NoError(t, c.b.Follow(limited(t, patience), follow))
	c.b.until(t, "acknowledges", acking)
}

// privilegedWriter: an account that read_only does not bind is refused by what
// replicas have.
func privilegedWriter(t *testing.T, c *cluster) {
	c.establish(t, 1)
	for _, statement := range []string{"INSERT INTO app.t VALUES (1, 'stray')", "CREATE TABLE app.stray (id INT)"} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := c.b.root.ExecContext(ctx, statement)
		cancel()
		require.ErrorContains(t, err, "--super-read-only", statement)
	}
}

// unfinishedTransaction: a primary dies while a large transaction is on its
// way, and the replica that follows it in office holds half of it. Its applier
// has executed that half: its locks are nobody's who could release them, and a
// stop waits a minute for the rest (SLAVE_WAIT_GROUP_DONE in the server's
// sql/rpl_replica.cc). Retire ends that, and so does Isolate.
func unfinishedTransaction(t *testing.T, c *cluster) {
	halfwayInOffice(t, c)
	began := time.Now()
	require.NoError(t, c.b.Retire(limited(t, 20*time.Second)))
	t.Logf("retired after %v", time.Since(began))
	_, err := c.b.app.ExecContext(limited(t, 20*time.Second), "UPDATE app.large SET v = 'z'")
	require.NoError(t, err, "no row is locked")
	t.Logf("rows written after %v", time.Since(began))

	halfwayInOffice(t, c)
	began = time.Now()
	if err := c.b.Isolate(limited(t, 20*time.Second)); err != nil {
		require.ErrorContains(t, err, "You are not owner of thread", "root's session, which is this test's")
	}
	t.Logf("isolated after %v", time.Since(began))
	require.True(t, c.b.status(t).SuperReadOnly)

	// It is as good as any, for the same office and for another's.
	executed, received, unapplied, err := c.b.Freeze(limited(t, patience))
	require.NoError(t, err)
	require.Zero(t, unapplied)
	_, err = c.b.CatchUp(limited(t, patience), received, patience)
	require.NoError(t, err)
	require.True(t, executed.Contains(received))
	_, err = c.b.WriteMarker(limited(t, patience), topology.Marker{Epoch: 3, Node: "b", At: time.Now()}, 1)
	require.NoError(t, err)
	require.NoError(t, c.b.OpenWrites(limited(t, patience), 1))
	require.NoError(t, c.b.Retire(limited(t, 20*time.Second)))
	_, err = c.b.app.ExecContext(limited(t, 20*time.Second), "UPDATE app.large SET v = 'z'")
	require.NoError(t, err)
}

// halfwayInOffice makes b the primary, not yet retired, that has executed half of
// an UPDATE of app.large.
func halfwayInOffice(t *testing.T, c *cluster) {
	c.establish(t, 1)
	c.a.exec(t, "DROP TABLE IF EXISTS app.large", "CREATE TABLE app.large (id INT PRIMARY KEY, v LONGBLOB)",
		"INSERT INTO app.large WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 30) SELECT id, REPEAT('x', 1 << 20) FROM n")
	before := c.a.status(t).Executed
	c.b.until(t, "has the rows", func(s dbrepl.Status) bool { return s.Executed.Contains(before) })
	_, _, _, err := c.c.Freeze(limited(t, patience))
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	updated := make(chan error, 1)
	go func() {
		_, err := c.a.app.ExecContext(ctx, "UPDATE app.large SET v = REPEAT('y', 1 << 20)")
		updated <- err
	}()
	begun := limited(t, patience)
	for locks := 0; locks == 0; { // until b has executed a row of it
		require.NoError(t, c.b.root.QueryRowContext(begun, `SELECT COUNT(*) FROM performance_schema.data_locks
			WHERE object_name = 'large' AND lock_type = 'RECORD'`).Scan(&locks))
	}
	require.NoError(t, c.a.server.Signal(syscall.SIGSTOP))
	executed, received, unapplied, err := c.b.Freeze(limited(t, patience))
	require.NoError(t, err)
	require.Zero(t, unapplied, "the transaction is to be cut short, and was received whole")
	require.Equal(t, before, executed)
	require.Equal(t, before, received)
	require.NoError(t, c.a.server.Kill())
	cancel()
	require.Error(t, <-updated)

	require.NoError(t, c.b.Arm(limited(t, patience), 1))
	require.NoError(t, c.c.Follow(limited(t, patience), dbrepl.FollowSpec{Host: c.b.host, Port: c.b.port, Acker: true}))
	_, err = c.b.WriteMarker(limited(t, patience), topology.Marker{Epoch: 2, Node: "b", At: time.Now()}, 1)
	require.NoError(t, err)
	require.NoError(t, c.b.OpenWrites(limited(t, patience), 1))
}
