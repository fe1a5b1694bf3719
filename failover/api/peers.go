package api

import (
	"fmt"
	"sync"

	"interrex/failover"
	"interrex/internal/topology"
)

// Peers finds the members as nodes: the own one directly, others by clients
// that are kept, so that their connections stay open between commands.
type Peers struct {
	self    topology.NodeName
	cluster string
	own     failover.Node
	lookup  func(topology.NodeName) (topology.Member, bool)
	token   string
	tls     *TLS

	mu      sync.Mutex
	clients map[topology.NodeName]*Client
}

var _ failover.Nodes = (*Peers)(nil)

// NewPeers makes Peers of the member self of the cluster, whose node is own.
// lookup finds a member by name and must not block; token and t as for
// NewClient.
func NewPeers(self topology.NodeName, cluster string, own failover.Node, lookup func(topology.NodeName) (topology.Member, bool), token string, t *TLS) *Peers {
	return &Peers{self: self, cluster: cluster, own: own, lookup: lookup, token: token, tls: t, clients: map[topology.NodeName]*Client{}}
}

// Node finds a member's node; ErrUnknownMember if none is registered as name.
func (p *Peers) Node(name topology.NodeName) (failover.Node, error) {
	if name == p.self {
		return p.own, nil
	}
	return p.client(name)
}

// client is the member's client. A member that has moved gets a new one.
func (p *Peers) client(name topology.NodeName) (*Client, error) {
	m, ok := p.lookup(name)
	if !ok || m.API == "" {
		return nil, fmt.Errorf("find member %q: %w", name, ErrUnknownMember)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.clients[name]; c != nil {
		if c.address == m.API {
			return c, nil
		}
		c.CloseIdle()
	}
	c := NewClient(name, m.API, p.token, p.tls)
	c.cluster = p.cluster
	p.clients[name] = c
	return c, nil
}

// CloseIdle closes all connections nobody uses.
func (p *Peers) CloseIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.clients {
		c.CloseIdle()
	}
}
