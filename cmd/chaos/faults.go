package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"interrex/failover/api"
)

// kind is a kind of fault.
type kind struct {
	name string
	// needs says what of the machine it takes.
	needs need
	// strike does it, to a cluster that was whole when the round began.
	strike func(ctx context.Context, r *round) (*strike, error)
}

type need int

const (
	nothing need = iota
	hosts        // cuts and links
	disks
	clocks
)

// strike is a fault in force.
type strike struct {
	Kind   string `json:"kind"`
	Detail string `json:"detail"`
	// Missed: what it was to strike did not come, and so it is no fault. What it
	// has done to bring that about it has done.
	Missed bool `json:"missed,omitempty"`
	// heal takes it back; nil where there is nothing to take back.
	heal func(context.Context) error
}

// errUnfit: the fault makes no sense beside the other one of the round.
var errUnfit = errors.New("another fault has hold of it")

// round is one round of the run.
type round struct {
	c      *cluster
	rng    *rand.Rand
	view   api.Cluster     // before the first strike
	struck map[string]bool // what a strike has hold of, such as mysqld@db1
	limit  time.Duration   // for the cluster to be whole again
}

// kinds are all kinds of faults.
func kinds() []kind {
	return slices.Concat(processFaults(), agentFaults(), etcdFaults(), networkFaults(), diskFaults(), clockFaults())
}

// take claims a part of a node for a strike.
func (r *round) take(part string, n *node) error {
	key := part + "@" + n.Name
	if r.struck[key] {
		return fmt.Errorf("%s: %w", key, errUnfit)
	}
	r.struck[key] = true
	return nil
}

func (r *round) primary() *node { return r.c.node(string(r.view.Primary.Node)) }
func (r *round) leader() *node  { return r.c.node(string(r.view.Leader)) }
func (r *round) any() *node     { return r.c.nodes[r.rng.IntN(len(r.c.nodes))] }
func (r *round) replica() *node { return r.others(r.primary())[0] }

// others are the other nodes, in any order.
func (r *round) others(than *node) []*node {
	others := slices.DeleteFunc(slices.Clone(r.c.nodes), func(n *node) bool { return n == than })
	r.rng.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	return others
}

// between is a random time.
func (r *round) between(from, to time.Duration) time.Duration {
	return from + time.Duration(r.rng.Int64N(int64(to-from)))
}

// hold is for how long faults stay: mostly some seconds, now and then longer
// than reads may be stale.
func (r *round) hold() time.Duration {
	if r.rng.IntN(8) == 0 {
		return r.between(8*time.Second, 20*time.Second)
	}
	return r.between(500*time.Millisecond, 6*time.Second)
}

// names are nodes in words.
func names(nodes []*node) string {
	var list []string
	for _, n := range nodes {
		list = append(list, n.Name)
	}
	return strings.Join(list, ", ")
}

// on makes a fault of one node.
func on(choose func(*round) *node, strikeAt func(context.Context, *round, *node) (*strike, error)) func(context.Context, *round) (*strike, error) {
	return func(ctx context.Context, r *round) (*strike, error) { return strikeAt(ctx, r, choose(r)) }
}
