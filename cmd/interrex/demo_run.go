package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"interrex/failover/api"
	"interrex/internal/demo"
	"interrex/internal/sandbox"
	"interrex/internal/sandbox/fetch"
	"interrex/internal/sandbox/mysqld"
	"interrex/internal/sandbox/nginx"
	"interrex/internal/topology"
	"interrex/internal/workload"
)

// How hard the demo's clients work: enough to see a pause of milliseconds, not
// so much that the machine has no time left for the failover.
const (
	demoWriterPause = 10 * time.Millisecond
	demoHTTPClients = 4
	demoHTTPPause   = 20 * time.Millisecond
	// demoSettle is how long load goes on undisturbed between two acts.
	demoSettle = 2 * time.Second
)

// demoRun is one run of the demo.
type demoRun struct {
	options  demoOptions
	screen   screen
	began    time.Time
	line     *demo.Timeline
	dir      string
	program  string // this one
	services string // demoapp

	dist    nginx.Distribution
	cluster sandbox.Cluster
	info    sandbox.Info
	up      bool // the sandbox was brought up
	tier    *demo.Tier
	client  *apiClient
	sql     *workload.Workload
	http    *demo.Load

	former topology.NodeName // the primary that is killed
	killed demoMove
	moved  demoMove
}

// demoMove is one move of the primary: the ledger's report, and the time in
// which its effect on clients is looked for.
type demoMove struct {
	report   api.Report
	from, to time.Time
}

func newDemoRun(s screen, o demoOptions) (*demoRun, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	services, err := findDemoapp(program)
	if err != nil {
		return nil, err
	}
	dir, err := demoDir(o.dir)
	if err != nil {
		return nil, err
	}
	if s.width == 0 {
		s.width = 120 // where it is kept for later
	}
	began := time.Now()
	return &demoRun{
		options: o, screen: s, began: began, line: demo.NewTimeline(s.out, began, s.width),
		dir: dir, program: program, services: services,
	}, nil
}

// run is the demo, act by act.
func (d *demoRun) run(ctx context.Context) error {
	for _, act := range []func(context.Context) error{
		d.fetch, d.bringUp, d.startLoad, d.killPrimary, d.bringBack, d.switchBack, d.conclude,
	} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return nil
}

// fetch gets the server and nginx, where they are missing.
func (d *demoRun) fetch(ctx context.Context) error {
	d.line.Section("Three MySQL servers with an agent each")
	out := d.screen.out
	if a, ok := out.(*audience); ok {
		out = a.Writer // a terminal gets a bar
	}
	progress := fetch.NewProgress(out)
	if _, err := mysqld.Find(ctx, "", progress); err != nil {
		return err
	}
	dist, err := nginx.Find(ctx, progress)
	if err != nil {
		return err
	}
	d.dist = dist
	// What was built and fetched for this is written out first: half a minute
	// later the kernel would do that, while the servers wait for the disk.
	syscall.Sync()
	return nil
}

// bringUp brings up the sandbox, with the last agent owning the upstream
// blocks of the tier's nginx, and the tier.
func (d *demoRun) bringUp(ctx context.Context) error {
	const services = 2
	tier, err := demo.NewTier(d.dir, d.services, services)
	if err != nil {
		return err
	}
	if err := tier.WriteConfig(d.dist); err != nil {
		return err
	}
	d.tier = tier
	options := sandboxOptions(d.dir, d.line)
	options.AgentConfig = func(s sandbox.AgentSettings) ([]byte, error) {
		if s.Node.Name == s.Cluster.Nodes[len(s.Cluster.Nodes)-1].Name {
			return sandboxAgentConfig(s, demoRoutes(tier, d.dist))
		}
		return sandboxAgentConfig(s, nil)
	}
	d.line.Say("making data directories in %s", d.dir)
	if d.info, err = sandbox.Up(ctx, options); err != nil {
		return err
	}
	d.up = true
	if d.cluster, err = sandbox.Load(d.dir); err != nil {
		return err
	}
	found, err := findBySandbox(d.dir)
	if err != nil {
		return err
	}
	d.client = newAPIClient(found.endpoints, found.token, nil)
	if err := tier.Start(ctx, []string{d.program, "demo", "tier", "--dir", d.dir}, d.cluster, d.info); err != nil {
		return err
	}
	var addresses []string
	for _, s := range tier.Services {
		addresses = append(addresses, s.Address)
	}
	d.line.Say("nginx %s on %s in front of two Gin services (%s); %s's agent owns its upstream blocks",
		d.dist.Version, sandbox.Addr(tier.HTTP), strings.Join(addresses, ", "), d.info.Nodes[len(d.info.Nodes)-1].Name)
	if err := d.awaitTier(ctx); err != nil {
		return err
	}
	syscall.Sync() // as in fetch: the servers' folders are new
	return nil
}

// demoRoutes is the routes section of the agent that owns nginx's upstreams.
func demoRoutes(t *demo.Tier, dist nginx.Distribution) section {
	var members []section
	for _, s := range t.Services {
		members = append(members, section{{Key: "address", Value: s.Address}})
	}
	upstream := func(context, name, role string, more ...section) section {
		u := section{{Key: "context", Value: context}, {Key: "name", Value: name}, {Key: "role", Value: role}}
		for _, m := range more {
			u = append(u, m...)
		}
		return u
	}
	direct := section{{Key: "via", Value: "direct"}}
	return section{{Key: "nginx", Value: []section{{
		{Key: "config_file", Value: t.ConfigFile()},
		{Key: "test_command", Value: dist.TestCommand(t.Dir(), t.ConfigFile())},
		{Key: "reload_command", Value: []string{}},
		{Key: "pid_file", Value: t.PIDFile()},
		{Key: "upstreams", Value: []section{
			upstream("http", demo.UpstreamHTTP, "http", section{{Key: "members", Value: members}}),
			upstream("stream", demo.UpstreamRW, "rw", direct),
			upstream("stream", demo.UpstreamRO, "ro", direct),
		}},
	}}}}
}

// startLoad puts load on the cluster and waits until it runs steadily.
func (d *demoRun) startLoad(ctx context.Context) error {
	d.line.Section("Load")
	cluster, err := d.client.Cluster(ctx)
	if err != nil {
		return err
	}
	d.former = cluster.Primary.Node
	// The agent beside the primary: its route must work when its server is dead.
	route := d.node(d.former).Agent.RW
	app := d.cluster.App
	d.sql, err = workload.Start(ctx, workload.Config{
		Address: route, User: app.User, Password: app.Password, Database: app.Database,
		Table: "demo_rows", Writers: d.options.writers, Pause: demoWriterPause,
	})
	if err != nil {
		return err
	}
	d.http = demo.StartLoad(ctx, demo.LoadConfig{
		URL: d.tier.URL(), Prefix: "demo", Clients: demoHTTPClients, Pause: demoHTTPPause, Timeout: 20 * time.Second,
	})
	rows, orders := d.sql.Acknowledged(), d.http.Stored()
	began := time.Now()
	if err := pause(ctx, demoSettle); err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	d.line.Say("SQL:  %d writers through %s's rw route (%s): %.0f rows/s", d.options.writers, d.former, route,
		float64(d.sql.Acknowledged()-rows)/took)
	d.line.Say("HTTP: %d clients through nginx (%s): %.0f orders/s", demoHTTPClients, d.tier.URL(), float64(d.http.Stored()-orders)/took)
	return nil
}

// node is one node's addresses.
func (d *demoRun) node(name topology.NodeName) sandbox.NodeInfo {
	for _, n := range d.info.Nodes {
		if n.Name == string(name) {
			return n
		}
	}
	return sandbox.NodeInfo{}
}

// takeDown ends all load and every process, and removes the folder.
func (d *demoRun) takeDown(ctx context.Context) error {
	cluster, err := sandbox.Load(d.dir)
	switch {
	case errors.Is(err, sandbox.ErrNoSandbox):
		err = demo.Stop(ctx, d.dir) // interrupted before there was one
	case err == nil:
		err = endSandbox(ctx, cluster)
	}
	// Only now, when nothing can be waited for any more.
	d.stopLoad()
	if err != nil {
		return fmt.Errorf("take the demo down: %w; see %s", err, d.dir)
	}
	if err := os.RemoveAll(d.dir); err != nil {
		return fmt.Errorf("remove folder of demo: %w", err)
	}
	d.screen.printf("\nEverything was taken down: no process and no file is left of it.\n")
	return nil
}

// stopLoad ends the clients that still run.
func (d *demoRun) stopLoad() {
	if d.sql != nil {
		d.sql.Stop()
	}
	if d.http != nil {
		d.http.Stop()
	}
	if d.client != nil {
		d.client.close()
	}
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, length time.Duration) error {
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
