package failover

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/topology"
)

// registerFits tells whether the register says what the primary's server does:
// every instance that could acknowledge is in it, and it waits for k.
func (c *cluster) registerFits() string {
	s := c.state()
	c.fleet.mu.Lock()
	defer c.fleet.mu.Unlock()
	p := c.fleet.servers[s.Primary.Node]
	if !p.alive() || p.superRO {
		return ""
	}
	for name, server := range c.fleet.servers {
		if server.acker && server.connected() && server.source == p && !s.Register.Has(name) {
			return string(name) + " acknowledges and is not registered"
		}
	}
	if s.Register.K > 0 && (!p.armed || p.k < s.Register.K) {
		return "the primary waits for fewer than the register says"
	}
	return ""
}

func (c *cluster) shutsOut(primary, node topology.NodeName) bool {
	c.fleet.mu.Lock()
	defer c.fleet.mu.Unlock()
	return c.fleet.servers[primary].shut[userOf(node)]
}

func (c *cluster) connected(node topology.NodeName) bool {
	c.fleet.mu.Lock()
	defer c.fleet.mu.Unlock()
	return c.fleet.servers[node].connected()
}

// watchRegister asserts at every event that the register holds what it says.
func (c *cluster) watchRegister() {
	c.hook(func(e event) error {
		if e.what != "record" && e.what != "promote" { // between the two the new primary is not open
			require.Empty(c.t, c.registerFits(), "%s\n%+v\n%s", e, c.state().Register, c.describe())
		}
		return nil
	})
}

// One node after another dies, with time between: each failover needs only
// those that were left.
func TestSurvivesItsNodesOneAfterAnother(t *testing.T) {
	withCluster(t, 4, func(t *testing.T, c *cluster) {
		c.watchRegister()
		stop := c.clients()
		defer stop()
		alive := []topology.NodeName{"n1", "n2", "n3", "n4"}
		for len(alive) > 2 {
			dead := c.state().Primary.Node
			if len(alive) == 4 {
				dead = alive[slices.IndexFunc(alive, func(n topology.NodeName) bool { return n != dead })] // an acker
			}
			c.server(dead).kill()
			c.reach(dead, false)
			alive = slices.DeleteFunc(alive, func(n topology.NodeName) bool { return n == dead })
			c.eventually(string(dead)+" is no acker any more", func() bool {
				return c.settled() && c.state().Primary.Node != dead && !c.state().Register.Has(dead)
			})
		}
		c.check()
		c.hook(nil)
	})
}

// An acker that was judged gone lives, and goes on acknowledging as long as it
// can: it cannot when it leaves the register.
func TestAckerThatOnlySeemedGone(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.watchRegister()
		stop := c.clients()
		defer stop()
		c.reach("n3", false) // its agent is cut off, its server is not
		c.eventually("n3 is dropped", func() bool { return !c.state().Register.Has("n3") })
		require.True(t, c.shutsOut("n1", "n3"))
		require.Equal(t, []topology.NodeName{"n3"}, c.state().Register.Shut)
		// What n3 alone had acknowledged is on n2: it is enough for a proof.
		c.server("n1").kill()
		c.reach("n1", false)
		c.reach("n3", true) // proves nothing, and can follow
		c.eventually("n2 is promoted", func() bool { return c.settled() && c.state().Primary.Node == "n2" })
		c.check()
		c.eventually("n3 is back", func() bool { return c.state().Register.Has("n3") && c.certified() })
		// n1 comes back and is made primary: its server still shuts n3 out.
		c.server("n1").start(false)
		c.reach("n1", true)
		c.eventually("n1 is back", func() bool { return c.state().Register.Has("n1") && c.certified() })
		require.True(t, c.shutsOut("n1", "n3"))
		time.Sleep(time.Second)
		_, err := c.agents["a1"].control.Switchover(t.Context(), "n1")
		require.NoError(t, err)
		c.eventually("n3 receives from n1", func() bool { return len(c.state().Register.Ackers) == 2 && !c.shutsOut("n1", "n3") })
		c.check()
		c.hook(nil)
	})
}

// One that is shut out comes back by the same way as a new one: it receives,
// catches up, and is registered before it acknowledges.
func TestShutOutAckerComesBack(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.watchRegister()
		stop := c.clients()
		defer stop()
		c.server("n3").kill()
		c.eventually("n3 is dropped", func() bool { return !c.state().Register.Has("n3") })
		c.fleet.change(func() { c.fleet.servers["n3"].held = true })
		c.server("n3").start(true)
		c.eventually("n3 receives", func() bool { return len(c.state().Register.Shut) == 0 })
		c.fleet.change(func() { c.fleet.servers["n3"].held = false })
		c.eventually("n3 is an acker", func() bool { return c.state().Register.Has("n3") && c.certified() })
		c.check()
		c.hook(nil)
	})
}

// It returns while it is being shut out, at each step: it is an acker in the
// end, and nothing it acknowledged is lost.
func TestAckerReturnsWhileItIsDropped(t *testing.T) {
	for _, at := range []struct {
		what  string
		after bool
	}{{"obey", false}, {"obey", true}, {"change", false}, {"change", true}} {
		withCluster(t, 3, func(t *testing.T, c *cluster) {
			var returned atomic.Bool
			c.rawHook(func(e event) error {
				if e.what == at.what && e.after == at.after && len(c.state().Register.Shut) > 0 && returned.CompareAndSwap(false, true) {
					c.reach("n3", true)
				}
				return nil
			})
			stop := c.clients()
			defer stop()
			c.reach("n3", false)
			c.eventually("n3 returned", returned.Load)
			c.eventually("n3 is an acker", func() bool {
				s := c.state()
				return s.Register.Has("n3") && len(s.Register.Shut) == 0 && c.certified() && c.connected("n3")
			})
			require.Empty(t, c.registerFits())
			c.rawHook(nil)
			c.server("n1").kill()
			c.check()
		})
	}
}

// A leader dies in the middle of dropping: the next one goes on, whatever the
// primary has done of it.
func TestLeaderDiesWhileAnAckerIsDropped(t *testing.T) {
	for _, after := range []bool{false, true} {
		withCluster(t, 3, func(t *testing.T, c *cluster) {
			var died atomic.Bool
			c.rawHook(func(e event) error {
				if e.what == "obey" && e.after == after && len(c.state().Register.Shut) > 0 && died.CompareAndSwap(false, true) {
					c.agents["a1"].stop()
					c.lead("a2")
					return errors.New("nobody hears the answer")
				}
				return nil
			})
			c.server("n3").kill()
			c.eventually("n3 is dropped", func() bool { return died.Load() && !c.state().Register.Has("n3") })
			require.Empty(t, c.registerFits())
			c.rawHook(nil)
			c.server("n1").kill()
			c.server("n3").start(true) // proves nothing, and can follow
			c.eventually("n2 is promoted", func() bool { return c.state().Primary.Node == "n2" })
		})
	}
}

// The primary dies while an acker is dropped, before and after the record says
// so: what was acknowledged by that one alone is not lost.
func TestPrimaryDiesWhileAnAckerIsDropped(t *testing.T) {
	for _, what := range []string{"obey", "change"} {
		for _, after := range []bool{false, true} {
			withCluster(t, 3, func(t *testing.T, c *cluster) {
				var died atomic.Bool
				c.rawHook(func(e event) error {
					if e.what == what && e.after == after && len(c.state().Register.Shut) > 0 && died.CompareAndSwap(false, true) {
						c.server("n1").kill()
					}
					return nil
				})
				stop := c.clients()
				defer stop()
				// n2 gets nothing for a while: n3 alone acknowledges.
				c.fleet.change(func() { c.fleet.servers["n2"].stalled = true })
				c.reach("n3", false)
				time.Sleep(15 * time.Second)
				require.True(t, c.state().Register.Has("n3"), "n2 does not hold what n3 acknowledged")
				c.fleet.change(func() { c.fleet.servers["n2"].stalled = false })
				c.eventually("n1 died", died.Load)
				c.rawHook(nil)
				time.Sleep(5 * time.Second)
				c.reach("n3", true)
				c.check()
			})
		}
	}
}

// auto: k follows the ackers that are left, down and up.
func TestAcksFollowTheAckers(t *testing.T) {
	withCluster(t, 5, func(t *testing.T, c *cluster) {
		c.watchRegister()
		stop := c.clients()
		defer stop()
		c.eventually("k is half of the instances", func() bool { return c.state().Register.K == 2 })
		for _, n := range []topology.NodeName{"n3", "n4", "n5"} {
			c.server(n).kill()
		}
		c.eventually("one acker is left", func() bool { return c.state().Register.K == 1 && len(c.state().Register.Ackers) == 1 })
		for _, n := range []topology.NodeName{"n3", "n4", "n5"} {
			c.server(n).start(true)
		}
		c.eventually("all are back", func() bool { return c.state().Register.K == 2 && len(c.state().Register.Ackers) == 4 && c.certified() })
		c.hook(nil)
		c.server("n1").kill()
		c.server("n2").kill()
		c.check()
	}, acks(0))
}

// The last acker is gone: writes wait, or the record says first that they do
// not.
func TestLastAckerGone(t *testing.T) {
	degrade := func(c *cluster) { c.policy(func(p *Policy) { p.Acks, p.Degrade = 0, true }) }
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.watchRegister()
		c.server("n2").kill()
		c.server("n3").kill()
		answer := make(chan error, 1)
		go func() { answer <- c.commitBy("n1", time.Hour) }()
		time.Sleep(9 * time.Second)
		require.Empty(t, answer)
		require.NoError(t, <-answer)
		s := c.state()
		require.NotNil(t, s.Degraded)
		require.Zero(t, s.Register.K)
		c.server("n2").start(false)
		c.eventually("lossless again", func() bool { return c.state().Degraded == nil && c.state().Register.K == 1 })
		c.eventually("n3 is dropped", func() bool { return !c.state().Register.Has("n3") })
		c.hook(nil)
		c.server("n1").kill()
		c.eventually("n2 is promoted, alone", func() bool { return c.settled() && c.state().Primary.Node == "n2" })
		c.check()
		require.NotNil(t, c.state().Degraded, "it has nobody to acknowledge")
	}, degrade)
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.server("n2").kill()
		c.server("n3").kill()
		c.eventually("degraded", func() bool { return c.state().Degraded != nil })
		require.NoError(t, c.commitBy("n1", time.Hour))
		c.server("n1").kill()
		c.server("n2").start(false)
		c.server("n3").start(false)
		time.Sleep(time.Minute)
		require.Equal(t, topology.NodeName("n1"), c.state().Primary.Node, "what n1 answered is nowhere else: nothing is proven")
		c.server("n1").start(false)
		c.check()
		c.eventually("lossless again", func() bool { return c.state().Degraded == nil && c.state().Register.K == 1 })
	}, degrade)
}

func TestDecideRegister(t *testing.T) {
	gone := func(names ...topology.NodeName) func(topology.NodeName) bool {
		return func(n topology.NodeName) bool { return slices.Contains(names, n) }
	}
	view := func(change func(*election.State)) View {
		v := quietView()
		for i, m := range v.Members {
			if m.HasInstance() {
				v.Members[i].ReplicationUser = userOf(m.Name)
			}
		}
		for name, n := range v.Nodes {
			if n.Instance != nil && name != v.State.Primary.Node {
				v.Nodes[name] = n
				n.Instance.SemiSync = dbrepl.SemiSync{ReplicaEnabled: true, ReplicaActive: true}
			}
		}
		v.State.Register.Accounts = map[topology.NodeName][]string{}
		for _, n := range v.State.Register.Ackers {
			v.State.Register.Accounts[n] = []string{userOf(n)}
		}
		if change != nil {
			change(&v.State)
		}
		return v
	}
	reg := view(nil).State.Register
	first, second := reg.Ackers[0], reg.Ackers[1]
	for _, c := range []struct {
		name      string
		change    func(*election.State)
		policy    Policy
		gone      []topology.NodeName
		filtered  []topology.NodeName
		what      string
		obeyFirst bool
	}{
		{name: "nothing is amiss", policy: Policy{Acks: 1}},
		{name: "one is gone", policy: Policy{Acks: 1}, gone: []topology.NodeName{first}, what: "it is to be shut out"},
		{name: "one leaves out a part of what it receives (M11)", policy: Policy{Acks: 1}, filtered: []topology.NodeName{first}, what: "is inadmissible: it is filtered: it is to be shut out"},
		{name: "both do: writes wait for them all the same", policy: Policy{Degrade: true}, filtered: []topology.NodeName{first, second}},
		{
			name: "it was shut out and does no longer", policy: Policy{Acks: 1}, what: "it stays an acker",
			change: func(s *election.State) { s.Register.Shut = []topology.NodeName{first} },
		},
		{
			name: "it was shut out and still does", policy: Policy{Acks: 1}, filtered: []topology.NodeName{first}, what: "no acker any more", obeyFirst: true,
			change: func(s *election.State) { s.Register.Shut = []topology.NodeName{first} },
		},
		{name: "both are gone: no proof would be had by it", policy: Policy{Acks: 1}, gone: []topology.NodeName{first, second}},
		{
			name: "it shares its account", policy: Policy{Acks: 1}, gone: []topology.NodeName{first},
			change: func(s *election.State) {
				s.Register.Accounts[first] = append(s.Register.Accounts[first], userOf(second))
			},
		},
		{
			name: "it is shut out", policy: Policy{Acks: 1}, gone: []topology.NodeName{first}, what: "no acker any more", obeyFirst: true,
			change: func(s *election.State) { s.Register.Shut = []topology.NodeName{first} },
		},
		{
			name: "it is back", policy: Policy{Acks: 1}, what: "it stays an acker",
			change: func(s *election.State) { s.Register.Shut = []topology.NodeName{first} },
		},
		{name: "more are wanted", policy: Policy{Acks: 2}, what: "is to wait for 2"},
		{
			name: "the primary waits for more", policy: Policy{Acks: 2}, what: "waits for 2", obeyFirst: true,
			change: func(s *election.State) { s.Register.NextK = 2 },
		},
		{
			name: "more are not wanted any more", policy: Policy{Acks: 1}, what: "not enough ackers",
			change: func(s *election.State) { s.Register.NextK = 2 },
		},
		{
			name: "fewer are left than it waits for", policy: Policy{}, gone: []topology.NodeName{first}, what: "is to wait for 1",
			change: func(s *election.State) { s.Register.K = 2 },
		},
		{name: "none is left, and writes wait", policy: Policy{}, gone: []topology.NodeName{first, second}},
		{name: "none is left, and they do not", policy: Policy{Degrade: true}, gone: []topology.NodeName{first, second}, what: "is to wait for 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := view(c.change)
			v.Nodes[v.State.Primary.Node].Instance.SemiSync.Clients = len(v.State.Register.Ackers) - len(c.gone)
			for _, n := range c.filtered {
				v.Nodes[n].Instance.Inadmissible = "it is filtered"
			}
			step, due := decideRegister(v, c.policy, gone(c.gone...))
			require.Equal(t, c.what != "", due, step.what)
			require.Contains(t, step.what, c.what)
			require.Equal(t, c.obeyFirst, step.obeyFirst)
		})
	}
}

// Commits wait although their acker has them: the primary nudges, and not for
// ever.
func TestLostAcknowledgement(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		for _, n := range []topology.NodeName{"n2", "n3"} {
			c.fleet.change(func() { c.fleet.servers[n].stalled = true })
		}
		answer := make(chan error, 1)
		go func() { answer <- c.commitBy("n1", time.Hour) }()
		nudges := func() (n int) { c.fleet.change(func() { n = c.fleet.servers["n1"].nudges }); return n }
		c.eventually("a nudge", func() bool { return nudges() == 1 })
		time.Sleep(time.Minute)
		require.Less(t, nudges(), 8)
		require.Empty(t, answer, "nobody has it")
		for _, n := range []topology.NodeName{"n2", "n3"} {
			c.fleet.change(func() { c.fleet.servers[n].stalled = false })
		}
		require.NoError(t, <-answer)
		c.check()
	})
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.server("n2").kill()
		c.server("n3").kill()
		answer := make(chan error, 1)
		go func() { answer <- c.commitBy("n1", time.Hour) }()
		time.Sleep(5 * time.Second)
		c.fleet.change(func() { require.Zero(t, c.fleet.servers["n1"].nudges, "nobody is connected") })
		c.server("n2").start(false)
		require.NoError(t, <-answer)
	})
}

// With failover.rejoin: leave, an acker with transactions of its own is left as
// it is. It leaves the register all the same: a failover would take them for
// acknowledged ones.
func TestErrantAckerLeavesTheRegister(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		stop := c.clients()
		defer stop()
		own, n3 := gtids("99:1"), c.server("n3")
		c.fleet.change(func() { n3.executed, n3.received = n3.executed.Union(own), n3.received.Union(own) })
		c.eventually("it is no acker any more", func() bool { return !c.state().Register.Has("n3") })
		time.Sleep(5 * time.Second)
		require.False(t, c.state().Register.Has("n3"), "it was let in again")
		c.check()

		c.server("n1").kill()
		time.Sleep(5 * time.Second)
		require.NotEqual(t, topology.NodeName("n3"), c.state().Primary.Node)
		c.server("n1").start(false)
		c.check()
		c.fleet.mu.Lock()
		defer c.fleet.mu.Unlock()
		require.False(t, c.fleet.servers[c.state().Primary.Node].executed.Contains(own), "promoted with what nobody acknowledged")
	})
}

// An acker is always a little ahead of what was last heard of a busy primary: only
// the same transactions, lacking for long, are its own.
func TestAckerAheadOfTheLastLookIsNotErrant(t *testing.T) {
	r := newRegistrar(ControllerConfig{Policy: Policy{DropAfter: 10 * time.Second}}, zap.NewNop())
	now := time.Now()
	look := func(i int, own string) {
		v := quietView(
			with("n1", func(_ *NodeStatus, s *dbrepl.Status) { s.Executed = gtids(fmt.Sprintf("1:1-%d", 100+i)) }),
			with("n2", func(_ *NodeStatus, s *dbrepl.Status) { s.Received = gtids(fmt.Sprintf("1:1-%d%s", 103+i, own)) }))
		r.look(v, now)
	}
	cleared := 0
	for i := range 20 { // each look repeats two thirds of what the one before had
		look(i, "")
		if r.missing["n2"].IsZero() {
			cleared++
		}
	}
	require.GreaterOrEqual(t, cleared, 5, "it was taken for errant all the while")
	for i := range 10 {
		look(21+i, ",99:1")
	}
	require.False(t, r.missing["n2"].IsZero())
	require.Equal(t, gtids("99:1"), r.alone["n2"])
}
