package dbrepl_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
	"interrex/internal/topology"
)

// retireUnapplied: a server that has received what it has not executed does not
// forget its source, with which the server drops its relay log.
func retireUnapplied(t *testing.T, c *cluster) {
	received, unlock := c.backlog(t, "STOP REPLICA SQL_THREAD")
	err := c.b.Retire(limited(t, patience))
	require.ErrorIs(t, err, dbrepl.ErrNotReplicated)
	s := c.b.status(t)
	require.ErrorContains(t, err, s.Received.Minus(s.Executed).String(), "it says which")
	require.EqualValues(t, 20, s.Source.Unapplied)
	require.True(t, s.Received.Contains(received), "nothing was dropped")

	unlock()
	_, err = c.b.CatchUp(limited(t, patience), received, patience)
	require.NoError(t, err)
	require.NoError(t, c.b.Retire(limited(t, patience)))
	require.Nil(t, c.b.status(t).Source)
	require.Equal(t, 25, c.b.rows(t))
}

// aheadOfItsSource: AFTER_SYNC has a commit applied on replicas while its client
// still waits, and nobody sees it on the source. Whoever read it on a replica
// that is asked for the proof of a failover finds it on the new primary.
func aheadOfItsSource(t *testing.T, c *cluster) {
	c.establish(t, 2)
	c.write(t, c.a, 1)
	_, _, _, err := c.c.Freeze(limited(t, patience))
	require.NoError(t, err)
	answers := c.waiting(t, c.a, 1)
	commit := c.a.status(t).Committing
	c.b.until(t, "shows it", func(s dbrepl.Status) bool { return s.Executed.Contains(commit) })
	require.Equal(t, 2, c.b.rows(t))
	require.Equal(t, 1, c.a.rows(t))
	silent(t, answers)

	_, received, _, err := c.b.Freeze(limited(t, patience))
	require.NoError(t, err)
	require.True(t, received.Contains(commit), "so it is in the union that a candidate must hold")
	require.NoError(t, c.b.Arm(limited(t, patience), 1))
	require.NoError(t, c.c.Follow(limited(t, patience), dbrepl.FollowSpec{Host: c.b.host, Port: c.b.port, Acker: true}))
	_, err = c.b.WriteMarker(limited(t, patience), topology.Marker{Epoch: 2, Node: "b", At: time.Now()}, 1)
	require.NoError(t, err)
	require.NoError(t, c.b.OpenWrites(limited(t, patience), 1))
	require.Equal(t, 2, c.b.rows(t))
	silent(t, answers)
}

// lazyBinaryLog: with sync_binlog other than 1 a primary that loses power may
// come back with less than its replicas have. What keeps the setting is Prepare.
func lazyBinaryLog(t *testing.T, c *cluster) {
	c.establish(t, 1)
	for _, lazy := range []string{"sync_binlog = 0", "sync_binlog = 100", "innodb_flush_log_at_trx_commit = 2"} {
		c.a.exec(t, "SET GLOBAL "+lazy)
		require.NoError(t, c.a.Prepare(limited(t, patience)))
		var sync, flush, persisted int
		require.NoError(t, c.a.root.QueryRowContext(t.Context(), `SELECT @@global.sync_binlog, @@global.innodb_flush_log_at_trx_commit,
			(SELECT COUNT(*) FROM performance_schema.persisted_variables WHERE variable_name = ? AND variable_value = '1')`,
			strings.Fields(lazy)[0]).Scan(&sync, &flush, &persisted))
		require.Equal(t, []int{1, 1, 1}, []int{sync, flush, persisted}, lazy)
	}
	require.True(t, c.a.status(t).Writable(), "in use all the time")
	c.write(t, c.a, 1)
}
