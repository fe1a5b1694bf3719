package embedded

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
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

// Admission asks the running cluster's store whether the member may take part.
// It is listed if the cluster has written down who its members are, and this
// one is to have a vote; an error refuses it, for now. Where nothing is written
// down it is neither, and what the cluster was founded with decides.
type Admission func(ctx context.Context, store clientv3.KV) (listed bool, err error)

// rejoin makes a member with an empty folder part of its running cluster: ec
// then joins that one. Where no peer knows a running cluster it changes nothing,
// and the member is a founder.
//
// Who was a member before gets another identity. Who forgot what it voted for and what it
// stored may not go on under the old one, or a decision could be lost. It
// begins as a learner, without a vote, until it holds everything (keepVote).
// Leaving and joining are the cluster's own decisions, by its quorum without
// this member; while there is none, the error has the member try again later.
func rejoin(ctx context.Context, cfg Config, admit Admission, ec *embed.Config, log *zap.Logger) error {
	urls, token, err := ec.PeerURLsMapAndToken("etcd")
	if err != nil {
		return fmt.Errorf("read the list of peers: %w", err)
	}
	founding, err := membership.NewClusterFromURLsMap(log, token, urls)
	if err != nil {
		return fmt.Errorf("read the list of peers: %w", err)
	}
	running, err := peek(ctx, cfg, ec)
	if err != nil || running == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, rejoinLimit)
	defer cancel()
	client, secure, err := reach(cfg, ec, running)
	if err != nil {
		return fmt.Errorf("join the running cluster: %w", err)
	}
	defer client.Close()
	listed, err := admit(ctx, client)
	switch {
	case err != nil:
		return fmt.Errorf("join the running cluster: %w", err)
	case !listed && running.ID() != founding.ID():
		return fmt.Errorf("join the running cluster: cluster ID mismatch: the peers have %s, the configuration makes %s", running.ID(), founding.ID())
	}
	log.Warn("the data folder is empty: this member joins its cluster", zap.Stringer("cluster", running.ID()))
	if err := replaceSelf(ctx, cfg, ec, client, secure, listed); err != nil {
		return fmt.Errorf("join the running cluster: %w", err)
	}
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

// reach connects to the other members of the running cluster.
func reach(cfg Config, ec *embed.Config, running *membership.RaftCluster) (*clientv3.Client, *tls.Config, error) {
	own := ec.AdvertisePeerUrls[0].String()
	var endpoints []string
	for _, m := range running.Members() {
		if !slices.Contains(m.PeerURLs, own) {
			endpoints = append(endpoints, m.ClientURLs...)
		}
	}
	if len(endpoints) == 0 {
		return nil, nil, errors.New("none of its other members has told its address")
	}
	var secure *tls.Config // plain text
	if cfg.TLS != nil {
		var err error
		if secure, err = ec.ClientTLSInfo.ClientConfig(); err != nil {
			return nil, nil, fmt.Errorf("read TLS files: %w", err)
		}
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: secure, Logger: zap.NewNop()})
	if err != nil {
		return nil, nil, fmt.Errorf("connect to %v: %w", endpoints, err)
	}
	return client, secure, nil
}

// replaceSelf has the running cluster forget the former self, if it has one,
// and take a new one in as a learner. ec then names all members there are.
func replaceSelf(ctx context.Context, cfg Config, ec *embed.Config, client *clientv3.Client, secure *tls.Config, listed bool) error {
	list, err := client.MemberList(ctx) // answered by a quorum only
	if err != nil {
		return fmt.Errorf("list its members, which needs its quorum: %w", err)
	}
	own, scheme := ec.AdvertisePeerUrls[0].String(), ec.AdvertisePeerUrls[0].Scheme
	former, others, err := sortMembers(cfg, list.Members, own)
	if err == nil && !listed {
		err = allConfigured(cfg, list.Members, scheme)
	}
	if err != nil {
		return err
	}
	if former != nil {
		for _, endpoint := range former.ClientURLs {
			if other, err := ask(ctx, endpoint, secure); err == nil && other.state.Header.MemberId == former.ID {
				return fmt.Errorf("another process answers at %s as %s: look for a former etcd child, or a second node of this name", endpoint, cfg.Name)
			}
		}
		if _, err := client.MemberRemove(ctx, former.ID); err != nil {
			return fmt.Errorf("remove the former %s: %w", cfg.Name, err)
		}
	}
	if _, err := client.MemberAddAsLearner(ctx, []string{own}); err != nil {
		return fmt.Errorf("add %s as a learner: %w", cfg.Name, err)
	}
	ec.InitialCluster = strings.Join(append(others, cfg.Name+"="+own), ",")
	return nil
}

// sortMembers tells the former self, if the cluster has it still, from the
// others, whom it names as etcd wants them named.
func sortMembers(cfg Config, listed []*pb.Member, own string) (former *pb.Member, others []string, err error) {
	for _, m := range listed {
		if slices.Contains(m.PeerURLs, own) {
			former = m
			continue
		}
		if m.Name == cfg.Name {
			return nil, nil, fmt.Errorf("its member %s is at %v, not at %s: remove that one first, or set the ports right", m.Name, m.PeerURLs, own)
		}
		// One that was never started has no name; etcd compares addresses only.
		name := cmp.Or(m.Name, fmt.Sprintf("member-%x", m.ID))
		for _, url := range m.PeerURLs {
			others = append(others, name+"="+url)
		}
	}
	return former, others, nil
}

// allConfigured tells whether every member is in the list of peers: where
// nothing else says who should be, a cluster that was changed by hand is left to
// whoever changed it.
func allConfigured(cfg Config, listed []*pb.Member, scheme string) error {
	known := map[string]bool{}
	for _, address := range cfg.Peers {
		known[scheme+"://"+address] = true
	}
	for _, m := range listed {
		if len(m.PeerURLs) != 1 || !known[m.PeerURLs[0]] {
			return fmt.Errorf("its member %q at %v is not in the list of peers", m.Name, m.PeerURLs)
		}
	}
	return nil
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
			log.Warn("this member joined its cluster and votes")
		case ctx.Err() == nil:
			log.Warn("this member does not vote yet", zap.Error(err))
		}
	}
}
