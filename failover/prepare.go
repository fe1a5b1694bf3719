package failover

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"interrex/election"
	"interrex/internal/topology"
)

// What a switchover does while clients still write, so that it need not be
// done while they wait.

const (
	// aheadLimit bounds the orders to go ahead, levelLimit the wait for the
	// candidate; what is not ready by then is left to the steps that follow.
	aheadLimit = time.Second
	levelLimit = 10 * time.Second
	// prepareEvery is how often the candidate is asked how far behind it is.
	prepareEvery = 5 * time.Millisecond
	// levelWithin is how many transactions behind the candidate may be when
	// writes are stopped: they are applied in milliseconds.
	levelWithin = 16
)

// decideAhead names the replicas that may replicate from the candidate before
// the primary is closed. While they do they acknowledge none of its commits:
// enough ackers stay with it. One that is an acker now and may be none of the
// candidate's stays, too. It is pure.
func decideAhead(v View, p Policy, candidate topology.NodeName) []topology.NodeName {
	primary, reg, sites := v.State.Primary, v.State.Register, sitesOf(v.Members)
	acknowledging := 0
	for _, a := range reg.Ackers {
		if streams(v.Nodes[a], *primary) && v.Nodes[a].Instance.SemiSync.ReplicaActive {
			acknowledging++
		}
	}
	var ahead []topology.NodeName
	for name, n := range v.Nodes {
		if name != primary.Node && name != candidate && streams(n, *primary) {
			ahead = append(ahead, name)
		}
	}
	slices.Sort(ahead)
	return slices.DeleteFunc(ahead, func(name topology.NodeName) bool {
		if !reg.Has(name) || !v.Nodes[name].Instance.SemiSync.ReplicaActive {
			return false
		}
		if acknowledging <= reg.K || !p.mayAck(sites[candidate], sites[name]) {
			return true
		}
		acknowledging--
		return false
	})
}

// streams tells whether an instance is a sound replica of the primary.
func streams(n NodeStatus, p election.Primary) bool {
	return n.Instance != nil && n.Errant == nil && !n.Rebuild.Underway() && n.Instance.SuperReadOnly &&
		n.Instance.Source != nil && n.Instance.Source.ServerUUID == p.ServerUUID &&
		n.Instance.Source.ReceiverOn && n.Instance.Source.ApplierOn
}

// prepare points the replicas that may go ahead at the candidate, through
// which they go on receiving, and waits for a moment in which the candidate is
// nearly level. Only how long writes will pause depends on it. Its errors are
// that the primary cannot be asked, so that it could not be closed either, and
// that it has failed meanwhile: a failover is due instead.
func (o *operation) prepare(ctx context.Context, c claimed) error {
	if o.plan.Kind != election.Switchover {
		return nil
	}
	done := o.step(stepPrepare)
	silent := o.reach(ctx, o.plan.From)
	var moved []topology.NodeName
	err := silent
	if err == nil {
		moved, err = o.goAhead(ctx, c)
	}
	if err == nil {
		err = o.awaitLevel(ctx, moved)
	}
	if j := o.det.Judge(o.plan.From); j.Verdict == topology.Failed {
		err = fmt.Errorf("prepare: %w: %s", ErrPrimaryFailed, j.Explanation)
		done("", err)
		return err
	}
	if silent != nil {
		err = fmt.Errorf("prepare: primary %s cannot be asked: %w", o.plan.From, silent)
		done("", err)
		return err
	}
	detail := fmt.Sprintf("%s is as level as it gets, already replicating from it: %v", o.plan.To, moved)
	if err != nil {
		detail = "going on all the same: " + err.Error()
	}
	done(detail, nil)
	return nil
}

// reach asks an instance until it answers or is judged failed, for two seconds.
func (o *operation) reach(ctx context.Context, name topology.NodeName) error {
	rctx, cancel := o.attended(ctx, name, 2*time.Second)
	defer cancel()
	for {
		_, err := o.instanceOf(rctx, name)
		if err == nil {
			return nil
		}
		select {
		case <-rctx.Done():
			return err
		case <-time.After(prepareEvery):
		}
	}
}

func (o *operation) goAhead(ctx context.Context, c claimed) ([]topology.NodeName, error) {
	gctx, cancel := context.WithTimeout(ctx, aheadLimit)
	defer cancel()
	candidate, err := o.instanceOf(gctx, o.plan.To)
	if err != nil {
		return nil, err
	}
	primary, err := o.instanceOf(gctx, o.plan.From)
	if err != nil {
		return nil, err
	}
	to, _ := o.member(o.plan.To)
	req := FollowRequest{
		Epoch: c.epoch, Source: to.Name, SourceUUID: candidate.Instance.ServerUUID, Address: to.MySQL,
		SourceHas: primary.Instance.Executed.Union(primary.Instance.Committing),
		By:        o.plan.From, ByUUID: primary.Instance.ServerUUID,
	}
	var (
		mu     sync.Mutex
		moved  []topology.NodeName
		orders sync.WaitGroup
	)
	for _, name := range o.plan.Ahead {
		own := req
		own.Acker = o.snap.State.Register.Has(name)
		orders.Go(func() {
			node, err := o.nodes.Node(name)
			if err == nil {
				err = node.Follow(gctx, own)
			}
			if err != nil {
				o.log.Warn("instance does not go ahead", zap.String("instance", string(name)), zap.Error(err))
				return
			}
			mu.Lock()
			defer mu.Unlock()
			moved = append(moved, name)
		})
	}
	orders.Wait() // no longer than gctx
	return moved, nil
}

// awaitLevel waits until the candidate has hardly anything left to apply and
// those that went ahead are connected to it, or until the primary has failed.
// Where the candidate is never level, it waits in the second half of its time
// for as good a moment as there was in the first.
func (o *operation) awaitLevel(ctx context.Context, moved []topology.NodeName) error {
	lctx, cancel := context.WithTimeout(ctx, levelLimit)
	defer cancel()
	tick := time.NewTicker(prepareEvery)
	defer tick.Stop()
	waiting := slices.Clone(moved)
	half, lowest := time.Now().Add(levelLimit/2), uint64(math.MaxUint64)
	for {
		candidate, err := o.instanceOf(lctx, o.plan.To)
		if err != nil {
			return err
		}
		waiting = slices.DeleteFunc(waiting, func(name topology.NodeName) bool {
			n, err := o.instanceOf(lctx, name)
			return err == nil && n.Instance.Source != nil && n.Instance.Source.ReceiverOn &&
				n.Instance.Source.ServerUUID == candidate.Instance.ServerUUID
		})
		unapplied := candidate.Instance.Received.Minus(candidate.Instance.Executed).Count()
		enough := uint64(levelWithin)
		if time.Now().Before(half) {
			lowest = min(lowest, unapplied)
		} else {
			enough = max(enough, lowest)
		}
		if (unapplied <= enough && len(waiting) == 0) || o.det.Judge(o.plan.From).Verdict == topology.Failed {
			return nil
		}
		select {
		case <-lctx.Done():
			return fmt.Errorf("%s has %d transactions to apply, not connected to it: %v", o.plan.To, unapplied, waiting)
		case <-tick.C:
		}
	}
}

// instanceOf asks a member that must have an instance which answers.
func (o *operation) instanceOf(ctx context.Context, name topology.NodeName) (NodeStatus, error) {
	node, err := o.nodes.Node(name)
	if err != nil {
		return NodeStatus{}, err
	}
	st, err := node.Status(ctx)
	if err == nil && st.Instance == nil {
		err = fmt.Errorf("%s: %w: %s", name, ErrNoInstance, st.InstanceError)
	}
	return st, err
}
