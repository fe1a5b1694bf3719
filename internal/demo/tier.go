package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"interrex/internal/sandbox"
	"interrex/internal/sandbox/mysqld"
	"interrex/internal/sandbox/process"
)

// Tier is a web tier in front of a sandbox: services, and an nginx that
// balances them and leads to MySQL.
type Tier struct {
	// Ports of nginx: the services over HTTP, and MySQL for writes and reads.
	HTTP int `json:"http"`
	RW   int `json:"rw"`
	RO   int `json:"ro"`
	// Services are behind the http upstream.
	Services []Service `json:"services"`
	// Program is the services' program.
	Program  string `json:"program"`
	User     string `json:"user"`
	Database string `json:"database"`

	dir     string // of the sandbox, absolute
	release func() // lets others have the ports
}

// Service is one process of the tier.
type Service struct {
	Address string `json:"address"` // host:port it serves on
	RW      string `json:"rw"`      // routes it reaches MySQL by
	RO      string `json:"ro"`
}

// Names of the files in the tier's folder.
const (
	planFile     = "tier.json"
	passwordFile = "app.password"
	configFile   = "nginx.conf"
	logFile      = "tier.log"
)

// NewTier plans a tier of n services of a program, for the sandbox in dir,
// which need not exist yet, and makes the tier's folder. Its ports are kept
// from others until it is started.
func NewTier(dir, program string, n int) (*Tier, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find folder of tier: %w", err)
	}
	ports, release, err := sandbox.ClaimPorts(n + 3)
	if err != nil {
		return nil, fmt.Errorf("choose ports of tier: %w", err)
	}
	t := &Tier{HTTP: ports[0], RW: ports[1], RO: ports[2], Program: program, dir: dir, release: release}
	for _, p := range ports[3:] {
		t.Services = append(t.Services, Service{Address: sandbox.Addr(p)})
	}
	// With nginx's folder for temporary files, which it needs to test a
	// configuration before it runs.
	if err := os.MkdirAll(filepath.Join(t.Dir(), "tmp"), 0o700); err != nil {
		release()
		return nil, fmt.Errorf("create folder of tier: %w", err)
	}
	return t, nil
}

// Dir is the tier's folder.
func (t *Tier) Dir() string { return tierDir(t.dir) }

// ConfigFile is nginx's configuration.
func (t *Tier) ConfigFile() string { return filepath.Join(t.Dir(), configFile) }

// PIDFile is nginx's.
func (t *Tier) PIDFile() string { return filepath.Join(t.Dir(), "nginx.pid") }

// URL is where nginx serves the tier.
func (t *Tier) URL() string { return "http://" + sandbox.Addr(t.HTTP) }

func tierDir(dir string) string { return filepath.Join(dir, "tier") }

func tierSocket(dir string) (string, error) { return mysqld.SocketPath(tierDir(dir), "tier.sock") }

// Start starts the tier in front of a sandbox that is up, as a background
// process: command is what runs Supervise in this folder. The services use the
// routes of the sandbox's agents, each those of another agent. It returns when
// nginx listens.
func (t *Tier) Start(ctx context.Context, command []string, cluster sandbox.Cluster, info sandbox.Info) error {
	defer t.release()
	if len(info.Nodes) == 0 {
		return errors.New("start tier: the sandbox has no nodes")
	}
	t.User, t.Database = cluster.App.User, cluster.App.Database
	for i := range t.Services {
		agent := info.Nodes[(i+1)%len(info.Nodes)].Agent
		t.Services[i].RW, t.Services[i].RO = agent.RW, agent.RO
	}
	text, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return fmt.Errorf("write plan of tier: %w", err)
	}
	files := map[string][]byte{planFile: append(text, '\n'), passwordFile: []byte(cluster.App.Password + "\n")}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(t.Dir(), name), text, 0o600); err != nil {
			return fmt.Errorf("write %s of tier: %w", name, err)
		}
	}
	supervisor, err := process.Start(process.Spec{
		Command: command, Dir: t.dir, Env: []string{cluster.Mark()}, LogFile: filepath.Join(t.Dir(), logFile),
	})
	if err != nil {
		return fmt.Errorf("start tier: %w", err)
	}
	return t.awaitSocket(ctx, supervisor)
}

// awaitSocket returns when the supervisor listens, which it does when all it
// has to start is started.
func (t *Tier) awaitSocket(ctx context.Context, supervisor *process.Process) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("it is not ready after 30 s"))
	defer cancel()
	socket, err := tierSocket(t.dir)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		if _, err := os.Stat(socket); err == nil {
			return nil
		}
		select {
		case <-supervisor.Done():
			text, _ := os.ReadFile(filepath.Join(t.Dir(), logFile))
			return fmt.Errorf("start tier: it ended with code %d: %s", supervisor.ExitCode(), text)
		case <-ctx.Done():
			return fmt.Errorf("start tier: %w", context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

// Stop ends the tier of the sandbox in dir and returns when none of its
// processes is left. No tier, or one that has ended, is no error.
func Stop(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("find folder of tier: %w", err)
	}
	if _, err := os.Stat(tierDir(dir)); err != nil {
		return nil
	}
	socket, err := tierSocket(dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil // nobody listens: it has ended
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	// The connection is the order, and it ends with the supervisor.
	_, _ = conn.Read(make([]byte, 1))
	if ctx.Err() != nil {
		return fmt.Errorf("stop tier: %w", context.Cause(ctx))
	}
	return nil
}
