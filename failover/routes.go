package failover

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/topology"
	"interrex/router"
)

// RouteKeeper keeps a member's route table as the cluster record and the
// member's own view of the replicas say. Pushes of an operation come earlier;
// this is how those that missed one obey all the same.
type RouteKeeper struct {
	Registry Registry
	Watcher  *Watcher
	Table    *router.Table
	// MaxLag is how far behind a replica may be to serve reads.
	MaxLag time.Duration
	// Wake has a value whenever the record may have changed.
	Wake <-chan struct{}
	Log  *zap.Logger
}

// Run obeys until ctx ends.
func (r RouteKeeper) Run(ctx context.Context) error {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	isolated := false
	var fit time.Time // when the own instance was last fit to be read from
	for {
		v := r.Watcher.unjudged()
		if v.base.Revision > 0 {
			route := r.route(v.State)
			if _, err := r.Table.Apply(route); err != nil && !errors.Is(err, router.ErrStaleRoute) {
				r.Log.Error("route of the record cannot be obeyed", zap.Error(err))
			}
		}
		replicas := []router.Backend{}
		if !v.State.WasRemoved(r.Watcher.self) {
			replicas = readableReplicas(v, r.MaxLag)
		}
		r.Table.SetReplicas(replicas)
		if isPrimary := v.State.Primary != nil && v.State.Primary.Node == v.Self; isPrimary || slices.ContainsFunc(replicas, func(b router.Backend) bool { return b.Node == v.Self }) {
			fit = time.Now()
		}
		r.isolate(v, isolated, fit)
		isolated = v.Isolated != nil
		select {
		case <-ctx.Done():
			return nil
		case <-r.Wake:
		case <-tick.C:
		}
	}
}

// isolate closes the table of a member that is cut off, and opens it again when
// that is over: by then the table has the route that the record asks for.
func (r RouteKeeper) isolate(v View, before bool, fit time.Time) {
	switch i := v.Isolated; {
	case i == nil && before:
		r.Log.Info("this node sees the others again: its routes are as the record says", zap.Uint64("epoch", uint64(v.State.Epoch)))
		r.Table.Rejoin()
	case i == nil:
	default:
		if !before {
			r.Log.Warn("this node is cut off from the others: its routes are closed until it sees them again", zap.Stringer("detail", i))
		}
		r.Table.Isolate("this node is isolated from the majority of the members", isolatedReads(v, r.MaxLag, time.Since(fit)))
	}
}

// isolatedReads are the instances that an isolated member still reads from: its
// own, as far as it goes on, if it was fit for reads when the others were last
// seen, and unless it was far behind before. unfit is since when it is not.
func isolatedReads(v View, maxLag, unfit time.Duration) []router.Backend {
	n, ok := v.Nodes[v.Self]
	if !v.Isolated.Reads || !ok || n.Instance == nil || n.Errant != nil || n.Rebuild.Underway() {
		return nil
	}
	if unfit > v.Isolated.For+time.Second {
		return nil // closed with transactions of its own, say
	}
	// It may have lost its source long before it lost the others; one that was
	// started since does not know (HeartbeatAge is negative), and goes on.
	if src := n.Instance.Source; src != nil && (src.Lag > maxLag || !src.ReceiverOn && src.HeartbeatAge-v.Isolated.For > maxLag) {
		return nil
	}
	return []router.Backend{{Node: v.Self, Address: n.Member.MySQL}}
}

// route is what the record asks of this member. One that was removed closes its
// routes for good: no route of an operation reaches it any more.
func (r RouteKeeper) route(s election.State) router.Route {
	if !s.WasRemoved(r.Watcher.self) {
		return decideRoute(s)
	}
	// A table obeys a higher epoch only; it is told of no other one again.
	return router.Route{Epoch: s.Epoch + 1, Phase: router.Closed, Reason: "this node was removed from the cluster"}
}

// readableReplicas are those that may serve reads: following the recorded
// primary, applying all that comes, and within the lag limit.
func readableReplicas(v View, maxLag time.Duration) []router.Backend {
	p := v.State.Primary
	replicas := []router.Backend{}
	if p == nil {
		return replicas
	}
	live := served(v.State)
	for name, n := range v.Nodes {
		if name == p.Node || n.Instance == nil || n.Instance.Source == nil || !n.Instance.SuperReadOnly {
			continue
		}
		src := n.Instance.Source
		follows, more := followsThrough(v, src)
		if live && (!follows || !src.ReceiverOn) {
			continue
		}
		// While a failover runs no source can be connected; a replica that was
		// level goes on serving reads then, however long that takes.
		heard := follows && src.ReceiverOn
		if !src.ReceiverOn && src.HeartbeatAge >= 0 && src.HeartbeatAge <= maxLag {
			heard = follows || p.Phase == election.Promoting // it may not have been told of the new one
		}
		if !live && !heard && !hasAll(v, *n.Instance) {
			continue
		}
		if src.ApplierOn && src.Filters == "" && src.Lag+more <= maxLag && n.Errant == nil {
			replicas = append(replicas, router.Backend{Node: name, Address: n.Member.MySQL})
		}
	}
	slices.SortFunc(replicas, func(a, b router.Backend) int { return strings.Compare(string(a.Node), string(b.Node)) })
	return replicas
}

// followsThrough tells whether a receiver follows the recorded primary, or a
// replica that follows it, as those do that go ahead in a switchover: then more is
// how far that one is behind.
func followsThrough(v View, src *dbrepl.SourceStatus) (follows bool, more time.Duration) {
	p := v.State.Primary
	if src.ServerUUID == p.ServerUUID {
		return true, 0
	}
	for _, n := range v.Nodes {
		if n.Instance != nil && n.Instance.ServerUUID == src.ServerUUID && n.Instance.Source != nil {
			between := n.Instance.Source
			return between.ServerUUID == p.ServerUUID && between.ReceiverOn && between.ApplierOn, between.Lag
		}
	}
	return false, 0
}

// hasAll tells whether the instance is known to have executed all that a client
// may have been told is committed: it lacks nothing of what the others have, and
// those are so many that each acknowledged commit is in one of them.
func hasAll(v View, i dbrepl.Status) bool {
	known := func(name topology.NodeName) bool { return v.Nodes[name].Instance != nil && v.Nodes[name].Certified }
	for _, n := range v.Nodes {
		if n.Instance != nil && !i.Executed.Contains(n.Instance.Received.Union(n.Instance.Committing)) {
			return false
		}
	}
	if !i.Executed.Contains(v.State.Primary.Base) {
		return false
	}
	unknown := 0
	for _, name := range v.State.Register.Ackers {
		if !known(name) {
			unknown++
		}
	}
	return unknown < v.State.Register.K || known(v.State.Primary.Node)
}
