package drill

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"interrex/election"
	"interrex/failover"
	"interrex/failover/api"
)

const patience = 20 * time.Second

// member is Faults with a process that stands in for its server: only its pid
// and its state matter here.
type member struct {
	*Faults
	server  *exec.Cmd
	exited  chan struct{}
	record  string
	started string // made by the start command
	glance  api.Cluster
	stopped int
}

func newMember(t *testing.T, change func(*FaultsConfig)) *member {
	t.Helper()
	dir := t.TempDir()
	m := &member{
		server: exec.Command("sleep", "600"), exited: make(chan struct{}), record: filepath.Join(dir, "fault.json"),
		started: filepath.Join(dir, "started"), glance: api.Cluster{Status: api.StatusHealthy},
	}
	require.NoError(t, m.server.Start())
	go func() {
		defer close(m.exited)
		_ = m.server.Wait()
	}()
	t.Cleanup(func() {
		_ = m.server.Process.Kill()
		<-m.exited
	})
	c := FaultsConfig{
		Self: "n1", Enabled: true, RecordFile: m.record, Helper: []string{os.Args[0], "undo"},
		Server:     Server{Network: "unix", Address: filepath.Join(dir, "mysql.sock"), StartCommand: []string{"touch", m.started}},
		FindServer: func(context.Context) (int, error) { return m.server.Process.Pid, nil },
		Glance:     func() api.Cluster { return m.glance },
		StopAgent:  func() { m.stopped++ },
	}
	if change != nil {
		change(&c)
	}
	m.Faults = NewFaults(c, zap.NewNop())
	return m
}

func (m *member) do(t *testing.T, fault api.Fault, limit time.Duration) (api.FaultResult, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return m.Do(ctx, api.FaultOrder{Fault: fault, Limit: limit, By: "the test"})
}

// state is "T" when it is frozen, "S" when it runs or sleeps, and empty when it
// is gone.
func (m *member) state() string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(m.server.Process.Pid) + "/stat")
	if err != nil {
		return ""
	}
	state := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))[0]
	if state == "R" || state == "D" {
		return "S"
	}
	return state
}

// frozen waits for it: a signal takes a moment to arrive.
func (m *member) frozen(t *testing.T) {
	t.Helper()
	m.await(t, "frozen", func() bool { return m.state() == "T" })
}

func (m *member) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: last seen: process %q, state %+v", what, m.state(), m.State())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (m *member) thawed() bool { return m.state() == "S" && m.State().Active == nil }

// untouched is what a refused order leaves.
func (m *member) untouched(t *testing.T) {
	t.Helper()
	require.Equal(t, "S", m.state())
	require.NoFileExists(t, m.record)
	require.NoFileExists(t, m.started)
	require.Nil(t, m.State().Active)
	require.Zero(t, m.stopped)
}

func TestDisabledDrillsAreRefused(t *testing.T) {
	m := newMember(t, func(c *FaultsConfig) { c.Enabled = false })
	for _, fault := range []api.Fault{api.FaultKillServer, api.FaultFreezeServer, api.FaultStopAgent, api.FaultThawServer, api.FaultStartServer} {
		_, err := m.do(t, fault, api.FaultLimit)
		require.ErrorIs(t, err, api.ErrDrillsDisabled)
		require.ErrorContains(t, err, "drills: enabled")
	}
	require.False(t, m.State().Enabled)
	m.untouched(t)
}

func TestFaultsAreRefusedByGates(t *testing.T) {
	closed := failover.Gate{Name: "no_operation_in_flight", Operation: election.Failover, Reason: "failover of epoch 4"}
	for name, c := range map[string]struct {
		glance api.Cluster
		gate   string
	}{
		"operation in flight": {api.Cluster{Status: api.StatusFailingOver, GatesClosed: []failover.Gate{closed}}, closed.Name},
		"degraded":            {api.Cluster{Status: api.StatusDegraded, Reasons: []string{"n2 is being rebuilt"}}, "cluster_healthy"},
	} {
		m := newMember(t, nil)
		m.glance = c.glance
		for _, fault := range []api.Fault{api.FaultKillServer, api.FaultFreezeServer, api.FaultStopAgent} {
			_, err := m.do(t, fault, api.FaultLimit)
			var gate *failover.GateError
			require.ErrorAs(t, err, &gate, name)
			require.Equal(t, c.gate, gate.Gate.Name, name)
		}
		m.untouched(t)
	}
	m := newMember(t, nil)
	m.glance.GatesClosed = []failover.Gate{
		{Name: failedGate, Operation: election.Failover}, {Name: "candidate_caught_up", Operation: election.Switchover},
	}
	require.Nil(t, m.State().Gate, "a primary that is well is no reason against a drill")

	arbiter := newMember(t, func(c *FaultsConfig) { c.FindServer = nil })
	_, err := arbiter.do(t, api.FaultKillServer, api.FaultLimit)
	require.ErrorIs(t, err, failover.ErrNoInstance)
	_, err = arbiter.do(t, api.FaultStopAgent, api.FaultLimit)
	require.NoError(t, err)
	require.Equal(t, 1, arbiter.stopped)
}

func TestFreezeIsThawedByOrder(t *testing.T) {
	m := newMember(t, nil)
	result, err := m.do(t, api.FaultFreezeServer, api.FaultLimit)
	require.NoError(t, err)
	require.Contains(t, result.Detail, "SIGSTOP to mysqld")
	require.WithinDuration(t, time.Now().Add(api.FaultLimit), *result.Until, 5*time.Second)
	m.frozen(t)
	require.Equal(t, "the test", m.State().Active.By)

	_, err = m.do(t, api.FaultKillServer, api.FaultLimit)
	require.ErrorIs(t, err, failover.ErrBusy)

	result, err = m.do(t, api.FaultThawServer, api.FaultLimit)
	require.NoError(t, err)
	require.Contains(t, result.Detail, "SIGCONT")
	m.untouched(t)
	_, err = m.do(t, api.FaultThawServer, api.FaultLimit)
	require.NoError(t, err, "thawing may be repeated")
}

func TestDeadMan(t *testing.T) {
	t.Run("time is up", func(t *testing.T) {
		m := newMember(t, nil)
		_, err := m.do(t, api.FaultFreezeServer, time.Second)
		require.NoError(t, err)
		m.frozen(t)
		m.await(t, "thawed", m.thawed)
		m.untouched(t)
	})
	t.Run("the agent stops", func(t *testing.T) {
		m := newMember(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- m.Run(ctx) }()
		_, err := m.do(t, api.FaultFreezeServer, api.FaultLimit)
		require.NoError(t, err)
		cancel()
		require.NoError(t, <-ended)
		m.untouched(t)
	})
	t.Run("the agent is killed and nobody starts it", func(t *testing.T) {
		m := newMember(t, nil)
		agent := exec.Command(os.Args[0], "agent", m.record, strconv.Itoa(m.server.Process.Pid))
		agent.Stderr = os.Stderr
		out, err := agent.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, agent.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "frozen\n", line)
		m.frozen(t)
		require.NoError(t, agent.Process.Kill())
		_ = agent.Wait()
		m.await(t, "thawed", m.thawed)
		m.await(t, "struck out", func() bool { _, err := os.Stat(m.record); return errors.Is(err, os.ErrNotExist) })
	})
	t.Run("the helper is killed", func(t *testing.T) {
		m := newMember(t, nil)
		_, err := m.do(t, api.FaultFreezeServer, api.FaultLimit)
		require.NoError(t, err)
		require.NoError(t, m.current().helper.cmd.Process.Kill())
		m.await(t, "thawed", m.thawed)
	})
	t.Run("agent and helper are killed and the agent starts again", func(t *testing.T) {
		m := newMember(t, nil)
		started, err := startOf(m.server.Process.Pid)
		require.NoError(t, err)
		require.NoError(t, record{Fault: api.FaultFreezeServer, Until: time.Now().Add(time.Hour), PID: m.server.Process.Pid, Started: started}.save(m.record))
		require.NoError(t, m.server.Process.Signal(syscall.SIGSTOP))
		m.frozen(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- m.Run(ctx) }()
		m.await(t, "thawed", m.thawed)
		cancel()
		require.NoError(t, <-ended)
		m.untouched(t)
	})
	t.Run("a killed server is started", func(t *testing.T) {
		m := newMember(t, nil)
		_, err := m.do(t, api.FaultKillServer, time.Second)
		require.NoError(t, err)
		<-m.exited
		m.await(t, "started", func() bool { return m.State().Active == nil })
		require.FileExists(t, m.started)
	})
	t.Run("the server that is started holds the output of its start command", func(t *testing.T) {
		pid := filepath.Join(t.TempDir(), "pid")
		m := newMember(t, func(c *FaultsConfig) { c.Server.StartCommand = []string{"sh", "-c", `sleep 600 & echo $! > "$0"`, pid} })
		_, err := m.do(t, api.FaultKillServer, time.Second)
		require.NoError(t, err)
		t.Cleanup(func() { _ = exec.Command("sh", "-c", `kill "$(cat "$0")"`, pid).Run() })
		<-m.exited
		m.await(t, "started, and over", func() bool { return m.State().Active == nil })
		require.FileExists(t, pid)
		require.NoFileExists(t, m.record)
		_, err = m.do(t, api.FaultStartServer, api.FaultLimit)
		require.NoError(t, err, "also by order, once more")
	})
}

func TestKilledServerIsStartedByOrder(t *testing.T) {
	m := newMember(t, nil)
	result, err := m.do(t, api.FaultKillServer, api.FaultLimit)
	require.NoError(t, err)
	require.Contains(t, result.Detail, "SIGKILL to mysqld")
	<-m.exited
	require.NoFileExists(t, m.started)
	_, err = m.do(t, api.FaultStartServer, api.FaultLimit)
	require.NoError(t, err)
	require.FileExists(t, m.started)
	require.Nil(t, m.State().Active)

	left := newMember(t, func(c *FaultsConfig) { c.Server.StartCommand = nil })
	result, err = left.do(t, api.FaultStartServer, api.FaultLimit)
	require.NoError(t, err)
	require.Contains(t, result.Detail, "own supervisor starts it", "nothing is there to start it with")
	result.Detail, err = Server{Network: "unix", Address: "/nowhere", StartCommand: []string{"false"}}.start(t.Context())
	require.ErrorContains(t, err, "exit status 1")
	require.Empty(t, result.Detail)
}

// TestSignalNamesTheProcess: a process id that was given to somebody else is
// never signalled.
func TestSignalNamesTheProcess(t *testing.T) {
	m := newMember(t, nil)
	started, err := startOf(m.server.Process.Pid)
	require.NoError(t, err)
	require.ErrorIs(t, signalProcess(m.server.Process.Pid, started-1, syscall.SIGKILL), errNoProcess)
	require.Equal(t, "S", m.state())
}

// TestNoHelperNoFault: without somebody to undo it, nothing is done.
func TestNoHelperNoFault(t *testing.T) {
	m := newMember(t, func(c *FaultsConfig) { c.Helper = []string{"false"} })
	_, err := m.do(t, api.FaultFreezeServer, api.FaultLimit)
	require.ErrorContains(t, err, "start helper")
	require.Equal(t, "S", m.state())
	require.NoFileExists(t, m.record)

	kill := newMember(t, func(c *FaultsConfig) { c.Helper = []string{"false"} })
	_, err = kill.do(t, api.FaultKillServer, api.FaultLimit)
	require.ErrorContains(t, err, "start helper")
	kill.untouched(t)
}
