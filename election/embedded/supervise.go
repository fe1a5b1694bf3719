package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
)

const (
	restartMin = 200 * time.Millisecond
	restartMax = 5 * time.Second
	// settled is the life after which a child counts as having started well.
	settled = 30 * time.Second
	// stopLimit is how long a child may take to end after SIGTERM.
	stopLimit = handOver + closing + time.Second
)

// Supervise runs the etcd member as a child process until ctx ends, and starts
// it again, with growing pauses, whenever it exits. It returns nil after ctx
// has ended and the child with it, or an error at once if the configuration is
// wrong. The child also ends when this process dies.
func Supervise(ctx context.Context, cfg Config, log *zap.Logger) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("configure embedded etcd: %w", err)
	}
	if cfg.Exe == "" {
		return errors.New("configure embedded etcd: exe: must not be empty")
	}
	if err := cfg.write(); err != nil {
		return fmt.Errorf("prepare embedded etcd: %w", err)
	}
	// The kernel's death signal follows the thread that started the child, not
	// the process, so that thread must stay as long as the child does.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	wait := restartMin
	for {
		begun := time.Now()
		err := runChild(ctx, cfg, log)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(begun) >= settled {
			wait = restartMin
		}
		log.Error("embedded etcd exited and is started again", zap.Error(err), zap.Duration("after", time.Since(begun)), zap.Duration("in", wait))
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		wait = min(2*wait, restartMax)
	}
}

// runChild runs the child once and returns why it ended.
func runChild(ctx context.Context, cfg Config, log *zap.Logger) error {
	if err := cfg.write(); err != nil { // anew: the folder may be another one by now
		return fmt.Errorf("prepare embedded etcd: %w", err)
	}
	// Only 0 to 2 are inherited: everything Go opens is close-on-exec.
	cmd := exec.Command(cfg.Exe, "etcd", "--config", cfg.file())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe for etcd's messages: %w", err)
	}
	defer read.Close()
	cmd.Stderr = write
	if err := cmd.Start(); err != nil {
		write.Close()
		return fmt.Errorf("start %s: %w", cfg.Exe, err)
	}
	write.Close()
	log.Info("embedded etcd started", zap.Int("pid", cmd.Process.Pid), zap.String("log", cfg.LogFile))

	said := &messages{}
	exited := make(chan error, 1)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	helpers.Go(func() { said.relay(read, log) })
	helpers.Go(func() { exited <- cmd.Wait() })

	select {
	case err = <-exited:
	case <-ctx.Done():
		err = endChild(cmd.Process.Pid, exited, log)
	}
	// A grandchild could hold the pipe open; there is none, but waiting for
	// one must not be possible.
	_ = read.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	return said.wrap(err)
}

// endChild asks the child's process group to stop, and kills it at the limit.
func endChild(pid int, exited <-chan error, log *zap.Logger) error {
	_ = syscall.Kill(-pid, syscall.SIGTERM) // fails only if it is gone already
	timer := time.NewTimer(stopLimit)
	defer timer.Stop()
	select {
	case err := <-exited:
		return err
	case <-timer.C:
		log.Warn("embedded etcd did not stop in time and is killed", zap.Duration("limit", stopLimit))
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		return <-exited
	}
}

// messages are the last lines that the child wrote to stderr.
type messages struct {
	mu    sync.Mutex
	lines []string
}

// relay logs each line and remembers the last few, until the child closes its
// end.
func (m *messages) relay(from io.Reader, log *zap.Logger) {
	const remembered = 5
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		log.Warn("etcd says", zap.String("text", line))
		m.mu.Lock()
		m.lines = append(m.lines, line)
		m.lines = m.lines[max(0, len(m.lines)-remembered):]
		m.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, from) // a line too long for the scanner must not block the child
}

// wrap adds to the child's exit status what it said last.
func (m *messages) wrap(err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case err == nil:
		return errors.New("etcd ended without an error")
	case len(m.lines) == 0:
		return fmt.Errorf("etcd: %w", err)
	default:
		return fmt.Errorf("etcd: %w: %s", err, strings.Join(m.lines, "; "))
	}
}
