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

// Standing is how one member of an etcd is, by its own word.
type Standing struct {
	Learner bool // it has no vote yet
	// Used is which part of its database's quota is taken; at 1 it takes no more
	// writes. 0 if it does not tell (before etcd 3.6).
	Used float64
}

// Asker asks one member, embedded or not, how it is, and keeps the connection.
// Not for several goroutines.
type Asker struct {
	endpoint string
	secure   *tls.Config
	client   *clientv3.Client
}

// NewAsker makes no connection yet.
func NewAsker(endpoint string, secure *tls.Config) *Asker {
	return &Asker{endpoint: endpoint, secure: secure}
}

// Ask returns within two seconds.
func (a *Asker) Ask(ctx context.Context) (s Standing, err error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	if a.client == nil {
		if a.client, err = dial(a.endpoint, a.secure); err != nil {
			return s, err
		}
	}
	state, err := a.client.Status(ctx, a.endpoint)
	if err != nil {
		a.Close() // a new connection is tried at once, and not after a growing pause
		return s, fmt.Errorf("ask etcd at %s: %w", a.endpoint, err)
	}
	s.Learner = state.IsLearner
	if state.DbSizeQuota > 0 {
		s.Used = float64(state.DbSize) / float64(state.DbSizeQuota)
	}
	return s, nil
}

// Close ends the connection; it may be asked again all the same.
func (a *Asker) Close() {
	if a.client != nil {
		_ = a.client.Close()
		a.client = nil
	}
}
