package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"interrex/internal/sandbox/fetch"
	"interrex/internal/sandbox/mysqld"
	"interrex/internal/sandbox/process"
)

// Options say which sandbox to bring up.
type Options struct {
	// Dir is the folder; it is made if it is missing.
	Dir string
	// Nodes is how many servers; 0 is 3, or as many as the folder has.
	Nodes int
	// BasePort is the first port; 0 chooses a free range, or takes the one
	// the folder has.
	BasePort int
	// MySQLD is the server program to use; empty lets mysqld.Find choose.
	MySQLD string
	// InitSQL makes the agents' accounts, before the server's first start.
	InitSQL func(Passwords) []string
	// AgentConfig renders the configuration file of one agent.
	AgentConfig func(AgentSettings) ([]byte, error)
	// Out is told what is done, a line at a time.
	Out io.Writer
	// HealthLimit is how long the cluster may take to become healthy; 0 is a
	// minute.
	HealthLimit time.Duration
}

// AgentSettings are what the configuration of one agent is made of.
type AgentSettings struct {
	Cluster Cluster
	Node    Node
	// Mysqlbinlog runs that program of the server's own distribution.
	Mysqlbinlog []string
	// Start starts the node's server unless it runs.
	Start []string
}

// defaultNodes is the smallest cluster that survives the loss of a node.
const defaultNodes = 3

// Up brings up the sandbox in a folder, a new one or the one that is there,
// and returns when the cluster is healthy: one primary open, all others
// following. If that fails, nothing is left running and the error says what
// was seen last. A sandbox that is up already is ErrRunning.
func Up(ctx context.Context, o Options) (Info, error) {
	if o.HealthLimit == 0 {
		o.HealthLimit = time.Minute
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return Info{}, fmt.Errorf("find sandbox folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Info{}, fmt.Errorf("create sandbox folder: %w", err)
	}
	unlock, err := fetch.Lock(ctx, filepath.Join(dir, ".lock"))
	if err != nil {
		return Info{}, err
	}
	defer unlock()
	c, release, err := plan(ctx, dir, o)
	if err != nil {
		return Info{}, err
	}
	defer release()
	info, err := c.prepare(ctx, o)
	if err != nil {
		return Info{}, err
	}
	if err := c.bringUp(ctx, o); err != nil {
		// Also when ctx has ended: that is when somebody changed their mind.
		return Info{}, errors.Join(err, c.Down(context.WithoutCancel(ctx)))
	}
	return info, nil
}

// plan is the folder's plan, or a new one. Nothing of the sandbox runs when it
// returns, and its ports are free and claimed until they are released.
func plan(ctx context.Context, dir string, o Options) (c Cluster, release func(), err error) {
	c, err = Load(dir)
	switch {
	case errors.Is(err, ErrNoSandbox):
		return newPlan(ctx, dir, o)
	case err != nil:
		return Cluster{}, nil, err
	}
	if _, err := c.Status(ctx); err == nil {
		return Cluster{}, nil, fmt.Errorf("bring up %s: %w", dir, ErrRunning)
	}
	if o.Nodes != 0 && o.Nodes != len(c.Nodes) {
		return Cluster{}, nil, fmt.Errorf("bring up %s: it has %d nodes, not %d; remove the folder for a new sandbox", dir, len(c.Nodes), o.Nodes)
	}
	if o.BasePort != 0 && o.BasePort != c.Nodes[0].Ports.MySQL {
		return Cluster{}, nil, fmt.Errorf("bring up %s: its base port is %d, not %d; remove the folder for a new sandbox",
			dir, c.Nodes[0].Ports.MySQL, o.BasePort)
	}
	if named, err := namedServer(o.MySQLD); err != nil || o.MySQLD != "" && named != c.MySQLD {
		return Cluster{}, nil, errors.Join(err, fmt.Errorf("bring up %s: its server is %s, not %s; remove the folder for a new sandbox",
			dir, cmp.Or(c.MySQLD, "the one that was found"), named))
	}
	if err := c.sweep(ctx); err != nil { // of a supervisor that was killed
		return Cluster{}, nil, err
	}
	release, err = claimPorts(c.Nodes[0].Ports.MySQL, len(c.Nodes))
	return c, release, err
}

// newPlan is a plan that is not saved yet.
func newPlan(ctx context.Context, dir string, o Options) (c Cluster, release func(), err error) {
	nodes, base := o.Nodes, o.BasePort
	if nodes == 0 {
		nodes = defaultNodes
	}
	if nodes < 2 || nodes > maxNodes {
		return Cluster{}, nil, fmt.Errorf("plan sandbox: %d nodes; it can have 2 to %d", nodes, maxNodes)
	}
	if base == 0 {
		base, release, err = chooseBase(nodes)
	} else {
		release, err = claimPorts(base, nodes)
	}
	if err != nil {
		return Cluster{}, nil, err
	}
	claimed := release
	defer func() {
		if err != nil {
			claimed()
		}
	}()
	c, err = newCluster(dir, "sandbox", nodes, base)
	if err != nil {
		return Cluster{}, nil, err
	}
	if c.MySQLD, err = namedServer(o.MySQLD); err != nil {
		return Cluster{}, nil, err
	}
	secrets, err := passwords(ctx)
	if err != nil {
		return Cluster{}, nil, err
	}
	c.App = App{User: "app", Password: secrets.App, Database: "app"}
	if err := c.writeSecrets(secrets); err != nil {
		return Cluster{}, nil, err
	}
	return c, release, nil
}

// namedServer is the server program that was asked for, by option or
// environment, as an absolute path; empty if none was.
func namedServer(option string) (string, error) {
	if option == "" {
		option = os.Getenv("INTERREX_MYSQLD")
	}
	if option == "" || !strings.ContainsRune(option, filepath.Separator) {
		return option, nil
	}
	path, err := filepath.Abs(option)
	if err != nil {
		return "", fmt.Errorf("find mysqld: %w", err)
	}
	return path, nil
}

// prepare makes everything the supervisor needs: the server program, the data
// directories, the agents' configurations, and sandbox.json.
func (c Cluster) prepare(ctx context.Context, o Options) (Info, error) {
	progress := fetch.NewProgress(o.Out)
	dist, err := mysqld.Find(ctx, c.MySQLD, progress)
	if err != nil {
		return Info{}, err
	}
	progress.Step(fmt.Sprintf("MySQL %s (%s)", dist.Version, dist.Mysqld))
	// Not before: who named a wrong server, or could not fetch one, tries again
	// with other words, and the folder does not insist on those.
	if err := c.save(); err != nil {
		return Info{}, err
	}
	secrets, err := passwords(ctx)
	if err != nil {
		return Info{}, err
	}
	statements := append(o.InitSQL(secrets), appSQL(c.App)...)
	template, err := mysqld.Template(ctx, dist, statements)
	if err != nil {
		return Info{}, err
	}
	failures := make([]error, len(c.Nodes))
	var copies sync.WaitGroup
	for i, n := range c.Nodes {
		if mysqld.HasData(n.Dir) {
			continue
		}
		copies.Go(func() { failures[i] = mysqld.NewDatadir(template, n.Dir) })
	}
	copies.Wait()
	if err := errors.Join(failures...); err != nil {
		return Info{}, err
	}
	for _, n := range c.Nodes {
		if err := c.writeAgentConfig(n, dist, o); err != nil {
			return Info{}, err
		}
	}
	info, err := c.info()
	if err != nil {
		return Info{}, err
	}
	return info, writeJSON(filepath.Join(c.dir, infoFile), info)
}

func (c Cluster) writeAgentConfig(n Node, dist mysqld.Distribution, o Options) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	if err := os.MkdirAll(n.AgentDataDir(), 0o700); err != nil {
		return fmt.Errorf("create folder of agent: %w", err)
	}
	text, err := o.AgentConfig(AgentSettings{
		Cluster:     c,
		Node:        n,
		Mysqlbinlog: dist.Command("mysqlbinlog"),
		Start:       []string{program, "sandbox", "ensure", n.Name, "--dir", c.dir},
	})
	if err != nil {
		return fmt.Errorf("write configuration of agent %s: %w", n.Name, err)
	}
	return writePrivate(n.AgentConfigFile(), text)
}

// bringUp starts the supervisor and waits until the cluster is healthy.
func (c Cluster) bringUp(ctx context.Context, o Options) error {
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	supervisor, err := process.Start(process.Spec{
		Command: []string{program, "sandbox", "supervise", "--dir", c.dir},
		Dir:     c.dir,
		Env:     []string{c.Mark()},
		LogFile: c.supervisorLogPath(),
	})
	if err != nil {
		return fmt.Errorf("start supervisor: %w", err)
	}
	watching, cancel := context.WithCancelCause(ctx)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel(nil)
	watcher.Go(func() {
		select {
		case <-supervisor.Done():
			cancel(fmt.Errorf("supervisor ended with code %d: %s", supervisor.ExitCode(), tail(c.supervisorLogPath())))
		case <-watching.Done():
		}
	})
	if err := c.awaitServers(watching, o.Out); err != nil {
		return err
	}
	return c.awaitHealth(watching, o)
}

// awaitServers prints a line for each server that is started, and returns when
// all are or one cannot be.
func (c Cluster) awaitServers(ctx context.Context, out io.Writer) error {
	began, told := time.Now(), map[string]bool{}
	see := func(status Status) (bool, error) {
		for i, n := range status.Nodes {
			switch n.MySQL.State {
			case Failed, Killed, Stopped:
				if n.MySQL.Starts > 0 || n.MySQL.State == Failed {
					return false, fmt.Errorf("start %s: mysqld is %s: %s", n.Name, n.MySQL.State, n.MySQL.Detail)
				}
			case Running:
				if !told[n.Name] {
					told[n.Name] = true
					fmt.Fprintf(out, "%s  mysqld on %s, process %d, %.1f s\n",
						n.Name, c.Nodes[i].Addr(c.Nodes[i].Ports.MySQL), n.MySQL.PID, time.Since(began).Seconds())
				}
			}
		}
		return len(told) == len(c.Nodes), nil
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := c.watch(ctx, see)
		if !errors.Is(err, ErrNotRunning) { // it has yet to listen
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// tail is the end of a log, for error messages.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}
