package embedded

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.uber.org/zap"
)

const (
	// peekLimit bounds each part of asking a peer whether there is a cluster.
	peekLimit = time.Second
	// rejoinLimit bounds asking the cluster to take this member in again.
	rejoinLimit = 5 * time.Second
	// voteEvery is how often a member asks whether it votes.
	voteEvery = 500 * time.Millisecond
)

// rejoin makes a member with an empty folder part of its running cluster
// again: ec then joins that one. Where no peer knows a running cluster it
// changes nothing, and the member is a founder.
//
// The member gets another identity. Who forgot what it voted for and what it
// stored may not go on under the old one, or a decision could be lost. It
// begins as a learner, without a vote, until it holds everything (keepVote).
// Leaving and joining are the cluster's own decisions, by its quorum without
// this member; while there is none, the error has the member try again later.
func rejoin(ctx context.Context, cfg Config, ec *embed.Config, log *zap.Logger) error {
	urls, token, err := ec.PeerURLsMapAndToken("etcd")
	if err != nil {
		return fmt.Errorf("read the list of peers: %w", err)
	}
	founding, err := membership.NewClusterFromURLsMap(log, token, urls)
	if err != nil {
		return fmt.Errorf("read the list of peers: %w", err)
	}
	running, err := peek(ctx, cfg, ec)
	switch {
	case err != nil || running == nil:
		return err
	case running.ID() != founding.ID():
		return fmt.Errorf("join the running cluster: cluster ID mismatch: the peers have %s, the configuration makes %s", running.ID(), founding.ID())
	}
	log.Warn("the data folder is empty: this member joins its cluster again", zap.Stringer("cluster", running.ID()))
	ctx, cancel := context.WithTimeout(ctx, rejoinLimit)
	defer cancel()
	members, err := replaceSelf(ctx, cfg, ec, running)
	if err != nil {
		return fmt.Errorf("join the running cluster: %w", err)
	}
	ec.InitialCluster = initialCluster(members, ec.AdvertisePeerUrls[0].Scheme)
	ec.ClusterState = embed.ClusterStateFlagExisting
	return nil
}

// peek asks all peers at once whether they are of a cluster that has been
// formed: one whose members have told their addresses. Nil if none says so.
func peek(ctx context.Context, cfg Config, ec *embed.Config) (*membership.RaftCluster, error) {
	secure, err := ec.PeerTLSInfo.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read TLS files: %w", err)
	}
	transport := &http.Transport{
		DialContext:     (&net.Dialer{Timeout: peekLimit}).DialContext,
		TLSClientConfig: secure, TLSHandshakeTimeout: peekLimit, ResponseHeaderTimeout: peekLimit,
		DisableKeepAlives: true,
	}
	answers := make(chan *membership.RaftCluster, len(cfg.Peers))
	for name, address := range cfg.Peers {
		go func() { // ends within the transport's limits
			if name == cfg.Name {
				answers <- nil
				return
			}
			// An error is silence, or a peer that knows of no cluster either.
			cluster, _ := etcdserver.GetClusterFromRemotePeers(zap.NewNop(), []string{ec.AdvertisePeerUrls[0].Scheme + "://" + address}, transport)
			answers <- cluster
		}()
	}
	var formed *membership.RaftCluster
	for range cfg.Peers {
		if cluster := <-answers; cluster != nil && len(cluster.ClientURLs()) > 0 {
			formed = cluster
		}
	}
	return formed, ctx.Err()
}

// replaceSelf has the running cluster forget the former self and take a new
// one in as a learner. It returns all members then, as in Config.Peers.
func replaceSelf(ctx context.Context, cfg Config, ec *embed.Config, running *membership.RaftCluster) (map[string]string, error) {
	own := ec.AdvertisePeerUrls[0].String()
	var endpoints []string
	for _, m := range running.Members() {
		if !slices.Contains(m.PeerURLs, own) {
			endpoints = append(endpoints, m.ClientURLs...)
		}
	}
	if len(endpoints) == 0 {
		return nil, errors.New("none of its other members has told its address")
	}
	var secure *tls.Config // plain text
	if cfg.TLS != nil {
		var err error
		if secure, err = ec.ClientTLSInfo.ClientConfig(); err != nil {
			return nil, fmt.Errorf("read TLS files: %w", err)
		}
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: secure, Logger: zap.NewNop()})
	if err != nil {
		return nil, fmt.Errorf("connect to %v: %w", endpoints, err)
	}
	defer client.Close()
	list, err := client.MemberList(ctx) // answered by a quorum only
	if err != nil {
		return nil, fmt.Errorf("list its members, which needs its quorum: %w", err)
	}
	former, members, err := sortMembers(cfg, list.Members, ec.AdvertisePeerUrls[0].Scheme)
	if err != nil {
		return nil, err
	}
	if former != nil {
		for _, endpoint := range former.ClientURLs {
			if other, err := ask(ctx, endpoint, secure); err == nil && other.state.Header.MemberId == former.ID {
				return nil, fmt.Errorf("another process answers at %s as %s: look for a former etcd child, or a second node of this name", endpoint, cfg.Name)
			}
		}
		if _, err := client.MemberRemove(ctx, former.ID); err != nil {
			return nil, fmt.Errorf("remove the former %s: %w", cfg.Name, err)
		}
	}
	if _, err := client.MemberAddAsLearner(ctx, []string{own}); err != nil {
		return nil, fmt.Errorf("add %s as a learner: %w", cfg.Name, err)
	}
	members[cfg.Name] = cfg.Peers[cfg.Name]
	return members, nil
}

// sortMembers tells the former self, if the cluster has it still, from the
// others, which must all be configured: a cluster that was changed by hand is
// left to whoever changed it.
func sortMembers(cfg Config, listed []*pb.Member, scheme string) (former *pb.Member, others map[string]string, err error) {
	names := map[string]string{}
	for name, address := range cfg.Peers {
		names[scheme+"://"+address] = name
	}
	others = map[string]string{}
	for _, m := range listed {
		if len(m.PeerURLs) != 1 || names[m.PeerURLs[0]] == "" {
			return nil, nil, fmt.Errorf("its member %q at %v is not in the list of peers", m.Name, m.PeerURLs)
		}
		name := names[m.PeerURLs[0]]
		if name == cfg.Name {
			former = m
			continue
		}
		others[name] = cfg.Peers[name]
	}
	return former, others, nil
}

// keepVote asks for the vote whenever this member is a learner, until ctx
// ends. The cluster grants it once the member holds almost all there is. That
// it is a learner, a member knows only once it has the log up to its joining.
func keepVote(ctx context.Context, server *etcdserver.EtcdServer, log *zap.Logger) {
	tick := time.NewTicker(voteEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		own := server.MemberID()
		if m := server.Cluster().Member(own); m == nil || !m.IsLearner {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, upkeepLimit)
		_, err := server.PromoteMember(asking, uint64(own))
		cancel()
		switch {
		case err == nil:
			log.Warn("this member joined its cluster again and votes")
		case ctx.Err() == nil:
			log.Warn("this member does not vote yet", zap.Error(err))
		}
	}
}
