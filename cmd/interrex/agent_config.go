package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"interrex/dbrepl"
	"interrex/detector"
	"interrex/election"
	"interrex/election/embedded"
	"interrex/failover"
	"interrex/internal/config"
	"interrex/internal/topology"
	"interrex/router/nginx"
	"interrex/router/proxy"
)

// secrets are what the configuration names by file.
type secrets struct {
	mysqlPassword, replPassword, etcdPassword string
	operatorToken, memberToken                string
	gossipKey                                 []byte
}

func readSecrets(cfg config.Config) (secrets, error) {
	var s secrets
	read := func(into *string, file string, err error) error {
		if err != nil || file == "" {
			return err
		}
		*into, err = config.ReadSecret(file)
		return err
	}
	var err error
	if m := cfg.MySQL; m != nil {
		err = read(&s.mysqlPassword, m.PasswordFile, err)
		err = read(&s.replPassword, m.ReplicationPasswordFile, err)
	}
	err = read(&s.etcdPassword, cfg.Etcd.PasswordFile, err)
	err = read(&s.operatorToken, cfg.Security.OperatorTokenFile, err)
	err = read(&s.memberToken, cfg.Security.MemberTokenFile, err)
	if err == nil && cfg.Gossip.KeyFile != "" {
		s.gossipKey, err = config.ReadGossipKey(cfg.Gossip.KeyFile)
	}
	return s, err
}

// newLogger logs JSON lines to the configured file, or to standard error.
func newLogger(c config.Log) (*zap.Logger, func(), error) {
	level, err := zapcore.ParseLevel(c.Level)
	if err != nil {
		return nil, nil, fmt.Errorf("log level: %w", err)
	}
	out := "stderr"
	if c.File != "" {
		out = c.File
	}
	z := zap.NewProductionConfig()
	z.Level = zap.NewAtomicLevelAt(level)
	z.OutputPaths = []string{out}
	z.EncoderConfig.TimeKey = "time"
	z.EncoderConfig.MessageKey = "message"
	z.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	z.EncoderConfig.EncodeDuration = zapcore.StringDurationEncoder
	z.Sampling = nil // what is noisy is sampled where it is made
	z.DisableStacktrace = true
	z.DisableCaller = true
	log, err := z.Build()
	if err != nil {
		return nil, nil, fmt.Errorf("open log: %w", err)
	}
	return log, func() { _ = log.Sync() }, nil
}

func notifySystemd(log *zap.Logger) {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Debug("systemd was not told", zap.Error(err))
	}
}

// etcdEndpoints are the client addresses, the own node's first.
func etcdEndpoints(cfg config.Config) []string {
	if cfg.Etcd.Mode == config.External {
		return slices.Clone(cfg.Etcd.Endpoints)
	}
	var own, others []string
	for _, m := range cfg.Voters() {
		if m.Name == cfg.Node.Name {
			own = append(own, m.EtcdClientAddress())
		} else {
			others = append(others, m.EtcdClientAddress())
		}
	}
	return append(own, others...)
}

// etcdTLS is the client's TLS towards etcd: etcd's own settings, or, for the
// embedded one, the members' certificates. Nil means plain text.
func etcdTLS(cfg config.Config) (*tls.Config, error) {
	files := cfg.Etcd.TLS
	if files.IsZero() && cfg.Etcd.Mode == config.Embedded {
		files = cfg.Security.TLS
	}
	if files.IsZero() {
		return nil, nil
	}
	return clientTLS(files.CAFile, files.CertFile, files.KeyFile)
}

func clientTLS(ca, cert, key string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("read CA: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read CA %s: no certificate in it", ca)
		}
	}
	if cert != "" {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cert, key) // anew each time: files may be rotated
			return &pair, err
		}
	}
	return c, nil
}

func electionConfig(cfg config.Config, s secrets) (election.Config, error) {
	c := election.DefaultConfig()
	if cfg.Detection.Profile == config.WAN {
		c = c.ForRegions()
	}
	c.Cluster, c.Self = cfg.Cluster.Name, topology.NodeName(cfg.Node.Name)
	c.Endpoints = etcdEndpoints(cfg)
	c.Username, c.Password = cfg.Etcd.Username, s.etcdPassword
	var err error
	c.TLS, err = etcdTLS(cfg)
	return c, err
}

func etcdDataDir(cfg config.Config) string {
	if cfg.Etcd.DataDir != "" {
		return cfg.Etcd.DataDir
	}
	return filepath.Join(cfg.Node.DataDir, "etcd")
}

func embeddedConfig(cfg config.Config) (embedded.Config, error) {
	exe, err := os.Executable()
	if err != nil {
		return embedded.Config{}, fmt.Errorf("find own program for the etcd child: %w", err)
	}
	c := embedded.DefaultConfig()
	c.Exe, c.Cluster, c.Name = exe, cfg.Cluster.Name, cfg.Node.Name
	c.DataDir = etcdDataDir(cfg)
	c.LogFile = filepath.Join(cfg.Node.DataDir, "etcd.log")
	c.ClientURL = cfg.OwnMember().EtcdClientAddress()
	c.ListenClient, c.ListenPeer = cfg.Listeners.EtcdClient, cfg.Listeners.EtcdPeer
	c.Peers = map[string]string{}
	for _, m := range cfg.Voters() {
		c.Peers[m.Name] = m.EtcdPeerAddress()
	}
	c.Heartbeat, c.Election, c.QuotaBytes = cfg.Etcd.Heartbeat, cfg.Etcd.Election, int64(cfg.Etcd.Quota)
	files := cfg.Etcd.TLS
	if files.IsZero() {
		files = cfg.Security.TLS
	}
	if !files.IsZero() {
		c.TLS = &embedded.TLS{
			CAFile: files.CAFile, CertFile: files.CertFile, KeyFile: files.KeyFile,
			// Those of security.tls name their members, or no agent starts; etcd's own need not.
			MembersAlone: files == cfg.Security.TLS,
		}
	}
	return c, nil
}

// instanceConfig is for the own instance, remoteConfig for looking at another
// member's.
func instanceConfig(cfg config.Config, s secrets) dbrepl.Config {
	m := cfg.MySQL
	c := accountConfig(cfg, s)
	c.Address, c.Socket, c.AdminAddress = m.Address, m.Socket, m.AdminAddress
	c.PIDFile, c.Datadir, c.MysqlBinlog = m.PIDFile, m.Datadir, m.Mysqlbinlog
	c.ConnectTimeout, c.QueryTimeout = m.ConnectTimeout, m.QueryTimeout
	return c
}

func accountConfig(cfg config.Config, s secrets) dbrepl.Config {
	c := dbrepl.DefaultConfig()
	if w, err := detectorConfig(cfg, s).EffectiveWindows(); err == nil { // checked with the configuration
		c = c.FitTo(w.Freshness)
	}
	if m := cfg.MySQL; m != nil {
		c.User, c.Password = m.User, s.mysqlPassword
		c.ReplUser, c.ReplPassword = m.ReplicationAccount(cfg.Node.Name), s.replPassword
		c.TLS = mysqlTLS(m.TLS)
	}
	return c
}

// mysqlTLS is the driver's TLS for the configured mode; a CA that cannot be
// read was refused with the configuration.
func mysqlTLS(t config.MySQLTLS) *tls.Config {
	if t.Mode == config.TLSDisabled || t.Mode == "" {
		return nil
	}
	c, err := clientTLS(t.CAFile, t.CertFile, t.KeyFile)
	if err != nil {
		c = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
	}
	switch t.Mode {
	case config.TLSRequired:
		c.InsecureSkipVerify = true // encryption without identity is what the mode says
	case config.TLSVerifyCA:
		verifyChain(c, func(*x509.Certificate) error { return nil }) // whatever its name
	}
	return c
}

// routeTLS is mysqlTLS for what is reached by way of a route: the address
// dialled is the route's own, and the certificate must name one of the servers
// that it may lead to.
func routeTLS(t config.MySQLTLS, members func() []topology.Member) *tls.Config {
	c := mysqlTLS(t)
	if t.Mode != config.TLSVerifyIdentity {
		return c
	}
	verifyChain(c, func(cert *x509.Certificate) error {
		var refused []error
		for _, m := range members() {
			host, _, err := net.SplitHostPort(m.MySQL)
			if err == nil {
				err = cert.VerifyHostname(host)
			}
			if err == nil {
				return nil
			}
			refused = append(refused, err)
		}
		return fmt.Errorf("certificate names no member's server: %w", errors.Join(refused...))
	})
	return c
}

// verifyChain checks the certificate's chain against the configured roots, and
// its name by the caller's rule in place of the address dialled.
func verifyChain(c *tls.Config, named func(*x509.Certificate) error) {
	roots := c.RootCAs
	c.InsecureSkipVerify = true // in favour of the check below
	c.VerifyConnection = func(state tls.ConnectionState) error {
		o := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
		for _, cert := range state.PeerCertificates[1:] {
			o.Intermediates.AddCert(cert)
		}
		if _, err := state.PeerCertificates[0].Verify(o); err != nil {
			return err
		}
		return named(state.PeerCertificates[0])
	}
}

func detectorConfig(cfg config.Config, s secrets) detector.Config {
	c := detector.DefaultConfig()
	c.Self, c.Cluster, c.Key = topology.NodeName(cfg.Node.Name), cfg.Cluster.Name, s.gossipKey
	c.Bind = cfg.Listeners.Gossip
	for _, m := range cfg.Members() {
		c.Peers = append(c.Peers, m.Gossip)
		if m.Name == c.Self {
			c.Advertise = m.Gossip
		}
	}
	c.Profile = detector.Profile(cfg.Detection.Profile)
	if c.Profile == detector.Custom {
		w, err := detector.ProfileWindows(detector.LAN)
		if err == nil {
			d := cfg.Detection
			w.Interval, w.Timeout, w.Misses, w.Freshness = d.ProbeInterval, d.QueryTimeout, d.Misses, d.Freshness
			w.Hint, w.Settle = d.Hint, d.Settle
			w.Canary, w.WriteTimeout, w.WriteStall, w.Starved = d.CanaryInterval, d.WriteTimeout, d.WriteStall, d.StarvedAfter
			w.Gossip.ProbeInterval, w.Gossip.ProbeTimeout = d.GossipProbeInterval, d.GossipProbeTimeout
			c.Windows = w
		}
	}
	return c
}

func proxyConfig(cfg config.Config) proxy.Config {
	c := proxy.DefaultConfig()
	c.Cluster = cfg.Cluster.Name
	c.ReadWrite, c.ReadOnly = cfg.Listeners.RW, cfg.Listeners.RO
	c.HoldTime, c.HoldConnections, c.MaxConnections = cfg.Routes.HoldTime, cfg.Routes.HoldConnections, cfg.Routes.MaxConnections
	c.ReadFallback = proxy.ReadFallback(cfg.Routes.ReadFallback)
	return c
}

func nginxConfig(n config.Nginx, cfg config.Config) (nginx.Config, error) {
	c := nginx.DefaultConfig()
	c.File, c.TestCommand, c.ReloadCommand, c.PIDFile = n.ConfigFile, n.TestCommand, n.ReloadCommand, n.PIDFile
	c.ReadsFallBack = cfg.Routes.ReadFallback == config.FallbackPrimary
	for _, u := range n.Upstreams {
		up := nginx.Upstream{Context: nginx.Context(u.Context), Name: u.Name, Via: nginx.Via(u.Via)}
		switch u.Role {
		case "rw":
			up.Role = nginx.RW
		case "ro":
			up.Role = nginx.RO
		default:
			up.Role, up.Via = nginx.Members, ""
		}
		if up.Via == nginx.Proxy {
			for _, m := range cfg.Members() {
				address := m.RW
				if up.Role == nginx.RO {
					address = m.RO
				}
				if address != "" {
					up.Proxies = append(up.Proxies, address)
				}
			}
		}
		for _, m := range u.Members {
			up.Members = append(up.Members, nginx.Member{
				Address: m.Address, HealthPath: m.HealthPath, Interval: m.Interval,
				Timeout: m.Timeout, MaxFails: m.MaxFails, Rise: m.Rise,
			})
		}
		c.Upstreams = append(c.Upstreams, up)
	}
	return c, c.Validate()
}

func policyOf(cfg config.Config) failover.Policy {
	return failover.Policy{
		Automatic: cfg.Failover.Automatic, Acks: cfg.Durability.Acks.Count(), Sites: cfg.Durability.Sites, MaxLag: cfg.Failover.SwitchoverLimit / 2,
		Degrade: cfg.Durability.WhenNoAcker == config.Degrade, DropAfter: cfg.Durability.DropAfter,
		Rebuild: cfg.Failover.Rejoin == config.Rebuild, Expected: len(cfg.Cluster.Members),
		FlapLimit: cfg.Failover.FlapLimit, FlapCooldown: cfg.Failover.FlapCooldown, FlapWindow: cfg.Failover.FlapWindow,
		RestartFirst: cfg.Failover.OnCrash == config.RestartFirst, RestartGrace: cfg.Failover.RestartGrace,
		RestartLimit: cfg.Failover.RestartLimit,
	}
}

// sightOf is when a node takes itself for isolated: three times as long as
// evidence counts, and at least long enough for a few questions to the others.
func sightOf(cfg config.Config, d *detector.Detector) failover.Sight {
	within := d.Windows().Freshness
	s := failover.Sight{Heard: d.Heard, Within: within, After: max(3*within, 3*time.Second), ReadLimit: cfg.Routes.IsolatedReadLimit}
	if cfg.Routes.IsolatedReads == config.ServeReads {
		s.ReadLimit = -1
	}
	return s
}

func limitsOf(cfg config.Config) failover.Limits {
	l := failover.DefaultLimits()
	l.Revoke = cfg.Failover.RevokeLimit
	l.CatchUp, l.Promote, l.Verify = cfg.Failover.CatchUpLimit, cfg.Failover.PromoteLimit, cfg.Failover.VerifyLimit
	l.Switchover = cfg.Failover.SwitchoverLimit
	return l
}

func objectivesOf(cfg config.Config) failover.Objectives {
	return failover.Objectives{RTO: cfg.Objectives.RTO, RPO: uint64(max(cfg.Objectives.RPO, 0))}
}

// connectPatience is how long wiring code waits for a connection in the
// background; probes have their own, shorter limits.
const connectPatience = time.Second
