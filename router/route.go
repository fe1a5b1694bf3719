package router

import "interrex/internal/topology"

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
// the higher epoch is believed; within an epoch Closed may become Open, never
// the other way round, and an open route of the same epoch may change its
// replicas only.
type Route struct {
	Epoch   topology.Epoch `json:"epoch"`
	Phase   Phase          `json:"phase"`
	Primary *Backend       `json:"primary,omitempty"` // nil while no primary is known
	// Replicas are those that may serve reads now: following, healthy and
	// under the lag limit. Judged by each member for itself.
	Replicas []Backend `json:"replicas"`
	// Reason is why the route is closed, for the error a client is shown.
	Reason string `json:"reason,omitempty"`
}
