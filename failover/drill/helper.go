package drill

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ready is what the helper says when it watches, helperLimit how long it may
// take to say so.
const (
	ready       = "watching\n"
	helperLimit = 10 * time.Second
)

// Undo is the body of the helper process. It undoes the fault written down in
// file when its time is up, when ctx ends, or when in ends, which it does with
// the agent. If nothing is written down any more, there is nothing to do.
func Undo(ctx context.Context, file string, in io.Reader, out io.Writer) error {
	r, ok, err := readRecord(file)
	if err != nil || !ok {
		return err
	}
	left := make(chan struct{})
	go func() { // ends with the process, or before
		defer close(left)
		_, _ = io.Copy(io.Discard, in)
	}()
	if _, err := io.WriteString(out, ready); err != nil {
		return fmt.Errorf("answer agent: %w", err)
	}
	t := time.NewTimer(time.Until(r.Until))
	defer t.Stop()
	select {
	case <-t.C:
	case <-left:
	case <-ctx.Done():
	}
	return undoRecorded(context.WithoutCancel(ctx), file, nil)
}

// undoRecorded undoes the fault written down in file, if there is one, and
// strikes it out. tell is told what was done; it may be nil. Of several who
// come at once, agents and helpers, one does it and the others find it done.
func undoRecorded(ctx context.Context, file string, tell func(r record, detail string)) error {
	lock, err := os.OpenFile(file+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("undo fault: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("undo fault: lock: %w", err)
	}
	r, ok, err := readRecord(file)
	if err != nil || !ok {
		return err
	}
	detail, err := r.undo(ctx)
	if err != nil {
		return err
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("strike out fault: %w", err)
	}
	if tell != nil {
		tell(r, detail)
	}
	return nil
}

// helper is the process that outlives the agent.
type helper struct {
	cmd  *exec.Cmd
	in   io.Closer
	done chan struct{} // closed when the process has ended
}

// startHelper starts the helper and returns when it watches over file.
func startHelper(command []string, file string) (*helper, error) {
	h := &helper{done: make(chan struct{})}
	h.cmd = exec.Command(command[0], append(command[1:len(command):len(command)], file)...) //nolint:gosec // the own program
	// A session of its own: what ends the agent's process group does not end it.
	h.cmd.Stderr = os.Stderr
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := h.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start helper: %w", err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start helper: %w", err)
	}
	if err := h.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start helper: %w", err)
	}
	h.in = in
	late := time.AfterFunc(helperLimit, func() { _ = h.cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	late.Stop()
	go func() { // ends with the process
		defer close(h.done)
		_ = h.cmd.Wait() // what counts is whether the record is struck out
	}()
	if line != ready {
		_ = h.cmd.Process.Kill()
		<-h.done
		return nil, fmt.Errorf("start helper: it does not watch (%q): %w", line, err)
	}
	return h, nil
}

// release lets the helper act, if there still is anything to do, and end.
func (h *helper) release() { _ = h.in.Close() }
