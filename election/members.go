package election

import (
	"context"
	"encoding/json"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"interrex/internal/topology"
)

// Members are the members that have registered, ordered by name, as last seen:
// those that count, and can be asked. A member that was added and has never
// been started is none of them yet.
func (c *Client) Members() []topology.Member { return c.view.membersNow() }

// Register writes down how this member can be reached. It stays written when
// the member dies, and Run writes it again should it be missing later. Errors:
// ErrInvalidChange if member is not this one; ErrUnreachable, ErrNewerFormat and
// ErrNotMember, after which Run goes on trying.
func (c *Client) Register(ctx context.Context, member topology.Member) error {
	if member.Name != c.cfg.Self {
		return fmt.Errorf("register member: %w: name is %q, not %q", ErrInvalidChange, member.Name, c.cfg.Self)
	}
	c.registeredMu.Lock()
	c.registered = &member
	c.registeredMu.Unlock()
	if _, err := c.Read(ctx); err != nil {
		return fmt.Errorf("register member: %w", err)
	}
	if err := c.barred(); err != nil {
		return fmt.Errorf("register member: %w", err)
	}
	return c.register(ctx, member)
}

func (c *Client) register(ctx context.Context, member topology.Member) error {
	value, err := json.Marshal(member)
	if err != nil {
		return fmt.Errorf("encode member: %w", err)
	}
	if err := c.replace(ctx, c.keys.member(member.Name), value); err != nil {
		return fmt.Errorf("register member: %w", err)
	}
	return nil
}

// reregister repairs the registration if the store does not have it.
func (c *Client) reregister(ctx context.Context) {
	c.registeredMu.Lock()
	want := c.registered
	c.registeredMu.Unlock()
	if want == nil || c.barred() != nil {
		return
	}
	if seen := c.view.member(want.Name); seen != nil && *seen == *want {
		return
	}
	if err := c.register(ctx, *want); err != nil {
		c.log.Debug("member is not registered yet", zap.Error(err))
	}
}

// changedMembers are those who are a member in one of two states only. The
// first list of members changes nobody: it says what was.
func changedMembers(from, to State) []topology.NodeName {
	if from.Members == nil {
		return nil
	}
	var changed []topology.NodeName
	for name := range from.Members {
		if _, stays := to.Members[name]; !stays {
			changed = append(changed, name)
		}
	}
	for name := range to.Members {
		if _, was := from.Members[name]; !was {
			changed = append(changed, name)
		}
	}
	return changed
}

// checkMembers says why the members may not change in this way. One at a time,
// so that any majority of the members before has a member in common with any
// majority of those after; and never under an operation, which has counted.
func checkMembers(from, to State) string {
	changed := changedMembers(from, to)
	switch {
	case from.Members != nil && to.Members == nil:
		return "the members are forgotten"
	case len(changed) > 1:
		return fmt.Sprintf("%d members change at once", len(changed))
	case len(changed) == 0:
		return ""
	case from.Operation != nil || to.Operation != nil:
		return "the members change while an operation is in flight"
	}
	name := changed[0]
	if _, stays := to.Members[name]; stays {
		return ""
	}
	_, noted := to.Removed[name]
	switch {
	case to.Primary != nil && to.Primary.Node == name:
		return fmt.Sprintf("%s is removed and is the primary", name)
	case to.Register.Has(name):
		return fmt.Sprintf("%s is removed and is a registered acker", name)
	case !noted:
		return fmt.Sprintf("%s is removed without a trace", name)
	}
	return ""
}

// MayVote reads from a store whether the member self of a cluster is to run a
// member of the embedded etcd. It is listed if the cluster has written its
// members down and self is one with a vote; the error says why it must not.
// Where nothing is written down it is neither: whoever asks decides by what the
// cluster was founded with.
func MayVote(ctx context.Context, store clientv3.KV, cluster string, self topology.NodeName) (listed bool, err error) {
	answer, err := store.Get(ctx, newKeys(cluster, self).state)
	if err != nil {
		return false, fmt.Errorf("read the list of members, which needs its quorum: %w", err)
	}
	if len(answer.Kvs) == 0 {
		return false, nil
	}
	state, err := decodeState(answer.Kvs[0].Value)
	if err != nil {
		return false, err
	}
	if state.Members == nil {
		return false, nil
	}
	switch seat, member := state.Members[self]; {
	case !member:
		return false, fmt.Errorf("%s: %w: interrex member add --name %s", self, ErrNotMember, self)
	case seat.Leaving != nil:
		return false, fmt.Errorf("%s: %w any more: it is being removed", self, ErrNotMember)
	case !seat.Voter:
		return false, fmt.Errorf("%s is a member without a vote: set voter: false in its configuration, or remove it and add it with --voter", self)
	}
	return true, nil
}
