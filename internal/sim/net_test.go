package sim

import (
	"slices"
	"time"

	"interrex/internal/topology"
)

// traffic is a kind of connection; each can be cut by itself.
type traffic int

const (
	orders      traffic = iota // between agents
	replication                // of a replica to its source, and back
	storage                    // of an agent to the store
	sessions                   // of clients, and of the probes of other members
	gossip                     // evidence of members
	allTraffic
)

// storeHost is where the store is, for cuts.
const storeHost topology.NodeName = "store"

type way struct {
	what     traffic
	from, to topology.NodeName
}

// network knows which ways are cut. A cut swallows: what was sent before it
// ends arrives afterwards, as TCP sends it again.
type network struct {
	loop    *loop
	cuts    map[way]int // how many faults cut it
	slow    int         // percent on top of the latency
	waiting []func()
}

func (n *network) latency() time.Duration {
	d := n.loop.between(50*time.Microsecond, 400*time.Microsecond)
	if n.loop.draw.IntN(64) == 0 {
		d += n.loop.between(0, 5*time.Millisecond)
	}
	return d + d*time.Duration(n.slow)/100
}

// blocked tells whether nothing gets from one to the other.
func (n *network) blocked(what traffic, from, to topology.NodeName) bool {
	return from != to && n.cuts[way{what, from, to}] > 0
}

func (n *network) cutEither(what traffic, a, b topology.NodeName) bool {
	return n.blocked(what, a, b) || n.blocked(what, b, a)
}

// onHeal tries something again when the network changes.
func (n *network) onHeal(again func()) { n.waiting = append(n.waiting, again) }

// cut adds a cut of some ways and returns what ends it.
func (n *network) cut(ways []way) (heal func()) {
	for _, w := range ways {
		n.cuts[w]++
	}
	return func() {
		for _, w := range ways {
			n.cuts[w]--
		}
		waiting := n.waiting
		n.waiting = nil
		for _, again := range waiting {
			n.loop.later(0, 200*time.Millisecond, again)
		}
	}
}

// around are all ways of some kinds to and from a host.
func around(host topology.NodeName, others []topology.NodeName, kinds ...traffic) []way {
	var ways []way
	for _, k := range kinds {
		for _, o := range others {
			if o != host {
				ways = append(ways, way{k, host, o}, way{k, o, host})
			}
		}
	}
	return ways
}

// between are all ways of some kinds from some hosts to others.
func waysBetween(from, to []topology.NodeName, both bool, kinds ...traffic) []way {
	var ways []way
	for _, k := range kinds {
		for _, a := range from {
			for _, b := range to {
				if a == b || slices.Contains(from, b) {
					continue
				}
				ways = append(ways, way{k, a, b})
				if both {
					ways = append(ways, way{k, b, a})
				}
			}
		}
	}
	return ways
}
