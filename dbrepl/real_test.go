package dbrepl_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// TestOnRealServers runs every scenario on one fixture of three servers, as
// the controller that Grants made.
func TestOnRealServers(t *testing.T) {
	c := newCluster(t)
	for _, scenario := range []struct {
		name string
		run  func(t *testing.T, c *cluster)
	}{
		{"prepare", prepare},
		{"probe", probe},
		{"lag after a silence", lagAfterSilence},
		{"freeze and catch up", freezeAndCatchUp},
		{"receiver's times", receiverTimes},
		{"filters and delays", filtersAndDelays},
		{"promote", promote},
		{"close for a switchover", closeWrites},
		{"closing that hangs", closingHangs},
		{"damaged relay log", damagedRelayLog},
		{"relay log kept in a change of source", relayLogKept},
		{"applier fails in a change of source", applierFailsInAChange},
		{"option that keeps relay log", relayLogOption},
		{"retire with unapplied transactions", retireUnapplied},
		{"replica ahead of its source", aheadOfItsSource},
		{"lazy binary log", lazyBinaryLog},
		{"armed again", armedAgain},
		{"killed marker", killedMarker},
		{"crash while retiring", crashWhileRetiring},
		{"unfinished transaction", unfinishedTransaction},
		{"privileged account on a replica", privilegedWriter},
		{"stale primary", stalePrimary},
		{"stop server", stopServer},
		{"GTID sets as the server sees them", crossCheck},
		{"shut out and let in", shutOutAndLetIn},
		{"stuck acknowledgement", stuckAcknowledgement},
		{"late acknowledgement", lateAcknowledgement},
		{"try writes", tryWrites},
		{"try writes after a restart", tryWritesAfterRestart},
		{"try writes of a full server", tryWritesOfAFullServer},
		{"classify failures", classify},
	} {
		if !t.Run(scenario.name, func(t *testing.T) { scenario.run(t, c) }) {
			t.FailNow() // what is left is no state to go on from
		}
	}
}

func limited(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func prepare(t *testing.T, c *cluster) {
	for _, n := range c.nodes() {
		require.NoError(t, n.Prepare(limited(t, patience)))
		require.NoError(t, n.Prepare(limited(t, patience)), "again")
	}
	var persisted int
	require.NoError(t, c.a.root.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM performance_schema.persisted_variables
		WHERE (variable_name, variable_value) IN (('super_read_only', 'ON'), ('read_only', 'ON'),
		('rpl_semi_sync_source_enabled', 'OFF'), ('rpl_semi_sync_replica_enabled', 'OFF'), ('replica_net_timeout', '2'))`).Scan(&persisted))
	require.Equal(t, 5, persisted)

	// An open primary stays open and armed, and is closed again by a restart:
	// what its next start will find says nothing of now.
	c.establish(t, 1)
	c.a.exec(t, "RESET PERSIST")
	require.NoError(t, c.a.Prepare(limited(t, patience)))
	s := c.a.status(t)
	require.True(t, s.Writable() && s.SemiSync.SourceEnabled, "%+v", s)
	c.a.restart(c.t)
	s = c.a.status(t)
	require.True(t, s.ReadOnly && s.SuperReadOnly && !s.SemiSync.SourceEnabled, "%+v", s)

	// What only an operator can do is named, all of it at once.
	c.a.exec(t, "SET GLOBAL super_read_only = OFF", "SET SESSION sql_log_bin = OFF",
		"REVOKE RELOAD, REPLICATION_SLAVE_ADMIN ON *.* FROM controller", "SET GLOBAL super_read_only = ON", "SET GLOBAL sync_binlog = 0")
	err := c.a.Prepare(limited(t, patience))
	require.ErrorContains(t, err, "GRANT RELOAD ON *.*")
	require.ErrorContains(t, err, "GRANT REPLICATION_SLAVE_ADMIN ON *.*")
	var sync int
	require.NoError(t, c.a.root.QueryRowContext(t.Context(), "SELECT @@global.sync_binlog").Scan(&sync))
	require.Equal(t, 1, sync, "what the controller may set it has set")
	c.a.exec(t, "SET GLOBAL super_read_only = OFF", "SET SESSION sql_log_bin = OFF",
		"GRANT RELOAD, REPLICATION_SLAVE_ADMIN ON *.* TO controller", "SET GLOBAL super_read_only = ON")
	require.NoError(t, c.a.Prepare(limited(t, patience)))
}

func probe(t *testing.T, c *cluster) {
	c.establish(t, 1)
	c.write(t, c.a, 10)
	a := c.a.until(t, "has its marker and its replicas", func(s dbrepl.Status) bool { return s.SemiSync.Clients == 2 })
	require.Nil(t, a.Source)
	require.True(t, a.Writable())
	require.Equal(t, topology.Epoch(1), a.Marker.Epoch)
	require.Equal(t, topology.NodeName("a"), a.Marker.Node)
	require.WithinDuration(t, time.Now(), a.Marker.At, patience)
	require.Equal(t, dbrepl.SemiSync{SourceEnabled: true, WaitFor: 1, Clients: 2, TimeoutMillis: 4294967295, WaitNoReplica: true, WaitPoint: "AFTER_SYNC"}, a.SemiSync)

	b := c.b.until(t, "has all", func(s dbrepl.Status) bool { return s.Executed.Equal(a.Executed) })
	require.False(t, b.Writable())
	require.Equal(t, a.ServerUUID, b.Source.ServerUUID)
	require.Equal(t, c.a.port, b.Source.Port)
	require.Zero(t, b.Source.Unapplied)
	require.True(t, b.Source.ApplierOn && b.Source.ReceiverOn && b.SemiSync.ReplicaActive)
	require.Equal(t, a.Marker, b.Marker)
	c.b.until(t, "sees heartbeats", func(s dbrepl.Status) bool {
		return s.Source.HeartbeatAge >= 0 && s.Source.HeartbeatAge < 5*time.Second
	})

	// A stopped applier: unapplied, lag, and its error.
	c.b.exec(t, "STOP REPLICA SQL_THREAD")
	c.write(t, c.a, 3)
	b = c.b.until(t, "has unapplied transactions", func(s dbrepl.Status) bool { return s.Source.Unapplied == 3 })
	require.Equal(t, uint64(3), b.Received.Minus(b.Executed).Count())
	require.Positive(t, b.Source.Lag)

	boot := c.b.status(t).BootID
	began, probes := time.Now(), 0
	for time.Since(began) < 1200*time.Millisecond {
		require.Equal(t, boot, c.b.status(t).BootID)
		probes++
	}
	t.Logf("a probe took %v", time.Since(began)/time.Duration(probes))
	c.b.restart(c.t)
	require.NotEqual(t, boot, c.b.status(t).BootID)
}

// lagAfterSilence: a replica that hears of its source again has nothing
// unapplied at first, and is behind all the same: it serves no reads.
func lagAfterSilence(t *testing.T, c *cluster) {
	c.establish(t, 1)
	ctx := limited(t, patience)
	c.write(t, c.a, 1)
	c.b.until(t, "is level, and says so", func(s dbrepl.Status) bool {
		return s.Executed.Equal(c.a.status(t).Executed) && s.Source.Lag == 0
	})
	require.NoError(t, c.a.ShutOut(ctx, "replication_b"))
	c.b.until(t, "hears nothing", func(s dbrepl.Status) bool { return !s.Source.ReceiverOn })
	c.write(t, c.a, 300)
	<-time.After(4 * time.Second)
	want := c.a.status(t).Executed
	require.NoError(t, c.a.LetIn(ctx, "replication_b"))
	looks := 0
	c.b.until(t, "is level again", func(s dbrepl.Status) bool {
		if s.Executed.Contains(want) {
			return true
		}
		if s.Source.ReceiverOn {
			looks++
			require.Greater(t, s.Source.Lag, 3*time.Second, "it lacks %d: %+v", want.Minus(s.Executed).Count(), s.Source)
		}
		return false
	})
	require.Positive(t, looks, "it was never seen on its way")
	c.b.until(t, "says so", func(s dbrepl.Status) bool { return s.Source.Lag == 0 })
}

// filtersAndDelays: an applier that leaves something out, or waits on purpose,
// makes its server one that must neither acknowledge nor be promoted (M11).
func filtersAndDelays(t *testing.T, c *cluster) {
	c.establish(t, 1)
	require.Empty(t, c.a.status(t).Inadmissible)
	require.Empty(t, c.b.status(t).Inadmissible)
	for _, s := range []struct{ set, unset, says string }{
		{
			"CHANGE REPLICATION FILTER REPLICATE_IGNORE_DB = (other), REPLICATE_WILD_IGNORE_TABLE = ('app.x%')",
			"CHANGE REPLICATION FILTER REPLICATE_IGNORE_DB = (), REPLICATE_WILD_IGNORE_TABLE = ()", "replication filters: REPLICATE_IGNORE_DB, REPLICATE_WILD_IGNORE_TABLE",
		},
		{"CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 60", "CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 0", "waits 1m0s on purpose"},
	} {
		c.b.exec(t, "STOP REPLICA SQL_THREAD", s.set, "START REPLICA SQL_THREAD")
		require.Contains(t, c.b.status(t).Inadmissible, s.says)
		c.b.exec(t, "STOP REPLICA SQL_THREAD", s.unset, "START REPLICA SQL_THREAD")
		require.Empty(t, c.b.status(t).Inadmissible)
	}
	c.write(t, c.a, 1)
}

// receiverTimes: a receiver whose times are of another profile says so, and is
// given its own by the next order to follow, with nothing dropped.
func receiverTimes(t *testing.T, c *cluster) {
	c.establish(t, 1)
	require.Empty(t, c.b.status(t).Source.Unfit)
	c.b.exec(t, "STOP REPLICA SQL_THREAD")
	c.write(t, c.a, 5)
	received := c.b.until(t, "has received all", func(s dbrepl.Status) bool { return s.Source.Unapplied == 5 }).Received
	c.b.exec(t, "START REPLICA SQL_THREAD")

	wide := open(t, c.b.config(t).FitTo(6*time.Second))
	s, err := wide.Probe(limited(t, patience))
	require.NoError(t, err)
	require.Equal(t, "its heartbeat period is 500ms and should be 3s", s.Source.Unfit)
	require.NoError(t, wide.Follow(limited(t, patience), dbrepl.FollowSpec{Host: c.a.host, Port: c.a.port, Acker: true}))
	require.NoError(t, wide.Prepare(limited(t, patience)))
	s, err = wide.Probe(limited(t, patience))
	require.NoError(t, err)
	require.Empty(t, s.Source.Unfit)
	var timeout int
	require.NoError(t, c.b.root.QueryRowContext(t.Context(), "SELECT @@global.replica_net_timeout").Scan(&timeout))
	require.Equal(t, 12, timeout)
	s = c.b.until(t, "acknowledges again", acking)
	require.True(t, s.Received.Contains(received), "nothing was dropped")
	c.write(t, c.a, 1)

	// The retry interval alone, changed by hand.
	c.b.exec(t, "STOP REPLICA IO_THREAD", "CHANGE REPLICATION SOURCE TO SOURCE_CONNECT_RETRY = 60", "START REPLICA IO_THREAD")
	s, err = wide.Probe(limited(t, patience))
	require.NoError(t, err)
	require.Equal(t, "its retry interval is 1m0s and should be 1s", s.Source.Unfit)
	require.NoError(t, c.b.Prepare(limited(t, patience)))
	require.NoError(t, c.b.Follow(limited(t, patience), dbrepl.FollowSpec{Host: c.a.host, Port: c.a.port, Acker: true}))
	require.Empty(t, c.b.until(t, "acknowledges again", acking).Source.Unfit)
}

func freezeAndCatchUp(t *testing.T, c *cluster) {
	c.establish(t, 1)
	executed, received, unapplied, err := c.a.Freeze(limited(t, patience))
	require.NoError(t, err, "an instance without replication")
	require.Equal(t, executed, received)
	require.Zero(t, unapplied)

	c.b.exec(t, "STOP REPLICA SQL_THREAD")
	c.c.exec(t, "STOP REPLICA SQL_THREAD")
	c.write(t, c.a, 20)
	all := c.a.status(t).Executed
	// One of them has acknowledged each; the one that is to catch up has it all.
	c.b.until(t, "has received all", func(s dbrepl.Status) bool { return s.Received.Contains(all) })
	var union gtid.Set
	for _, n := range []*node{c.b, c.c} {
		for range 2 { // the second one finds it done
			executed, received, unapplied, err = n.Freeze(limited(t, patience))
			require.NoError(t, err)
			require.Equal(t, received.Minus(executed).Count(), unapplied)
			require.True(t, received.Contains(executed))
		}
		union = union.Union(received)
	}
	require.True(t, union.Equal(c.a.status(t).Executed), "every acknowledged commit is in the frozen ackers")

	// Nobody is left to acknowledge: commits wait, invisible, whatever comes.
	answers := c.waiting(t, c.a, 3)
	time.Sleep(300 * time.Millisecond)
	silent(t, answers)
	require.Equal(t, 20, c.a.rows(t))

	// What is received is executed, however far behind.
	executed, err = c.b.CatchUp(limited(t, patience), union, patience)
	require.NoError(t, err)
	require.True(t, executed.Contains(union))
	require.Equal(t, 20, c.b.rows(t))
	more := union.Union(gtid.MustParse(c.a.status(t).ServerUUID + ":100-104"))
	_, err = c.b.CatchUp(limited(t, patience), more, 300*time.Millisecond)
	require.ErrorIs(t, err, dbrepl.ErrNotCaughtUp)
	require.ErrorContains(t, err, "5 of 26 transactions left")

	// An applier that cannot go on is told of at once, with its reason.
	c.c.exec(t, "SET GLOBAL super_read_only = OFF", "SET SESSION sql_log_bin = OFF", "INSERT INTO app.t VALUES (7, 'in the way')", "SET GLOBAL super_read_only = ON")
	_, err = c.c.CatchUp(limited(t, patience), union, patience)
	require.ErrorIs(t, err, dbrepl.ErrApplierStopped)
	require.ErrorContains(t, err, "Duplicate entry")
	require.NotEmpty(t, c.c.status(t).Source.ApplierError)
	// And its relay log is not thrown away for another source.
	err = c.c.Follow(limited(t, patience), dbrepl.FollowSpec{Host: c.b.host, Port: c.b.port})
	require.ErrorIs(t, err, dbrepl.ErrApplierStopped)
	require.ErrorContains(t, err, "Duplicate entry")
	s := c.c.status(t)
	require.Equal(t, c.a.port, s.Source.Port)
	require.True(t, s.Received.Contains(received), "all that it acknowledged")

	// A frozen acker that follows again lets the waiting commits go.
	require.NoError(t, c.b.Follow(limited(t, patience), dbrepl.FollowSpec{Host: c.a.host, Port: c.a.port, Acker: true}))
	for _, ch := range answers {
		require.NoError(t, answer(t, ch))
	}
}

func promote(t *testing.T, c *cluster) {
	c.establish(t, 1)
	c.write(t, c.a, 10)
	// Frozen, it could not get any more what c alone acknowledged.
	written := c.a.status(t).Executed
	c.b.until(t, "has it all", func(s dbrepl.Status) bool { return s.Received.Contains(written) })
	revoked := map[string]time.Duration{}
	began := time.Now()
	lap := func(name string) { revoked[name], began = time.Since(began), time.Now() }
	var union gtid.Set
	for _, n := range []*node{c.b, c.c} {
		_, received, _, err := n.Freeze(limited(t, patience))
		require.NoError(t, err)
		union = union.Union(received)
	}
	lap("freeze two")
	answers := c.waiting(t, c.a, 2) // the old primary's tail: nobody has it
	began = time.Now()
	_, err := c.b.CatchUp(limited(t, patience), union, patience)
	require.NoError(t, err)
	lap("catch up")
	require.NoError(t, c.b.Arm(limited(t, patience), 1))
	lap("arm")

	// Whatever disarms it in between (a restart): what opens it arms it, I3.
	require.NoError(t, c.b.Degrade(limited(t, patience)))
	// No acker yet: the marker is not acknowledged and its outcome unknown.
	_, err = c.b.WriteMarker(limited(t, 500*time.Millisecond), topology.Marker{Epoch: 2, Node: "b", At: time.Now()}, 1)
	require.ErrorIs(t, err, dbrepl.ErrOutcomeUnknown)
	s := c.b.status(t)
	t.Logf("after a marker given up: %+v", s)
	require.True(t, s.ReadOnly)
	require.ErrorContains(t, c.b.insert(limited(t, patience), 1000), "read-only")
	began = time.Now()
	require.NoError(t, c.c.Follow(limited(t, patience), dbrepl.FollowSpec{Host: c.b.host, Port: c.b.port, Acker: true}))
	lap("follow")
	executed, err := c.b.WriteMarker(limited(t, patience), topology.Marker{Epoch: 2, Node: "b", At: time.Now()}, 1)
	require.NoError(t, err)
	require.Contains(t, executed.UUIDs(), s.ServerUUID)
	lap("marker")
	require.NoError(t, c.b.Degrade(limited(t, patience)))
	require.NoError(t, c.b.OpenWrites(limited(t, patience), 1))
	require.True(t, c.b.status(t).SemiSync.Lossless(1))
	lap("open")
	require.NoError(t, c.b.insert(limited(t, patience), 2000))
	lap("first commit")
	require.NoError(t, c.b.Retire(limited(t, patience)))
	lap("retire")
	t.Logf("%v", revoked)
	s = c.b.until(t, "is the primary", func(s dbrepl.Status) bool { return s.SemiSync.Clients == 1 })
	require.Nil(t, s.Source)
	require.False(t, s.SemiSync.ReplicaEnabled)
	require.Equal(t, topology.Epoch(2), s.Marker.Epoch)
	require.Zero(t, s.SemiSync.NoTx)
	silent(t, answers) // the old primary still acknowledges nothing
	require.Equal(t, 11, c.b.rows(t))
}
