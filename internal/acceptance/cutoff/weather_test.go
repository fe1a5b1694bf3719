package cutoff

import (
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/failover/api"
	"interrex/internal/nethost"
	"interrex/internal/topology"
)

// loses has that many percent of the packets lost, each way between any two
// hosts, clients among them.
func (c *cluster) loses(percent int) (drops []nethost.Drop) {
	for _, n := range c.Nodes {
		drops = append(drops,
			nethost.Drop{At: c.host(n.Name), In: true, Percent: percent},
			nethost.Drop{At: c.host(n.Name), Out: true, Peer: nethost.Address, Percent: percent})
	}
	return drops
}

// late has packets late by that much more or less, each way between any two of
// the nodes, and by half of it to clients and back.
func (c *cluster) late(mean, jitter time.Duration, reorder bool) (delays []nethost.Delay) {
	for _, n := range c.Nodes {
		delays = append(delays, nethost.Delay{At: c.host(n.Name), Mean: mean / 2, Jitter: jitter / 2, Reorder: reorder})
	}
	return delays
}

// configure appends to the configuration of every agent and starts each again.
func (c *cluster) configure(t *testing.T, text string) {
	t.Helper()
	for _, n := range c.Nodes {
		old, err := os.ReadFile(n.AgentConfigFile())
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(n.AgentConfigFile(), append(old, text...), 0o600))
		require.NoError(t, c.StopAgent(t.Context(), n.Name))
		require.NoError(t, c.StartAgent(t.Context(), n.Name))
	}
	c.whole(t)
}

// weather is a network that is bad for all.
type weather struct {
	name    string
	percent int
	late    time.Duration
	reorder bool
	// outage is how long writes may wait.
	outage time.Duration
	// quorum is for which part of its length etcd's must have been in reach: else
	// nobody is moved since nobody can be. The weather stays until it was.
	quorum float64
	// dies: after a few seconds the primary's host is gone, and must be declared
	// within that time.
	dies time.Duration
	// soak: only if asked for a longer time than tests have.
	soak bool
}

func (w weather) length() time.Duration {
	if w.dies > 0 {
		return 8 * time.Second
	}
	return *noise
}

// runAll runs each, in the order of the list, until one fails: what follows would
// have another cluster, as it is by default.
func runAll(t *testing.T, list ...weather) {
	for _, w := range list {
		if (!w.soak || *noise > noiseInTests) && !t.Run(w.name, w.run) {
			return
		}
	}
}

func (w weather) run(t *testing.T) {
	x := newTrial(t, borrow(t))
	x.strike(func() func() {
		if w.percent > 0 {
			return x.cut(t, x.loses(w.percent)...)
		}
		return x.delay(t, x.late(w.late, w.late/4, w.reorder)...)
	})
	before := x.load.Acknowledged()
	for end, had := w.length(), 0.0; ; end += w.length() {
		_, quorum := x.unmoved(t, end, append(x.others, x.primary)...)
		t.Logf("%.0f rows a second until %v; etcd's quorum was there in %.0f %% of the last looks",
			float64(x.load.Acknowledged()-before)/time.Since(x.began).Seconds(), end, 100*quorum)
		// A connection that broke may take etcd five seconds to replace.
		if had += quorum; had >= w.quorum {
			break
		}
		require.Less(t, end, 4*w.length(), "etcd has no quorum")
	}
	for _, n := range x.Nodes {
		x.tell(t, n.Name)
	}
	epoch := x.epoch
	if w.dies > 0 {
		epoch++
		x.dies(t, w.dies)
	}
	v, outage := x.end(t)
	require.Equal(t, epoch, v.Epoch)
	require.Less(t, outage, w.outage)
}

// dies has the primary's host gone for the others, in the weather that there is.
func (x *trial) dies(t *testing.T, within time.Duration) {
	t.Helper()
	clear := x.heal
	x.strike(func() func() {
		heal := x.cut(t, x.apart(x.primary, x.others...)...)
		return func() { heal(); clear() }
	})
	x.failover(t, x.others[0], within)
}

// tell logs how often a node suspected the primary since the fault.
func (x *trial) tell(t *testing.T, by string) {
	t.Helper()
	var list api.DecisionList
	await(t, by+"'s decisions, over this network", func() (bool, string) {
		_, text, err := x.get(by, "/api/v1/decisions?limit=1000")
		return err == nil && json.Unmarshal([]byte(text), &list) == nil, fmt.Sprint(text, err)
	})
	count, times, worst := 0, 0, ""
	for _, d := range list.Decisions {
		lasted := time.Duration(d.LastMS * float64(time.Millisecond))
		if string(d.Subject) != x.primary || d.BeganAt.Add(lasted).Before(x.began) {
			continue
		}
		count++
		times += d.Times
		if d.Evidence.Verdict == topology.Failed || worst == "" {
			worst = fmt.Sprintf("%s %s: %s", d.Subject, d.Outcome, d.Evidence.Explanation)
		}
	}
	t.Logf("%s: %d episodes of suspicion, %d times; %s", by, count, times, worst)
}

// TestW9BadNetwork is row W9 as the profile for members near each other has it.
// It is made for 5 % of the packets lost (make soak: for half an hour). With 20 %
// a connection takes longer to be made than a probe may, commits starve, and the
// primary may be failed over within a minute: that is what wan is for. With
// packets that are very late it is quiet, but has no quorum of etcd to act with.
func TestW9BadNetwork(t *testing.T) {
	runAll(t,
		weather{name: "5 % of the packets are lost", percent: 5, quorum: 0.9, outage: 5 * time.Second},
		weather{name: "packets are 200 ms late", late: 200 * time.Millisecond, outage: 10 * time.Second})
}

// TestW9BadNetworkOfRegions is row W9 as the profile for members far from each
// other has it: a fifth of the packets is lost, or they are late, and then a
// primary that is gone is failed over.
func TestW9BadNetworkOfRegions(t *testing.T) {
	c := borrow(t)
	t.Cleanup(func() {
		if !t.Failed() {
			endShared(t)
		}
	})
	c.configure(t, "detection:\n  profile: wan\n")
	runAll(t,
		weather{name: "20 % of the packets are lost", percent: 20, quorum: 0.5, outage: 10 * time.Second},
		weather{name: "packets are 100 ms late and overtake each other", late: 100 * time.Millisecond, reorder: true, quorum: 0.5, dies: 10 * time.Second, outage: 20 * time.Second},
		weather{name: "packets are 200 ms late", late: 200 * time.Millisecond, outage: 10 * time.Second, soak: true})
}
