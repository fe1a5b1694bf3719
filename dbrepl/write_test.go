package dbrepl_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
)

// tryWrites: what a canary costs the binary log, and what it tells apart.
func tryWrites(t *testing.T, c *cluster) {
	c.establish(t, 1)
	c.write(t, c.a, 3)
	try := func(grow bool) (dbrepl.WriteOutcome, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		return c.a.TryWrite(ctx, "db-2.example", grow)
	}
	outcome, why := try(true) // makes its table where there is none
	require.Equal(t, dbrepl.Written, outcome, why)
	place := func() (position, set string) {
		var file, ignored1, ignored2 string
		require.NoError(t, c.a.root.QueryRowContext(t.Context(), "SHOW BINARY LOG STATUS").Scan(&file, &position, &ignored1, &ignored2, &set))
		return file + ":" + position, set
	}
	before, had := place()
	began := time.Now()
	const tries = 200
	for range tries {
		outcome, why = try(false)
		require.Equal(t, dbrepl.Written, outcome, why)
	}
	t.Logf("a try took %v", time.Since(began)/tries)
	for range 5 {
		outcome, why = try(true)
		require.Equal(t, dbrepl.Written, outcome, why)
	}
	after, has := place()
	require.Equal(t, before, after, "not a byte of binary log")
	require.Equal(t, had, has)

	// Behind somebody's lock: nothing is known, and nothing is left behind.
	holder, err := c.a.root.Conn(t.Context())
	require.NoError(t, err)
	defer holder.Close()
	order := func(statement string) {
		_, err := holder.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	order("FLUSH TABLES WITH READ LOCK")
	outcome, why = try(false)
	require.Equal(t, dbrepl.WriteUnknown, outcome, why)
	require.Contains(t, why, "behind a lock")
	order("UNLOCK TABLES")
	c.written(t, try)

	// It hangs for a reason that the server does not call a lock.
	order("BEGIN")
	order("SELECT * FROM interrex.canary WHERE observer = 'db-2.example' FOR UPDATE")
	for range 3 {
		outcome, why = try(false)
		require.Equal(t, dbrepl.WriteStalled, outcome, why)
	}
	var left int
	require.NoError(t, c.a.root.QueryRowContext(t.Context(),
		"SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_info LIKE 'INSERT INTO `interrex`.canary%'").Scan(&left))
	require.LessOrEqual(t, left, 1, "what is given up on is killed before the next is sent")
	order("ROLLBACK")
	c.written(t, try)

	// Nobody acknowledges: writes that need no acknowledgement are done.
	for _, n := range []*node{c.b, c.c} {
		_, _, _, err := n.Freeze(limited(t, patience))
		require.NoError(t, err)
	}
	answers := c.waiting(t, c.a, 2)
	c.a.until(t, "has commits that wait", func(s dbrepl.Status) bool { return s.SemiSync.WaitSessions > 0 })
	outcome, why = try(true)
	require.Equal(t, dbrepl.Written, outcome, why)
	g, err := c.a.GlanceAtLoad(limited(t, patience))
	require.NoError(t, err)
	require.True(t, g.Armed)
	require.Equal(t, c.a.status(t).ServerUUID, g.ServerUUID)
	require.Positive(t, g.Waiting)
	acknowledged := g.Acknowledged
	require.NoError(t, c.b.Follow(limited(t, patience), dbrepl.FollowSpec{Host: c.a.host, Port: c.a.port, Acker: true}))
	for _, ch := range answers {
		require.NoError(t, answer(t, ch))
	}
	g, err = c.a.GlanceAtLoad(limited(t, patience))
	require.NoError(t, err)
	require.Zero(t, g.Waiting)
	require.Greater(t, g.Acknowledged, acknowledged)
	g, err = c.b.Glance(limited(t, patience))
	require.NoError(t, err)
	require.Less(t, g.SourceSeen, 5*time.Second)
	require.GreaterOrEqual(t, g.SourceSeen, time.Duration(0))
	for range 3 { // an idle source is heard
		time.Sleep(time.Second)
		g, err = c.b.Glance(limited(t, patience))
		require.NoError(t, err)
		require.Less(t, g.SourceSeen, time.Millisecond)
	}

	// A closed instance is not to be written to, and says so.
	outcome, why = func() (dbrepl.WriteOutcome, string) { return c.b.TryWrite(limited(t, time.Second), "x", false) }()
	require.Equal(t, dbrepl.WriteUnknown, outcome, why)
	require.Contains(t, why, "read-only")
	folders, err := c.a.Folders(limited(t, patience))
	require.NoError(t, err)
	for _, folder := range folders {
		require.DirExists(t, folder)
	}
}

// tryWritesAfterRestart: the next server process gives the numbers of its
// connections anew, and one that was given up on is not there.
func tryWritesAfterRestart(t *testing.T, c *cluster) {
	c.a.restart(c.t) // small numbers
	c.establish(t, 1)
	try := func(bool) (dbrepl.WriteOutcome, string) {
		return c.a.TryWrite(limited(t, 400*time.Millisecond), "db-2.example", false)
	}
	c.written(t, try)
	holder, err := c.a.root.Conn(t.Context())
	require.NoError(t, err)
	_, err = holder.ExecContext(t.Context(), "BEGIN")
	require.NoError(t, err)
	_, err = holder.ExecContext(t.Context(), "SELECT * FROM interrex.canary WHERE observer = 'db-2.example' FOR UPDATE")
	require.NoError(t, err)
	outcome, why := try(false)
	require.Equal(t, dbrepl.WriteStalled, outcome, why)
	c.a.restart(c.t)
	_ = holder.Close()
	for number := 0; number < 100; { // all of them are taken
		conn, err := c.a.root.Conn(t.Context())
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.QueryRowContext(t.Context(), "SELECT CONNECTION_ID()").Scan(&number))
	}
	c.establish(t, 1)
	outcome, why = try(false)
	require.Equal(t, dbrepl.Written, outcome, why)
}

// written waits until a try is done again.
func (c *cluster) written(t *testing.T, try func(bool) (dbrepl.WriteOutcome, string)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		outcome, why := try(false)
		if outcome == dbrepl.Written {
			return
		}
		require.True(t, time.Now().Before(deadline), "still %s: %s", outcome, why)
	}
}

// tryWritesOfAFullServer: what it takes to tell that writes hang is there before
// all connections are used up, and nobody is let in any more.
func tryWritesOfAFullServer(t *testing.T, c *cluster) {
	c.establish(t, 1)
	one := func(kept bool) *dbrepl.Instance {
		cfg := c.a.config(t)
		cfg.AdminAddress = ""
		i := open(t, cfg)
		if kept {
			for range 3 {
				require.NoError(t, i.KeepWriteReady(limited(t, patience)))
			}
		}
		return i
	}
	sessions := func() (n int) {
		require.NoError(t, c.a.root.QueryRowContext(t.Context(),
			"SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_user = ?", c.a.config(t).User).Scan(&n))
		return n
	}
	before := sessions()
	kept, late := one(true), one(false)
	require.Equal(t, before+3, sessions(), "so many connections does it take")
	try := func(i *dbrepl.Instance) (dbrepl.WriteOutcome, string) {
		return i.TryWrite(limited(t, 400*time.Millisecond), "db-2.example", false)
	}
	outcome, why := try(kept) // makes its row
	require.Equal(t, dbrepl.Written, outcome, why)
	require.Equal(t, before+3, sessions(), "and no more to try")
	lone := one(true)
	require.NoError(t, lone.KeepWriteReady(limited(t, patience)))
	require.Equal(t, before+6, sessions())
	require.NoError(t, lone.Close())

	holder, err := c.a.root.Conn(t.Context())
	require.NoError(t, err)
	defer holder.Close()
	// The pool's own idle connection is the reserved one's user: nothing is left.
	other, err := c.a.root.Conn(t.Context())
	require.NoError(t, err)
	defer other.Close()
	for _, statement := range []string{
		"SET GLOBAL max_connections = 1", "BEGIN", "SELECT * FROM interrex.canary WHERE observer = 'db-2.example' FOR UPDATE",
	} {
		_, err := holder.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	outcome, why = try(late)
	require.Equal(t, dbrepl.WriteUnknown, outcome)
	require.Contains(t, why, "Too many connections")
	outcome, why = try(kept)
	require.Equal(t, dbrepl.WriteStalled, outcome, why)
	for _, statement := range []string{"ROLLBACK", "SET GLOBAL max_connections = 200"} {
		_, err := holder.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	c.written(t, func(bool) (dbrepl.WriteOutcome, string) { return try(kept) })
}
