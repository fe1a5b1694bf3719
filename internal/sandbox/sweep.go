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
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("it does not end"))
	defer cancel()
	for {
		found, err := c.processes()
		if err != nil {
			return err
		}
		err = found.end(ctx)
		found.close()
		if err != nil || len(found) == 0 {
			return err
		}
		// Once more: one of them may have started another meanwhile.
	}
}

// target is a process, held by a descriptor: it stays the process that was
// looked at, and never becomes a later one of the same id.
type target struct {
	pid, fd int
}

type targets []target

// processes finds the processes with the mark, except this one. The caller
// closes them.
func (c Cluster) processes() (targets, error) {
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found targets
	for _, environ := range environs {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(environ)))
		if err != nil || pid == os.Getpid() {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // gone
		}
		if c.marks(environ) {
			found = append(found, target{pid: pid, fd: fd})
		} else {
			_ = unix.Close(fd)
		}
	}
	return found, nil
}

// marks tells whether an environment has the sandbox's mark. Another user's
// cannot be read; one of a process that is ending is empty.
func (c Cluster) marks(environ string) bool {
	text, err := os.ReadFile(environ)
	return err == nil && slices.ContainsFunc(bytes.Split(text, []byte{0}), func(v []byte) bool { return string(v) == c.Mark() })
}

func (ts targets) close() {
	for _, t := range ts {
		_ = unix.Close(t.fd)
	}
}

// end kills the processes and waits until they have ended: their files and
// ports are free.
func (ts targets) end(ctx context.Context) error {
	for _, t := range ts {
		if err := unix.PidfdSendSignal(t.fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end process %d of sandbox: %w", t.pid, err)
		}
	}
	for _, t := range ts {
		if err := t.awaitEnd(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (t target) awaitEnd(ctx context.Context) error {
	const look = 50 // milliseconds between two looks at ctx
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLIN}}, look)
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("await end of process %d: %w", t.pid, err)
		case ctx.Err() != nil:
			return fmt.Errorf("end process %d of sandbox: %w", t.pid, context.Cause(ctx))
		}
	}
}

// awaitReaped waits a little until the ended processes are not even listed any
// more. Orphans are the system's to reap; one that is slow at it is not
// waited for.
func (ts targets) awaitReaped(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for slices.ContainsFunc(ts, func(t target) bool { return unix.PidfdSendSignal(t.fd, 0, nil, 0) == nil }) {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
