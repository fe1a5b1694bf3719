package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopTimeout is how long the threads of a process may take to stop.
const stopTimeout = 10 * time.Second

// Spec says which process to start.
type Spec struct {
	// Command is the program and its arguments.
	Command []string
	// Dir is the working folder; empty is this process's.
	Dir string
	// Env are variables added to this process's environment, key=value.
	Env []string
	// LogFile is appended to by the process's standard output and error.
	LogFile string
	// Group has everything the process left in its process group killed when
	// it ends.
	Group bool
	// DieWithParent has the kernel kill the process when this one dies.
	DieWithParent bool
}

// Process is a child process. Its methods may be called from any goroutine.
type Process struct {
	cmd   *exec.Cmd
	group bool
	done  chan struct{} // closed by reap
	exit  int           // written before done is closed
}

// Start starts a process. It is reaped when it ends, whether anybody waits
// for it or not: the goroutine that does so ends with the process.
func Start(spec Spec) (*Process, error) {
	log, err := os.OpenFile(spec.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of process: %w", err)
	}
	defer log.Close()
	p := &Process{cmd: exec.Command(spec.Command[0], spec.Command[1:]...), group: spec.Group, done: make(chan struct{})}
	p.cmd.Dir = spec.Dir
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = append(os.Environ(), spec.Env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if spec.DieWithParent {
		p.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start process: %w", err)
	}
	go p.reap()
	return p, nil
}

func (p *Process) reap() {
	if p.group {
		p.endGroup()
	}
	_ = p.cmd.Wait()
	p.exit = p.cmd.ProcessState.ExitCode()
	close(p.done)
}

// endGroup waits until the process has ended and kills the rest of its group.
// The process is not reaped yet: its id, the group's, cannot be another's.
func (p *Process) endGroup() {
	for {
		err := unix.Waitid(unix.P_PID, p.PID(), nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
}

// PID is the process id, also after the process is gone.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process is gone.
func (p *Process) Done() <-chan struct{} { return p.done }

// Alive reports whether the process runs or could. One that has ended is not
// alive even while nobody has been told (proc_pid_stat(5): Z).
func (p *Process) Alive() bool {
	select {
	case <-p.done:
		return false // its id may be another one's by now
	default:
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	return err == nil && !strings.ContainsRune("ZX", state(text))
}

// ExitCode is the exit code of a process that is gone, -1 if a signal ended
// it. It waits until the process is gone.
func (p *Process) ExitCode() int {
	<-p.done
	return p.exit
}

// Wait waits until the process is gone and returns its exit code, -1 if a
// signal ended it.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.done:
		return p.exit, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for process %d to end: %w", p.PID(), context.Cause(ctx))
	}
}

// Kill ends the process with SIGKILL and returns when it is gone. One that is
// gone already is no error.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// Freeze stops the process from running (SIGSTOP) until Thaw. It returns when
// each of its threads has stopped: on a busy machine that takes a while, and a
// server could answer meanwhile. One that waits for a disk (D) stops when the
// kernel lets it go, before it does anything else. After an error it runs.
func (p *Process) Freeze() error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for late := time.After(stopTimeout); p.runs(); {
		select {
		case <-look.C:
		case <-late:
			return errors.Join(fmt.Errorf("stop process %d: it still runs %s after SIGSTOP", p.PID(), stopTimeout), p.Thaw())
		}
	}
	return nil
}

// runs reports whether a thread of the process runs or could.
func (p *Process) runs() bool {
	stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/stat", p.PID()))
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil {
			continue // it has ended
		}
		if strings.ContainsRune("RS", state(text)) {
			return true
		}
	}
	return false
}

// state is the state in a stat file of proc(5), X (dead) if there is none. It is
// behind the name, which may hold anything.
func state(stat []byte) rune {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) == 0 {
		return 'X'
	}
	return rune(fields[0][0])
}

// Thaw lets a frozen process go on (SIGCONT).
func (p *Process) Thaw() error { return p.Signal(syscall.SIGCONT) }

// Terminate asks the process to stop (SIGTERM).
func (p *Process) Terminate() error { return p.Signal(syscall.SIGTERM) }

// Signal sends a signal. A process that is gone already is no error.
func (p *Process) Signal(sig os.Signal) error {
	err := p.cmd.Process.Signal(sig)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to process %d: %w", sig, p.PID(), err)
	}
	return nil
}
