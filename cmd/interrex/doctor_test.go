package main

import (
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/internal/topology"
)

// soundServer is a replica and registered acker with nothing wrong.
func soundServer(name, id string) serverFacts {
	return serverFacts{
		Node: topology.NodeName(name),
		Variables: map[string]string{
			"gtid_mode": "ON", "enforce_gtid_consistency": "ON", "log_bin": "ON", "log_replica_updates": "ON",
			"binlog_format": "ROW", "sync_binlog": "1", "innodb_flush_log_at_trx_commit": "1",
			"replica_preserve_commit_order": "ON", "skip_replica_start": "ON", "performance_schema": "ON",
			"offline_mode": "OFF", "relay_log_recovery": "OFF", "server_id": id, "server_uuid": "uuid-" + id,
			"read_only": "ON", "super_read_only": "ON", "rpl_semi_sync_source_enabled": "OFF",
			"rpl_semi_sync_replica_enabled": "ON", "rpl_semi_sync_source_wait_point": "AFTER_SYNC",
			"rpl_semi_sync_source_wait_no_replica": "ON", "rpl_semi_sync_source_timeout": "4294967295",
			"rpl_semi_sync_source_wait_for_replica_count": "1", "replica_net_timeout": "2",
			"binlog_expire_logs_seconds": "2592000", "binlog_expire_logs_auto_purge": "ON",
			"admin_address": "127.0.0.1", "create_admin_listener_thread": "ON", "max_connections": "151",
		},
		Sources: map[string]string{},
		Persisted: map[string]string{
			"read_only": "ON", "super_read_only": "ON",
			"rpl_semi_sync_source_enabled": "OFF", "rpl_semi_sync_replica_enabled": "OFF",
		},
		Plugins:   map[string]bool{"rpl_semi_sync_source": true, "rpl_semi_sync_replica": true, "clone": true},
		Heartbeat: 500 * time.Millisecond, Retry: time.Second, MaxUsed: 10, Admin: true,
	}
}

// soundCluster has the primary db1 and the ackers db2 and db3.
func soundCluster() clusterFacts {
	primary := soundServer("db1", "1")
	maps.Copy(primary.Variables, map[string]string{
		"read_only": "OFF", "super_read_only": "OFF",
		"rpl_semi_sync_source_enabled": "ON", "rpl_semi_sync_replica_enabled": "OFF",
	})
	primary.Heartbeat = -1
	return clusterFacts{
		Servers: []serverFacts{primary, soundServer("db2", "2"), soundServer("db3", "3")},
		Record: &election.State{
			Primary:  &election.Primary{Node: "db1", Phase: election.Open},
			Register: election.Register{Ackers: []topology.NodeName{"db2", "db3"}, K: 1},
		},
		Etcd:       []etcdFact{{Endpoint: "127.0.0.1:8462"}},
		NetTimeout: 2 * time.Second, Heartbeat: 500 * time.Millisecond,
	}
}

func TestDoctorFindsNothingWrongWithASoundCluster(t *testing.T) {
	for _, f := range judgeCluster(soundCluster()) {
		require.Equal(t, stateOK, f.State, "%+v", f)
		require.Empty(t, f.Fix, "%+v", f)
	}
}

func TestDoctorJudgesEachSetting(t *testing.T) {
	set := func(i int, name, value string) func(*clusterFacts) {
		return func(f *clusterFacts) { f.Servers[i].Variables[name] = value }
	}
	for _, c := range []struct {
		name    string
		change  func(*clusterFacts)
		subject string
		check   string
		state   findingState
		fix     string // part of it
	}{
		{"gtid off", set(1, "gtid_mode", "OFF"), "db2", "gtid_mode", stateWrong, "my.cnf: gtid_mode = ON"},
		{"consistency", set(1, "enforce_gtid_consistency", "WARN"), "db2", "enforce_gtid_consistency", stateWrong, "my.cnf"},
		{"no updates logged", set(1, "log_replica_updates", "OFF"), "db2", "log_replica_updates", stateWrong, "my.cnf"},
		{"statements", set(0, "binlog_format", "MIXED"), "db1", "binlog_format", stateWrong, "SET PERSIST binlog_format = ROW;"},
		{"lazy binary log", set(0, "sync_binlog", "1000"), "db1", "sync_binlog", stateWrong, "SET PERSIST sync_binlog = 1;"},
		{"lazy redo log", set(0, "innodb_flush_log_at_trx_commit", "2"), "db1", "innodb_flush_log_at_trx_commit", stateWrong, "= 1;"},
		{"gaps", set(2, "replica_preserve_commit_order", "OFF"), "db3", "replica_preserve_commit_order", stateWrong, "= ON;"},
		{"replicates at start", set(2, "skip_replica_start", "OFF"), "db3", "skip_replica_start", stateWrong, "my.cnf"},
		{"amnesia", set(2, "relay_log_recovery", "ON"), "db3", "relay_log_recovery", stateAdvice, "my.cnf"},
		{"timeout", set(0, "rpl_semi_sync_source_timeout", "10000"), "db1", "rpl_semi_sync_source_timeout", stateWrong, "agents"},
		{"wait point", set(0, "rpl_semi_sync_source_wait_point", "AFTER_COMMIT"), "db1", "rpl_semi_sync_source_wait_point", stateWrong, "agents"},
		{"released by the last", set(0, "rpl_semi_sync_source_wait_no_replica", "OFF"), "db1", "rpl_semi_sync_source_wait_no_replica", stateWrong, "agents"},
		{"fewer acks than registered", func(f *clusterFacts) { f.Record.Register.K = 2 }, "db1", "rpl_semi_sync_source_wait_for_replica_count", stateWrong, "agents"},
		{"primary does not wait", set(0, "rpl_semi_sync_source_enabled", "OFF"), "db1", "rpl_semi_sync_source_enabled", stateWrong, "agents"},
		{"replica waits", set(1, "rpl_semi_sync_source_enabled", "ON"), "db2", "rpl_semi_sync_source_enabled", stateWrong, "SET GLOBAL rpl_semi_sync_source_enabled = OFF;"},
		{"unregistered acknowledges", func(f *clusterFacts) { f.Record.Register.Ackers = []topology.NodeName{"db2"} },
			"db3", "rpl_semi_sync_replica_enabled", stateWrong, "agents"},
		{"open replica", set(1, "super_read_only", "OFF"), "db2", "super_read_only", stateWrong, "SET GLOBAL super_read_only = ON;"},
		{"source role at start", func(f *clusterFacts) { f.Servers[1].Persisted["rpl_semi_sync_source_enabled"] = "ON" },
			"db2", "rpl_semi_sync_source_enabled at start", stateWrong, "SET PERSIST_ONLY rpl_semi_sync_source_enabled = OFF;"},
		{"open at start", func(f *clusterFacts) { f.Servers[0].Persisted["super_read_only"] = "OFF" },
			"db1", "super_read_only at start", stateWrong, "SET PERSIST_ONLY super_read_only = ON;"},
		{"not known at start", func(f *clusterFacts) {
			delete(f.Servers[0].Persisted, "super_read_only")
			f.Servers[0].Sources["super_read_only"] = "DYNAMIC"
		}, "db1", "super_read_only at start", stateWrong, "SET PERSIST_ONLY"},
		{"slow to notice", set(1, "replica_net_timeout", "60"), "db2", "replica_net_timeout", stateWrong, "SET PERSIST replica_net_timeout = 2;"},
		{"slow to try again", func(f *clusterFacts) { f.Servers[2].Retry = time.Minute }, "db3", "retry interval", stateWrong, "SOURCE_CONNECT_RETRY = 1;"},
		{"rare heartbeats", func(f *clusterFacts) { f.Servers[1].Heartbeat = 30 * time.Second }, "db2", "heartbeat period", stateWrong, "SOURCE_HEARTBEAT_PERIOD = 0.5"},
		{"filtered", func(f *clusterFacts) { f.Servers[2].Filters = "REPLICATE_IGNORE_DB" }, "db3", "filters", stateWrong, "CHANGE REPLICATION FILTER"},
		{"delayed", func(f *clusterFacts) { f.Servers[1].Delay = time.Hour }, "db2", "delay", stateAdvice, "SOURCE_DELAY = 0;"},
		{"no clone plugin", func(f *clusterFacts) { delete(f.Servers[2].Plugins, "clone") }, "db3", "plugin clone", stateWrong, "clone=mysql_clone.so"},
		{"no semi-sync", func(f *clusterFacts) { delete(f.Servers[2].Plugins, "rpl_semi_sync_replica") }, "db3", "plugin rpl_semi_sync_replica", stateWrong, "semisync_replica.so"},
		{"same id", set(2, "server_id", "2"), "cluster", "distinct server_id", stateWrong, "my.cnf: server_id"},
		{"copied server", set(2, "server_uuid", "uuid-2"), "cluster", "distinct server_uuid", stateWrong, "auto.cnf"},
		{"binary logs soon gone", set(1, "binlog_expire_logs_seconds", "3600"), "db2", "binlog retention", stateAdvice, "binlog_expire_logs_seconds"},
		{"no admin listener", set(1, "admin_address", ""), "db2", "admin listener", stateAdvice, "admin_address"},
		{"full", func(f *clusterFacts) { f.Servers[0].MaxUsed = 140 }, "db1", "max_connections", stateAdvice, "SET PERSIST max_connections = 280;"},
		{"silent server", func(f *clusterFacts) { f.Servers[1] = serverFacts{Node: "db2", Error: "connection refused"} }, "db2", "reachable", stateWrong, "grants"},
		{"clocks apart", func(f *clusterFacts) { f.Servers[1].Clock = 3 * time.Second }, "cluster", "clocks", stateAdvice, "chrony"},
		{"etcd member gone", func(f *clusterFacts) { f.Etcd[0].Error = "refused" }, "etcd", "127.0.0.1:8462", stateWrong, "agent"},
		{"no record", func(f *clusterFacts) { f.Record = nil }, "etcd", "cluster record", stateWrong, "majority"},
	} {
		t.Run(c.name, func(t *testing.T) {
			facts := soundCluster()
			c.change(&facts)
			var wrong []finding
			for _, f := range judgeCluster(facts) {
				if f.State != stateOK {
					wrong = append(wrong, f)
				}
			}
			require.Len(t, wrong, 1, "exactly that is found")
			require.Equal(t, c.subject, wrong[0].Subject)
			require.Equal(t, c.check, wrong[0].Check)
			require.Equal(t, c.state, wrong[0].State)
			require.Contains(t, wrong[0].Fix, c.fix)
			require.NotEmpty(t, wrong[0].Why)
		})
	}
}

func TestDoctorBelievesAFileNobodyOverruled(t *testing.T) {
	facts := soundCluster()
	facts.Servers[1].Persisted = nil
	maps.Copy(facts.Servers[1].Sources, map[string]string{
		"read_only": "GLOBAL", "super_read_only": "GLOBAL", "rpl_semi_sync_source_enabled": "GLOBAL", "rpl_semi_sync_replica_enabled": "DYNAMIC",
	})
	var wrong []string
	for _, f := range judgeCluster(facts) {
		if f.State != stateOK {
			wrong = append(wrong, f.Check)
		}
	}
	require.Equal(t, []string{"rpl_semi_sync_replica_enabled at start"}, wrong)
}

func TestClocksAreNotBlamedForASlowReading(t *testing.T) {
	servers := []serverFacts{{Node: "a"}, {Node: "b", Clock: 2 * time.Second, ClockError: 1800 * time.Millisecond}}
	require.Equal(t, stateOK, judgeClocks(servers).State)
	servers[1].ClockError = time.Second
	require.Equal(t, stateAdvice, judgeClocks(servers).State)
}
