package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/failover/api"
	"interrex/failover/drill"
	"interrex/internal/sandbox"
	"interrex/internal/workload"
)

// drilled is a sandbox run by a built program.
type drilled struct {
	program, dir string
	info         sandbox.Info
}

// startDrilled brings up three real servers with their agents.
func startDrilled(t *testing.T) *drilled {
	t.Helper()
	// Not t.TempDir: its path is too long for a socket.
	dir, err := os.MkdirTemp("", "interrex-drill-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := &drilled{program: filepath.Join(dir, "interrex"), dir: filepath.Join(dir, "s")}
	build(t, dir, "interrex/cmd/interrex")
	t.Cleanup(func() {
		_, stderr, code := d.run(t, 2*time.Minute, "sandbox", "down", "--dir", d.dir)
		require.Zero(t, code, stderr)
	})
	_, stderr, code := d.run(t, 10*time.Minute, "sandbox", "up", "--dir", d.dir)
	require.Zero(t, code, stderr)
	d.info, err = sandbox.ReadInfo(d.dir)
	require.NoError(t, err)
	return d
}

func (d *drilled) run(t *testing.T, limit time.Duration, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), limit)
	defer cancel()
	c := exec.CommandContext(ctx, d.program, args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("interrex %v: %v", args, err)
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}

func (d *drilled) node(t *testing.T, name string) sandbox.NodeInfo {
	t.Helper()
	for _, n := range d.info.Nodes {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("no node %q", name)
	return sandbox.NodeInfo{}
}

// calm waits until the cluster could bear a fault and returns the primary.
func (d *drilled) calm(t *testing.T) sandbox.NodeInfo {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		var seen []string
		var primary string
		for _, n := range d.info.Nodes {
			var c api.Cluster
			var s api.DrillState
			err := errors.Join(d.get(n, "/api/v1/cluster", &c), d.get(n, "/api/v1/drill", &s))
			switch {
			case err != nil:
				seen = append(seen, err.Error())
			case s.Gate != nil:
				seen = append(seen, n.Name+": "+s.Gate.Reason)
			default:
				primary = string(c.Primary.Node)
			}
		}
		if len(seen) == 0 {
			return d.node(t, primary)
		}
		if time.Now().After(deadline) {
			t.Fatalf("the cluster does not get healthy; last seen: %v", seen)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (d *drilled) get(n sandbox.NodeInfo, path string, into any) error {
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + n.Agent.API + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}

// drill runs a drill beside an independent client and holds both against each
// other. It returns the report.
func (d *drilled) drill(t *testing.T, kind drill.Kind, args ...string) (drill.Report, int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "report.json")
	var primary, route sandbox.NodeInfo
	var seen *workload.Result
	var stdout, stderr string
	var code int
	// An acker that is registered anew closes a gate for a moment: a drill that
	// was not begun has done nothing and may be tried again. The cluster gets
	// well without the load: two slow cores apply it later than it is written.
	for range 20 {
		primary, route = d.calm(t), d.info.Nodes[0]
		if route.Name == primary.Name {
			route = d.info.Nodes[1]
		}
		app := primary.MySQL
		w, err := workload.Start(t.Context(), workload.Config{
			Address: route.Agent.RW, User: app.AppUser, Password: app.AppPassword, Database: app.AppDatabase,
			Table: "independent", Writers: 4, Pause: 5 * time.Millisecond,
		})
		require.NoError(t, err)
		stdout, stderr, code = d.run(t, 10*time.Minute, append([]string{
			"drill", string(kind), "--dir", d.dir, "--duration", "2s", "--yes", "--report", file,
		}, args...)...)
		seen = w.Stop()
		if code != exitFailed || !strings.Contains(stderr, drill.ErrNotRun.Error()) {
			break
		}
		t.Logf("%s", stderr)
	}
	t.Logf("%s%s", stdout, stderr)
	require.Contains(t, []int{0, exitMissed}, code)

	var r drill.Report
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &r))
	require.Len(t, r.Rounds, 1)
	require.Equal(t, r.Met, code == 0)
	round := r.Rounds[0]
	require.Equal(t, primary.Name, string(round.Node))
	require.Empty(t, round.Clients.Lost)
	require.Empty(t, round.Clients.Ghosts)

	independent := seen.LongestOutage(round.FaultAt, round.RestoredAt)
	mine, other := round.Clients.RTOMillis, float64(independent.Length())/float64(time.Millisecond)
	at := func(moment time.Time) int64 { return moment.Sub(round.FaultAt).Milliseconds() }
	t.Logf("%s: longest outage: the drill %.0f ms (from %d to %d), an independent client %.0f ms (from %d to %d)", kind,
		mine, at(round.Clients.OutageFrom), at(round.Clients.OutageTo), other, at(independent.From), at(independent.To))
	if kind != drill.StopAgent { // where there is none, it is the machine's noise
		// Within 20 % or 20 ms, where the machine does not stall one of them: as
		// long as it kept every writer from an answer before anything was done.
		require.InDelta(t, other, mine, max(20, 0.2*other)+round.Clients.QuietMillis)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	check, err := seen.Verify(ctx, route.Agent.RW)
	require.NoError(t, err)
	require.Empty(t, check.Lost)
	return r, code
}

// configure changes a node's configuration and has a drill restart the agent.
func (d *drilled) configure(t *testing.T, n sandbox.NodeInfo, change func(string) string) {
	t.Helper()
	text, err := os.ReadFile(n.Agent.ConfigFile)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(n.Agent.ConfigFile, []byte(change(string(text))), 0o600))
	before, err := os.ReadFile(n.Agent.PIDFile)
	require.NoError(t, err)
	r, _ := d.drill(t, drill.StopAgent)
	require.Nil(t, r.Rounds[0].Ledger, "a failover although only an agent was stopped")
	require.Equal(t, n.Name, string(r.Rounds[0].NewPrimary))
	after, err := os.ReadFile(n.Agent.PIDFile)
	require.NoError(t, err)
	require.NotEqual(t, string(before), string(after))
}

func TestDrillsOnRealServers(t *testing.T) {
	d := startDrilled(t)

	r, _ := d.drill(t, drill.KillPrimary)
	killed := r.Rounds[0]
	require.NotNil(t, killed.Ledger, "%v", killed.Missed)
	require.EqualValues(t, "failover", killed.Ledger.Kind)
	require.NotEqual(t, killed.Node, killed.NewPrimary)
	require.NotEmpty(t, killed.Ledger.Steps)

	r, _ = d.drill(t, drill.Switchover)
	require.NotNil(t, r.Rounds[0].Ledger, "%v", r.Rounds[0].Missed)
	require.EqualValues(t, "switchover", r.Rounds[0].Ledger.Kind)

	// An objective that nothing can meet: the exit code says so.
	strict := d.calm(t)
	d.configure(t, strict, func(text string) string { return text + "objectives: {rto: 1ms}\n" })
	r, code := d.drill(t, drill.Switchover, "--agent", strict.Agent.API)
	require.Equal(t, exitMissed, code)
	require.Contains(t, strings.Join(r.Rounds[0].Missed, "\n"), "the objective is 1 ms")

	// Where drills are disabled, nothing happens.
	closed := d.calm(t)
	d.configure(t, closed, func(text string) string { return strings.Replace(text, "drills: enabled", "drills: disabled", 1) })
	closed = d.calm(t)
	pid, err := os.ReadFile(closed.MySQL.PIDFile)
	require.NoError(t, err)
	_, stderr, code := d.run(t, time.Minute, "drill", "kill-primary", "--dir", d.dir, "--yes")
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "drills are disabled on "+closed.Name)
	require.Contains(t, stderr, "drills: enabled")
	d.refused(t, closed, d.info.OperatorToken, http.StatusForbidden, "drills-disabled")
	d.refused(t, closed, "wrong-token-0123456789", http.StatusUnauthorized, "unauthorized")
	after, err := os.ReadFile(closed.MySQL.PIDFile)
	require.NoError(t, err)
	require.Equal(t, string(pid), string(after))
	require.Equal(t, closed, d.calm(t), "the primary is another one")
}

// refused orders a fault that must not be caused.
func (d *drilled) refused(t *testing.T, n sandbox.NodeInfo, token string, status int, problem string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, "http://"+n.Agent.API+"/api/v1/drill/faults", strings.NewReader(`{"fault":"kill_server"}`))
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, status, resp.StatusCode, "%s", body)
	require.Contains(t, string(body), api.ProblemType+problem)
}

func TestDrillFlagsAreChecked(t *testing.T) {
	for _, args := range [][]string{
		{"drill", "kill-primary", "--report", "x.txt", "--agent", "127.0.0.1:1"},
		{"drill", "kill-primary", "--writers", "0"},
		{"drill", "switchover", "--count", "0"},
		{"drill", "freeze-primary", "-o", "xml"},
		{"drill", "explode"},
	} {
		root := newRootCommand()
		root.SetArgs(args)
		root.SetOut(io.Discard)
		var errs bytes.Buffer
		require.Equal(t, exitUsage, execute(t.Context(), root, &errs), "%v: %s", args, errs.String())
	}
}
