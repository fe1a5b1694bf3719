package router

import (
	"slices"

	"interrex/internal/topology"
)

// Phase says whether new work may be sent to the primary of a route.
type Phase string

// Closed holds new connections; Open sends them to the primary.
const (
	Closed Phase = "closed"
	Open   Phase = "open"
)

// Backend is an instance that a route leads to.
type Backend struct {
	Node    topology.NodeName `json:"node"`
	Address string            `json:"address"` // host:port of the instance
}

// Route says where writes and reads go in an epoch. Of two routes the one of
// the higher epoch is believed. Within an epoch a route goes only forward
// through these three states, any of which may be left out:
//
//  1. closed with a Primary (drain): new connections are held, sessions
//     established to that primary go on, all others are cut;
//  2. closed without a Primary (cut): new connections are held, every session
//     for writes is cut at once;
//  3. open: new connections go to the Primary, sessions to any other instance
//     are cut at once. An open route of the same epoch may change its replicas
//     only.
//
// A switchover that is undone opens its former primary again under a new epoch.
type Route struct {
	Epoch   topology.Epoch `json:"epoch"`
	Phase   Phase          `json:"phase"`
	Primary *Backend       `json:"primary,omitempty"` // nil while no primary is known, or when it is cut off
	// Replicas are those that may serve reads now: following, healthy and
	// under the lag limit. Judged by each member for itself, so a route sent
	// to another member leaves them nil: nil keeps what the member judged,
	// an empty list takes it away.
	Replicas []Backend `json:"replicas"`
	// Reason is why the route is closed, for the error a client is shown.
	Reason string `json:"reason,omitempty"`
}

// Clone copies the route with all it points to, so that neither copy can
// change the other.
func (r Route) Clone() Route {
	if r.Primary != nil {
		primary := *r.Primary
		r.Primary = &primary
	}
	r.Replicas = cloneBackends(r.Replicas)
	return r
}

// LeadsTo tells whether sessions for writes may go on to the backend: it is
// the primary of the route, open or draining.
func (r Route) LeadsTo(b Backend) bool { return r.Primary != nil && *r.Primary == b }

// Equal tells whether the routes say the same, replicas in the same order.
func (r Route) Equal(o Route) bool {
	return r.Epoch == o.Epoch && r.Phase == o.Phase && r.Reason == o.Reason &&
		samePrimary(r.Primary, o.Primary) && slices.Equal(r.Replicas, o.Replicas)
}

func samePrimary(a, b *Backend) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// cloneBackends keeps nil nil.
func cloneBackends(bs []Backend) []Backend {
	if bs == nil {
		return nil
	}
	return append([]Backend{}, bs...)
}

// stage is the place of a route in its epoch; a route never goes back to an
// earlier one (I5).
type stage int

const (
	draining stage = iota
	cut
	serving
)

func (r Route) stage() stage {
	switch {
	case r.Phase == Open:
		return serving
	case r.Primary == nil:
		return cut
	default:
		return draining
	}
}
