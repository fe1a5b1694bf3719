package mysqld

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Spec says which server to start.
type Spec struct {
	// Dir is the server's folder: data/ in it is a copy of a template (see
	// NewDatadir); socket, pid file and log are put beside it.
	Dir string
	// Port and AdminPort are TCP ports on 127.0.0.1; no AdminPort, no
	// administrative listener.
	Port, AdminPort int
	ServerID        uint32
	// Args are further server arguments; a later one overrides.
	Args []string
	// Env are variables added to the process's environment, key=value.
	Env []string
	// DieWithParent has the kernel kill the server when this process dies.
	DieWithParent bool
}

// Server is a running mysqld. Its methods may be called from any goroutine.
type Server struct {
	Addr      string // host:port
	AdminAddr string // host:port, empty without one
	Socket    string
	Dir       string
	Datadir   string
	PIDFile   string
	LogFile   string

	cmd  *exec.Cmd
	done chan struct{} // closed when the process is gone
	exit int
}

// Start starts a server and returns when it greets clients. A server that ends
// before is ErrExited; if ctx ends first, the server is killed. The folder
// must not have a running server.
func Start(ctx context.Context, dist Distribution, spec Spec) (*Server, error) {
	s, err := launch(dist, spec)
	if err != nil {
		return nil, err
	}
	if err := s.awaitGreeting(ctx); err != nil {
		_ = s.Kill()
		return nil, fmt.Errorf("start mysqld in %s: %w", spec.Dir, err)
	}
	return s, nil
}

func launch(dist Distribution, spec Spec) (*Server, error) {
	socket, err := SocketPath(spec.Dir, "mysql.sock")
	if err != nil {
		return nil, err
	}
	// What a killed server left. Its lock names a process id that may be
	// somebody else's by now.
	for _, stale := range []string{socket, socket + ".lock", filepath.Join(spec.Dir, "mysqld.pid")} {
		_ = os.Remove(stale)
	}
	if err := os.MkdirAll(filepath.Join(spec.Dir, "tmp"), 0o700); err != nil {
		return nil, fmt.Errorf("create folder of mysqld: %w", err)
	}
	s := &Server{
		Addr:    net.JoinHostPort("127.0.0.1", strconv.Itoa(spec.Port)),
		Socket:  socket,
		Dir:     spec.Dir,
		Datadir: filepath.Join(spec.Dir, "data"),
		PIDFile: filepath.Join(spec.Dir, "mysqld.pid"),
		LogFile: filepath.Join(spec.Dir, "mysqld.log"),
		done:    make(chan struct{}),
	}
	if spec.AdminPort != 0 {
		s.AdminAddr = net.JoinHostPort("127.0.0.1", strconv.Itoa(spec.AdminPort))
	}
	log, err := os.OpenFile(s.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of mysqld: %w", err)
	}
	defer log.Close()
	command := append(dist.Command("mysqld"), arguments(dist, spec, socket)...)
	s.cmd = exec.Command(command[0], command[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.Env = append(os.Environ(), spec.Env...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if spec.DieWithParent {
		s.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start mysqld: %w", err)
	}
	go s.reap()
	return s, nil
}

// reap waits for the process; it is the only one who does.
func (s *Server) reap() {
	_ = s.cmd.Wait()
	s.exit = s.cmd.ProcessState.ExitCode()
	close(s.done)
}

// awaitGreeting returns when the server greets on its socket.
func (s *Server) awaitGreeting(ctx context.Context) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-s.done:
			return fmt.Errorf("%w with code %d: %s", ErrExited, s.exit, tail(s.LogFile))
		case <-ctx.Done():
			return fmt.Errorf("%w; last lines of its log: %s", context.Cause(ctx), tail(s.LogFile))
		case <-ticker.C:
		}
		if greets(ctx, s.Socket) {
			return nil
		}
	}
}

// greets tells whether a server sends its handshake at once.
func greets(ctx context.Context, socket string) bool {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	greeting := make([]byte, 5)
	n, _ := conn.Read(greeting)
	const protocolVersion = 10
	return n == len(greeting) && greeting[4] == protocolVersion
}

// tail is the end of a log, for error messages.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "\n" + strings.Join(lines[max(0, len(lines)-12):], "\n")
}

// PID is the process id, also after the process is gone.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Done is closed when the process is gone.
func (s *Server) Done() <-chan struct{} { return s.done }

// Wait waits until the process is gone and returns its exit code, -1 if a
// signal ended it.
func (s *Server) Wait(ctx context.Context) (int, error) {
	select {
	case <-s.done:
		return s.exit, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for mysqld %d to end: %w", s.PID(), context.Cause(ctx))
	}
}

// Kill ends the process with SIGKILL and returns when it is gone. A server
// that is gone already is no error. It does not release waiting commits as
// successes, as a polite stop would.
func (s *Server) Kill() error {
	if err := s.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-s.done
	return nil
}

// Freeze stops the process from running (SIGSTOP) until Thaw.
func (s *Server) Freeze() error { return s.signal(syscall.SIGSTOP) }

// Thaw lets a frozen process go on (SIGCONT).
func (s *Server) Thaw() error { return s.signal(syscall.SIGCONT) }

// Terminate asks the process to stop (SIGTERM): a polite stop, which answers
// commits that wait for an acknowledgement with success.
func (s *Server) Terminate() error { return s.signal(syscall.SIGTERM) }

func (s *Server) signal(sig os.Signal) error {
	err := s.cmd.Process.Signal(sig)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to mysqld %d: %w", sig, s.PID(), err)
	}
	return nil
}
