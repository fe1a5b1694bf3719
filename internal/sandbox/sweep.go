package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// sweep ends every process that carries the sandbox's mark, except this one,
// and returns when none is left. That finds exactly the sandbox's own
// processes, orphans too, whatever has become of the supervisor.
func (c Cluster) sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("processes of the sandbox do not end"))
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		left, err := c.killMarked()
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("end processes %v of sandbox: %w", left, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

// killMarked sends SIGKILL to every process with the mark and lists them.
func (c Cluster) killMarked() ([]int, error) {
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var killed []int
	for _, environ := range environs {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(environ)))
		if err != nil || pid == os.Getpid() {
			continue
		}
		if c.killIfMarked(pid, environ) {
			killed = append(killed, pid)
		}
	}
	return killed, nil
}

// killIfMarked looks at a process through a descriptor of it, so that it is
// the process looked at that is killed, and not a later one of the same id.
func (c Cluster) killIfMarked(pid int, environ string) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	text, err := os.ReadFile(environ)
	if err != nil { // another user's, or gone
		return false
	}
	if !slices.ContainsFunc(bytes.Split(text, []byte{0}), func(v []byte) bool { return string(v) == c.Mark() }) {
		return false
	}
	return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) == nil
}
