package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"interrex/dbrepl"
	"interrex/detector"
	"interrex/election"
	"interrex/failover"
	"interrex/failover/api"
	"interrex/failover/drill"
	"interrex/internal/config"
	"interrex/internal/topology"
	"interrex/router"
	"interrex/router/nginx"
	"interrex/router/proxy"
)

func newAgentCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "agent --config FILE",
		Short: "Run the agent of this node",
		Long: `Run the agent of this node until it is told to stop (SIGINT, SIGTERM).

Stopping an agent changes no role: the instance goes on as it is, and the other
agents go on watching it. SIGHUP reads the TLS files again.`,
		Example: "  interrex agent --config /etc/interrex/agent.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(file)
			if err != nil {
				return err
			}
			return runAgent(cmd.Context(), cfg)
		},
	}
	cmd.Flags().StringVar(&file, "config", "/etc/interrex/agent.yaml", "configuration file")
	return cmd
}

// agent is the parts of one agent, wired together. Whatever it starts is an
// actor of one group, so that nothing outlives run.
type agent struct {
	cfg     config.Config
	secrets secrets
	self    topology.Member
	log     *zap.Logger

	registry *election.Client
	instance *dbrepl.Instance // nil without an instance
	detector *detector.Detector
	table    *router.Table
	keeper   *failover.Keeper
	peers    *api.Peers
	watcher  *failover.Watcher
	control  *failover.Controller
	journal  *failover.Journal
	faults   *drill.Faults
	proxy    *proxy.Proxy
	nginx    []*nginx.Rewriter
	server   *api.Server
	tls      *api.TLS
	listener net.Listener
	subjects *subjects
	members  *members
	stop     context.CancelFunc // ends run
	closers  []func() error
}

func runAgent(ctx context.Context, cfg config.Config) error {
	log, closeLog, err := newLogger(cfg.Log)
	if err != nil {
		return err
	}
	defer closeLog()
	log = log.With(zap.String("node", cfg.Node.Name))
	for _, w := range cfg.Warnings() {
		log.Warn("configuration", zap.String("warning", w))
	}
	a, err := newAgent(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer a.close()
	return a.run(ctx)
}

// newAgent makes the parts, from those that know nothing of others to those
// that need them. Only listeners are opened; nothing runs yet.
func newAgent(ctx context.Context, cfg config.Config, log *zap.Logger) (_ *agent, err error) {
	a := &agent{cfg: cfg, self: cfg.Self(), log: log, table: router.NewTable()}
	a.self.Version = version
	a.members = &members{a: a}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if err := os.MkdirAll(cfg.Node.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	if a.secrets, err = readSecrets(cfg); err != nil {
		return nil, err
	}
	for _, build := range []func(context.Context) error{
		a.buildTLS, a.buildRegistry, a.buildInstance, a.buildDetector, a.buildKeeper,
		a.buildRoutes, a.buildController, a.buildServer,
	} {
		if err := build(ctx); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func (a *agent) close() {
	for i := len(a.closers) - 1; i >= 0; i-- {
		if err := a.closers[i](); err != nil {
			a.log.Debug("closing", zap.Error(err))
		}
	}
}

func (a *agent) buildTLS(context.Context) error {
	files := a.cfg.Security.TLS
	if files.IsZero() {
		return nil
	}
	t, err := api.LoadTLS(api.TLSFiles{CA: files.CAFile, Cert: files.CertFile, Key: files.KeyFile}, a.self.Name, a.cfg.Cluster.Name, a.log)
	if err != nil {
		return err
	}
	a.tls = t
	return nil
}

func (a *agent) buildRegistry(context.Context) error {
	c, err := electionConfig(a.cfg, a.secrets)
	if err != nil {
		return err
	}
	a.registry, err = election.New(c, a.log)
	return err
}

func (a *agent) buildInstance(context.Context) error {
	if a.cfg.MySQL == nil {
		return nil
	}
	inst, err := dbrepl.Open(instanceConfig(a.cfg, a.secrets), a.log)
	if err != nil {
		return err
	}
	a.instance = inst
	a.closers = append(a.closers, inst.Close)
	return nil
}

func (a *agent) buildDetector(context.Context) error {
	c := detectorConfig(a.cfg, a.secrets)
	deps := detector.Deps{Log: a.log, Classify: classify}
	if a.instance != nil {
		deps.FindProcess = a.findProcess
		deps.Disk = detector.NewDisk(a.findFolders)
	}
	d, err := detector.New(c, deps)
	if err != nil {
		return err
	}
	a.detector = d
	a.subjects = newSubjects(a)
	a.closers = append(a.closers, a.subjects.close)
	return nil
}

func (a *agent) buildKeeper(context.Context) error {
	var (
		inst    failover.Instance
		rebuild failover.Rebuilder
	)
	if a.instance != nil {
		inst = a.instance
		rebuild = rebuilder{cfg: *a.cfg.MySQL, replUser: a.cfg.MySQL.ReplicationAccount(a.cfg.Node.Name), dataDir: a.cfg.Node.DataDir, secrets: a.secrets, inst: a.instance}
	}
	keeper, err := failover.NewKeeper(failover.KeeperConfig{
		Member: a.self, PromiseFile: filepath.Join(a.cfg.Node.DataDir, "promises.json"), Etcd: a.members.etcdStanding, Nginx: a.nginxFiles,
		EtcdUsed: a.members.etcdUsed, Certificate: a.certificateUntil,
	}, inst, rebuild, a.registry, a.table, a.log)
	if err != nil {
		return err
	}
	a.keeper = keeper
	a.peers = api.NewPeers(a.self.Name, a.cfg.Cluster.Name, keeper, a.lookup, a.secrets.memberToken, a.tls)
	a.watcher = failover.NewWatcher(a.self.Name, a.registry, a.peers, judge{a.detector}, 0)
	a.watcher.Sees(sightOf(a.cfg, a.detector))
	return nil
}

// lookup finds a member as registered, or as configured while etcd has not
// told yet.
func (a *agent) lookup(name topology.NodeName) (topology.Member, bool) {
	for _, m := range a.knownMembers() {
		if m.Name == name {
			return m, true
		}
	}
	return topology.Member{}, false
}

// knownMembers are the members as registered, and then as configured: one that
// has not registered may be meant.
func (a *agent) knownMembers() []topology.Member {
	return append(a.registry.Members(), a.cfg.Members()...)
}

func (a *agent) buildRoutes(ctx context.Context) error {
	c := proxyConfig(a.cfg)
	c.OnBackendBroken = a.detector.Nudge
	if c.ReadWrite != "" {
		p, err := proxy.New(c, a.table, a.log)
		if err != nil {
			return err
		}
		if err := p.Listen(ctx); err != nil {
			return err
		}
		a.proxy = p
		a.closers = append(a.closers, p.Close)
	}
	for _, n := range a.cfg.Routes.Nginx {
		c, err := nginxConfig(n, a.cfg)
		if err != nil {
			return err
		}
		r, err := nginx.New(c, a.table, a.log)
		if err != nil {
			return fmt.Errorf("nginx configuration %s: %w", n.ConfigFile, err)
		}
		a.nginx = append(a.nginx, r)
	}
	return nil
}

func (a *agent) buildController(context.Context) error {
	verifier, err := newRouteVerifier(a)
	if err != nil {
		return err
	}
	var (
		placement failover.Placement
		voters    failover.Voters
	)
	if a.cfg.Etcd.Mode == config.Embedded {
		placement, voters = etcdMembers{a}, etcdMembers{a}
	}
	a.control = failover.NewController(failover.ControllerConfig{
		Self: a.self.Name, Policy: policyOf(a.cfg), Limits: limitsOf(a.cfg), Registry: a.registry, Leader: a.registry,
		Placement: placement, Voters: voters, Nodes: a.peers, Watcher: a.watcher, Verifier: verifier, Table: a.table,
	}, a.log)
	a.journal = failover.NewJournal(filepath.Join(a.cfg.Node.DataDir, "decisions.json"), a.self.Name,
		a.watcher.View, judge{a.detector}, a.control.Gates, a.log)
	a.registry.SetCandidacy(func() (bool, time.Duration) {
		// Any member may lead; one whose node holds the primary hangs back.
		if p := a.registry.Snapshot().State.Primary; p != nil && p.Node == a.self.Name {
			return true, time.Second
		}
		return true, 0
	})
	return nil
}

func (a *agent) buildServer(ctx context.Context) error {
	security := api.Security{
		OperatorToken: a.secrets.operatorToken, MemberToken: a.secrets.memberToken,
		GossipKey: string(a.secrets.gossipKey), MutualTLS: a.tls != nil, Reads: api.Reads(a.cfg.Security.Reads),
	}
	if err := api.CheckExposure(a.cfg.Listeners.API, security); err != nil {
		return err
	}
	c := api.DefaultConfig()
	c.Self, c.Cluster, c.Security = a.self.Name, a.cfg.Cluster.Name, security
	c.Hosts = []string{a.cfg.OwnMember().Host}
	c.LagLimit = a.cfg.Routes.MaxReplicaLag
	b := &backend{agent: a, began: time.Now()}
	var err error
	if a.faults, err = newFaults(a, b); err != nil {
		return err
	}
	srv, err := api.New(c, api.Parts{
		Backend: b, Node: a.keeper, Peers: a.peers, TLS: a.tls, Log: a.log,
		Metrics: api.NewMetrics(api.MetricsConfig{
			Self: a.self.Name, Cluster: a.cfg.Cluster.Name, Version: version, Backend: b, Proxy: a.proxyPorts,
		}),
	})
	if err != nil {
		return err
	}
	a.server = srv
	var lc net.ListenConfig
	if a.listener, err = lc.Listen(ctx, "tcp", a.cfg.Listeners.API); err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	a.closers = append(a.closers, a.listener.Close)
	return nil
}

func (a *agent) proxyPorts() []api.ProxyPort {
	if a.proxy == nil {
		return nil
	}
	var ports []api.ProxyPort
	for _, p := range a.proxy.Stats() {
		route := "rw"
		if p.Role == proxy.ReadOnly {
			route = "ro"
		}
		ports = append(ports, api.ProxyPort{
			Route: route, Sessions: p.Connections, Held: p.Held, Accepted: p.Accepted, HeldTotal: p.HeldTotal,
			Refused: p.Refused, Left: p.ClientsLeft, ConnectFailures: p.ConnectFailures, Cut: p.Cut,
		})
	}
	return ports
}
