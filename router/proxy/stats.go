package proxy

import (
	"cmp"
	"slices"

	"interrex/internal/topology"
	"interrex/router"
)

// Counts is what a port counts.
type Counts struct {
	Connections     int    `json:"connections"`      // served now, held ones included
	Held            int    `json:"held"`             // held now
	Accepted        uint64 `json:"accepted"`         // connections taken
	HeldTotal       uint64 `json:"held_total"`       // that were held
	Refused         uint64 `json:"refused"`          // that were answered with an error packet
	ClientsLeft     uint64 `json:"clients_left"`     // that left while they were held
	ConnectFailures uint64 `json:"connect_failures"` // attempts to connect to an instance that failed
	Cut             uint64 `json:"cut"`              // sessions ended by the proxy
}

// PortStats is what one port does and has done since the proxy began.
type PortStats struct {
	Role Role `json:"role"`
	Counts
	Epoch    topology.Epoch `json:"epoch"` // of the route it obeys
	Phase    router.Phase   `json:"phase"`
	Sessions []Sessions     `json:"sessions"`
}

// Sessions is how many sessions a port has to one instance, those that are
// still being connected included.
type Sessions struct {
	router.Backend
	Count int `json:"count"`
}

// Stats returns what each port does, the read-write port first.
func (p *Proxy) Stats() []PortStats {
	stats := make([]PortStats, 0, len(p.ports))
	for _, port := range p.ports {
		stats = append(stats, port.stats())
	}
	return stats
}

// Sessions counts the sessions to a node over both ports, for a switchover
// that waits for them.
func (p *Proxy) Sessions(node topology.NodeName) int {
	n := 0
	for _, port := range p.Stats() {
		for _, s := range port.Sessions {
			if s.Node == node {
				n += s.Count
			}
		}
	}
	return n
}

func (p *port) stats() PortStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := PortStats{Role: p.role, Counts: p.count, Phase: router.Closed, Sessions: []Sessions{}}
	if p.view != nil {
		s.Epoch, s.Phase = p.view.route.Epoch, p.view.route.Phase
	}
	for b, n := range p.load {
		s.Sessions = append(s.Sessions, Sessions{Backend: b, Count: n})
	}
	slices.SortFunc(s.Sessions, func(a, b Sessions) int { return cmp.Compare(a.Node, b.Node) })
	return s
}
