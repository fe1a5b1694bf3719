package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"interrex/dbrepl"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// Follow makes the instance a replica of the source. An instance that holds
// anything the source lacks is left as it is.
func (k *Keeper) Follow(ctx context.Context, req FollowRequest) error {
	ctx, end, err := k.begin(ctx, req.Epoch)
	if err != nil {
		return err
	}
	defer end()
	if k.inst == nil {
		return ErrNoInstance
	}
	if req.Acker {
		if err := k.registered(ctx, req.Epoch); err != nil {
			return err
		}
	} else if _, err := k.reg.Read(ctx); err != nil {
		// What is known of the register is at least as new as this order from
		// now on: a later order to acknowledge is not let pass by an older one.
		return fmt.Errorf("read the register before following: %w", err)
	}
	st, err := k.inst.Probe(ctx)
	if err != nil {
		return fmt.Errorf("look at %s before following: %w: %w", k.cfg.Member.Name, ErrNoInstance, err)
	}
	if !st.SuperReadOnly {
		// It was a primary. Were it only told to follow, a commit that waits there
		// would use up the time of this order, and the next order comes before
		// this node has got round to isolating it.
		if err := k.shut(ctx); err != nil {
			return fmt.Errorf("close %s before following: %w", k.cfg.Member.Name, err)
		}
		if st, err = k.inst.Probe(ctx); err != nil {
			return fmt.Errorf("look at %s before following: %w: %w", k.cfg.Member.Name, ErrNoInstance, err)
		}
	}
	same := st.Source != nil && st.Source.ServerUUID == req.SourceUUID && st.Source.ReceiverOn
	if !same {
		// Re-pointing may purge what is received and not applied; that is only
		// harmless when the source has it all (I8).
		alone, err := k.alone(ctx, st.Received, req)
		if err != nil {
			return err
		}
		if !alone.IsEmpty() {
			k.mu.Lock()
			k.errant = &alone
			k.mu.Unlock()
			return &ErrantError{Node: k.cfg.Member.Name, Set: alone}
		}
	}
	host, port, err := splitAddress(req.Address)
	if err != nil {
		return fmt.Errorf("follow %s: %w", req.Source, err)
	}
	if err := k.point(ctx, dbrepl.FollowSpec{Host: host, Port: port, Acker: req.Acker}); err != nil {
		return fmt.Errorf("follow %s: %w", req.Source, err)
	}
	k.mu.Lock()
	k.errant = nil
	k.mu.Unlock()
	return nil
}

// point has the instance follow. The server may drop what it has received and
// not executed, acknowledged though it is, if its applier fails as the source is
// changed. While that may be, the instance proves nothing: not where this agent
// ends in the middle of it either, nor by a look that was begun before (I1). If
// it was so, it has to catch up first, as after a restart.
func (k *Keeper) point(ctx context.Context, spec dbrepl.FollowSpec) error {
	withheld, atRisk := "", false
	spec.AtRisk = func() error {
		k.mu.Lock()
		defer k.mu.Unlock()
		if !atRisk {
			k.risks++
			withheld, atRisk = k.promises.boot(), true
		}
		return k.promises.certify("")
	}
	kept := false
	spec.Kept = func() { kept = true }
	err := k.inst.Follow(ctx, spec)
	k.mu.Lock()
	defer k.mu.Unlock()
	if atRisk {
		k.risks++
	}
	switch {
	case errors.Is(err, dbrepl.ErrForgotten):
		k.log.Error("instance has forgotten what it may have acknowledged: it proves nothing until it has caught up", zap.Error(err))
	case kept && withheld != "": // also where the order failed after that
		if cerr := k.promises.certify(withheld); cerr != nil {
			k.log.Warn("certificate of the instance was not given back: it proves nothing until it has caught up", zap.Error(cerr))
		}
	}
	return err
}

// alone is what was received here and the source lacks. What the source has
// committed since the order was given may be here already, by way of the
// former source: before anything is called errant, the source is asked anew.
func (k *Keeper) alone(ctx context.Context, received gtid.Set, req FollowRequest) (gtid.Set, error) {
	alone := received.Minus(req.SourceHas)
	nodes := k.peers()
	if alone.IsEmpty() || nodes == nil {
		return alone, nil
	}
	by, uuid := req.Source, req.SourceUUID
	if req.By != "" {
		by, uuid = req.By, req.ByUUID
	}
	source, err := nodes.Node(by)
	if err != nil {
		return alone, err
	}
	st, err := source.Status(ctx)
	if err != nil {
		return alone, fmt.Errorf("ask %s for its set: %w", by, err)
	}
	if st.Instance == nil || st.Instance.ServerUUID != uuid {
		return alone, fmt.Errorf("ask %s for its set: %w", by, ErrNoInstance)
	}
	return alone.Minus(st.Instance.Executed).Minus(st.Instance.Committing), nil
}

// registered makes sure that this node is in the acker register before it may
// acknowledge anything (I3), and is not about to leave it. A record of an epoch
// before the order's proves nothing: its register is not the one that counts.
func (k *Keeper) registered(ctx context.Context, epoch topology.Epoch) error {
	name := k.cfg.Member.Name
	s := k.reg.Snapshot()
	if s.State.Epoch != epoch || !s.State.Register.Has(name) || s.State.Leaving(name) {
		var err error
		if s, err = k.reg.Read(ctx); err != nil {
			return fmt.Errorf("read the register before acknowledging: %w", err)
		}
		if s.State.Epoch > epoch {
			return &StaleEpochError{Node: name, Asked: epoch, Promised: s.State.Epoch}
		}
		if s.State.Epoch < epoch {
			return fmt.Errorf("the record is of epoch %d, the order of %d: %w", s.State.Epoch, epoch, ErrNotRecorded)
		}
		if !s.State.Register.Has(name) || s.State.Leaving(name) {
			return fmt.Errorf("%s is not a registered acker: %w", name, ErrNotRecorded)
		}
	}
	if users, known := s.State.Register.Accounts[name]; known && !slices.Contains(users, k.cfg.Member.ReplicationUser) {
		return fmt.Errorf("%s is registered with the accounts %q and receives with %q: %w", name, users, k.cfg.Member.ReplicationUser, ErrNotRecorded)
	}
	return nil
}
