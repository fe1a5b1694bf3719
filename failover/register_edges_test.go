package failover

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/internal/topology"
)

// n3 was dropped and shut out. Then n1 and n2 die together; n1 and n3 come back.
func TestResumeBesideOneThatIsShutOut(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.server("n3").kill()
		c.eventually("n3 is dropped", func() bool { return !c.state().Register.Has("n3") })
		c.server("n2").kill()
		c.server("n1").kill()
		c.server("n3").start(false)
		time.Sleep(time.Second)
		c.server("n1").start(false)
		c.eventually("n1 serves, n3 acknowledges", c.settled)
	})
}

// degrade: n1 is closed by hand, its server keeps running, both replicas are gone.
func TestDegradedResumeOfAnArmedServer(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.server("n2").kill()
		c.server("n3").kill()
		c.fleet.change(func() { s := c.fleet.servers["n1"]; s.superRO, s.readOnly = true, true })
		c.eventually("n1 serves, degraded", c.settled)
	}, func(c *cluster) { c.policy(func(p *Policy) { p.Acks, p.Degrade = 0, true }) })
}

// degrade: the leader cannot ask the replicas' agents; their servers go on acknowledging.
func TestDegradesThoughAckersAcknowledge(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		stop := c.clients()
		defer stop()
		c.reach("n2", false)
		c.reach("n3", false)
		time.Sleep(20 * time.Second)
		require.True(t, c.connected("n2"))
		require.NotZero(t, c.state().Register.K, "degraded with two ackers that acknowledge")
	}, func(c *cluster) { c.policy(func(p *Policy) { p.Acks, p.Degrade = 0, true }) })
}

// k is never above the number of ackers of a register that a failover makes.
func TestMoreAcksThanAckers(t *testing.T) {
	for _, degrade := range []bool{false, true} {
		seen := []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-9"), replica("n4", "1:1-9", amnesiac), replica("n5", "1:1-9", amnesiac)}
		reg := register(2, "n2", "n3")
		if degrade {
			seen, reg = []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-9", amnesiac)}, register(1, "n2")
		}
		p := Policy{Degrade: degrade}
		plan := Plan{Kind: election.Failover, From: "n1", Old: primaryOf("1:1-5"), Register: reg, Acks: p.minAcks(), Policy: p}
		for _, n := range []topology.NodeName{"n1", "n2", "n3", "n4", "n5"} {
			plan.Members = append(plan.Members, topology.Member{Name: n, MySQL: "x"})
		}
		up := caughtUp{}
		up.survey = surveyOf(seen, nil, plan.Old, reg)
		require.True(t, up.survey.proven())
		up.candidate, up.followers = seen[0], seen[1:]
		got, _ := nextRegister(&election.State{Register: reg}, plan, up)
		if got.K > len(got.Ackers) {
			t.Errorf("degrade %v: %+v", degrade, got)
		}
	}
}

// All agents are restarted with another replication user; then the replicas' servers restart.
func TestAllAccountsChange(t *testing.T) {
	for _, degrade := range []bool{false, true} {
		t.Run(fmt.Sprintf("degrade %v", degrade), func(t *testing.T) { allAccountsChange(t, degrade) })
	}
}

func allAccountsChange(t *testing.T, degrade bool) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.oldAccounts("n2", "n3")
		time.Sleep(30 * time.Second)
		if degrade {
			require.NotZero(t, c.state().Register.K, "degraded with two ackers that acknowledge")
			return
		}
		for _, n := range []topology.NodeName{"n2", "n3"} {
			c.server(n).kill()
			c.server(n).start(false)
		}
		time.Sleep(time.Minute)
		require.True(t, c.connected("n2") || c.connected("n3"), "%+v\n%s", c.state().Register, c.describe())
	}, func(c *cluster) { c.policy(func(p *Policy) { p.Acks, p.Degrade = 0, degrade }) }, newAccounts("n1", "n2", "n3"))
}

// What an obeying that failed half-way did is undone when the record is again what was obeyed before.
func TestHalfObeyed(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		k := c.agents["n1"].keeper
		c.eventually("n1 has obeyed", func() bool { return k.hasObeyed(c.state().Register, c.server("n1").bootID()) })
		c.reach("n3", false) // the leader leaves the register to the test
		time.Sleep(5 * time.Second)
		c.fleet.change(func() { c.fleet.servers["n1"].unarmable = true })
		c.record(func(s *election.State) { s.Register.Shut = []topology.NodeName{"n3"} })
		c.eventually("n3 is shut out", func() bool { return c.shutsOut("n1", "n3") })
		c.record(func(s *election.State) { s.Register.Shut = nil })
		c.fleet.change(func() { c.fleet.servers["n1"].unarmable = false })
		c.eventually("n3 is let in", func() bool { return !c.shutsOut("n1", "n3") })
		c.reach("n3", true)
		c.check()
	}, func(c *cluster) { c.policy(func(p *Policy) { p.DropAfter = time.Hour }) })
}

// Accounts are known of some ackers only, and shared.
func TestSharedAccountOfOldRecord(t *testing.T) {
	reg := register(1, "n2", "n3")
	reg.Accounts = map[topology.NodeName][]string{"n3": {"repl"}}
	require.False(t, hasOwnAccount(reg, nil, "n3"), "n2 may receive with it as well")
}

// n2 receives with its old account; a resume registers the new one before n2 was told (the order is lost).
// Shutting the new one out leaves n2 acknowledging, unregistered (I2, I3), and a commit that it alone has is lost (I1).
func TestAccountRegisteredBeforeItIsUsed(t *testing.T) {
	withCluster(t, 4, func(t *testing.T, c *cluster) {
		c.hook(func(e event) error {
			if e.to == "n2" && e.what == "follow" {
				return errors.New("lost")
			}
			return nil
		})
		c.oldAccounts("n2")
		c.fleet.change(func() { s := c.fleet.servers["n1"]; s.superRO, s.readOnly = true, true })
		c.eventually("n1 is resumed", func() bool { return c.settled() && c.state().Epoch > 1 })
		c.reach("n2", false)
		c.eventually("n2 is dropped", func() bool { return !c.state().Register.Has("n2") })
		t.Log(c.registerFits())
		c.fleet.change(func() { c.fleet.servers["n3"].stalled, c.fleet.servers["n4"].stalled = true, true })
		t.Log(c.commitBy("n1", time.Second)) // n2 alone has it, which is no acker
		c.server("n1").kill()
		c.fleet.change(func() { c.fleet.servers["n3"].stalled, c.fleet.servers["n4"].stalled = false, false })
		c.reach("n1", false)
		c.check()
	}, newAccounts("n2"))
}

// degrade, cold start: n1 is up first. Nobody has been missing for DropAfter.
func TestColdStartDegrades(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		for _, n := range []topology.NodeName{"n1", "n2", "n3"} {
			c.server(n).kill()
		}
		c.server("n1").start(false)
		time.Sleep(time.Second)
		require.Nil(t, c.state().Degraded)
	}, func(c *cluster) { c.policy(func(p *Policy) { p.Acks, p.Degrade = 0, true }) })
}

// newAccounts have the agents of some nodes configured with another replication
// account than the one that their servers receive with.
func newAccounts(nodes ...topology.NodeName) func(*cluster) {
	return func(c *cluster) {
		for i, m := range c.store.members {
			if slices.Contains(nodes, m.Name) {
				c.store.members[i].ReplicationUser += "_new"
				c.agents[m.Name].keeper.cfg.Member.ReplicationUser += "_new"
			}
		}
	}
}

// oldAccounts are what the register knows of these nodes: the agents have been
// restarted with another configuration since.
func (c *cluster) oldAccounts(nodes ...topology.NodeName) {
	c.record(func(s *election.State) {
		for _, n := range nodes {
			s.Register.Accounts[n] = []string{userOf(n)}
		}
	})
}
