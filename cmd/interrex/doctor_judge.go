package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/topology"
)

// findingState is what a check found.
type findingState string

const (
	stateOK     findingState = "ok"
	stateWrong  findingState = "wrong"  // a promise of this product does not hold with it
	stateAdvice findingState = "advice" // the promises hold; something else would be worse than it must be
)

// finding is the outcome of one check.
type finding struct {
	Subject string       `json:"subject"` // a member, or the cluster
	Check   string       `json:"check"`
	State   findingState `json:"state"`
	Value   string       `json:"value"`
	Wanted  string       `json:"wanted"`
	Why     string       `json:"why"`
	Fix     string       `json:"fix,omitempty"` // SQL, or a line of my.cnf, or words
}

// serverFacts are what was read of one server.
type serverFacts struct {
	Node topology.NodeName
	// Error is why nothing could be read; then all else is empty.
	Error     string
	Variables map[string]string // global_variables, lower-case names
	Sources   map[string]string // where each variable's value comes from (variables_info)
	Persisted map[string]string
	Plugins   map[string]bool // active ones
	// Heartbeat is the receiver's configured period; negative without one.
	Heartbeat time.Duration
	// Retry is how often it tries a source that it lost; negative likewise.
	Retry time.Duration
	// Filters names the replication filters, and those of the binary log.
	Filters string
	// Delay is how long the applier waits on purpose.
	Delay time.Duration
	// MaxUsed is the most connections there ever were.
	MaxUsed int
	// Admin tells whether the members' probes know an administrative listener.
	Admin bool
	// Clock is the server's clock minus ours, known up to ClockError.
	Clock, ClockError time.Duration
}

// clusterFacts are what the judgement rests on.
type clusterFacts struct {
	Servers []serverFacts
	// Record is the cluster record; nil when etcd did not tell it.
	Record *election.State
	// Etcd has why each endpoint does not answer, "" for one that does.
	Etcd []etcdFact
	// What the agents are configured to.
	NetTimeout, Heartbeat time.Duration
}

type etcdFact struct {
	Endpoint string
	Error    string
}

// clockLimit is how far the clocks of two members may be apart: lags and the
// times in reports are compared between hosts. No decision rests on them.
const clockLimit = 500 * time.Millisecond

// leastBinlogDays is for how long a server's absence should not cost a rebuild.
const leastBinlogDays = 1

// agents is the fix of what the agents set by themselves.
const agents = "the agents set this; if it stays, see the log of the leader's agent"

// judgeCluster judges everything, servers first, in the order they were read.
func judgeCluster(f clusterFacts) []finding {
	var out []finding
	for _, s := range f.Servers {
		out = append(out, judgeServer(f, s)...)
	}
	out = append(out, judgeDistinct(f.Servers, "server_id", "replication takes another server's transactions for its own and drops them",
		"my.cnf: server_id = <a number of its own>, then restart"))
	out = append(out, judgeDistinct(f.Servers, "server_uuid", "GTIDs of two servers would be the same transactions",
		"stop one of them, delete auto.cnf in its data folder, start it"))
	out = append(out, judgeClocks(f.Servers))
	return append(out, judgeEtcd(f)...)
}

func judgeServer(f clusterFacts, s serverFacts) []finding {
	if s.Error != "" {
		return []finding{{
			Subject: string(s.Node), Check: "reachable", State: stateWrong, Value: s.Error, Wanted: "an answer",
			Why: "nothing can be said about its settings", Fix: "start it, or see `interrex mysql grants` for the account",
		}}
	}
	j := serverJudge{f: f, s: s}
	j.settings()
	j.plugins()
	j.starts()
	j.semiSync()
	j.receiver()
	j.rest()
	return j.out
}

// serverJudge judges one server.
type serverJudge struct {
	f   clusterFacts
	s   serverFacts
	out []finding
}

// check notes one finding; bad is its state where good is false.
func (j *serverJudge) check(name string, good bool, bad findingState, value, wanted, why, fix string) {
	state := stateOK
	if !good {
		state = bad
	} else {
		fix = ""
	}
	j.out = append(j.out, finding{Subject: string(j.s.Node), Check: name, State: state, Value: orDash(value), Wanted: wanted, Why: why, Fix: fix})
}

func (j *serverJudge) primary() bool {
	r := j.f.Record
	return r != nil && r.Primary != nil && r.Primary.Node == j.s.Node
}

func inFile(name, value string) string {
	return fmt.Sprintf("my.cnf: %s = %s, then restart", name, value)
}
func bySQL(name, value string) string { return fmt.Sprintf("SET PERSIST %s = %s;", name, value) }

// settings are those with one right value, whatever the server's role.
func (j *serverJudge) settings() {
	for _, v := range []struct {
		name, want, why string
		fix             func(name, value string) string
	}{
		{"gtid_mode", "ON", "histories are compared by GTID", inFile},
		{"enforce_gtid_consistency", "ON", "every transaction must have a GTID", inFile},
		{"log_bin", "ON", "a promoted server must have what its replicas lack", inFile},
		{"log_replica_updates", "ON", "a promoted server must have what its replicas lack", inFile},
		{"binlog_format", "ROW", "statements can give other rows on a replica", bySQL},
		{"sync_binlog", "1", "a commit must survive a crash of its host", bySQL},
		{"innodb_flush_log_at_trx_commit", "1", "a commit must survive a crash of its host", bySQL},
		{"replica_preserve_commit_order", "ON", "a promoted replica must have no gaps in its history", bySQL},
		{"skip_replica_start", "ON", "a server that starts must wait for its agent (I6)", inFile},
		{"performance_schema", "ON", "probes read the state of replication there", inFile},
		{"offline_mode", "OFF", "no client, replica or probe gets in", bySQL},
	} {
		have := j.s.Variables[v.name]
		j.check(v.name, strings.EqualFold(have, v.want), stateWrong, have, v.want, v.why, v.fix(v.name, v.want))
	}
	recovery := j.s.Variables["relay_log_recovery"]
	j.check("relay_log_recovery", recovery == "OFF", stateAdvice, recovery, "OFF",
		"ON drops acknowledged, unapplied commits when the server restarts; it proves nothing until it has caught up", inFile("relay_log_recovery", "OFF"))
	id := j.s.Variables["server_id"]
	j.check("server_id", id != "" && id != "0", stateWrong, id, "not 0", "a server without one cannot replicate", inFile("server_id", "<a number of its own>"))
}

func (j *serverJudge) plugins() {
	for _, p := range []struct{ name, file, why string }{
		{"rpl_semi_sync_source", "semisync_source.so", "a primary waits for acknowledgements with it"},
		{"rpl_semi_sync_replica", "semisync_replica.so", "a replica acknowledges with it"},
		{"clone", "mysql_clone.so", "a diverged server is rebuilt with it"},
	} {
		value := "not loaded"
		if j.s.Plugins[p.name] {
			value = "active"
		}
		j.check("plugin "+p.name, j.s.Plugins[p.name], stateWrong, value, "active", p.why,
			fmt.Sprintf("my.cnf: plugin-load-add = %s=%s, then restart; or INSTALL PLUGIN %s SONAME '%s'; on an open server", p.name, p.file, p.name, p.file))
	}
}

// starts are what the server will be when it starts (I6). Persisted values go
// before the file; the file's are seen only where nobody has changed them since.
func (j *serverJudge) starts() {
	for _, v := range []struct{ name, want, why string }{
		{"super_read_only", "ON", "a server that starts open takes writes although another may be primary"},
		{"read_only", "ON", "a server that starts open takes writes although another may be primary"},
		{"rpl_semi_sync_source_enabled", "OFF", "a replica that starts with it waits for acknowledgements itself, and its applier stands still"},
		{"rpl_semi_sync_replica_enabled", "OFF", "a server may acknowledge only once it is registered"},
	} {
		have, known := j.atStart(v.name)
		if !known {
			have = "not known"
		}
		j.check(v.name+" at start", known && strings.EqualFold(have, v.want), stateWrong, have, v.want, v.why,
			fmt.Sprintf("SET PERSIST_ONLY %s = %s;", v.name, v.want))
	}
}

func (j *serverJudge) atStart(name string) (value string, known bool) {
	if value, known = j.s.Persisted[name]; known {
		return value, true
	}
	if _, loaded := j.s.Variables[name]; !loaded {
		return "", false
	}
	switch j.s.Sources[name] {
	case "DYNAMIC", "":
		return "", false
	}
	return j.s.Variables[name], true
}

// semiSync compares the server with the register (I3).
func (j *serverJudge) semiSync() {
	v, r := j.s.Variables, j.f.Record
	if r == nil || r.Primary == nil || !j.s.Plugins["rpl_semi_sync_source"] || !j.s.Plugins["rpl_semi_sync_replica"] {
		return // judged by other checks
	}
	const replica, source = "rpl_semi_sync_replica_enabled", "rpl_semi_sync_source_enabled"
	if !j.primary() {
		j.check(source, v[source] == "OFF", stateWrong, v[source], "OFF", "a replica's applier would wait for acknowledgements itself", "SET GLOBAL "+source+" = OFF;")
		want := onOff(r.Register.Has(j.s.Node))
		j.check(replica, v[replica] == want, stateWrong, v[replica], want, "exactly the registered ackers acknowledge", agents)
		j.check("super_read_only", v["super_read_only"] == "ON", stateWrong, v["super_read_only"], "ON", "only the recorded primary takes writes", "SET GLOBAL super_read_only = ON;")
		return
	}
	for _, c := range []struct{ name, want, why string }{
		{source, onOff(r.Register.Acks() > 0), "commits must wait for an acknowledgement, unless the record says that they do not"},
		{"rpl_semi_sync_source_wait_point", "AFTER_SYNC", "nobody may see a commit that can still be lost"},
		{"rpl_semi_sync_source_wait_no_replica", "ON", "OFF acknowledges what waits when the last replica goes"},
		{"rpl_semi_sync_source_timeout", "4294967295", "a timeout acknowledges what no replica holds"},
		{"rpl_semi_sync_source_wait_for_replica_count", strconv.Itoa(max(r.Register.Acks(), 1)), "it must be what the register says (k), on which failovers rest"},
	} {
		j.check(c.name, v[c.name] == c.want, stateWrong, v[c.name], c.want, c.why, agents)
	}
}

func onOff(on bool) string {
	if on {
		return "ON"
	}
	return "OFF"
}

// receiver judges how soon a replica notices a silent source.
func (j *serverJudge) receiver() {
	want := fmt.Sprintf("%.0f", j.f.NetTimeout.Seconds())
	j.check("replica_net_timeout", j.s.Variables["replica_net_timeout"] == want, stateWrong, j.s.Variables["replica_net_timeout"], want,
		"seconds until a replica gives a silent source up; the agents take its word as evidence", bySQL("replica_net_timeout", want))
	j.check("filters", j.s.Filters == "", stateWrong, cmp.Or(j.s.Filters, "none"), "none",
		"what they leave out is lost when another server becomes the primary; one with them neither acknowledges nor is promoted",
		"CHANGE REPLICATION FILTER …, and my.cnf without replicate-*, binlog-do-db and binlog-ignore-db; then rebuild what lacks data")
	if j.s.Heartbeat < 0 || j.primary() {
		return
	}
	j.check("delay", j.s.Delay == 0, stateAdvice, j.s.Delay.String(), "0s",
		"one that waits on purpose neither acknowledges nor is promoted", "STOP REPLICA SQL_THREAD; CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 0; START REPLICA SQL_THREAD;")
	change := func(key string, seconds float64) string {
		return fmt.Sprintf("STOP REPLICA IO_THREAD; CHANGE REPLICATION SOURCE TO %s = %g; START REPLICA IO_THREAD;", key, seconds)
	}
	j.check("heartbeat period", j.s.Heartbeat == j.f.Heartbeat, stateWrong, j.s.Heartbeat.String(), j.f.Heartbeat.String(),
		"how often an idle source says that it lives; it must fit the detection profile", change("SOURCE_HEARTBEAT_PERIOD", j.f.Heartbeat.Seconds())+" or wait: "+agents)
	j.check("retry interval", j.s.Retry == dbrepl.ConnectRetry, stateWrong, j.s.Retry.String(), dbrepl.ConnectRetry.String(),
		"how soon a replica that lost its source tries it again: until then it acknowledges nothing", change("SOURCE_CONNECT_RETRY", dbrepl.ConnectRetry.Seconds())+" or wait: "+agents)
}

// rest is what makes trouble later rather than wrong promises now.
func (j *serverJudge) rest() {
	v := j.s.Variables
	keep, _ := strconv.Atoi(v["binlog_expire_logs_seconds"])
	off := v["binlog_expire_logs_auto_purge"] == "OFF"
	j.check("binlog retention", keep == 0 || off || keep >= leastBinlogDays*86400, stateAdvice, v["binlog_expire_logs_seconds"]+" s", fmt.Sprintf("%d s or more", leastBinlogDays*86400),
		"a server that was away longer has to be rebuilt", bySQL("binlog_expire_logs_seconds", "604800"))
	j.check("admin listener", v["admin_address"] != "" && v["create_admin_listener_thread"] == "ON" && j.s.Admin, stateAdvice,
		fmt.Sprintf("admin_address %s, own thread %s, mysql_admin %s", orDash(v["admin_address"]), orDash(v["create_admin_listener_thread"]), map[bool]string{true: "configured", false: "not configured"}[j.s.Admin]),
		"an address, ON, configured", "probes still get in when max_connections is used up, so that full is not taken for dead",
		"my.cnf: admin_address = <address> and create_admin_listener_thread = ON, then restart; agent: cluster.members[].mysql_admin")
	most, _ := strconv.Atoi(v["max_connections"])
	j.check("max_connections", most > 0 && j.s.MaxUsed*10 < most*9, stateAdvice, fmt.Sprintf("%d, %d used at most", most, j.s.MaxUsed), "never more than nine tenths used",
		"after a failover all clients come to one server at once", bySQL("max_connections", strconv.Itoa(max(2*j.s.MaxUsed, 151))))
}

// judgeDistinct wants a variable to differ between all servers.
func judgeDistinct(servers []serverFacts, name, why, fix string) finding {
	by := map[string][]string{}
	for _, s := range servers {
		if value := s.Variables[name]; value != "" {
			by[value] = append(by[value], string(s.Node))
		}
	}
	var same []string
	for value, nodes := range by {
		if len(nodes) > 1 {
			same = append(same, fmt.Sprintf("%s on %s", value, strings.Join(nodes, ", ")))
		}
	}
	slices.Sort(same)
	f := finding{Subject: "cluster", Check: "distinct " + name, State: stateOK, Value: fmt.Sprintf("%d different", len(by)), Wanted: "one of its own for each server", Why: why}
	if len(same) > 0 {
		f.State, f.Value, f.Fix = stateWrong, strings.Join(same, "; "), fix
	}
	return f
}

// judgeClocks compares the clocks of any two servers; what the reading itself
// may be wrong by is not held against them.
func judgeClocks(servers []serverFacts) finding {
	f := finding{
		Subject: "cluster", Check: "clocks", State: stateOK, Wanted: "within " + clockLimit.String(),
		Why: "lags and the times in reports are compared between hosts; no decision rests on them",
	}
	var apart, between time.Duration
	var pair string
	for i, a := range servers {
		for _, b := range servers[i+1:] {
			if a.Error != "" || b.Error != "" {
				continue
			}
			if d := (a.Clock - b.Clock).Abs(); d >= apart {
				apart, between, pair = d, a.ClockError+b.ClockError, fmt.Sprintf(" between %s and %s", a.Node, b.Node)
			}
		}
	}
	f.Value = fmt.Sprintf("%s ± %s%s", apart.Round(time.Millisecond), between.Round(time.Millisecond), pair)
	if apart-between > clockLimit {
		f.State, f.Fix = stateAdvice, "let chrony or systemd-timesyncd set the clocks of the hosts"
	}
	return f
}

// judgeEtcd judges each endpoint, and whether they have a quorum.
func judgeEtcd(f clusterFacts) []finding {
	var out []finding
	answer := 0
	for _, e := range f.Etcd {
		one := finding{
			Subject: "etcd", Check: e.Endpoint, State: stateOK, Value: "answers with a quorum", Wanted: "answers with a quorum",
			Why: "with fewer members the next failure can cost the quorum",
		}
		if e.Error == "" {
			answer++
		} else {
			one.State, one.Value, one.Fix = stateWrong, e.Error, "start its agent (embedded etcd runs in the agents), or etcd there; see its log"
		}
		out = append(out, one)
	}
	quorum := finding{Subject: "etcd", Check: "cluster record", State: stateOK, Value: "read", Wanted: "read", Why: "without etcd nothing is promoted; writes go on"}
	if f.Record == nil {
		quorum.State, quorum.Value, quorum.Fix = stateWrong, fmt.Sprintf("not read, %d of %d endpoints answer", answer, len(f.Etcd)), "bring a majority of etcd's members up"
	}
	return append(out, quorum)
}
