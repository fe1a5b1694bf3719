package cutoff

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/nethost"
)

// cutCase is a cut, and what is to come of it.
type cutCase struct {
	name  string
	drops func(x *trial) []nethost.Drop
	// leads: the primary's node has the leader of etcd, too.
	leads bool
	// causes: the majority fails over for one of these. Without any nobody is moved.
	causes []string
	// within is when the verdict is to be there.
	within time.Duration
	// outage is how long writes may wait where nobody is moved.
	outage time.Duration
	// blind: this process does not reach the primary's node.
	blind bool
	// named is what the primary's evidence names meanwhile: one of these.
	named []string
}

// cutTime is how long cuts last that move nobody: longer than it takes to
// declare anything, or to close the routes of an isolated node.
const cutTime = 4 * time.Second

// run strikes, looks, heals, and looks again.
func (k cutCase) run(t *testing.T) {
	x := newTrial(t, borrow(t))
	if k.leads {
		x.leadEtcd(t, x.primary)
	}
	x.strike(func() func() { return x.cut(t, k.drops(x)...) })
	if len(k.causes) == 0 {
		k.quiet(t, x)
		return
	}
	verdict, ledger := x.failover(t, x.others[0], k.within)
	require.True(t, slices.Contains(k.causes, string(verdict.Cause)) || slices.Contains(k.causes, string(ledger.Cause)),
		"neither for one of %v: %s; %s", k.causes, verdict.Explanation, ledger.Explanation)
	v, _ := x.end(t)
	require.Equal(t, x.epoch+1, v.Epoch, "one failover")
	require.NotEqual(t, x.primary, string(v.Primary.Node))
}

// quiet is for cuts that move nobody.
func (k cutCase) quiet(t *testing.T, x *trial) {
	t.Helper()
	watch := x.others
	if !k.blind {
		watch = append(slices.Clone(watch), x.primary)
	}
	causes, _ := x.unmoved(t, cutTime, watch...)
	t.Logf("causes named: %q", slices.Sorted(maps.Keys(causes)))
	i := slices.IndexFunc(k.named, func(cause string) bool { return causes[cause] != "" })
	require.GreaterOrEqual(t, i, 0, "none of %v", k.named)
	t.Log(causes[k.named[i]])
	v, outage := x.end(t)
	require.Equal(t, x.epoch, v.Epoch, "nobody is moved")
	require.Less(t, outage, k.outage)
}

// TestW3OneWayCut is row W3: packets of one direction are dropped, and the
// majority finds one verdict.
func TestW3OneWayCut(t *testing.T) {
	timeouts := []string{"silent_host", "frozen"}
	for _, k := range []cutCase{
		{
			name: "nothing reaches the primary", within: 3 * time.Second, causes: []string{"cut_off"},
			drops: func(x *trial) []nethost.Drop {
				return x.drops(nethost.Drop{At: x.host(x.primary), In: true}, x.others...)
			},
		},
		{
			name: "nothing reaches the primary, which leads etcd", within: 3 * time.Second, causes: []string{"cut_off"}, leads: true,
			drops: func(x *trial) []nethost.Drop {
				return x.drops(nethost.Drop{At: x.host(x.primary), In: true}, x.others...)
			},
		},
		{
			name: "nothing leaves the primary", within: 3 * time.Second, causes: timeouts,
			drops: func(x *trial) []nethost.Drop {
				return x.drops(nethost.Drop{At: x.host(x.primary), Out: true}, x.others...)
			},
		},
		{
			name: "from the primary to one replica", outage: 4 * time.Second, named: timeouts,
			drops: func(x *trial) []nethost.Drop {
				return x.drops(nethost.Drop{At: x.host(x.others[0]), In: true}, x.primary)
			},
		},
	} {
		t.Run(k.name, k.run)
	}
}

// TestW4PartialCut is row W4: a switch that is half broken. One observer alone
// moves nobody.
func TestW4PartialCut(t *testing.T) {
	timeouts, well := []string{"silent_host", "frozen"}, []string{"alive"}
	for _, k := range []cutCase{
		{
			name: "the third sees neither the primary nor the replica", outage: 4 * time.Second, named: timeouts,
			drops: func(x *trial) []nethost.Drop { return x.apart(x.others[1], x.others[0], x.primary) },
		},
		{
			name: "the primary and a replica, both see the third", outage: 4 * time.Second, named: timeouts,
			drops: func(x *trial) []nethost.Drop { return x.apart(x.others[0], x.primary) },
		},
		{
			name: "the replicas, both see the primary", outage: 4 * time.Second, named: well,
			drops: func(x *trial) []nethost.Drop { return x.apart(x.others[0], x.others[1]) },
		},
	} {
		t.Run(k.name, k.run)
	}
}

// TestW5Ring is row W5: what each node sends reaches one other only, so each has
// another view of who lives, and no connection is whole. There is no quorum for
// anything; healed, there is one primary and at most one failover.
func TestW5Ring(t *testing.T) {
	x := newTrial(t, borrow(t))
	var drops []nethost.Drop
	for i, n := range x.Nodes {
		drops = append(drops, x.drops(nethost.Drop{At: x.host(n.Name), In: true}, x.Nodes[(i+1)%len(x.Nodes)].Name)...)
	}
	x.strike(func() func() { return x.cut(t, drops...) })
	time.Sleep(cutTime)
	v, outage := x.end(t)
	t.Logf("%d failovers; no write for %v", v.Epoch-x.epoch, outage)
	require.LessOrEqual(t, v.Epoch, x.epoch+1)
}

// TestW6OnlyMySQLPortsCut is row W6: the agents see each other, and nobody
// reaches the primary's server from elsewhere, though it answers its own agent.
func TestW6OnlyMySQLPortsCut(t *testing.T) {
	cutCase{
		within: 3 * time.Second, causes: []string{"cut_off"},
		drops: func(x *trial) []nethost.Drop {
			p := x.Nodes[x.index(x.primary)].Ports
			return []nethost.Drop{{At: x.host(x.primary), In: true, Out: true, Ports: []int{p.MySQL, p.MySQLAdmin}}}
		},
	}.run(t)
}

// TestW8OnlyClientsCut is row W8: clients do not reach the primary's node, and
// by the routes of the others they write on.
func TestW8OnlyClientsCut(t *testing.T) {
	cutCase{
		outage: 2 * time.Second, blind: true, named: []string{"alive"},
		drops: func(x *trial) []nethost.Drop {
			return []nethost.Drop{{At: x.host(x.primary), In: true, Out: true, Peer: nethost.Address}}
		},
	}.run(t)
}

// TestG2GossipCut is row G2: evidence gets scarce, and nobody is moved for it.
func TestG2GossipCut(t *testing.T) {
	gossip := func(protocol string) func(x *trial) []nethost.Drop {
		return func(x *trial) (drops []nethost.Drop) {
			var ports []int
			for _, n := range x.Nodes {
				ports = append(ports, n.Ports.Gossip)
			}
			for _, n := range x.Nodes {
				drops = append(drops, nethost.Drop{At: x.host(n.Name), In: true, Ports: ports, Protocol: protocol})
			}
			return drops
		}
	}
	for _, k := range []cutCase{
		// Pings by TCP stand in for those by UDP: whether they do so before somebody
		// is taken for isolated is chance.
		{name: "its UDP", outage: time.Second, named: []string{"isolated", "alive"}, drops: gossip("udp")},
		{name: "all of it", outage: time.Second, named: []string{"isolated"}, drops: gossip("")},
	} {
		t.Run(k.name, k.run)
	}
}
