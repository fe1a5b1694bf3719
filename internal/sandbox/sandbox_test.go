package sandbox

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"
)

// options are those of a sandbox of two servers with stand-in agents.
func options(t *testing.T, healthy bool) Options {
	t.Helper()
	// Not t.TempDir: its path is too long for a socket.
	dir, err := os.MkdirTemp("", "interrex-sandbox-")
	require.NoError(t, err)
	t.Cleanup(func() {
		if c, err := Load(dir); err == nil {
			require.NoError(t, c.Down(context.Background()))
		}
		require.NoError(t, os.RemoveAll(dir))
	})
	return Options{
		Dir: dir, Nodes: 2, Out: t.Output(), HealthLimit: 30 * time.Second,
		InitSQL: func(p Passwords) []string {
			return []string{"CREATE USER 'controller'@'%' IDENTIFIED BY '" + p.Controller + "'"}
		},
		AgentConfig: func(s AgentSettings) ([]byte, error) {
			return json.Marshal(agentConfig{API: Addr(s.Node.Ports.API), Healthy: healthy})
		},
	}
}

// await waits until the status is as wanted.
func await(t *testing.T, c Cluster, want string, holds func(Status) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var last Status
	err := c.watch(ctx, func(s Status) (bool, error) {
		last = s
		return holds(s), nil
	})
	require.NoError(t, err, "waited for %s; last seen: %+v", want, last)
}

// marked lists the processes of the sandbox that live.
func marked(t *testing.T, c Cluster) []string {
	t.Helper()
	var found []string
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	require.NoError(t, err)
	for _, path := range environs {
		text, err := os.ReadFile(path)
		if err == nil && bytes.Contains(text, []byte(c.Mark())) {
			command, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "cmdline"))
			found = append(found, strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
	return found
}

func root(t *testing.T, n Node) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", "root@unix("+n.Socket+")/")
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func pidIn(t *testing.T, file string) int {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var pid int
	_, err = fmt.Sscan(string(text), &pid)
	require.NoError(t, err)
	return pid
}

func TestSupervisorKeepsItsRules(t *testing.T) {
	o := options(t, true)
	ctx := t.Context()
	began := time.Now()
	info, err := Up(ctx, o)
	require.NoError(t, err)
	t.Logf("up after %v", time.Since(began))
	c, err := Load(o.Dir)
	require.NoError(t, err)
	onDisk, err := ReadInfo(o.Dir)
	require.NoError(t, err)
	require.Equal(t, info, onDisk)

	_, err = Up(ctx, o)
	require.ErrorIs(t, err, ErrRunning)

	t.Run("a killed server stays dead until start", func(t *testing.T) {
		require.NoError(t, c.Kill(ctx, "db1"))
		require.ErrorContains(t, c.Restart(ctx, "db1"), "stays dead")
		require.ErrorContains(t, c.Freeze(ctx, "db1"), "it is killed")
		require.NoError(t, c.Start(ctx, "db1"))
		require.ErrorContains(t, c.Start(ctx, "db1"), "it is running")
	})
	t.Run("also when somebody else killed it", func(t *testing.T) {
		require.NoError(t, syscall.Kill(pidIn(t, info.Nodes[0].MySQL.PIDFile), syscall.SIGKILL))
		await(t, c, "db1 killed", func(s Status) bool { return s.Nodes[0].MySQL.State == Killed })
		require.NoError(t, c.Start(ctx, "db1"))
	})
	t.Run("an agent that ends its server may start it again", func(t *testing.T) {
		require.NoError(t, c.Restart(ctx, "db1"))
		pid := pidIn(t, info.Nodes[0].MySQL.PIDFile)
		require.NoError(t, c.Ensure(ctx, "db1"))
		require.Equal(t, pid, pidIn(t, info.Nodes[0].MySQL.PIDFile), "one that runs is left alone")
		for range 10 { // before the supervisor has noticed, or after
			pid = pidIn(t, info.Nodes[0].MySQL.PIDFile)
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
			require.Eventually(t, func() bool {
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
				return err != nil || strings.Contains(string(stat), ") Z ")
			}, time.Minute, time.Millisecond)
			require.NoError(t, c.Ensure(ctx, "db1"))
			require.NotEqual(t, pid, pidIn(t, info.Nodes[0].MySQL.PIDFile))
		}
		require.NoError(t, c.Kill(ctx, "db1"))
		require.ErrorContains(t, c.Ensure(ctx, "db1"), "stays dead")
		require.NoError(t, c.Start(ctx, "db1"))
	})
	t.Run("a server that asks for a restart is restarted", func(t *testing.T) {
		status, err := c.Status(ctx)
		require.NoError(t, err)
		_, err = root(t, c.Nodes[1]).ExecContext(ctx, "RESTART")
		require.NoError(t, err)
		await(t, c, "db2 restarted", func(s Status) bool {
			db2 := s.Nodes[1].MySQL
			return db2.State == Running && db2.Starts == status.Nodes[1].MySQL.Starts+1
		})
		require.NoError(t, root(t, c.Nodes[1]).PingContext(ctx))
	})
	t.Run("freeze and thaw", func(t *testing.T) {
		require.NoError(t, c.Freeze(ctx, "db2"))
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		require.Error(t, root(t, c.Nodes[1]).PingContext(short))
		require.NoError(t, c.Thaw(ctx, "db2"))
		require.NoError(t, root(t, c.Nodes[1]).PingContext(ctx))
	})
	t.Run("an agent that ends is restarted, one that is stopped is not", func(t *testing.T) {
		before := pidIn(t, info.Nodes[0].Agent.PIDFile)
		require.NoError(t, syscall.Kill(before, syscall.SIGKILL))
		await(t, c, "another agent of db1", func(s Status) bool {
			return s.Nodes[0].Agent.State == Running && s.Nodes[0].Agent.PID != before
		})
		require.NoError(t, c.StopAgent(ctx, "db1"))
		status, err := c.Status(ctx)
		require.NoError(t, err)
		require.Equal(t, Killed, status.Nodes[0].Agent.State)
		require.NoError(t, c.StartAgent(ctx, "db1"))
	})
	t.Run("what is not there is refused", func(t *testing.T) {
		require.ErrorContains(t, c.Kill(ctx, "db9"), "there are [db1 db2]")
	})
	t.Run("down leaves nothing", func(t *testing.T) {
		// Supervisor, two servers, two agents and a child of each.
		require.Eventually(t, func() bool { return len(marked(t, c)) == 7 }, 10*time.Second, 10*time.Millisecond)
		began := time.Now()
		require.NoError(t, c.Down(ctx))
		t.Logf("down after %v", time.Since(began))
		require.Empty(t, marked(t, c))
		require.NoError(t, c.Down(ctx))
		require.ErrorIs(t, c.Kill(ctx, "db1"), ErrNotRunning)
	})
}

func TestSandboxComesBack(t *testing.T) {
	o := options(t, true)
	ctx := t.Context()
	first, err := Up(ctx, o)
	require.NoError(t, err)
	c, err := Load(o.Dir)
	require.NoError(t, err)
	var uuid string
	require.NoError(t, root(t, c.Nodes[0]).QueryRowContext(ctx, "SELECT @@server_uuid").Scan(&uuid))

	// The supervisor dies with servers frozen; down still finds all of them.
	require.NoError(t, c.Freeze(ctx, "db1"))
	status, err := c.Status(ctx)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(status.Supervisor, syscall.SIGKILL))
	require.NoError(t, c.Down(ctx))
	require.Empty(t, marked(t, c))

	second, err := Up(ctx, o)
	require.NoError(t, err)
	require.Equal(t, first, second)
	var again string
	require.NoError(t, root(t, c.Nodes[0]).QueryRowContext(ctx, "SELECT @@server_uuid").Scan(&again))
	require.Equal(t, uuid, again)
	require.NoError(t, c.Down(ctx))

	o.Nodes = 3
	_, err = Up(ctx, o)
	require.ErrorContains(t, err, "it has 2 nodes, not 3")
}

func TestUpThatFailsLeavesNothingRunning(t *testing.T) {
	o := options(t, false)
	o.HealthLimit = 2 * time.Second
	_, err := Up(t.Context(), o)
	require.ErrorContains(t, err, "time is up")
	require.ErrorContains(t, err, "that is how this test wants it")
	c, err := Load(o.Dir)
	require.NoError(t, err)
	require.Empty(t, marked(t, c))
}

// TestUpForgetsAWrongServer: a server that cannot be used is not written into
// the plan, which would insist on it; one that is used is not changed in silence.
func TestUpForgetsAWrongServer(t *testing.T) {
	o := options(t, false)
	o.HealthLimit = time.Second
	o.MySQLD = "/nowhere/mysqld"
	_, err := Up(t.Context(), o)
	require.ErrorContains(t, err, "/nowhere/mysqld")
	_, err = Load(o.Dir)
	require.ErrorIs(t, err, ErrNoSandbox)
	o.MySQLD = ""
	_, err = Up(t.Context(), o)
	require.ErrorContains(t, err, "time is up") // it was brought up, with agents that are never healthy
	o.MySQLD = "/nowhere/mysqld"
	_, err = Up(t.Context(), o)
	require.ErrorContains(t, err, "its server is the one that was found, not /nowhere/mysqld")
}

func TestUpNamesThePortThatIsTaken(t *testing.T) {
	o := options(t, true)
	base, release, err := chooseBase(2)
	require.NoError(t, err)
	release()
	taken := listen(t, base+portStride+4)
	defer taken.Close()
	o.BasePort = base
	_, err = Up(t.Context(), o)
	require.ErrorIs(t, err, ErrPortTaken)
	require.ErrorContains(t, err, fmt.Sprintf("use port %d (db2, rw)", base+portStride+4))
	_, err = Load(o.Dir)
	require.ErrorIs(t, err, ErrNoSandbox)
}
