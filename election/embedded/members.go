package embedded

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Member is one of etcd's members, as a quorum of them says.
type Member struct {
	Name    string // empty if it was never started
	Learner bool   // it has no vote yet
	Answers bool   // it answered just now
	id      uint64
	peers   []string
	clients []string
}

// Members lists etcd's members and asks each whether it answers. It needs the
// quorum of those behind endpoints.
func Members(ctx context.Context, endpoints []string, secure *tls.Config) ([]Member, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: secure, Logger: zap.NewNop()})
	if err != nil {
		return nil, fmt.Errorf("connect to %v: %w", endpoints, err)
	}
	defer client.Close()
	return list(ctx, client, secure)
}

func list(ctx context.Context, client *clientv3.Client, secure *tls.Config) ([]Member, error) {
	answer, err := client.MemberList(ctx)
	if err != nil {
		return nil, fmt.Errorf("list etcd's members: %w", err)
	}
	members := make([]Member, len(answer.Members))
	var asked sync.WaitGroup
	for i, m := range answer.Members {
		members[i] = Member{Name: m.Name, Learner: m.IsLearner, id: m.ID, peers: m.PeerURLs, clients: m.ClientURLs}
		asked.Go(func() {
			for _, endpoint := range m.ClientURLs {
				state, err := ask(ctx, endpoint, secure)
				members[i].Answers = members[i].Answers || err == nil && state.state.Header.MemberId == m.ID
			}
		})
	}
	asked.Wait()
	return members, nil
}

// Remove takes a member out of etcd, by its name or, where it was never
// started, by the host:port of its peer listener; none there is no error. etcd
// refuses it where the others that are connected would be no quorum.
func Remove(ctx context.Context, endpoints []string, secure *tls.Config, name, peer string) error {
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: secure, Logger: zap.NewNop()})
	if err != nil {
		return fmt.Errorf("connect to %v: %w", endpoints, err)
	}
	defer client.Close()
	members, err := list(ctx, client, secure)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(members, func(m Member) bool {
		return m.Name == name || m.Name == "" && peer != "" &&
			(slices.Contains(m.peers, "http://"+peer) || slices.Contains(m.peers, "https://"+peer))
	})
	if i < 0 {
		return nil
	}
	// One that leads etcd is replaced first, which costs less than an election.
	var all []string
	for _, m := range members {
		all = append(all, m.clients...)
	}
	if err := MoveLeaderAway(ctx, all, secure, name); err != nil {
		return fmt.Errorf("remove %s from etcd: %w", name, err)
	}
	if _, err := client.MemberRemove(ctx, members[i].id); err != nil {
		return fmt.Errorf("remove %s from etcd: %w", name, err)
	}
	return nil
}

// IsLearner asks one member whether it has no vote yet.
func IsLearner(ctx context.Context, endpoint string, secure *tls.Config) (bool, error) {
	one, err := ask(ctx, endpoint, secure)
	if err != nil {
		return false, fmt.Errorf("ask etcd at %s: %w", endpoint, err)
	}
	return one.state.IsLearner, nil
}
