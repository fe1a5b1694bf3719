package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"interrex/failover/api"
	"interrex/internal/startcommand"
)

// greetLimit is how long a server that runs may take to be connected to, and to
// greet.
const greetLimit = time.Second

// record is a fault in force, as it is written down: all that undoing it takes.
type record struct {
	Fault   api.Fault `json:"fault"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`
	By      string    `json:"by"`
	PID     int       `json:"pid"`
	Started uint64    `json:"started"` // when the process did, in clock ticks since boot
	Server  Server    `json:"server"`
}

// Server is how the local server is started and seen to run.
type Server struct {
	// Network and Address are where it listens: "unix" and a path, or "tcp"
	// and host:port.
	Network string `json:"network"`
	Address string `json:"address"`
	// StartCommand is a program and its arguments; empty if the server's own
	// supervisor starts it.
	StartCommand []string `json:"start_command"`
}

// save replaces the file by one that is on disk whole.
func (r record) save(file string) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write down fault: %w", err)
	}
	f, err := os.OpenFile(file+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write down fault: %w", err)
	}
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		return fmt.Errorf("write down fault: %w", err)
	}
	return nil
}

// readRecord returns false if no fault is written down.
func readRecord(file string) (record, bool, error) {
	var r record
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return r, false, fmt.Errorf("read fault written down in %s: %w", file, err)
	}
	return r, true, nil
}

// undo ends the fault and says how; it may be repeated, and be done by several
// at once. A server that was killed and has no start command is left to its
// supervisor.
func (r record) undo(ctx context.Context) (string, error) {
	if r.Fault == api.FaultFreezeServer {
		switch err := signalProcess(r.PID, r.Started, unix.SIGCONT); {
		case errors.Is(err, errNoProcess):
			return fmt.Sprintf("process %d is gone", r.PID), nil
		case err != nil:
			return "", fmt.Errorf("thaw server: %w", err)
		}
		return fmt.Sprintf("SIGCONT to mysqld, process %d", r.PID), nil
	}
	return r.Server.start(ctx)
}

// start starts the server unless it greets.
func (s Server) start(ctx context.Context) (string, error) {
	if s.greets(ctx) {
		return "the server runs", nil
	}
	if len(s.StartCommand) == 0 {
		return "mysql.start_command is not configured: the server's own supervisor starts it", nil
	}
	if err := startcommand.Run(ctx, s.StartCommand, startcommand.Limit); err != nil {
		return "", err
	}
	return "server started with " + filepath.Base(s.StartCommand[0]), nil
}

// greets tells whether a server says something there. A connection alone is no
// sign of life: for a while the kernel takes them also for one that was killed.
func (s Server) greets(ctx context.Context) bool {
	d := net.Dialer{Timeout: greetLimit}
	conn, err := d.DialContext(ctx, s.Network, s.Address)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(greetLimit))
	n, _ := conn.Read(make([]byte, 1))
	return n == 1
}

// errNoProcess: the process is gone; its number may be another's.
var errNoProcess = errors.New("no such process")

// startOf is when a process was started, in clock ticks since boot: with its
// id, it names the process for good.
func startOf(pid int) (uint64, error) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNoProcess, err)
	}
	// The second field, a name in parentheses, may hold anything; starttime is
	// the 22nd (proc_pid_stat(5)).
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const starttime = 22 - 3
	if len(fields) <= starttime {
		return 0, fmt.Errorf("read state of process %d: it is %q", pid, text)
	}
	return strconv.ParseUint(fields[starttime], 10, 64)
}

// signalProcess signals the process that pid named when it was started then,
// and no other.
func signalProcess(pid int, started uint64, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return errNoProcess
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd) //nolint:errcheck // only held
	// After the descriptor is held: what is read now is of that process.
	now, err := startOf(pid)
	if err != nil {
		return err
	}
	if now != started {
		return errNoProcess
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return errNoProcess
		}
		return fmt.Errorf("send %s to process %d: %w", unix.SignalName(sig), pid, err)
	}
	return nil
}
