package dbrepl_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
	"interrex/internal/gtid"
)

// backlog has b hold 20 transactions in its relay log that its applier cannot
// execute before unlock is called, after what first is for; c has them all. b's
// receiver is stopped.
func (c *cluster) backlog(t *testing.T, first ...string) (received gtid.Set, unlock func()) {
	t.Helper()
	c.establish(t, 1)
	c.write(t, c.a, 5)
	before := c.a.status(t).Executed
	c.b.until(t, "has executed all", func(s dbrepl.Status) bool { return s.Executed.Contains(before) })
	c.b.exec(t, first...)
	locker, err := c.b.root.Conn(t.Context())
	require.NoError(t, err)
	_, err = locker.ExecContext(t.Context(), "LOCK TABLES app.t READ")
	require.NoError(t, err)
	c.write(t, c.a, 20)
	all := c.a.status(t).Executed
	for _, n := range []*node{c.b, c.c} {
		n.until(t, "has received all", func(s dbrepl.Status) bool { return s.Received.Contains(all) })
	}
	_, received, unapplied, err := c.b.Freeze(limited(t, patience))
	require.NoError(t, err)
	require.EqualValues(t, 20, unapplied)
	return received, func() {
		_, err := locker.ExecContext(t.Context(), "UNLOCK TABLES")
		require.NoError(t, err)
		require.NoError(t, locker.Close())
	}
}

// relayLogKept: what is received survives a change of source, as the applier
// runs; and who has to answer for it is asked before.
func relayLogKept(t *testing.T, c *cluster) {
	received, unlock := c.backlog(t, "STOP REPLICA SQL_THREAD")
	refusal := errors.New("not now")
	to := dbrepl.FollowSpec{Host: c.c.host, Port: c.c.port, AtRisk: func() error { return refusal }}
	require.ErrorIs(t, c.b.Follow(limited(t, patience), to), refusal)
	s := c.b.status(t)
	require.Equal(t, c.a.port, s.Source.Port, "nothing was changed")
	require.True(t, s.Source.ApplierOn, "it was started, and did not fail again")

	asked := 0
	to.AtRisk = func() error { asked++; return nil }
	require.NoError(t, c.b.Follow(limited(t, patience), to))
	require.Equal(t, 1, asked)
	s = c.b.status(t)
	require.Equal(t, c.c.port, s.Source.Port)
	require.EqualValues(t, 20, s.Source.Unapplied)
	require.True(t, s.Received.Contains(received))
	unlock()
	_, err := c.b.CatchUp(limited(t, patience), received, patience)
	require.NoError(t, err)
	require.Equal(t, 25, c.b.rows(t))

	// Where everything is executed nothing is at risk.
	to.Host, to.Port, to.Acker = c.a.host, c.a.port, true
	require.NoError(t, c.b.Follow(limited(t, patience), to))
	require.Equal(t, 1, asked)
}

// applierFailsInAChange: between the last look at the applier and the change of
// source it fails, and the server drops what it had received. That is seen.
func applierFailsInAChange(t *testing.T, c *cluster) {
	stray := func(statement string) []string {
		return []string{"SET GLOBAL super_read_only = OFF", "SET SESSION sql_log_bin = OFF", statement, "SET GLOBAL super_read_only = ON"}
	}
	received, unlock := c.backlog(t, stray("INSERT INTO app.t VALUES (6, 'in the way')")...)
	to := dbrepl.FollowSpec{Host: c.c.host, Port: c.c.port, AtRisk: func() error {
		unlock()
		c.b.until(t, "has failed", func(s dbrepl.Status) bool { return !s.Source.ApplierOn })
		return nil
	}}
	err := c.b.Follow(limited(t, patience), to)
	require.ErrorIs(t, err, dbrepl.ErrForgotten)
	s := c.b.status(t)
	require.EqualValues(t, 20, received.Minus(s.Received).Count(), "it acknowledged these")
	require.ErrorContains(t, err, received.Minus(s.Received).String())

	// The new source has them.
	c.b.exec(t, stray("DELETE FROM app.t WHERE id = 6")...)
	to.AtRisk = nil
	require.NoError(t, c.b.Follow(limited(t, patience), to))
	c.b.until(t, "has it all again", func(s dbrepl.Status) bool { return s.Executed.Contains(received) })
	require.Equal(t, 25, c.b.rows(t))
}

// What would keep the relay log with a stopped applier is refused by the server
// for a replica with automatic positions, which therefore is not tried.
func relayLogOption(t *testing.T, c *cluster) {
	c.establish(t, 1)
	c.b.exec(t, "STOP REPLICA")
	for _, auto := range []string{"", ", SOURCE_AUTO_POSITION = 1"} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := c.b.root.ExecContext(ctx, "CHANGE REPLICATION SOURCE TO SOURCE_CONNECT_RETRY = 2, RELAY_LOG_FILE = 'relay.000002', RELAY_LOG_POS = 4"+auto)
		cancel()
		require.ErrorContains(t, err, "Error 1776")
	}
}
