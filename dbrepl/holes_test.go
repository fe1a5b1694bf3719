package dbrepl_test

import (
	"fmt"
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

// armedAgain: whatever somebody has made of how a primary waits, what arms or
// opens it makes it wait for k, without a limit, also when the last acker is gone,
// and before anybody can see the commit. A setting that is right by default is set
// all the same.
func armedAgain(t *testing.T, c *cluster) {
	for name, arm := range map[string]func() error{
		"Arm":         func() error { return c.a.Arm(limited(t, patience), 1) },
		"OpenWrites":  func() error { return c.a.OpenWrites(limited(t, patience), 1) },
		"WriteMarker": func() error { return c.markAgain(t) },
	} {
		c.establish(t, 1)
		for _, lax := range []string{
			"rpl_semi_sync_source_wait_no_replica = OFF", "rpl_semi_sync_source_timeout = 200",
			"rpl_semi_sync_source_wait_point = AFTER_COMMIT", "rpl_semi_sync_source_enabled = OFF",
		} {
			c.a.exec(t, "SET GLOBAL "+lax)
			require.False(t, c.a.status(t).SemiSync.Lossless(1), lax)
		}
		require.NoError(t, arm(), name)
		require.True(t, c.a.status(t).SemiSync.Lossless(1), name)
	}
	for _, n := range []*node{c.b, c.c} {
		_, _, _, err := n.Freeze(limited(t, patience))
		require.NoError(t, err)
	}
	c.a.until(t, "has lost its last acker", func(s dbrepl.Status) bool { return s.SemiSync.Clients == 0 })
	answers := c.waiting(t, c.a, 1)
	time.Sleep(time.Second)
	silent(t, answers)
	require.NoError(t, c.b.Follow(limited(t, patience), dbrepl.FollowSpec{Host: c.a.host, Port: c.a.port, Acker: true}))
	require.NoError(t, answer(t, answers[0]))
}

// markAgain has the primary write its marker once more.
func (c *cluster) markAgain(t *testing.T) error {
	_, err := c.a.WriteMarker(limited(t, patience), topology.Marker{Epoch: 1, Node: "a", At: time.Now()}, 1)
	return err
}

// killedMarker: somebody kills the session whose commit waits. That goes on
// waiting, and is committed once it is acknowledged: its outcome is not known.
func killedMarker(t *testing.T, c *cluster) {
	c.establish(t, 1)
	for _, n := range []*node{c.b, c.c} {
		_, _, _, err := n.Freeze(limited(t, patience))
		require.NoError(t, err)
	}
	written := make(chan error, 1)
	go func() {
		_, err := c.a.WriteMarker(limited(t, patience), topology.Marker{Epoch: 2, Node: "a", At: time.Now()}, 1)
		written <- err
	}()
	var session uint64
	require.Eventually(t, func() bool {
		return c.a.root.QueryRowContext(t.Context(), `SELECT processlist_id FROM performance_schema.threads
			WHERE processlist_state LIKE 'Waiting for semi-sync ACK%' AND processlist_info LIKE 'REPLACE INTO%marker%'`).Scan(&session) == nil
	}, patience, 5*time.Millisecond, "the marker waits")
	c.a.exec(t, fmt.Sprint("KILL ", session))
	require.ErrorIs(t, answer(t, written), dbrepl.ErrOutcomeUnknown)
	require.Equal(t, topology.Epoch(1), c.a.status(t).Marker.Epoch)
	require.NoError(t, c.b.Follow(limited(t, patience), dbrepl.FollowSpec{Host: c.a.host, Port: c.a.port, Acker: true}))
	c.a.until(t, "has committed it", func(s dbrepl.Status) bool { return s.Marker.Epoch == 2 })
}
