package failover

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"interrex/internal/topology"
)

// Detector is what operations need of the detector.
type Detector interface {
	// Judge returns the present verdict on a member's instance.
	Judge(subject topology.NodeName) Judgement
	// MemberFailed tells whether a member (its agent) is judged Failed.
	MemberFailed(name topology.NodeName) bool
}

// Watcher asks every member how it is, again and again, and assembles the
// view that gates, decisions and the status API rest on.
type Watcher struct {
	self  topology.NodeName
	reg   Registry
	nodes Nodes
	det   Detector
	every time.Duration

	etcdOK  atomic.Bool
	mu      sync.Mutex
	status  map[topology.NodeName]NodeStatus
	silent  map[topology.NodeName]string
	polling map[topology.NodeName]bool
	sighted map[topology.NodeName]Sighting
	// When the last question was put that was answered: by each member, and by
	// etcd's quorum.
	answered map[topology.NodeName]time.Time
	quorum   time.Time
	turned   time.Time // when Run last began a round
	settled  time.Time // when the own member last owed no answer
	calm     calm
	crash    crash

	sight    Sight // set before Run
	outlook  outlook
	isolated *Isolation
	wg       sync.WaitGroup
}

// NewWatcher returns a watcher that asks every interval (default 250 ms; more
// often costs a request and a probe per member each time).
func NewWatcher(self topology.NodeName, reg Registry, nodes Nodes, det Detector, every time.Duration) *Watcher {
	if every == 0 {
		every = 250 * time.Millisecond
	}
	return &Watcher{
		self: self, reg: reg, nodes: nodes, det: det, every: every,
		status: map[topology.NodeName]NodeStatus{}, silent: map[topology.NodeName]string{},
		polling: map[topology.NodeName]bool{}, sighted: map[topology.NodeName]Sighting{},
		answered: map[topology.NodeName]time.Time{},
	}
}

// idlePolls is how many intervals a member that neither leads nor is cut off lets
// pass between two questions to the others: it only shows what they answer.
const idlePolls = 4

// Run polls until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	defer w.wg.Wait()
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	w.wg.Add(1)
	go w.watchEtcd(ctx)
	for round := 0; ; round++ {
		w.turn()
		// Who leads acts on the answers, and who is cut off waits for the first.
		eager := w.lookAround(time.Now()) || w.reg.Leadership().Mine
		members := w.reg.Members()
		w.forget(members)
		for _, m := range members {
			if m.Name == w.self || eager || round%idlePolls == 0 {
				w.poll(ctx, m.Name)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Sees sets how this member finds out that it is isolated; without it, it never
// does. Call it before Run.
func (w *Watcher) Sees(s Sight) { w.sight = s }

// lookAround finds out whether this member is isolated, and tells.
func (w *Watcher) lookAround(now time.Time) bool {
	seen := sightOf(w.View(), w.sight)
	w.mu.Lock()
	defer w.mu.Unlock()
	seen.last = w.lastSign(now)
	w.isolated = nil
	if w.outlook.look(now, seen, w.sight.After) {
		w.isolated = isolationOf(now, w.outlook, seen, w.sight)
	}
	return w.isolated != nil
}

// lastSign is when etcd's quorum, or the last of the members that make a majority
// with this one, gave its last sign; zero if never. The mutex is held.
func (w *Watcher) lastSign(now time.Time) time.Time {
	var signs []time.Time
	for _, m := range w.reg.Members() {
		if m.Name == w.self {
			continue
		}
		at := w.answered[m.Name]
		if w.sight.Heard != nil {
			if age := w.sight.Heard(m.Name); age >= 0 && now.Add(-age).After(at) {
				at = now.Add(-age)
			}
		}
		signs = append(signs, at)
	}
	slices.SortFunc(signs, func(a, b time.Time) int { return b.Compare(a) })
	last := w.quorum
	if needed := (len(signs) + 1) / 2; needed > 0 && signs[needed-1].After(last) {
		last = signs[needed-1]
	}
	return last
}

func (w *Watcher) turn() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turned = time.Now()
	if !w.polling[w.self] {
		w.settled = w.turned
	}
}

// forget drops what was known of those that are no members any more.
func (w *Watcher) forget(members []topology.Member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	gone := func(name topology.NodeName) bool {
		return !slices.ContainsFunc(members, func(m topology.Member) bool { return m.Name == name })
	}
	maps.DeleteFunc(w.status, func(name topology.NodeName, _ NodeStatus) bool { return gone(name) })
	maps.DeleteFunc(w.silent, func(name topology.NodeName, _ string) bool { return gone(name) })
	maps.DeleteFunc(w.sighted, func(name topology.NodeName, _ Sighting) bool { return gone(name) })
	maps.DeleteFunc(w.answered, func(name topology.NodeName, _ time.Time) bool { return gone(name) })
}

// Stalled says why this agent does not work, or nothing if it does: the watcher
// has not gone round, or the own member owes an answer, for longer than limit.
// Both take a second at most, whatever etcd, the other members and the own
// server do. Before Run it is not stalled.
func (w *Watcher) Stalled(limit time.Duration) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.turned.IsZero() {
		return ""
	}
	if late := time.Since(w.turned); late > limit {
		return fmt.Sprintf("it has not looked at the cluster for %s", late.Round(time.Second))
	}
	if late := time.Since(w.settled); late > limit {
		return fmt.Sprintf("its own part for this node has not answered for %s", late.Round(time.Second))
	}
	return ""
}

// watchEtcd learns whether the quorum answers, apart from the polls so that a
// dead store never delays them.
func (w *Watcher) watchEtcd(ctx context.Context) {
	defer w.wg.Done()
	tick := time.NewTicker(2 * w.every)
	defer tick.Stop()
	for {
		began := time.Now()
		rctx, cancel := context.WithTimeout(ctx, time.Second)
		_, err := w.reg.Read(rctx)
		cancel()
		w.etcdOK.Store(err == nil)
		if err == nil {
			w.mu.Lock()
			w.quorum = began
			w.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// poll asks one member, unless the last question to it is still open.
func (w *Watcher) poll(ctx context.Context, name topology.NodeName) {
	w.mu.Lock()
	busy := w.polling[name]
	w.polling[name] = true
	w.mu.Unlock()
	if busy {
		return
	}
	w.wg.Add(1)
	go func() {
		defer w.wg.Done()
		w.refresh(ctx, name)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.polling[name] = false
	}()
}

// refresh asks one member and notes the answer, unless whoever asked has gone:
// that says nothing of the member.
func (w *Watcher) refresh(ctx context.Context, name topology.NodeName) {
	began := time.Now()
	st, err := w.Ask(ctx, name)
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	primary := w.reg.Snapshot().State.Primary
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		delete(w.status, name)
		w.silent[name] = err.Error()
		return
	}
	delete(w.silent, name)
	w.status[name], w.answered[name] = st, began
	seen := w.sighted[name]
	seen.Drift = latest(seen.Drift, st.Drift) // also of a server that has died since
	if st.Instance != nil && primary != nil {
		seen = seen.with(*st.Instance, primary.Epoch, time.Now())
	}
	w.sighted[name] = seen
}

// Refresh asks one member now and returns the view with its answer.
func (w *Watcher) Refresh(ctx context.Context, name topology.NodeName) View {
	w.refresh(ctx, name)
	return w.View()
}

// RefreshAll asks every member now and returns the view with their answers.
func (w *Watcher) RefreshAll(ctx context.Context) View {
	var asked sync.WaitGroup
	for _, m := range w.reg.Members() {
		asked.Go(func() { w.refresh(ctx, m.Name) })
	}
	asked.Wait()
	return w.View()
}

// Ask asks one member now, bounded by a second.
func (w *Watcher) Ask(ctx context.Context, name topology.NodeName) (NodeStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	node, err := w.nodes.Node(name)
	if err != nil {
		return NodeStatus{}, err
	}
	return node.Status(ctx)
}

// View is the present view; it asks nobody.
func (w *Watcher) View() View {
	v := w.unjudged()
	if p := v.State.Primary; p != nil {
		v.Primary, v.AgentGone = w.det.Judge(p.Node), w.det.MemberFailed(p.Node)
	}
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	v.Calm, v.Crashed = w.calm.since(now, v.State.Unrest), w.crash.since(now, v.Primary)
	return v
}

// unjudged is the view without what is thought of the primary.
func (w *Watcher) unjudged() View {
	// Asked in this order: while etcd is told to answer, the record is as new as
	// that answer.
	reachable := w.etcdOK.Load()
	snap := w.reg.Snapshot()
	v := View{
		Self: w.self, State: snap.State, Leadership: w.reg.Leadership(),
		EtcdReachable: reachable, Members: w.reg.Members(), base: snap,
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	v.Nodes, v.Unreachable, v.Sighted = maps.Clone(w.status), maps.Clone(w.silent), maps.Clone(w.sighted)
	v.Isolated = w.isolated
	return v
}
