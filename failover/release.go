package failover

import (
	"context"
	"fmt"
	"slices"
	"time"

	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// released is a member that can acknowledge nothing of the primary any more.
type released struct {
	base election.Snapshot // the record that this holds for
	// has contains whatever it may have been alone to acknowledge: from now on
	// it is history that an acker must hold to prove anything.
	has gtid.Set
	// silenced: it was told so, and was seen not to acknowledge anybody. One that
	// is dead was shut out by the primary alone.
	silenced bool
}

// release makes sure that a leaving member can acknowledge nothing more. One
// that does not answer must be out of the register already.
func (m *membership) release(ctx context.Context, v View, name topology.NodeName) (released, error) {
	rctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// Whatever changes the record from here on makes the removal begin anew.
	base, err := m.cfg.Registry.Read(rctx)
	if err != nil {
		return released{}, err
	}
	s := base.State
	if s.Operation != nil || s.Epoch != v.State.Epoch || !s.Leaving(name) {
		return released{}, fmt.Errorf("the record changed: %w", election.ErrConflict)
	}
	if _, ordered := s.Sources[name]; !ordered && !s.Register.Has(name) {
		return released{base: base}, nil
	}
	primary, err := m.cfg.Watcher.Ask(rctx, s.Primary.Node)
	if err != nil {
		return released{}, fmt.Errorf("ask the primary: %w", err)
	}
	if err := m.hush(rctx, s, name, primary); err != nil {
		if !s.Register.Has(name) && ctx.Err() == nil {
			return released{base: base}, nil
		}
		return released{}, err
	}
	if !s.Register.Has(name) {
		return released{base: base, silenced: true}, nil
	}
	has, err := m.settle(rctx, s, name)
	return released{base: base, has: has, silenced: true}, err
}

// hush tells a member to acknowledge no more, and sees that it does not. It has
// read the record by then, so that it heeds no earlier order to acknowledge.
func (m *membership) hush(ctx context.Context, s election.State, name topology.NodeName, primary NodeStatus) error {
	if primary.Instance == nil {
		return fmt.Errorf("the primary does not answer: %s", primary.InstanceError)
	}
	node, err := m.cfg.Nodes.Node(name)
	if err != nil {
		return err
	}
	err = node.Follow(ctx, FollowRequest{
		Epoch: s.Primary.Epoch, Source: s.Primary.Node, SourceUUID: s.Primary.ServerUUID, Address: s.Primary.Address,
		SourceHas: primary.Instance.Executed.Union(primary.Instance.Committing),
	})
	if err != nil {
		return fmt.Errorf("have %s acknowledge no more: %w", name, err)
	}
	st, err := m.cfg.Watcher.Ask(ctx, name)
	switch {
	case err != nil:
		return fmt.Errorf("see that %s acknowledges no more: %w", name, err)
	case st.Instance == nil:
		return fmt.Errorf("see that %s acknowledges no more: %w: %s", name, ErrNoInstance, st.InstanceError)
	case st.Instance.SemiSync.ReplicaEnabled || st.Instance.SemiSync.ReplicaActive:
		return fmt.Errorf("%s was told to acknowledge no more, and still does", name)
	}
	return nil
}

// settle waits until the primary has executed all that was acknowledged so far,
// and as many of the ackers that stay hold it as a failover has to freeze.
func (m *membership) settle(ctx context.Context, s election.State, leaver topology.NodeName) (gtid.Set, error) {
	stay := election.Register{K: s.Register.K, Ackers: slices.DeleteFunc(slices.Clone(s.Register.Ackers),
		func(n topology.NodeName) bool { return n == leaver })}
	ask := func(name topology.NodeName) (*NodeStatus, error) {
		st, err := m.cfg.Watcher.Ask(ctx, name)
		if err == nil && st.Instance == nil {
			err = fmt.Errorf("%w: %s", ErrNoInstance, st.InstanceError)
		}
		return &st, err
	}
	first, err := ask(s.Primary.Node)
	if err != nil {
		return gtid.Set{}, fmt.Errorf("ask the primary what it has: %w", err)
	}
	has := first.Instance.Executed.Union(first.Instance.Committing)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		primary, err := ask(s.Primary.Node)
		done := err == nil && primary.Instance.Executed.Contains(has)
		holding := 0
		for _, n := range stay.Ackers {
			if st, err := ask(n); err == nil && st.Certified && st.Instance.Received.Contains(has) {
				holding++
			}
		}
		if done && holding >= stay.Needed() {
			return has, nil
		}
		select {
		case <-ctx.Done():
			return has, fmt.Errorf("%d of the %d ackers that stay hold what the primary has, %d are needed: %w",
				holding, len(stay.Ackers), stay.Needed(), ctx.Err())
		case <-tick.C:
		}
	}
}
