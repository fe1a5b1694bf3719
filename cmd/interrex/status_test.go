package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

var update = flag.Bool("update", false, "write the golden files anew")

var testNow = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func pointer[T any](v T) *T { return &v }

func soundStatus() api.Cluster {
	return api.Cluster{
		Name: "shop", Self: "db2", Status: api.StatusHealthy, Reasons: []string{}, Epoch: 3, Leader: "db2", EtcdReachable: true,
		Primary: &api.Primary{
			Node: "db1", Address: "10.0.0.1:3306", Epoch: 3, Phase: election.Open, Since: testNow.Add(-50 * time.Hour), Verdict: topology.Healthy,
		},
		Durability: api.Durability{
			Lossless: true, Ackers: []topology.NodeName{"db2", "db3"}, K: 1, Needed: 2, Acknowledging: []topology.NodeName{"db2", "db3"},
		},
		Members: []api.Member{
			{Name: "db1", Role: api.RolePrimary, Verdict: topology.Healthy, MySQL: "10.0.0.1:3306", ServerVersion: "8.4.6", Writable: true},
			{Name: "db2", Role: api.RoleReplica, Verdict: topology.Healthy, Leader: true, MySQL: "10.0.0.2:3306", ServerVersion: "8.4.6",
				Acker: true, Acknowledging: true, LagMS: pointer(0.0), Missing: pointer(uint64(0))},
			{Name: "db3", Role: api.RoleReplica, Verdict: topology.Suspect, MySQL: "10.0.0.3:3306", ServerVersion: "8.4.6",
				Acker: true, LagMS: pointer(1234.5), Missing: pointer(uint64(4711)), Site: "ams", Error: "receiver is CONNECTING: no error"},
			{Name: "arb", Role: api.RoleArbiter, Verdict: topology.Healthy},
		},
		GatesClosed: []failover.Gate{{Name: "primary_failed", Operation: election.Failover, Reason: "db1 answers"}},
	}
}

func troubledStatus() api.Cluster {
	c := soundStatus()
	c.Status, c.Reasons = api.StatusFailingOver, []string{"failover of epoch 4 is at step promote", "paused by operator: rack 4"}
	c.Primary.Verdict, c.Leader, c.EtcdReachable = topology.Failed, "", false
	c.Durability.Lossless, c.Durability.Acknowledging, c.Durability.Unacknowledged = false, nil, 7
	c.Durability.Lossy = &election.Lossy{Since: testNow.Add(-2 * time.Minute), Until: testNow.Add(-time.Minute), Reason: "a setting", Commits: 5}
	c.Paused = &election.Pause{By: "operator", Reason: "rack 4", Since: testNow.Add(-time.Minute)}
	c.Operation = &api.Operation{
		Kind: election.Failover, Epoch: 4, Step: "promote", From: "db1", To: "db2", Leader: "db3", Cause: "process exited", ElapsedMS: 61_250,
	}
	c.GatesClosed = append(c.GatesClosed, failover.Gate{Name: "not_paused", Operation: election.Failover, Reason: "paused by operator"})
	c.Members[3] = api.Member{Name: "db4", Role: api.RoleRebuilding, Verdict: topology.Suspect, Errant: "u:1-3",
		Rebuild: &api.Rebuild{Stage: "clone: DATA FILES", Since: testNow, SavedFile: "/var/lib/interrex/errant/1.sql"}}
	return c
}

func starvedStatus() api.Cluster {
	c := soundStatus()
	c.Status, c.Reasons = api.StatusStarved, []string{"commits wait: 0 of the 1 needed ackers acknowledge"}
	c.Durability.Acknowledging = nil
	return c
}

func sampleReport() api.Report {
	return api.Report{
		Epoch: 4, Kind: election.Failover, Outcome: failover.Completed, Leader: "db2", From: "db1", To: "db2", Cause: "db1 is failed (process_exited): db2 was refused 2 ms ago; db1 (own agent) saw its process exit 3 ms ago",
		StartedAt: testNow.Add(-time.Hour), EndedAt: pointer(testNow.Add(-time.Hour + 250*time.Millisecond)),
		Steps: []failover.Step{
			{Name: "detect", BeganMS: -12.5, TookMS: 12.5, Detail: "process exited"},
			{Name: "claim", BeganMS: 0, TookMS: 3.25, Detail: "epoch 4"},
			{Name: "route", BeganMS: 200, TookMS: 5, Error: "db3 was not told: refused"},
		},
		Evidence: api.Judgement{
			Subject: "db1", Verdict: topology.Failed, Cause: "process_exited", Explanation: "2 of 3 are against it", LastGoodMS: 20, FirstBadMS: 13,
			Votes: []api.Vote{
				{Observer: "db2", Kind: "refused", AgeMS: 1.5, Against: true, Counts: api.CountsAgainst, Detail: "connection refused"},
				{Observer: "db3", Kind: "frozen", AgeMS: 250, Counts: api.CountsNot, Why: "it says of itself that it is slow"},
				{Observer: "arb", Kind: "alive", AgeMS: 95, Counts: api.CountsFor},
			},
		},
		Gates: []failover.Gate{
			{Name: "primary_failed", Operation: election.Failover, Open: true, Reason: "db1 is failed"},
		},
		RTOMillis: 262.5, RTOBounds: [2]float64{250, 262.5},
		RPO: api.RPO{LostCommits: pointer(uint64(0)), Proof: api.Proof{
			Statement: "both ackers were frozen", Ackers: []topology.NodeName{"db2", "db3"}, K: 1, Needed: 2, Frozen: []topology.NodeName{"db2", "db3"},
			Union:    gtid.MustParse("11111111-1111-1111-1111-111111111111:1-100"),
			Promoted: gtid.MustParse("11111111-1111-1111-1111-111111111111:1-100"),
			Errant:   pointer(gtid.MustParse("11111111-1111-1111-1111-111111111111:101")), SavedFile: "/var/lib/interrex/errant/1.sql",
		}},
	}
}

func sampleExplained() api.Explained {
	e := sampleReport().Evidence
	return api.Explained{
		By: "db2", Evidence: &e,
		Explanation: failover.Explanation{
			Question: "Is db1 failed over now, and why or why not?", Answer: "No. db1 has failed, and the failover is held back by a gate.",
			Because: []string{"gate not_paused is closed: paused by kim", "process_exited: the server's process has ended", e.Explanation},
			Next:    "It begins by itself as soon as every gate is open.",
		},
		Gates: []failover.Gate{{Name: "not_paused", Operation: election.Failover, Reason: "paused by kim"}},
	}
}

func sampleDecisions() []api.Decision {
	return []api.Decision{
		{
			ID: "db2-7", By: "db2", Subject: "db1", Primary: true, Led: true, Outcome: failover.DecisionRecovered, Evidence: sampleReport().Evidence,
			BeganAt: testNow.Add(-2 * time.Hour), EndedAt: pointer(testNow.Add(-2*time.Hour + 700*time.Millisecond)), LastMS: 700, Times: 1,
			Words: failover.Explanation{
				Question: "What came of the evidence against db1?", Answer: "db1 was failed for 700 ms in the eyes of db2. The failover was held back.",
				Because: []string{"gate not_paused was closed for 600 ms: paused by kim"},
			},
		},
		{ID: "db3-2", By: "db3", Subject: "db2", Outcome: failover.DecisionOpen, BeganAt: testNow.Add(-time.Minute), LastMS: 60_000,
			Words: failover.Explanation{Answer: "db2 was failed for 1m0s in the eyes of db3. It was not the primary: nothing was moved."}},
	}
}

// TestPages holds what each command prints against testdata, as a program
// reads it (plain) and as a person sees it (terminal).
func TestPages(t *testing.T) {
	attainment := failover.ComputeObjectives(testNow, failover.Objectives{RTO: 500 * time.Millisecond}, []failover.Report{
		{Epoch: 4, Kind: election.Failover, Outcome: failover.Completed, StartedAt: testNow.Add(-time.Hour), EndedAt: testNow.Add(-time.Hour), RTOMillis: 900},
	}, testNow.Add(-100*24*time.Hour))
	failed := api.Report{Epoch: 5, Kind: election.Failover, Outcome: failover.Failure, From: "db2", Cause: "silent", StartedAt: testNow}
	for name, page := range map[string]func(screen){
		"status":          func(s screen) { printStatus(s, soundStatus()) },
		"status_troubled": func(s screen) { printStatus(s, troubledStatus()) },
		"status_new": func(s screen) {
			printStatus(s, api.Cluster{Name: "shop", Self: "db1", Status: api.StatusNoPrimary, EtcdReachable: true})
		},
		"status_starved": func(s screen) { printStatus(s, starvedStatus()) },
		"history":        func(s screen) { printHistory(s, []api.Report{failed, sampleReport()}) },
		"history_empty":  func(s screen) { printHistory(s, nil) },
		"report":         func(s screen) { printReport(s, sampleReport()) },
		"report_forced":  func(s screen) { printReport(s, forcedReport()) },
		"status_stuck":   func(s screen) { printStatus(s, stuckStatus()) },
		"force":          func(s screen) { printForcePreview(s, samplePreview()) },
		"force_refused": func(s screen) {
			p := samplePreview()
			p.Gates[0] = failover.Gate{Name: "primary_failed", Operation: failover.Force, Reason: "db1 answers: use a switchover, or wait"}
			p.Bound = failover.LossBound{Proven: true, Confirm: "0", Candidate: "db2", Statement: "nothing acknowledged is lost: db2 holds all of it"}
			printForcePreview(s, p)
		},
		"gates": func(s screen) {
			printGates(s, append(sampleReport().Gates, failover.Gate{Name: "primary_healthy", Operation: election.Switchover, Reason: "db1 is failed"}))
		},
		"objectives": func(s screen) { printObjectives(s, api.Objectives{Attainment: attainment, Status: api.StatusDegraded}) },
		"objectives_starved": func(s screen) {
			printObjectives(s, api.Objectives{Attainment: failover.Attainment{Since: testNow}, Status: api.StatusStarved})
		},
		"explain": func(s screen) {
			printExplained(s, sampleExplained())
			printDecisions(s, sampleDecisions(), []error{errors.New("agent 10.0.0.3:8460: connection refused")})
		},
		"explain_quiet":    func(s screen) { printDecisions(s, nil, nil) },
		"explain_decision": func(s screen) { printDecision(s, sampleDecisions()[0]) },
		"findings":         func(s screen) { printFindings(s, unsoundFindings(), true) },
	} {
		for kind, s := range map[string]screen{
			"plain":    {now: testNow},
			"terminal": {now: testNow, terminal: true, color: true, width: 100},
		} {
			t.Run(name+"_"+kind, func(t *testing.T) {
				var printed bytes.Buffer
				s.out = &printed
				page(s)
				golden(t, filepath.Join("testdata", name+"."+kind+".golden"), printed.Bytes())
				if kind == "plain" {
					require.NotContains(t, printed.String(), "\x1b")
				}
			})
		}
	}
}

func unsoundFindings() []finding {
	facts := soundCluster()
	facts.Servers = facts.Servers[:1]
	facts.Servers[0].Variables["sync_binlog"] = "0"
	facts.Servers[0].MaxUsed = 150
	return judgeCluster(facts)
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, got, 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got), "if that is right: go test -run TestPages -update")
}

func TestJSONIsTheAnswerOfTheAPI(t *testing.T) {
	agent := agentAt(t, map[string]any{"GET /api/v1/cluster": soundStatus()})
	code, out, _ := run(t, "status", "-o", "json", "--agent", agent)
	require.Equal(t, 0, code)
	want, err := json.Marshal(soundStatus())
	require.NoError(t, err)
	require.JSONEq(t, string(want), out)
}

// What the members remember is put together, whoever of them answers.
func TestExplainAsksEveryAgent(t *testing.T) {
	all := sampleDecisions()
	explained := map[string]any{"GET /api/v1/explain": sampleExplained()}
	answers := func(d ...api.Decision) map[string]any {
		m := map[string]any{"GET /api/v1/decisions": api.DecisionList{Decisions: d}}
		maps.Copy(m, explained)
		return m
	}
	one, two, dead := agentAt(t, answers(all[0])), agentAt(t, answers(all[1])), deadAddress(t)
	agents := one + "," + dead + "," + two + "," + one
	code, out, errOut := run(t, "explain", "--agent", agents)
	require.Equal(t, 0, code, errOut)
	require.Contains(t, out, "held back by a gate")
	require.Less(t, strings.Index(out, "db3-2"), strings.Index(out, "db2-7"), "what goes on comes first:\n%s", out)
	require.Equal(t, 1, strings.Count(out, "db2-7"), "an agent that is named twice is not told twice:\n%s", out)
	require.Contains(t, out, "not asked: agent "+dead)

	code, out, _ = run(t, "explain", "--decision", "db2-7", "--agent", agents)
	require.Equal(t, 0, code)
	require.Contains(t, out, "db2, which led")
	code, _, errOut = run(t, "explain", "--decision", "db9-1", "--agent", agents)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errOut, "no agent that answers remembers")
	require.Contains(t, errOut, dead, "who was not asked may know it")
	code, _, _ = run(t, "explain", "--epoch", "3", "--member", "db1", "--agent", one)
	require.Equal(t, exitUsage, code)
}

func TestSwitchoverSaysHowLongWritesWereOut(t *testing.T) {
	r := sampleReport()
	agent := agentAt(t, map[string]any{"POST /api/v1/switchover": r})
	code, out, errOut := run(t, "switchover", "--to", "db2", "--agent", agent, "--token-file", tokenFile(t))
	require.Equal(t, 0, code, errOut)
	require.Contains(t, out, "claim")
	require.Contains(t, out, "db2 is the primary of epoch 4. Writes were out for 262 ms; 0 acknowledged commits lost.")
}

func TestMillisText(t *testing.T) {
	for ms, want := range map[float64]string{0: "0 ms", 0.04: "0.0 ms", 9.94: "9.9 ms", 312.4: "312 ms", 4940: "4.94 s", 61_250: "1m1s"} {
		require.Equal(t, want, millisText(ms))
	}
}

func TestRebuildLine(t *testing.T) {
	failed := &api.Rebuild{Stage: "failed", Since: testNow, Error: "no donor", SavedFile: "/errant/1.sql"}
	done := &api.Rebuild{Stage: "done", Since: testNow, SavedFile: "/errant/1.sql"}
	for _, c := range []struct {
		m    api.Member
		want string
	}{
		{api.Member{Role: api.RoleRebuilding, Rebuild: &api.Rebuild{Stage: "clone: FILE COPY", Since: testNow}}, "db2 is rebuilt since 12:00:00: clone: FILE COPY"},
		{api.Member{Role: api.RoleReplica, Acker: true, Rebuild: done}, "db2 was rebuilt at 12:00:00; its own transactions are saved in /errant/1.sql"},
		{api.Member{Role: api.RoleClosed, Rebuild: failed}, "db2 was to be rebuilt at 12:00:00, and that failed: no donor; its own transactions are saved in /errant/1.sql"},
		{api.Member{Role: api.RoleReplica, Acker: true, Rebuild: failed}, "db2 was to be rebuilt at 12:00:00, and has come back since; its own transactions are saved in /errant/1.sql"},
		{api.Member{Role: api.RolePrimary, Rebuild: failed}, "db2 was to be rebuilt at 12:00:00, and has come back since; its own transactions are saved in /errant/1.sql"},
	} {
		c.m.Name = "db2"
		require.Equal(t, c.want, rebuildLine(c.m))
	}
}
