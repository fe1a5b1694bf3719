package failover

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
	"interrex/internal/topology"
	"interrex/router"
)

// TestOutlook: only who sees neither etcd nor a majority for long enough is
// isolated (I9), and comes back where it knows that its record is the newest.
func TestOutlook(t *testing.T) {
	const after = 3 * time.Second
	alone, some, all, etcd := sighted{seen: 1, members: 3}, sighted{seen: 2, members: 3}, sighted{seen: 3, members: 3}, sighted{etcd: true, seen: 1, members: 3}
	told, newer := sighted{seen: 2, members: 3, told: 2}, sighted{seen: 2, members: 3, told: 2, newer: true}
	half := sighted{seen: 2, members: 4}
	type at struct {
		after time.Duration
		sighted
	}
	const step = 500 * time.Millisecond
	many := func(n int, s sighted) (list []at) {
		for range n {
			list = append(list, at{step, s})
		}
		return list
	}
	join := func(lists ...[]at) (all []at) {
		for _, l := range lists {
			all = append(all, l...)
		}
		return all
	}
	for _, c := range []struct {
		name  string
		looks []at
		want  bool
	}{
		{"all are seen", many(20, all), false},
		{"etcd is gone, a majority is seen", many(20, some), false},
		{"nobody is heard, etcd answers", many(20, etcd), false},
		{"alone, not yet for long enough", many(6, alone), false},
		{"alone for long enough", many(7, alone), true},
		{"half is no majority", many(7, half), true},
		{"seen in between", join(many(5, alone), many(1, some), many(6, alone)), false},
		{"this process did not run", join(many(2, alone), []at{{10 * time.Second, alone}}, many(5, alone)), false},
		{"and then it did", join(many(2, alone), []at{{10 * time.Second, alone}}, many(6, alone)), true},
		{"back: etcd answers", join(many(7, alone), many(1, etcd)), false},
		{"back: a majority, nobody knows better", join(many(7, alone), many(1, told)), false},
		{"a majority that has not said what it knows", join(many(7, alone), many(3, some)), true},
		{"a majority of which less than a majority has", join(many(7, alone), many(3, sighted{seen: 3, members: 4, told: 2})), true},
		{"a majority that knows of a higher epoch", join(many(7, alone), many(3, newer)), true},
		{"and etcd then", join(many(7, alone), many(3, newer), []at{{step, sighted{etcd: true, seen: 2, members: 3, told: 2, newer: true}}}), false},
		{"a higher epoch isolates nobody", many(20, newer), false},
		{"a late look ends no isolation", join(many(7, alone), []at{{10 * time.Second, alone}}), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var o outlook
			now, got := time.Now(), false
			for _, l := range c.looks {
				now = now.Add(l.after)
				got = o.look(now, l.sighted, after)
			}
			require.Equal(t, c.want, got)
		})
	}
	var o outlook
	now := time.Now()
	for range 100 {
		now = now.Add(step)
		require.False(t, o.look(now, alone, 0), "a member that is not told when, never is")
	}
}

func TestSight(t *testing.T) {
	heard := map[topology.NodeName]time.Duration{"n1": -1, "n2": -1, "n3": -1}
	look := Sight{Within: time.Second, Heard: func(n topology.NodeName) time.Duration { return heard[n] }}
	v := quietView(gone("n2"), gone("n3"), func(v *View) { v.Self, v.EtcdReachable = "n1", false })
	require.Equal(t, sighted{seen: 1, members: 3, told: 1}, sightOf(v, look), "itself")
	heard["n2"] = 900 * time.Millisecond
	require.Equal(t, sighted{seen: 2, members: 3, told: 1}, sightOf(v, look), "by gossip: it has said nothing")
	heard["n2"] = 2 * time.Second
	require.Equal(t, sighted{seen: 1, members: 3, told: 1}, sightOf(v, look), "too long ago")
	v = quietView(gone("n3"), func(v *View) { v.Self, v.EtcdReachable = "n1", false })
	require.Equal(t, sighted{seen: 2, members: 3, told: 2}, sightOf(v, look), "it answers")
	n2 := v.Nodes["n2"]
	promised, route := n2.Promised, n2.Route
	n2.Promised, n2.Route = 0, router.Route{}
	v.Nodes["n2"] = n2
	require.Equal(t, sighted{seen: 2, members: 3, told: 1}, sightOf(v, look), "it was started since and knows nothing")
	n2.Promised, n2.Route = promised, route
	n2.Promised = 6
	v.Nodes["n2"] = n2
	require.True(t, sightOf(v, look).newer)
	own := v.Nodes["n1"]
	own.Route.Epoch = 6
	v.Nodes["n1"] = own
	require.False(t, sightOf(v, look).newer, "it has told us")
}

// Reads are limited from the last sign of the others on, not from when it was
// noticed that there are none; a majority with a newer history renews nothing.
func TestIsolatedSinceTheLastSign(t *testing.T) {
	var o outlook
	now := time.Now()
	sign := now.Add(-2 * time.Second)
	for range 7 {
		now = now.Add(500 * time.Millisecond)
		o.look(now, sighted{seen: 1, members: 3, last: sign}, 3*time.Second)
	}
	require.True(t, o.isolated)
	o.look(now, sighted{seen: 2, members: 3, told: 2, newer: true, last: now}, 3*time.Second)
	i := isolationOf(now, o, sighted{}, Sight{ReadLimit: 5 * time.Second})
	require.Equal(t, now.Sub(sign), i.For)
	require.False(t, i.Reads)
	require.Equal(t, 3*time.Second, isolationOf(now, outlook{blind: now.Add(-3 * time.Second)}, sighted{}, Sight{}).For, "who never saw anybody")
}

// The last sign is of etcd's quorum, or of as many members as make a majority
// with the own one.
func TestLastSign(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		now := time.Now()
		w := NewWatcher("n1", c.agents["n1"].registry, nil, nil, 0)
		heard := map[topology.NodeName]time.Duration{"n1": 0, "n2": 9 * time.Second, "n3": -1, "a1": time.Second, "a2": -1}
		w.sight.Heard = func(name topology.NodeName) time.Duration { return heard[name] }
		require.Len(t, w.reg.Members(), 5)
		require.Equal(t, now.Add(-9*time.Second), w.lastSign(now))
		w.answered["n3"] = now.Add(-3 * time.Second)
		require.Equal(t, now.Add(-3*time.Second), w.lastSign(now))
		w.quorum = now.Add(-2 * time.Second)
		require.Equal(t, now.Add(-2*time.Second), w.lastSign(now))
		w.quorum = now.Add(-4 * time.Second)
		require.Equal(t, now.Add(-3*time.Second), w.lastSign(now))
	})
}

func TestIsolatedReads(t *testing.T) {
	own := []router.Backend{{Node: "n1", Address: "127.0.0.1:3301"}}
	for _, c := range []struct {
		name  string
		limit time.Duration
		blind time.Duration
		unfit time.Duration
		give  func(*View)
		want  []router.Backend
	}{
		{name: "within the limit", limit: 10 * time.Second, blind: 9 * time.Second, want: own},
		{name: "after it", limit: 10 * time.Second, blind: 10 * time.Second},
		{name: "no limit", limit: -1, blind: time.Hour, want: own},
		{name: "was far behind", limit: -1, blind: time.Second, give: with("n1", func(_ *NodeStatus, st *dbrepl.Status) {
			st.Source = &dbrepl.SourceStatus{Unapplied: 9, Lag: 6 * time.Second}
		})},
		{name: "was level", limit: -1, blind: time.Second, want: own, give: with("n1", func(_ *NodeStatus, st *dbrepl.Status) { st.Source = &dbrepl.SourceStatus{} })},
		{name: "had not heard of its source", limit: -1, blind: 3 * time.Second, give: with("n1", func(_ *NodeStatus, st *dbrepl.Status) {
			st.Source = &dbrepl.SourceStatus{HeartbeatAge: 9 * time.Second}
		})},
		{name: "had just heard of its source", limit: -1, blind: time.Minute, want: own, give: with("n1", func(_ *NodeStatus, st *dbrepl.Status) {
			st.Source = &dbrepl.SourceStatus{HeartbeatAge: 61 * time.Second}
		})},
		{name: "was fit until the others were lost", limit: -1, blind: time.Minute, unfit: time.Minute + 500*time.Millisecond, want: own},
		{name: "was not fit then", limit: -1, blind: time.Minute, unfit: time.Hour},
		{name: "the server is gone", limit: -1, blind: time.Second, give: mysqldGone("n1")},
		{name: "no word of the own server", limit: -1, blind: time.Second, give: func(v *View) { delete(v.Nodes, "n1") }},
		{name: "being rebuilt", limit: -1, blind: time.Second, give: with("n1", func(s *NodeStatus, _ *dbrepl.Status) { s.Rebuild = &RebuildProgress{Stage: "clone"} })},
		{name: "a server with errant transactions", limit: -1, blind: time.Second, give: with("n1", func(s *NodeStatus, _ *dbrepl.Status) { set := gtids("1:9"); s.Errant = &set })},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := quietView(func(v *View) { v.Self = "n1" })
			if c.give != nil {
				c.give(&v)
			}
			now := time.Now()
			v.Isolated = isolationOf(now, outlook{seen: now.Add(-c.blind)}, sighted{seen: 1, members: 3}, Sight{ReadLimit: c.limit})
			require.Equal(t, c.want, isolatedReads(v, 5*time.Second, c.unfit))
		})
	}
}

// seeing has every member find out when it is isolated.
func seeing(c *cluster) {
	for _, a := range c.agents {
		a.watcher.Sees(Sight{Within: time.Second, After: 3 * time.Second, ReadLimit: 10 * time.Second})
	}
}

// TestIsolatedPrimaryClosesItsRoutes: the routes of a node that is cut off close,
// reads end after their limit, and all of it is undone when it is back; in an
// outage of etcd alone nothing closes.
func TestIsolatedPrimaryClosesItsRoutes(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		primary := c.state().Primary.Node
		a := c.agents[primary]
		open := func() bool { return a.table.Current().Phase == router.Open }
		c.eventually("open routes", open)

		c.store.mu.Lock()
		c.store.down = true
		c.store.mu.Unlock()
		for range 60 {
			time.Sleep(time.Second)
			for _, o := range c.agents {
				require.Equal(t, router.Open, o.table.Current().Phase, "etcd's outage closes nothing on %s", o.member.Name)
			}
		}
		c.store.mu.Lock()
		c.store.down = false
		c.store.mu.Unlock()

		c.reach(primary, false)
		began := time.Now()
		c.eventually("closed routes", func() bool { return !open() })
		require.Less(t, time.Since(began), 6*time.Second)
		r := a.table.Current()
		require.Nil(t, r.Primary)
		require.Contains(t, r.Reason, "isolated")
		require.Equal(t, []router.Backend{{Node: primary, Address: c.server(primary).address}}, r.Replicas, "reads go on")
		require.Equal(t, router.Open, c.agents["a1"].table.Current().Phase, "the others are not isolated")
		c.eventually("no more reads", func() bool { return len(a.table.Current().Replicas) == 0 })
		require.InDelta(t, 10, time.Since(began).Seconds(), 2.5)
		require.Equal(t, []topology.NodeName{primary}, c.writable(), "the server itself is left alone")

		c.reach(primary, true)
		began = time.Now()
		c.eventually("open routes", open)
		require.Less(t, time.Since(began), 3*time.Second)
		require.Equal(t, primary, a.table.Current().Primary.Node)
	}, seeing, func(c *cluster) { c.policy(func(p *Policy) { p.Automatic = false }) })
}

// TestIsolatedPrimaryComesBackToANewerEpoch: it opens to the new primary, and
// never to itself, also while gossip hears the others and nobody has answered.
func TestIsolatedPrimaryComesBackToANewerEpoch(t *testing.T) {
	var gossip atomic.Bool // hears everybody
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		primary := c.state().Primary.Node
		a := c.agents[primary]
		c.reach(primary, false)
		c.eventually("closed routes", func() bool { return a.table.Current().Phase == router.Closed })
		changed, cancel := a.table.Subscribe()
		defer cancel()
		wrong := make(chan router.Route, 100)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-changed:
					if r := a.table.Current(); r.Phase == router.Open && r.Primary.Node == primary {
						wrong <- r
					}
				}
			}
		}()
		c.judge(primary, true)
		c.eventually("another primary", func() bool { return c.state().Primary.Node != primary && c.state().Operation == nil })
		c.judge(primary, false)
		time.Sleep(5 * time.Second)
		require.Equal(t, router.Closed, a.table.Current().Phase)
		gossip.Store(true)
		time.Sleep(5 * time.Second)
		require.Equal(t, router.Closed, a.table.Current().Phase, "nobody has said which epoch it is")
		c.reach(primary, true)
		c.eventually("routes to the new primary", func() bool {
			r := a.table.Current()
			return r.Phase == router.Open && r.Primary.Node == c.state().Primary.Node
		})
		require.Empty(t, wrong, "its routes never led to itself again")
		c.check()
	}, func(c *cluster) {
		for _, a := range c.agents {
			a.watcher.Sees(Sight{Within: time.Second, After: 3 * time.Second, ReadLimit: 10 * time.Second, Heard: func(topology.NodeName) time.Duration {
				if gossip.Load() {
					return 0
				}
				return -1
			}})
		}
	})
}
