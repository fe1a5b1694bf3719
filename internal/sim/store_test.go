package sim

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"interrex/election"
	"interrex/internal/topology"
)

// store is etcd with its quorum: one record under compare-and-swap, a leader
// key with a lease, the ledger. It belongs to the loop.
type store struct {
	w        *world
	down     bool // no quorum
	state    election.State
	revision int64
	leader   election.Leadership
	lease    time.Duration // when the leader's lease runs out
	reports  map[topology.Epoch][]byte
	lost     int // percent of the answers that get lost
}

// registry is one agent's way to the store; implements failover.Registry and
// failover.Leader. What it saw last belongs to the loop.
type registry struct {
	w    *world
	by   *process
	self topology.NodeName
	seen election.Snapshot
	lead election.Leadership
	mine time.Duration // until when it believes in its own lease
	deaf bool          // its watch delivers nothing
	wake []chan struct{}
}

func cloneState(s election.State) election.State {
	if s.Primary != nil {
		p := *s.Primary
		s.Primary = &p
	}
	if s.Operation != nil {
		o := *s.Operation
		s.Operation = &o
	}
	if s.Paused != nil {
		p := *s.Paused
		s.Paused = &p
	}
	s.Register.Ackers = slices.Clone(s.Register.Ackers)
	s.Sources = maps.Clone(s.Sources)
	return s
}

func (s *store) snapshot() election.Snapshot {
	return election.Snapshot{State: cloneState(s.state), Revision: s.revision, ReadAt: time.Now()}
}

func (r *registry) Snapshot() election.Snapshot {
	r.w.told.Lock()
	defer r.w.told.Unlock()
	snap := r.seen
	snap.State = cloneState(snap.State)
	return snap
}

func (r *registry) Leadership() election.Leadership {
	r.w.told.Lock()
	defer r.w.told.Unlock()
	l := r.lead
	l.Mine = l.Holder == r.self && r.w.loop.now() < r.mine
	return l
}

func (r *registry) Members() []topology.Member { return r.w.members }

// learn takes in what the store said.
func (r *registry) learn(snap election.Snapshot, lead election.Leadership) {
	r.w.told.Lock()
	defer r.w.told.Unlock()
	news := false
	if snap.Revision > r.seen.Revision {
		r.seen, news = snap, true
	}
	if lead.Revision > r.lead.Revision {
		r.lead, news = lead, true
	}
	if news {
		for _, ch := range r.wake {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}
}

// ask has the store do something: it may not be asked, not answer, or answer
// too late.
func ask[T any](ctx context.Context, r *registry, what string, do func(s *store) (T, error)) (v T, err error) {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	got, err := r.w.loop.do(ctx, r.by, string(r.self)+" store "+what, func(c *call) { r.w.store.serve(c, r, func(s *store) (any, error) { return do(s) }) })
	if err == nil {
		v = got.(T)
	}
	return v, err
}

func (s *store) serve(c *call, r *registry, do func(*store) (any, error)) {
	l, n := s.w.loop, s.w.net
	l.after(n.latency()+l.between(100*time.Microsecond, time.Millisecond), func() {
		if s.down || n.blocked(storage, r.self, storeHost) {
			return // until the call's time is over
		}
		v, err := do(s)
		lead := s.leader
		snap := s.snapshot()
		if n.blocked(storage, storeHost, r.self) || l.chance(s.lost) {
			return
		}
		l.after(n.latency(), func() {
			if !c.over {
				r.learn(snap, lead)
			}
			l.finish(c, v, err)
		})
	})
}

func (r *registry) Read(ctx context.Context) (election.Snapshot, error) {
	snap, err := ask(ctx, r, "read", func(s *store) (election.Snapshot, error) { return s.snapshot(), nil })
	if err != nil {
		return election.Snapshot{}, election.ErrUnreachable
	}
	return snap, nil
}

func (r *registry) Update(ctx context.Context, base election.Snapshot, change func(*election.State) error) (election.Snapshot, error) {
	next := cloneState(base.State)
	if err := change(&next); err != nil {
		return election.Snapshot{}, err
	}
	if !r.Leadership().Mine {
		return election.Snapshot{}, election.ErrNotLeader
	}
	lead := r.lead.Revision
	made, tried := int64(0), false
	swap := func(s *store) (election.Snapshot, error) {
		switch {
		case made > 0: // an earlier try had arrived
			return election.Snapshot{State: next, Revision: made, ReadAt: time.Now()}, nil
		case s.w.doubles.anyBase:
		case s.leader.Revision != lead:
			return election.Snapshot{}, election.ErrNotLeader
		case s.revision != base.Revision:
			return election.Snapshot{}, election.ErrConflict
		}
		s.revision++
		made = s.revision
		s.w.check.recorded(s.state, next)
		s.state = cloneState(next)
		s.watch()
		return s.snapshot(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		snap, err := ask(ctx, r, "update", swap)
		switch {
		case err == nil, errors.Is(err, election.ErrNotLeader), errors.Is(err, election.ErrConflict), errors.Is(err, errKilled):
			return snap, err
		case !tried && r.w.store.down:
			return election.Snapshot{}, election.ErrUnreachable
		}
		tried = true
		if ctx.Err() != nil {
			return election.Snapshot{}, election.ErrOutcomeUnknown
		}
	}
}

// watch tells every agent of the change.
func (s *store) watch() {
	snap, lead := s.snapshot(), s.leader
	for _, a := range s.w.agents {
		r := a.registry
		var tell func()
		tell = func() {
			switch {
			case r.by.dead:
			case r.by.frozen:
				r.by.held = append(r.by.held, tell)
			case r.deaf || s.w.net.blocked(storage, storeHost, r.self):
				s.w.loop.after(100*time.Millisecond, tell)
			default:
				r.learn(snap, lead)
			}
		}
		s.w.loop.after(s.w.net.latency(), tell)
	}
}

// tick renews leases and lets somebody lead where nobody does.
func (s *store) tick() {
	l := s.w.loop
	l.after(l.between(300*time.Millisecond, 400*time.Millisecond), s.tick)
	if s.down {
		s.lease = l.now() + 2*time.Second // leases run on from the next leader's first moment
		return
	}
	for _, a := range s.w.agents {
		if a.registry.self != s.leader.Holder || a.proc.dead || a.proc.frozen || s.w.net.cutEither(storage, a.name, storeHost) {
			continue
		}
		s.w.told.Lock()
		s.lease, a.registry.mine = l.now()+2*time.Second, l.now()+1750*time.Millisecond
		s.w.told.Unlock()
	}
	if l.now() < s.lease {
		return
	}
	var free []topology.NodeName
	for _, a := range s.w.agents {
		if !a.proc.dead && !a.proc.frozen && !s.w.net.cutEither(storage, a.name, storeHost) {
			free = append(free, a.name)
		}
	}
	if len(free) > 0 {
		s.lead(free[l.draw.IntN(len(free))])
	}
}

func (s *store) lead(name topology.NodeName) {
	s.leader = election.Leadership{Holder: name, Revision: s.leader.Revision + 1}
	s.lease = s.w.loop.now() + 2*time.Second
	s.w.told.Lock()
	s.w.agent(name).registry.mine = s.w.loop.now() + 1750*time.Millisecond
	s.w.told.Unlock()
	s.watch()
}

// SaveReport tries until ctx ends, as election.Client does.
func (r *registry) SaveReport(ctx context.Context, epoch topology.Epoch, report []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		_, err := ask(ctx, r, "save report", func(s *store) (struct{}, error) {
			s.reports[epoch] = report
			return struct{}{}, nil
		})
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil, errors.Is(err, errKilled):
			return election.ErrUnreachable
		}
	}
}

func (r *registry) Report(ctx context.Context, epoch topology.Epoch) ([]byte, error) {
	raw, err := ask(ctx, r, "report", func(s *store) ([]byte, error) { return s.reports[epoch], nil })
	switch {
	case err != nil:
		return nil, election.ErrUnreachable
	case raw == nil:
		return nil, election.ErrNotFound
	}
	return raw, nil
}

func (r *registry) Reports(ctx context.Context, n int) ([][]byte, error) {
	raws, err := ask(ctx, r, "reports", func(s *store) ([][]byte, error) {
		var out [][]byte
		for _, e := range slices.Backward(slices.Sorted(maps.Keys(s.reports))) {
			if len(out) < n {
				out = append(out, s.reports[e])
			}
		}
		return out, nil
	})
	if err != nil {
		return nil, election.ErrUnreachable
	}
	return raws, nil
}

func (r *registry) TakeOver(ctx context.Context, from topology.NodeName) error {
	seen := r.lead.Revision
	_, err := ask(ctx, r, "take over", func(s *store) (struct{}, error) {
		if s.leader.Revision != seen || s.leader.Holder != from {
			return struct{}{}, election.ErrConflict
		}
		s.lead(r.self)
		return struct{}{}, nil
	})
	return err
}

func (r *registry) Transfer(ctx context.Context, to topology.NodeName) error {
	seen := r.lead.Revision
	_, err := ask(ctx, r, "transfer", func(s *store) (struct{}, error) {
		if s.leader.Revision != seen || s.leader.Holder != r.self || s.w.agent(to).proc.dead {
			return struct{}{}, election.ErrConflict
		}
		s.lead(to)
		return struct{}{}, nil
	})
	return err
}
