package failover

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"interrex/election"
	"interrex/internal/topology"
)

// store is etcd: one record under compare-and-swap, the leader key, the ledger.
type store struct {
	mu       sync.Mutex
	state    election.State
	revision int64
	leader   election.Leadership
	members  []topology.Member
	reports  map[topology.Epoch][]byte
	down     bool
	// history is every state the record has had.
	history []election.State
	// shown is the state as it was at a revision, as everybody gets it: whoever
	// changes it races with the others.
	shown   election.State
	shownAt int64
}

// current is the record. Each revision is copied once: copies were most of what
// these tests took.
func (s *store) current() election.Snapshot {
	if s.shownAt != s.revision || s.revision == 0 {
		s.shown, s.shownAt = copyOf(s.state), s.revision
	}
	return election.Snapshot{State: s.shown, Revision: s.revision}
}

// fakeRegistry is one member's way to the store.
type fakeRegistry struct {
	*store
	self topology.NodeName
	// on is told of every change of the record before and after it is made.
	on func(ctx context.Context, what string, after bool) error
	// pinned is what this member sees in place of the record: a watch that lags.
	pinned *election.Snapshot
	cut    bool // no way to the store: pinned is all it knows
}

func copyOf(s election.State) election.State {
	raw, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	var out election.State
	if err := json.Unmarshal(raw, &out); err != nil {
		panic(err)
	}
	return out
}

func (r *fakeRegistry) Snapshot() election.Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pinned != nil {
		return *r.pinned
	}
	return r.current()
}

func (r *fakeRegistry) Read(ctx context.Context) (election.Snapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down || r.cut || ctx.Err() != nil {
		return election.Snapshot{}, election.ErrUnreachable
	}
	r.pinned = nil
	return r.current(), nil
}

// updateName says what a change of the record is about.
func updateName(from, to election.State) string {
	switch {
	case to.Epoch > from.Epoch:
		return "claim"
	case to.Primary != nil && (from.Primary == nil || to.Primary.Epoch > from.Primary.Epoch):
		return "record"
	case from.Operation != nil && to.Operation == nil && to.Epoch == to.Primary.Epoch:
		return "end"
	case from.Operation != nil && to.Operation == nil:
		return "free"
	default:
		return "change"
	}
}

func (r *fakeRegistry) Update(ctx context.Context, base election.Snapshot, change func(*election.State) error) (election.Snapshot, error) {
	next := copyOf(base.State)
	if err := change(&next); err != nil {
		return election.Snapshot{}, err
	}
	name := updateName(base.State, next)
	if err := r.on(ctx, name, false); err != nil {
		return election.Snapshot{}, err
	}
	snap, err := r.swap(base, next)
	if err == nil {
		err = r.on(ctx, name, true)
	}
	return snap, err
}

func (r *fakeRegistry) swap(base election.Snapshot, next election.State) (election.Snapshot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.down, r.cut:
		return election.Snapshot{}, election.ErrUnreachable
	case r.leader.Holder != r.self:
		return election.Snapshot{}, election.ErrNotLeader
	case base.Revision != r.revision:
		return election.Snapshot{}, election.ErrConflict
	case next.Epoch < r.state.Epoch, r.state.Primary != nil && next.Primary.Epoch < r.state.Primary.Epoch:
		return election.Snapshot{}, election.ErrInvalidChange
	}
	r.revision++
	r.state = copyOf(next)
	r.history = append(r.history, copyOf(next))
	return r.current(), nil
}

func (r *fakeRegistry) Leadership() election.Leadership {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.leader
	l.Mine = l.Holder == r.self
	return l
}

func (r *fakeRegistry) Members() []topology.Member {
	s := r.Snapshot().State
	return slices.DeleteFunc(slices.Clone(r.members), func(m topology.Member) bool { return !s.Belongs(m.Name) })
}

func (r *fakeRegistry) SaveReport(ctx context.Context, epoch topology.Epoch, report []byte) error {
	if err := r.on(ctx, "report", false); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down || ctx.Err() != nil {
		return election.ErrUnreachable
	}
	r.reports[epoch] = report
	return nil
}

func (r *fakeRegistry) Report(_ context.Context, epoch topology.Epoch) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if raw, ok := r.reports[epoch]; ok {
		return raw, nil
	}
	return nil, election.ErrNotFound
}

func (r *fakeRegistry) Reports(_ context.Context, n int) ([][]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out [][]byte
	for _, e := range slices.Backward(slices.Sorted(maps.Keys(r.reports))) {
		if len(out) < n {
			out = append(out, r.reports[e])
		}
	}
	return out, nil
}

func (r *fakeRegistry) TakeOver(context.Context, topology.NodeName) error {
	return election.ErrConflict
}

func (r *fakeRegistry) Transfer(_ context.Context, to topology.NodeName) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leader.Holder != r.self || r.down || r.cut {
		return election.ErrConflict
	}
	r.leader = election.Leadership{Holder: to, Revision: r.leader.Revision + 1}
	return nil
}
