package embedded

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// askLimit bounds what one member may take to tell its state.
const askLimit = 2 * time.Second

// moveLimit bounds the move itself.
const moveLimit = 5 * time.Second

// MoveLeaderAway moves etcd's own leadership off the member named from, to the
// voter whose log is longest; it does nothing if another member leads. A node
// that holds the primary should not hold etcd's leader too: losing both at once
// costs an etcd election on top of the failover. endpoints are all members'
// client addresses.
func MoveLeaderAway(ctx context.Context, endpoints []string, secure *tls.Config, from string) error {
	members, err := survey(ctx, endpoints, secure)
	if err != nil {
		return fmt.Errorf("move etcd's leader off %s: %w", from, err)
	}
	var leader, heir *surveyed
	for i := range members {
		m := &members[i]
		switch {
		case m.state.Leader == m.state.Header.MemberId:
			leader = m
		case m.state.IsLearner || m.state.Leader == 0:
		case heir == nil || m.state.RaftIndex > heir.state.RaftIndex:
			heir = m
		}
	}
	switch {
	case leader == nil:
		return fmt.Errorf("move etcd's leader off %s: no answer from a leader", from)
	case leader.name != from:
		return nil
	case heir == nil:
		return fmt.Errorf("move etcd's leader off %s: no other voter answers", from)
	}
	client, err := dial(leader.endpoint, secure)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	if _, err := client.MoveLeader(ctx, heir.state.Header.MemberId); err != nil {
		return fmt.Errorf("move etcd's leader from %s to %s: %w", from, heir.name, err)
	}
	return nil
}

type surveyed struct {
	endpoint string
	name     string
	state    *clientv3.StatusResponse
}

// survey asks every member for its state; those that do not answer are left
// out.
func survey(ctx context.Context, endpoints []string, secure *tls.Config) ([]surveyed, error) {
	var (
		mu    sync.Mutex
		found []surveyed
		errs  []error
		all   sync.WaitGroup
	)
	for _, endpoint := range endpoints {
		all.Go(func() {
			one, err := ask(ctx, endpoint, secure)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", endpoint, err))
				return
			}
			found = append(found, one)
		})
	}
	all.Wait()
	if len(found) == 0 {
		return nil, errors.Join(errs...)
	}
	return found, nil
}

func ask(ctx context.Context, endpoint string, secure *tls.Config) (surveyed, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	client, err := dial(endpoint, secure)
	if err != nil {
		return surveyed{}, err
	}
	defer client.Close()
	state, err := client.Status(ctx, endpoint)
	if err != nil {
		return surveyed{}, err
	}
	list, err := client.MemberList(ctx, clientv3.WithSerializable())
	if err != nil {
		return surveyed{}, err
	}
	return surveyed{endpoint: endpoint, name: nameOf(list.Members, state.Header.MemberId), state: state}, nil
}

func nameOf(members []*pb.Member, id uint64) string {
	for _, m := range members {
		if m.ID == id {
			return m.Name
		}
	}
	return ""
}

func dial(endpoint string, secure *tls.Config) (*clientv3.Client, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, TLS: secure, Logger: zap.NewNop()})
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", endpoint, err)
	}
	return client, nil
}
