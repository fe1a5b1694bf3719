package failover

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/internal/topology"
)

// wary is a policy that slows down.
func wary() Policy {
	return Policy{
		Automatic: true, Acks: 1, Expected: 3,
		FlapLimit: 3, FlapCooldown: 10 * time.Second, FlapWindow: time.Hour, RestartGrace: 10 * time.Second, RestartLimit: 3,
	}
}

func flapped(n int, calm time.Duration) func(*View) {
	return func(v *View) { v.State.Unrest, v.Calm = &election.Unrest{Failovers: n, Epoch: 5}, calm }
}

func crashed(ago time.Duration) func(*View) {
	return func(v *View) {
		v.Primary.FirstBad = ago
		v.Primary.Votes = append(v.Primary.Votes, Vote{Observer: "n1", Kind: causeProcessExited, Against: true})
	}
}

func restarts(n int) func(*View) {
	return func(v *View) { v.State.Unrest = &election.Unrest{Restarts: n, Epoch: 5} }
}

func restarted(v *View) {
	closed("n1")(v)
	n := v.Nodes["n1"]
	n.Certified = false
	v.Nodes["n1"] = n
}

// TestFlapping: repeated failovers slow down and then stop, and neither is ever
// in the way of an unfinished operation, or of a primary that is proven dead.
func TestFlapping(t *testing.T) {
	dead := []func(*View){failed, gone("n1")}
	for _, c := range []struct {
		name   string
		change []func(*View)
		policy func(*Policy)
		runs   election.Kind
		closed string // the gate
		reason string
	}{
		{name: "the first", runs: election.Failover},
		{name: "the second, too soon", change: []func(*View){flapped(1, 9*time.Second)}, closed: gateCooled, reason: "was 9s ago (epoch 5): the next waits until it is 10s"},
		{name: "the second, later", change: []func(*View){flapped(1, 10*time.Second)}, runs: election.Failover},
		{name: "the third waits twice as long", change: []func(*View){flapped(2, 19*time.Second)}, closed: gateCooled, reason: "until it is 20s"},
		{name: "the third, later", change: []func(*View){flapped(2, 20*time.Second)}, runs: election.Failover},
		{name: "the fourth", change: []func(*View){flapped(3, 30*time.Minute)}, closed: GateFlapping, reason: "3 failovers (the last in epoch 5)"},
		{name: "the fourth, after a calm window", change: []func(*View){flapped(3, time.Hour)}, runs: election.Failover},
		{name: "too soon, but it is proven dead", change: []func(*View){flapped(1, 0), crashed(time.Second)}, runs: election.Failover},
		{name: "stopped, but it is proven dead", change: []func(*View){flapped(3, 0), crashed(time.Second)}, runs: election.Failover},
		{name: "proven dead a while ago, and on its way up since", change: []func(*View){flapped(3, 0), func(v *View) { v.Crashed = time.Second }}, runs: election.Failover},
		{
			name: "another's word that its process exited proves nothing", closed: GateFlapping,
			change: []func(*View){flapped(3, 0), func(v *View) {
				v.Primary.Votes = []Vote{{Observer: "n2", Kind: causeProcessExited, Against: true}, {Observer: "n1", Kind: causeProcessExited}}
			}},
		},
		{name: "stopped, and an operation is unfinished", change: []func(*View){flapped(3, 0), inOperation(election.Failover, stepRevoke)}, runs: election.Failover},
		{name: "cooling down, and an epoch was left without a primary", change: []func(*View){flapped(1, 0), func(v *View) { v.State.Epoch = 6 }}, runs: election.Failover},
		{name: "no limit", change: []func(*View){flapped(9, 0)}, policy: func(p *Policy) { p.FlapLimit = 0 }, runs: election.Failover},
		{name: "restarts alone are no flapping", change: []func(*View){restarts(9)}, runs: election.Failover},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, p := quietView(append(dead, c.change...)...), wary()
			if c.policy != nil {
				c.policy(&p)
			}
			kind, _, run := decideOperation(v, p)
			require.Equal(t, c.runs != "", run)
			require.Equal(t, c.runs, kind)
			var shut []string
			for _, g := range unrestGates(v, p) {
				if !g.Open {
					shut = append(shut, g.Name)
					require.Contains(t, g.Reason, c.reason)
				}
			}
			if c.closed == "" {
				require.Empty(t, shut)
			} else {
				require.Equal(t, []string{c.closed}, shut)
				require.Contains(t, gatesOf(decideGates(v, p, ""), election.Failover, false), c.closed)
			}
		})
	}
}

func TestCrashPolicy(t *testing.T) {
	patient := func(p *Policy) { p.RestartFirst = true }
	for _, c := range []struct {
		name   string
		change []func(*View)
		policy func(*Policy)
		runs   election.Kind
		cause  string
	}{
		{name: "at once by default", change: []func(*View){mysqldGone("n1"), failed, crashed(time.Millisecond)}, runs: election.Failover},
		{name: "given time", change: []func(*View){mysqldGone("n1"), failed, crashed(time.Second)}, policy: patient},
		{name: "time is over", change: []func(*View){mysqldGone("n1"), failed, crashed(10 * time.Second)}, policy: patient, runs: election.Failover},
		{
			name: "the next process is not up yet", policy: patient,
			change: []func(*View){mysqldGone("n1"), failed, func(v *View) { v.Crashed, v.Primary.FirstBad = 9*time.Second, time.Second }},
		},
		{name: "silent, not crashed", change: []func(*View){gone("n1"), failed}, policy: patient, runs: election.Failover},
		{name: "it crashed twice before", change: []func(*View){mysqldGone("n1"), failed, crashed(time.Second), restarts(2)}, policy: patient, runs: election.Failover},
		{
			name: "an operation is unfinished", policy: patient, runs: election.Failover,
			change: []func(*View){mysqldGone("n1"), failed, crashed(time.Second), inOperation(election.Resume, stepRevoke)},
		},
		{name: "back in place", change: []func(*View){restarted}, policy: patient, runs: election.Resume},
		{name: "back in place, without the policy", change: []func(*View){restarted}, runs: election.Resume},
		{name: "back for the second time", change: []func(*View){restarted, restarts(1)}, runs: election.Resume},
		{name: "back for the third time", change: []func(*View){restarted, restarts(2)}, runs: election.Failover, cause: "n1 has restarted in place 3 times, each within 1h0m0s"},
		{name: "a calm window lies between", change: []func(*View){restarted, restarts(2), func(v *View) { v.Calm = time.Hour }}, runs: election.Resume},
		{name: "nobody else can take over", change: []func(*View){restarted, restarts(2), gone("n2")}, runs: election.Resume},
		{name: "an operator has paused", change: []func(*View){restarted, restarts(2), pausedByOperator}, runs: election.Resume},
		{name: "no limit", change: []func(*View){restarted, restarts(9)}, policy: func(p *Policy) { p.RestartLimit = 0 }, runs: election.Resume},
		{name: "closed by hand is no restart", change: []func(*View){closed("n1"), restarts(2)}, runs: election.Resume},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := wary()
			if c.policy != nil {
				c.policy(&p)
			}
			kind, cause, run := decideOperation(quietView(c.change...), p)
			require.Equal(t, c.runs != "", run)
			require.Equal(t, c.runs, kind)
			require.Contains(t, cause, c.cause)
		})
	}
}

// TestCrashLoopBySites: a server that may not be promoted for want of other
// sites takes over from nobody, so the primary that has come back is opened.
func TestCrashLoopBySites(t *testing.T) {
	for _, c := range []struct {
		name  string
		sites [3]string
		asked int
		runs  election.Kind
	}{
		{"none asked for", [3]string{"a", "b", "b"}, 0, election.Failover},
		{"a candidate has an acker elsewhere", [3]string{"a", "b", "c"}, 1, election.Failover},
		{"both others are in one", [3]string{"a", "b", "b"}, 1, election.Resume},
		{"too few are left", [3]string{"a", "b", "c"}, 2, election.Resume},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := wary()
			p.Sites = c.asked
			v := quietView(restarted, restarts(p.RestartLimit-1), func(v *View) {
				for i, site := range c.sites {
					v.Members[i].Site = site
				}
			})
			kind, _, run := decideOperation(v, p)
			require.True(t, run)
			require.Equal(t, c.runs, kind)
			candidate := slices.ContainsFunc(decideGates(v, p, ""), func(g Gate) bool {
				return g.Operation == election.Failover && g.Name == gateCandidate && g.Open
			})
			require.Equal(t, c.runs == election.Failover, candidate, "it says what the gate says")
		})
	}
}

func TestNextUnrest(t *testing.T) {
	u := func(f, r int, e topology.Epoch) *election.Unrest {
		return &election.Unrest{Failovers: f, Restarts: r, Epoch: e}
	}
	for _, c := range []struct {
		name string
		was  *election.Unrest
		plan Plan
		to   topology.NodeName
		want *election.Unrest
	}{
		{"a failover", nil, Plan{Kind: election.Failover}, "n2", u(1, 0, 9)},
		{"one more", u(1, 0, 7), Plan{Kind: election.Failover}, "n2", u(2, 0, 9)},
		{"one more after a calm window", u(2, 0, 7), Plan{Kind: election.Failover, Calm: time.Hour}, "n2", u(1, 0, 9)},
		{"from one that is proven dead", u(1, 0, 7), Plan{Kind: election.Failover, Proven: true}, "n2", u(1, 0, 7)},
		{"the first from one that is proven dead", nil, Plan{Kind: election.Failover, Proven: true}, "n2", nil},
		{"a failover that ends where it began", u(1, 0, 7), Plan{Kind: election.Failover}, "n1", u(1, 0, 7)},
		{"a restart", nil, Plan{Kind: election.Resume, Restarted: true}, "n1", u(0, 1, 9)},
		{"one more restart", u(1, 1, 7), Plan{Kind: election.Resume, Restarted: true}, "n1", u(1, 2, 9)},
		{"a resume without a restart", u(0, 1, 7), Plan{Kind: election.Resume}, "n1", u(0, 1, 7)},
		{"another server has not restarted", u(1, 2, 7), Plan{Kind: election.Switchover}, "n2", u(1, 0, 7)},
		{"and nothing else was counted", u(0, 2, 7), Plan{Kind: election.Failover, Proven: true}, "n2", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.plan.From, c.plan.Policy = "n1", wary()
			before := c.was
			if before != nil {
				before = u(before.Failovers, before.Restarts, before.Epoch)
			}
			require.Equal(t, c.want, nextUnrest(c.was, c.plan, election.Primary{Node: c.to, Epoch: 9}))
			require.Equal(t, before, c.was, "the record it was made from is as it was")
		})
	}
}

// For how long it has been calm is by what this member saw, never longer.
func TestCalmIsByOwnObservation(t *testing.T) {
	var c calm
	now := time.Now()
	u := &election.Unrest{Failovers: 1, Epoch: 4, Restarts: 0}
	require.Zero(t, c.since(now, u), "an agent that starts has seen no calm")
	require.Equal(t, time.Minute, c.since(now.Add(time.Minute), u))
	u = &election.Unrest{Failovers: 2, Epoch: 6}
	require.Zero(t, c.since(now.Add(2*time.Minute), u))
	require.Equal(t, time.Minute, c.since(now.Add(3*time.Minute), u))
	require.Zero(t, c.since(now.Add(4*time.Minute), nil))

	var k crash
	died := Judgement{Subject: "n1", Verdict: topology.Failed, FirstBad: time.Second, Votes: []Vote{{Observer: "n1", Kind: causeProcessExited, Against: true}}}
	require.Equal(t, time.Second, k.since(now, died))
	starting := Judgement{Subject: "n1", Verdict: topology.Failed, FirstBad: 5 * time.Second}
	require.Equal(t, 5*time.Second, k.since(now.Add(4*time.Second), starting), "it is not forgotten while the next process starts")
	require.Zero(t, k.since(now.Add(5*time.Second), Judgement{Subject: "n1", Verdict: topology.Healthy}))
	require.Zero(t, k.since(now.Add(6*time.Second), starting))
	require.Equal(t, time.Second, k.since(now, died))
	require.Zero(t, k.since(now, Judgement{Subject: "n2", Verdict: topology.Failed}), "another primary has not crashed")
}

// cautious has the cluster slow down.
func cautious(change func(*Policy)) func(*Policy) {
	return func(p *Policy) {
		w := wary()
		p.FlapLimit, p.FlapCooldown, p.FlapWindow, p.RestartGrace, p.RestartLimit = w.FlapLimit, w.FlapCooldown, w.FlapWindow, w.RestartGrace, w.RestartLimit
		change(p)
	}
}

// TestFlappingStopsAndAsks freezes one primary after another: the failovers
// take longer each time, and the fourth waits for an operator, also where
// another leader has come.
func TestFlappingStopsAndAsks(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		for n, least := range []time.Duration{0, 10 * time.Second, 20 * time.Second} {
			old := c.server(c.state().Primary.Node)
			c.fleet.change(func() { old.hung = true })
			began := time.Now()
			c.eventually("another primary", func() bool { s := c.state(); return s.Primary.Node != old.name && c.settled() })
			require.GreaterOrEqual(t, time.Since(began)+time.Second, least, "failover %d", n+1)
			require.Less(t, time.Since(began), least+15*time.Second, "failover %d", n+1)
			require.Equal(t, n+1, c.state().Unrest.Failovers)
			c.fleet.change(func() { old.hung = false })
			c.eventually("the old one follows", c.whole)
		}
		c.lead("a2")
		last := c.server(c.state().Primary.Node)
		c.fleet.change(func() { last.hung = true })
		time.Sleep(2 * time.Minute) // the next wait would be 40 s
		require.Equal(t, last.name, c.state().Primary.Node, "the fourth does not run by itself")
		require.Contains(t, gatesOf(c.agents["a2"].control.Gates(), election.Failover, false), GateFlapping)
		require.NoError(t, c.agents["a2"].control.Resume(t.Context()))
		require.Nil(t, c.state().Unrest)
		c.eventually("another primary", func() bool { s := c.state(); return s.Primary.Node != last.name && c.settled() })
	}, func(c *cluster) { c.policy(cautious(func(*Policy) {})) })
}

// TestCrashesAreNotFlapping kills one primary after another, at once.
func TestCrashesAreNotFlapping(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		for range 6 {
			old := c.server(c.state().Primary.Node)
			old.kill()
			began := time.Now()
			c.eventually("another primary", func() bool { s := c.state(); return s.Primary.Node != old.name && c.settled() })
			require.Less(t, time.Since(began), 5*time.Second)
			old.start(false)
			c.eventually("the old one follows", c.whole)
		}
		require.Nil(t, c.state().Unrest)
	}, func(c *cluster) { c.policy(cautious(func(*Policy) {})) })
}

// TestRestartFirst is row N2: a primary that crashes and comes back in place is
// opened again, if it is still the recorded one; the third time, and when it
// stays away for longer than the grace, another takes over.
func TestRestartFirst(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		first := c.server(c.state().Primary.Node)
		for n := range 2 {
			epoch := c.state().Epoch
			first.kill()
			time.Sleep(4 * time.Second)
			require.Equal(t, epoch, c.state().Epoch, "it is given time")
			require.Contains(t, gatesOf(c.agents["a1"].control.Gates(), election.Failover, false), gateGrace)
			first.start(false)
			c.eventually("it serves again", func() bool { return c.settled() && c.state().Epoch > epoch })
			require.Equal(t, first.name, c.state().Primary.Node)
			require.Equal(t, n+1, c.state().Unrest.Restarts)
			c.eventually("all follow", c.whole)
		}
		first.kill()
		c.eventually("another primary", func() bool { return c.settled() && c.state().Primary.Node != first.name })
		first.start(false)
		c.eventually("all follow", c.whole)
		require.Nil(t, c.state().Unrest)

		second := c.server(c.state().Primary.Node)
		second.kill()
		began := time.Now()
		c.eventually("another primary", func() bool { return c.settled() && c.state().Primary.Node != second.name })
		require.GreaterOrEqual(t, time.Since(began), 10*time.Second, "it was given its grace")
	}, func(c *cluster) { c.policy(cautious(func(p *Policy) { p.RestartFirst = true })) })
}

// TestCrashLoop: a supervisor that is faster than any verdict brings the
// primary back; the third time another takes over.
func TestCrashLoop(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		first := c.server(c.state().Primary.Node)
		for range 2 {
			epoch := c.state().Epoch
			first.kill()
			first.start(false)
			c.eventually("it serves again", func() bool { return c.settled() && c.state().Epoch > epoch })
			require.Equal(t, first.name, c.state().Primary.Node)
			c.eventually("all follow", c.whole)
			time.Sleep(time.Second)
		}
		first.kill()
		first.start(false)
		c.eventually("another primary", func() bool { return c.settled() && c.state().Primary.Node != first.name })
		c.check()
	}, func(c *cluster) { c.policy(cautious(func(*Policy) {})) })
}
