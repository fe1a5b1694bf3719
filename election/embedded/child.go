package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
)

const (
	// handOver bounds how long a stopping member tries to pass etcd's
	// leadership on, and closing how long it then tries to close files. etcd
	// survives being killed; both are courtesy to the other members.
	handOver = time.Second
	closing  = time.Second

	// walSegment replaces etcd's 64 MB, two of which are allocated at once.
	walSegment = 8 << 20
	// memoryLimit makes the garbage collector work harder above it.
	memoryLimit = 40 << 20
)

// Main is the child process: it runs one etcd member until ctx ends or etcd
// fails. admit is asked before the member joins a cluster that runs already. It
// changes settings of the whole process (garbage collector, signals,
// size of etcd's log segments), so it is for a process of its own, which should
// exit when Main returns.
func Main(ctx context.Context, cfg ChildConfig, admit Admission) error {
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("configure etcd: %w", err)
	}
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(memoryLimit)
	wal.SegmentSizeBytes = walSegment
	signal.Ignore(syscall.SIGPIPE) // the agent reads our stderr and may be gone
	log, closeLog := newChildLog(cfg.LogFile)
	defer closeLog()

	ec, err := etcdConfig(ctx, cfg, log)
	if err != nil {
		return fmt.Errorf("configure etcd: %w", err)
	}
	if !cfg.founded() {
		if err := rejoin(ctx, cfg, admit, ec, log); err != nil {
			return fmt.Errorf("start etcd with an empty data folder: %w", explain(err))
		}
	}
	etcd, err := embed.StartEtcd(ec)
	if err != nil {
		return fmt.Errorf("start etcd: %w", explain(err))
	}
	ctx, cancel := context.WithCancel(ctx)
	var upkeep sync.WaitGroup
	defer upkeep.Wait()
	defer cancel()
	upkeep.Go(func() { keepHouse(ctx, etcd.Server, cfg.KeepRevisions, log) })
	upkeep.Go(func() { keepVote(ctx, etcd.Server, log) })

	select {
	case <-ctx.Done():
		stop(etcd, log)
		return nil
	case err, open := <-etcd.Err():
		if !open {
			return errors.New("etcd stopped by itself")
		}
		return fmt.Errorf("run etcd: %w", explain(err))
	case <-etcd.Server.StopNotify():
		return errors.New("etcd stopped by itself: it was removed from its cluster, or its log says why")
	}
}

// stop passes leadership on first: etcd's own Close would wait seconds for
// open watches before that.
func stop(etcd *embed.Etcd, log *zap.Logger) {
	bounded := func(limit time.Duration, do func()) {
		done := make(chan struct{})
		go func() { // left behind at the limit: the process ends next
			defer close(done)
			do()
		}()
		timer := time.NewTimer(limit)
		defer timer.Stop()
		select {
		case <-done:
		case <-timer.C:
		}
	}
	bounded(handOver, func() {
		if err := etcd.Server.TryTransferLeadershipOnShutdown(); err != nil {
			log.Info("etcd's leadership was not handed over", zap.Error(err))
		}
	})
	bounded(closing, etcd.Close)
}

// etcdConfig translates cfg.
func etcdConfig(ctx context.Context, cfg Config, log *zap.Logger) (*embed.Config, error) {
	scheme := "http"
	ec := embed.NewConfig()
	if cfg.TLS != nil {
		scheme = "https"
		for _, info := range []*struct {
			ca, cert, key *string
			auth          *bool
		}{
			{&ec.ClientTLSInfo.TrustedCAFile, &ec.ClientTLSInfo.CertFile, &ec.ClientTLSInfo.KeyFile, &ec.ClientTLSInfo.ClientCertAuth},
			{&ec.PeerTLSInfo.TrustedCAFile, &ec.PeerTLSInfo.CertFile, &ec.PeerTLSInfo.KeyFile, &ec.PeerTLSInfo.ClientCertAuth},
		} {
			*info.ca, *info.cert, *info.key, *info.auth = cfg.TLS.CAFile, cfg.TLS.CertFile, cfg.TLS.KeyFile, true
		}
		ec.TlsMinVersion = "TLS1.3"
		if cfg.TLS.MembersAlone {
			if err := membersAlone(ec, cfg.Cluster, log); err != nil {
				return nil, err
			}
		}
	}
	peer := cfg.Peers[cfg.Name]
	listenPeer, err := listenAddress(ctx, cmp.Or(cfg.ListenPeer, peer))
	if err != nil {
		return nil, err
	}
	listenClient, err := listenAddress(ctx, cmp.Or(cfg.ListenClient, cfg.ClientURL))
	if err != nil {
		return nil, err
	}
	ec.Name = cfg.Name
	ec.Dir = cfg.etcdDir()
	ec.ListenPeerUrls = []url.URL{{Scheme: scheme, Host: listenPeer}}
	ec.AdvertisePeerUrls = []url.URL{{Scheme: scheme, Host: peer}}
	ec.ListenClientUrls = []url.URL{{Scheme: scheme, Host: listenClient}}
	ec.AdvertiseClientUrls = []url.URL{{Scheme: scheme, Host: cfg.ClientURL}}
	// The client port speaks gRPC only; health and metrics over HTTP are for
	// somebody on this host who looks the port up in etcd's log.
	ec.ListenClientHttpUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	ec.EnableGRPCGateway = false
	ec.InitialCluster = initialCluster(cfg.Peers, scheme)
	ec.InitialClusterToken = "interrex-" + cfg.Cluster
	ec.ClusterState = embed.ClusterStateFlagNew
	if cfg.founded() {
		ec.ClusterState = embed.ClusterStateFlagExisting
	}
	ec.TickMs = uint(cfg.Heartbeat / time.Millisecond)
	ec.ElectionMs = uint(cfg.Election / time.Millisecond)
	ec.QuotaBackendBytes = cfg.QuotaBytes
	// Entries between two snapshots, and those kept for slow members, are held
	// in memory; a cluster record has a few KiB.
	ec.SnapshotCount = 2000
	ec.SnapshotCatchUpEntries = 1000
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	return ec, nil
}

func initialCluster(peers map[string]string, scheme string) string {
	var all []string
	for name, address := range peers {
		all = append(all, name+"="+scheme+"://"+address)
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

// listenAddress turns host:port into what etcd listens on, which must be an
// address, not a name; no host is every address.
func listenAddress(ctx context.Context, hostPort string) (string, error) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return "", fmt.Errorf("parse %q: %w", hostPort, err)
	}
	if host == "" {
		return net.JoinHostPort("0.0.0.0", port), nil
	}
	if net.ParseIP(host) != nil {
		return hostPort, nil
	}
	addresses, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return "", fmt.Errorf("look up %q to listen on: %w", host, err)
	}
	return net.JoinHostPort(addresses[0], port), nil
}

// explain adds what to do to the errors of etcd that leave one wondering.
func explain(err error) error {
	for _, known := range []struct{ part, advice string }{
		{"permanently removed from the cluster",
			"the data folder is of a former life of this member: stop the agent, move the folder away, and start the agent; it joins again"},
		{"cluster ID mismatch",
			"a peer belongs to another etcd cluster: compare the cluster's name and the list of peers, and look for a data folder of an older cluster"},
		{"address already in use",
			"another process has the port: maybe a former etcd child that has not ended yet"},
		{"error validating peerURLs",
			"the list of peers is not the one the running cluster has"},
	} {
		if strings.Contains(err.Error(), known.part) {
			return fmt.Errorf("%w (%s)", err, known.advice)
		}
	}
	return err
}
