//go:build linux

package detector

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"interrex/internal/porttest"
)

// childEnv makes the test binary a process to be watched:
// "<megabytes>,<threads>,<churn>".
const childEnv = "DETECTOR_TEST_CHILD"

func TestMain(m *testing.M) {
	if spec := os.Getenv(childEnv); spec != "" {
		beChild(spec)
	}
	os.Exit(m.Run())
}

func beChild(spec string) {
	var mb, threads int
	var churn bool
	if _, err := fmt.Sscanf(spec, "%d,%d,%t", &mb, &threads, &churn); err != nil {
		os.Exit(2)
	}
	if mb > 0 {
		mem, err := unix.Mmap(-1, 0, mb<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			os.Exit(3)
		}
		_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE)
		for i := 0; i < len(mem); i += 4096 {
			mem[i] = 1
		}
	}
	up := make(chan struct{})
	for range threads {
		go func() {
			runtime.LockOSThread()
			up <- struct{}{}
			_, _ = unix.Poll(nil, -1)
		}()
		<-up
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		os.Exit(4)
	}
	go echo(l)
	fmt.Println("ready", l.Addr())
	for churn {
		done := make(chan struct{})
		go func() {
			runtime.LockOSThread() // the thread ends with the goroutine
			time.Sleep(2 * time.Millisecond)
			close(done)
		}()
		<-done
	}
	// Leave when the parent is gone.
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
	os.Exit(0)
}

// echo sends back each byte it gets: the least of a server.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(c, c) }()
	}
}

// child starts a process and kills and reaps it at the end of the test.
func child(t *testing.T, mb, threads int, churn bool) *exec.Cmd {
	t.Helper()
	cmd, _ := listeningChild(t, mb, threads, churn)
	return cmd
}

// listeningChild also returns the address it answers on.
func listeningChild(t *testing.T, mb, threads int, churn bool) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d,%d,%t", childEnv, mb, threads, churn), "GOMAXPROCS=2")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	ready, addr, _ := strings.Cut(strings.TrimSpace(line), " ")
	require.Equal(t, "ready", ready)
	return cmd, addr
}

func knowsPidfdThread() bool {
	fd, err := unix.PidfdOpen(os.Getpid(), unix.PIDFD_THREAD)
	if err != nil {
		return false
	}
	_ = unix.Close(fd)
	return true
}

func receive(t *testing.T, ch <-chan Exit, limit time.Duration) (Exit, bool) {
	t.Helper()
	select {
	case e, ok := <-ch:
		return e, ok
	case <-time.After(limit):
		require.FailNow(t, "no exit reported", "within %v", limit)
		return Exit{}, false
	}
}

// A large process is known to have exited long before the kernel has torn it
// down.
func TestWatchProcessLargeKill(t *testing.T) {
	runtime.LockOSThread() // Pdeathsig is of the thread
	defer runtime.UnlockOSThread()
	var latencies []time.Duration
	for range 3 {
		cmd := child(t, 1024, 60, false)
		pid := cmd.Process.Pid
		st, err := readStat(pid)
		require.NoError(t, err)
		exits, err := WatchProcess(t.Context(), pid, st.start)
		require.NoError(t, err)
		whole, err := unix.PidfdOpen(pid, 0)
		require.NoError(t, err)
		time.Sleep(50 * ms) // the watch has found its threads

		killed := time.Now()
		require.NoError(t, cmd.Process.Kill())
		exit, ok := receive(t, exits, 20*time.Second)
		require.True(t, ok)
		latency := exit.At.Sub(killed)
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(whole), Events: unix.POLLIN}}, 20_000)
		require.NoError(t, err)
		t.Logf("exit seen after %v (%s), torn down after %v", latency, exit.Sign, time.Since(killed))
		_ = unix.Close(whole)
		require.Equal(t, pid, exit.PID)
		if knowsPidfdThread() {
			require.Equal(t, "thread", exit.Sign)
			latencies = append(latencies, latency)
		}
		_, open := receive(t, exits, time.Second)
		require.False(t, open)
		_ = cmd.Wait()
	}
	if len(latencies) > 0 {
		slices.Sort(latencies) // the best: a busy machine may delay any one
		require.Less(t, latencies[0], 100*ms)
	}
}

func TestWatchProcessOrdinaryExit(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, threads := range []int{0, 20} {
		cmd := child(t, 0, threads, false)
		exits, err := WatchProcess(t.Context(), cmd.Process.Pid, 0)
		require.NoError(t, err)
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		_, ok := receive(t, exits, 10*time.Second)
		require.True(t, ok)
	}
}

// Threads that come and go, and sampled ones that end, are no exit.
func TestWatchProcessThreadChurn(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := child(t, 0, 1, true)
	exits, err := WatchProcess(t.Context(), cmd.Process.Pid, 0)
	require.NoError(t, err)
	select {
	case e := <-exits:
		require.Fail(t, "false exit", "%+v", e)
	case <-time.After(2 * time.Second):
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
	select {
	case e := <-exits:
		require.Fail(t, "a stopped process has not exited", "%+v", e)
	case <-time.After(200 * ms):
	}
	require.NoError(t, cmd.Process.Kill())
	_, ok := receive(t, exits, 10*time.Second)
	require.True(t, ok)
}

func TestWatchProcessRefusesAnother(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := child(t, 0, 0, false)
	pid := cmd.Process.Pid
	st, err := readStat(pid)
	require.NoError(t, err)
	_, err = WatchProcess(t.Context(), pid, st.start+1)
	require.ErrorIs(t, err, ErrNoProcess, "the pid was reused")
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	_, err = WatchProcess(t.Context(), pid, st.start)
	require.ErrorIs(t, err, ErrNoProcess)
	_, err = readStat(pid)
	require.ErrorIs(t, err, ErrNoProcess)
}

func TestWatchProcessEndsWithItsContext(t *testing.T) {
	before := openDescriptors(t)
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		exits, err := WatchProcess(ctx, os.Getppid(), 0)
		require.NoError(t, err)
		cancel()
		_, ok := receive(t, exits, 5*time.Second)
		require.False(t, ok, "no report")
	}
	require.LessOrEqual(t, openDescriptors(t), before+2)
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(names)
}

// The detector follows its server from one process to the next.
func TestServerWatchIsRearmed(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var pid atomic.Int64
	cfg := validConfig()
	cfg.Bind = porttest.Address(t)
	d, err := New(cfg, Deps{Log: zap.NewNop(), Classify: classifyTest, FindProcess: func() (int, error) {
		if p := pid.Load(); p > 0 {
			return int(p), nil
		}
		return 0, errors.New("no pid file")
	}})
	require.NoError(t, err)
	d.SetSubjects([]Subject{{Name: "n1", Address: "x", Prober: &server{}, Local: true}})
	stop := running(t, d)
	defer stop()
	process := func() Kind {
		for _, e := range d.Evidence("n1") {
			if e.Kind.group() == groupProcess {
				return e.Kind
			}
		}
		return ""
	}
	require.Equal(t, Kind(""), process())
	for _, run := range []Kind{ProcessRunning, Restarted} {
		cmd := child(t, 0, 8, false)
		pid.Store(int64(cmd.Process.Pid))
		require.Eventually(t, func() bool { return process() == run }, 10*time.Second, ms)
		require.NoError(t, cmd.Process.Kill())
		require.Eventually(t, func() bool { return process() == ProcessExited }, 10*time.Second, ms)
		_ = cmd.Wait()
		time.Sleep(250 * ms) // the stale pid file changes nothing
		require.Equal(t, ProcessExited, process())
	}
}

func TestReadStatOfAnOddName(t *testing.T) {
	st, err := readStat(os.Getpid())
	require.NoError(t, err)
	raw, err := os.ReadFile("/proc/self/stat")
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(raw), ") ")
	want, err := strconv.ParseUint(strings.Fields(rest)[19], 10, 64)
	require.NoError(t, err)
	require.Equal(t, want, st.start)
}
