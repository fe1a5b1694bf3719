package failover

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"interrex/election"
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
	for {
		snap := r.Registry.Snapshot()
		if snap.Revision > 0 {
			route := r.route(snap.State)
			if _, err := r.Table.Apply(route); err != nil && !errors.Is(err, router.ErrStaleRoute) {
				r.Log.Error("route of the record cannot be obeyed", zap.Error(err))
			}
		}
		replicas := []router.Backend{}
		if !snap.State.WasRemoved(r.Watcher.self) {
			replicas = readableReplicas(r.Watcher.View(), r.MaxLag)
		}
		r.Table.SetReplicas(replicas)
		select {
		case <-ctx.Done():
			return nil
		case <-r.Wake:
		case <-tick.C:
		}
	}
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
// primary, applying, and within the lag limit.
func readableReplicas(v View, maxLag time.Duration) []router.Backend {
	p := v.State.Primary
	replicas := []router.Backend{}
	if p == nil {
		return replicas
	}
	for name, n := range v.Nodes {
		if name == p.Node || n.Instance == nil || n.Instance.Source == nil || !n.Instance.SuperReadOnly {
			continue
		}
		src := n.Instance.Source
		// While a failover runs no source can be connected; a replica that was
		// level goes on serving reads then.
		live := p.Phase == election.Open && v.State.Operation == nil && v.State.Epoch == p.Epoch
		if live && (src.ServerUUID != p.ServerUUID || !src.ReceiverOn) {
			continue
		}
		if src.ApplierOn && src.Lag <= maxLag && n.Errant == nil {
			replicas = append(replicas, router.Backend{Node: name, Address: n.Member.MySQL})
		}
	}
	slices.SortFunc(replicas, func(a, b router.Backend) int { return strings.Compare(string(a.Node), string(b.Node)) })
	return replicas
}
