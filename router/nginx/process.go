package nginx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// pollWorkers is how often the worker processes are looked at while a reload
// is awaited: /proc tells of no changes by itself.
const pollWorkers = 5 * time.Millisecond

// maxOutput bounds what is kept of a command's output, in bytes.
const maxOutput = 8 << 20

// fixedEnv is the whole environment of the commands.
func fixedEnv() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
}

// runCommand runs argv without a shell, in a process group of its own that is
// killed after limit. It returns what the command wrote, standard error first.
func runCommand(ctx context.Context, argv []string, limit time.Duration) (stderr, stdout string, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	program, err := findProgram(argv[0])
	if err != nil {
		return "", "", err
	}
	var out, errs boundedBuffer
	cmd := exec.CommandContext(ctx, program, argv[1:]...)
	cmd.Env = fixedEnv()
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("stopped after %s: %w", limit, context.Cause(ctx))
	}
	return errs.kept.String(), out.kept.String(), err
}

// findProgram looks a name up in the agent's PATH, then in the system's
// folders, which a user's PATH often lacks.
func findProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || strings.Contains(name, "/") {
		return path, err
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}

// boundedBuffer keeps the first maxOutput bytes written to it.
type boundedBuffer struct{ kept bytes.Buffer }

func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.kept.Write(p[:min(len(p), maxOutput-b.kept.Len())])
	return len(p), nil
}

// master is a running nginx master process.
type master struct {
	pid     int
	process *os.Process
	titled  bool // its processes show what they are; see untitled.go
}

// findMaster finds the master by nginx's pid file. A pid that belongs to
// anything but an nginx master is ErrNotRunning: the file is stale.
func findMaster(pidFile string) (master, error) {
	text, err := os.ReadFile(pidFile)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return master{}, fmt.Errorf("%w: no pid file %s", ErrNotRunning, pidFile)
		}
		return master{}, fmt.Errorf("read pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return master{}, fmt.Errorf("%w: no process id in %s", ErrNotRunning, pidFile)
	}
	process, err := os.FindProcess(pid) // held by pidfd: the pid cannot be reused under us
	if err != nil {
		return master{}, fmt.Errorf("%w: process %d: %w", ErrNotRunning, pid, err)
	}
	titled := strings.Contains(commandLine(pid), "nginx: master process")
	if !titled && !mapsNginx(pid) {
		return master{}, errors.Join(
			fmt.Errorf("%w: process %d of %s is no nginx master", ErrNotRunning, pid, pidFile), process.Release())
	}
	return master{pid: pid, process: process, titled: titled}, nil
}

func commandLine(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "" // gone
	}
	return string(text)
}

// worker is a worker process; start tells it from a later one of the same pid.
type worker struct {
	pid   int
	start string // clock ticks since boot
}

// workers are the master's worker processes that take connections, those that
// are shutting down left out.
func (m master) workers() []worker {
	isWorker := func(pid int) bool {
		line := commandLine(pid)
		return strings.Contains(line, "nginx: worker process") && !strings.Contains(line, "shutting down")
	}
	if !m.titled {
		sockets := listening(m.pid)
		isWorker = func(pid int) bool {
			return slices.ContainsFunc(openFiles(pid), func(name string) bool { return sockets[name] })
		}
	}
	var found []worker
	for _, pid := range m.children() {
		if !isWorker(pid) {
			continue
		}
		if fields := statFields(pid); len(fields) > statStart {
			found = append(found, worker{pid, fields[statStart]})
		}
	}
	return found
}

// Fields of /proc/PID/stat after the command's name, from 0 (proc(5)).
const (
	statParent = 1
	statStart  = 19
)

func statFields(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil // gone
	}
	return strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
}

// children are the master's child processes.
func (m master) children() []int {
	var pids []int
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", m.pid, m.pid))
	if err == nil {
		for _, f := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
		return pids
	}
	// A kernel without that file: look at every process.
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if fields := statFields(pid); len(fields) > statParent && fields[statParent] == strconv.Itoa(m.pid) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// awaitReplaced waits until none of the old workers takes connections and a
// new one does.
func (m master) awaitReplaced(ctx context.Context, old []worker, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(pollWorkers)
	defer ticker.Stop()
	for {
		now := m.workers()
		isOld := func(w worker) bool { return slices.Contains(old, w) }
		if len(now) > 0 && !slices.ContainsFunc(now, isOld) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: after %s the workers are %v, before they were %v", ErrNotLive, limit, pids(now), pids(old))
		case <-ticker.C:
		}
	}
}

func pids(workers []worker) []int {
	list := []int{}
	for _, w := range workers {
		list = append(list, w.pid)
	}
	return list
}
