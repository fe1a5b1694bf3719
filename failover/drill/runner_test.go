package drill

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/failover"
	"interrex/failover/api"
	_ "interrex/internal/onecore"
	"interrex/internal/topology"
	"interrex/internal/workload"
)

// world is a cluster and a load in virtual time. n1 is the primary; a second
// after it was hit n2 is, unless it is told otherwise.
type world struct {
	outage   time.Duration // of the load
	after    time.Duration // of the load, once writes are restored
	check    workload.Check
	drills   api.DrillState
	stays    bool // no failover happens
	broken   topology.NodeName
	refuses  bool // faults
	heals    bool
	hit      time.Time
	undone   time.Time
	moved    bool // an operation ran
	orders   []string
	dropped  int
	stopped  int
	agentGon time.Duration
	lags     time.Duration // a member's view, after an operation
}

func newWorld() *world {
	return &world{outage: 400 * time.Millisecond, heals: true, drills: api.DrillState{Enabled: true}}
}

func (w *world) since() time.Duration {
	if w.hit.IsZero() {
		return -1
	}
	return time.Since(w.hit)
}

func (w *world) Cluster(context.Context) (api.Cluster, error) {
	c := api.Cluster{Name: "c", Epoch: 3, Status: api.StatusHealthy, EtcdReachable: true, Primary: &api.Primary{Node: "n1", Phase: election.Open}}
	for _, n := range []topology.NodeName{"n1", "n2", "n3"} {
		m := api.Member{Name: n, Role: api.RoleReplica, RW: string(n) + ":6446"}
		switch {
		case n == "n1" && w.since() >= 0 && w.agentGon == 0 && (w.undone.IsZero() || !w.heals):
			m.Role, c.Status = api.RoleUnreachable, api.StatusDegraded
		case n == w.broken && w.since() >= 0:
			m.Role, c.Status = api.RoleUnreachable, api.StatusDegraded
		}
		c.Members = append(c.Members, m)
	}
	if w.since() > time.Second && !w.stays {
		c.Primary.Node, c.Epoch, w.moved = "n2", 4, true
	} else {
		c.Members[0].Role = api.RolePrimary
	}
	return c, nil
}

func (w *world) Reports(context.Context, int) ([]api.Report, error) {
	old := api.Report{Epoch: 3, From: "n3", Kind: election.Switchover, Outcome: failover.Completed}
	if !w.moved {
		return []api.Report{old}, nil
	}
	return []api.Report{{Epoch: 4, From: "n1", To: "n2", Kind: election.Failover, Outcome: failover.Completed, RTOMillis: 390}, old}, nil
}

func (w *world) Objectives(context.Context) (failover.Attainment, error) {
	return failover.Attainment{RTOObjectiveMS: 1000}, nil
}

func (w *world) Switchover(context.Context, topology.NodeName) (api.Report, error) {
	w.hit, w.undone = time.Now(), time.Now()
	return api.Report{Epoch: 4}, nil
}

func (w *world) Drills(_ context.Context, node topology.NodeName) (api.DrillState, error) {
	if node == "n1" && w.agentGon > 0 && w.since() > 0 && w.since() < w.agentGon {
		return api.DrillState{}, errors.New("connection refused")
	}
	s := w.drills
	if healed := w.since() - DefaultConfig(KillPrimary).Duration; healed >= 0 && healed < w.lags {
		s.Gate = &failover.Gate{Name: "cluster_healthy", Reason: "n1 is being rebuilt"}
	}
	return s, nil
}

func (w *world) Fault(_ context.Context, node topology.NodeName, req api.FaultRequest) (api.FaultResult, error) {
	if w.refuses {
		return api.FaultResult{}, fmt.Errorf("%w: gate leader is closed", ErrNotRun)
	}
	w.orders = append(w.orders, string(node)+" "+string(req.Fault))
	if req.Fault.Undoes() {
		w.undone = time.Now()
	} else {
		w.hit = time.Now()
	}
	return api.FaultResult{Detail: string(req.Fault)}, nil
}

func (w *world) Start(context.Context, []string) (Load, error) { return w, nil }
func (w *world) Stop() Sight                                   { w.stopped++; return fakeSight{w} }

// Acknowledged grows all the time, as a load that flows.
func (w *world) Acknowledged() int { return int(time.Now().UnixMilli() - 946684800000 + 1) }

type fakeSight struct{ *world }

func (s fakeSight) LongestOutage(from, to time.Time) workload.Outage {
	switch {
	case from.Equal(s.hit):
		return workload.Outage{From: from, To: from.Add(s.outage)}
	case to.IsZero():
		return workload.Outage{From: from, To: from.Add(s.after)}
	}
	return workload.Outage{From: from, To: from.Add(3 * time.Millisecond)}
}
func (s fakeSight) Refused() int                                   { return 1 }
func (s fakeSight) Unknown() int                                   { return 2 }
func (s fakeSight) Errors() map[string]int                         { return map[string]int{"a|b": 1, "lost": 2} }
func (s fakeSight) Verify(context.Context) (workload.Check, error) { return s.check, nil }
func (s fakeSight) Drop(context.Context) error                     { s.dropped++; return nil }

func run(t *testing.T, ctx context.Context, kind Kind, w *world, count int) (Report, error) {
	t.Helper()
	c := DefaultConfig(kind)
	c.Count = count
	r, err := NewRunner(c, w, w, func(Event) {})
	require.NoError(t, err)
	return r.Run(ctx)
}

// inBubble runs f in virtual time.
func inBubble(t *testing.T, f func(t *testing.T)) { synctest.Test(t, f) }

func TestDrillThatMeetsItsObjectives(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld()
		report, err := run(t, t.Context(), KillPrimary, w, 1)
		require.NoError(t, err)
		require.True(t, report.Met, "%+v", report.Rounds)
		require.Equal(t, []string{"n1 kill_server", "n1 start_server"}, w.orders)
		round := report.Rounds[0]
		require.Equal(t, topology.NodeName("n2"), round.NewPrimary)
		require.InDelta(t, 400, round.Clients.RTOMillis, 0)
		require.InDelta(t, 3, round.Clients.QuietMillis, 0)
		require.Equal(t, topology.Epoch(4), round.Ledger.Epoch, "not the entry of an earlier operation")
		require.Equal(t, []ErrorCount{{"lost", 2}, {"a|b", 1}}, round.Clients.Errors)
		require.Equal(t, 1, w.dropped)
		require.GreaterOrEqual(t, w.undone.Sub(w.hit), DefaultConfig(KillPrimary).Duration)
		page := report.Markdown()
		for _, want := range []string{"# Drill kill-primary of cluster c", "| writes out | 400 ms | 390 ms (0 to 0) |", `| 1 | a\|b |`, "n1:6446, n2:6446, n3:6446"} {
			require.Contains(t, page, want)
		}
	})
}

func TestWhatMissesObjectives(t *testing.T) {
	for name, c := range map[string]struct {
		kind  Kind
		given func(*world)
		want  string
	}{
		"too long":           {KillPrimary, func(w *world) { w.outage = 1100 * time.Millisecond }, "writes were out for 1100 ms"},
		"too long later":     {KillPrimary, func(w *world) { w.after = 1200 * time.Millisecond }, "writes were out for 1200 ms while the cluster got healthy"},
		"lost row":           {FreezePrimary, func(w *world) { w.check.Lost = []string{"writer 1 row 3"} }, "1 acknowledged rows are missing (writer 1 row 3)"},
		"ghost":              {KillPrimary, func(w *world) { w.check.Ghosts = []string{"writer 1 row 3"} }, "refused are there"},
		"no failover":        {KillPrimary, func(w *world) { w.stays = true }, "a new primary: not after 30s: n1 is still the primary"},
		"not healthy again":  {KillPrimary, func(w *world) { w.heals = false }, "the cluster healthy again: not after 5m0s"},
		"agent: outage":      {StopAgent, func(w *world) { w.stays, w.agentGon = true, 2*time.Second }, "although only an agent was stopped"},
		"agent: failover":    {StopAgent, func(w *world) { w.agentGon, w.outage = 2*time.Second, time.Millisecond }, "a failover of epoch 4 ran"},
		"agent: never again": {StopAgent, func(w *world) { w.stays, w.agentGon, w.outage = true, 24*time.Hour, time.Millisecond }, "was not started again"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld()
				c.given(w)
				report, err := run(t, t.Context(), c.kind, w, 1)
				require.NoError(t, err)
				require.False(t, report.Met)
				require.Contains(t, strings.Join(report.Rounds[0].Missed, "\n"), c.want)
				require.Equal(t, 1, w.dropped)
			})
		})
	}
}

func TestStoppedAgentIsNoOutage(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld()
		w.stays, w.agentGon, w.outage = true, 2*time.Second, 20*time.Millisecond
		report, err := run(t, t.Context(), StopAgent, w, 1)
		require.NoError(t, err)
		require.True(t, report.Met, "%v", report.Rounds[0].Missed)
		require.Equal(t, []string{"n2:6446", "n3:6446"}, report.Routes, "not the routes that go with the agent")
		require.Equal(t, []string{"n1 stop_agent"}, w.orders)
	})
}

func TestSwitchoverDrill(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld()
		report, err := run(t, t.Context(), Switchover, w, 1)
		require.NoError(t, err)
		require.True(t, report.Met, "%v", report.Rounds[0].Missed)
		require.Empty(t, w.orders)
	})
}

func TestDrillThatCannotBeginDoesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		given func(*world)
		want  string
	}{
		"disabled":  {func(w *world) { w.drills.Enabled = false }, "set `drills: enabled`"},
		"gate":      {func(w *world) { w.drills.Gate = &failover.Gate{Name: "leader", Reason: "no member leads"} }, "gate leader is closed: no member leads"},
		"other":     {func(w *world) { w.drills.Active = &api.ActiveFault{Fault: api.FaultKillServer, By: "ann"} }, "by ann is in force"},
		"unhealthy": {func(w *world) { w.hit, w.broken = time.Now(), "n2" }, "gate cluster_healthy is closed"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := newWorld()
				c.given(w)
				_, err := run(t, t.Context(), KillPrimary, w, 1)
				require.ErrorIs(t, err, ErrNotRun)
				require.ErrorContains(t, err, c.want)
				require.Empty(t, w.orders)
				require.Zero(t, w.stopped)
			})
		})
	}
}

// TestRefusedFaultIsNotUndone: a gate closed between the check and the order.
func TestRefusedFaultIsNotUndone(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld()
		w.refuses = true
		_, err := run(t, t.Context(), KillPrimary, w, 1)
		require.ErrorIs(t, err, ErrNotRun)
		require.Empty(t, w.orders)
		require.Equal(t, []int{1, 1}, []int{w.stopped, w.dropped})
	})
}

// TestInterruptedDrillUndoesItsFault: Ctrl-C while the server is frozen.
func TestInterruptedDrillUndoesItsFault(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld()
		w.stays = true
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		_, err := run(t, ctx, FreezePrimary, w, 1)
		require.ErrorIs(t, err, ErrAborted)
		require.Equal(t, []string{"n1 freeze_server", "n1 thaw_server"}, w.orders)
		require.Equal(t, 1, w.stopped)
		require.Equal(t, 1, w.dropped)
	})
}

// TestIncidentAbortsTheDrill (O6): something else breaks while it runs.
func TestIncidentAbortsTheDrill(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld()
		w.stays, w.broken = true, "n3"
		_, err := run(t, t.Context(), KillPrimary, w, 3)
		require.ErrorIs(t, err, ErrAborted)
		require.ErrorContains(t, err, "n3 cannot be reached")
		require.Equal(t, []string{"n1 kill_server", "n1 start_server"}, w.orders)
		require.Less(t, w.undone.Sub(w.hit), incidentAfter+time.Second)
	})
}

// TestRoundsWaitForEachMembersView: after a round, a member may still see what
// the others see no more.
func TestRoundsWaitForEachMembersView(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		w := newWorld()
		w.lags = 3 * time.Second
		report, err := run(t, t.Context(), Switchover, w, 3)
		require.NoError(t, err)
		require.Len(t, report.Rounds, 3)
		require.Equal(t, 1, w.dropped, "once, at the end")
	})
}

func TestSpreadOfRounds(t *testing.T) {
	r := Report{}
	for _, ms := range []float64{400, 100, 300, 200} {
		r.Rounds = append(r.Rounds, Round{Met: true, Clients: Clients{RTOMillis: ms}})
	}
	r.conclude()
	require.Equal(t, Spread{Median: 200, Worst: 400}, r.RTO)
	require.True(t, r.Met)
	r.Rounds[2].Met = false
	r.conclude()
	require.False(t, r.Met)
}

func TestConfigNamesEveryFault(t *testing.T) {
	err := Config{Kind: "kill", Duration: 2 * time.Hour}.Validate()
	for _, want := range []string{`drill "kill"`, "count 0", "duration 2h0m0s", "heal limit"} {
		require.ErrorContains(t, err, want)
	}
	require.NoError(t, DefaultConfig(KillPrimary).Validate())
}
