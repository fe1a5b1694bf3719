package mysqld

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"interrex/internal/sandbox/process"
)

// ExitRestart is the exit code by which a server asks to be started again:
// after RESTART, and when it has been cloned.
const ExitRestart = 16

// Spec says which server to start.
type Spec struct {
	// Dir is the server's folder: data/ in it is a copy of a template (see
	// NewDatadir); socket, pid file and log are put beside it.
	Dir string
	// Host is the address it listens on; empty is 127.0.0.1.
	Host string
	// Port and AdminPort are TCP ports there; no AdminPort, no administrative
	// listener.
	Port, AdminPort int
	ServerID        uint32
	// Args are further server arguments; a later one overrides.
	Args []string
	// Env are variables added to the process's environment, key=value.
	Env []string
	// Enter is put before the server's command, to run it on another host of
	// this machine (nethost).
	Enter []string
	// DieWithParent has the kernel kill the server when this process dies.
	DieWithParent bool
}

// Server is a mysqld that was started. Its methods may be called from any
// goroutine.
type Server struct {
	Addr      string // host:port
	AdminAddr string // host:port, empty without one
	Socket    string
	Dir       string
	Datadir   string
	PIDFile   string
	LogFile   string

	// Process is the server's process. Kill does not release waiting commits
	// as successes; Terminate, a polite stop, does.
	*process.Process
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
	if spec.Host == "" {
		spec.Host = "127.0.0.1"
	}
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
		Addr:    net.JoinHostPort(spec.Host, strconv.Itoa(spec.Port)),
		Socket:  socket,
		Dir:     spec.Dir,
		Datadir: filepath.Join(spec.Dir, "data"),
		PIDFile: filepath.Join(spec.Dir, "mysqld.pid"),
		LogFile: filepath.Join(spec.Dir, "mysqld.log"),
	}
	if spec.AdminPort != 0 {
		s.AdminAddr = net.JoinHostPort(spec.Host, strconv.Itoa(spec.AdminPort))
	}
	s.Process, err = process.Start(process.Spec{
		Command: slices.Concat(spec.Enter, dist.Command("mysqld"), arguments(dist, spec, socket)),
		// Tells the server that somebody will start it again: without it, RESTART
		// and the end of a clone are errors. It asks by exit code ExitRestart.
		Env:           append([]string{fmt.Sprintf("MYSQLD_PARENT_PID=%d", os.Getpid())}, spec.Env...),
		LogFile:       s.LogFile,
		DieWithParent: spec.DieWithParent,
	})
	if err != nil {
		return nil, fmt.Errorf("start mysqld: %w", err)
	}
	return s, nil
}

// awaitGreeting returns when the server greets on its socket.
func (s *Server) awaitGreeting(ctx context.Context) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-s.Done():
			return fmt.Errorf("%w with code %d: %s", ErrExited, s.ExitCode(), tail(s.LogFile))
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
