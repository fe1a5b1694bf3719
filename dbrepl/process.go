package dbrepl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is a server process of this host, held by a descriptor so that its
// id cannot become somebody else's.
type process struct {
	pid int
	fd  int
}

// openProcess finds the process of a pid file and checks that it is a mysqld.
func openProcess(pidFile string) (*process, error) {
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotLocal, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return nil, fmt.Errorf("%w: pid file %s says %q", ErrNotLocal, pidFile, text)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: open process %d of %s: %w", ErrNotLocal, pid, pidFile, err)
	}
	p := &process{pid: pid, fd: fd}
	// After the descriptor is held: what is read now is of that process.
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !isMysqld(cmdline) || p.gone() {
		p.close()
		return nil, fmt.Errorf("%w: process %d of %s is no mysqld", ErrNotLocal, pid, pidFile)
	}
	return p, nil
}

// isMysqld looks for the program among the arguments before the options: it
// may be run through a loader.
func isMysqld(cmdline []byte) bool {
	for _, arg := range bytes.Split(cmdline, []byte{0}) {
		switch filepath.Base(string(arg)) {
		case "mysqld", "mysqld-debug":
			return true
		}
	}
	return false
}

func (p *process) close() { _ = unix.Close(p.fd) }

func (p *process) signal(sig unix.Signal) error {
	err := unix.PidfdSendSignal(p.fd, sig, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(sig), p.pid, err)
	}
	return nil
}

// gone tells whether the process has ended.
func (p *process) gone() bool {
	fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// wait returns when the process has ended.
func (p *process) wait(ctx context.Context) error {
	err := poll(ctx, func() (bool, error) { return p.gone(), nil })
	if err != nil {
		return fmt.Errorf("wait for the end of process %d: %w", p.pid, err)
	}
	return nil
}
