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

	"interrex/internal/sandbox/fetch"
	"interrex/internal/sandbox/nginx"
	"interrex/internal/sandbox/process"
)

// Supervise is the body of the background process: it starts the services and
// nginx of the tier planned in dir, and ends them when it is told to by Stop,
// or ctx ends.
func Supervise(ctx context.Context, dir string) error {
	t, err := loadTier(dir)
	if err != nil {
		return err
	}
	socket, err := tierSocket(t.dir)
	if err != nil {
		return err
	}
	running, err := t.startAll(ctx)
	if err != nil {
		return errors.Join(err, killAll(running))
	}
	conn, err := awaitOrder(ctx, socket)
	err = errors.Join(err, killAll(running))
	if conn != nil {
		_ = conn.Close() // only now: Stop waits for it
	}
	return err
}

// startAll returns what it has started, also with an error.
func (t *Tier) startAll(ctx context.Context) ([]*process.Process, error) {
	var running []*process.Process
	for i, s := range t.Services {
		p, err := t.startService(i, s)
		if err != nil {
			return running, err
		}
		running = append(running, p)
	}
	dist, err := nginx.Find(ctx, fetch.Quiet{})
	if err != nil {
		return running, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, errors.New("it does not listen after 20 s"))
	defer cancel()
	server, err := nginx.Start(ctx, dist, nginx.Spec{Dir: t.Dir(), Config: t.ConfigFile()})
	if err != nil {
		return running, err
	}
	return append(running, server.Process), nil
}

func killAll(running []*process.Process) error {
	var failures []error
	for _, p := range running {
		failures = append(failures, p.Kill())
	}
	return errors.Join(failures...)
}

func loadTier(dir string) (*Tier, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find folder of tier: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(tierDir(dir), planFile))
	if err != nil {
		return nil, fmt.Errorf("read plan of tier: %w", err)
	}
	t := &Tier{dir: dir}
	if err := json.Unmarshal(text, t); err != nil {
		return nil, fmt.Errorf("read plan of tier: %w", err)
	}
	return t, nil
}

func (t *Tier) startService(i int, s Service) (*process.Process, error) {
	return process.Start(process.Spec{
		Command: []string{t.Program, "-listen", s.Address, "-rw", s.RW, "-ro", s.RO, "-user", t.User,
			"-database", t.Database, "-password-file", filepath.Join(t.Dir(), passwordFile)},
		Dir:     t.Dir(),
		Env:     []string{"GIN_MODE=release"},
		LogFile: filepath.Join(t.Dir(), fmt.Sprintf("demoapp%d.log", i+1)),
		Group:   true, DieWithParent: true,
	})
}

// awaitOrder listens on the socket and returns when somebody connects, or ctx
// ends: then the connection is nil.
func awaitOrder(ctx context.Context, socket string) (net.Conn, error) {
	_ = os.Remove(socket) // of one that was killed
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listen for the order to end: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	conn, err := listener.Accept()
	_ = listener.Close()
	if err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("listen for the order to end: %w", err)
	}
	return conn, nil
}
