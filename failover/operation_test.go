package failover

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/internal/topology"
	"interrex/router"
)

// withCluster runs f with a cluster that has bootstrapped, in virtual time.
func withCluster(t *testing.T, instances int, f func(t *testing.T, c *cluster), before ...func(*cluster)) {
	t.Helper()
	inBubble(t, instances, func(t *testing.T, c *cluster) {
		c.eventually("every instance follows and is a confirmed acker", c.whole)
		f(t, c)
	}, before...)
}

// inBubble is withCluster as soon as a primary serves.
func inBubble(t *testing.T, instances int, f func(t *testing.T, c *cluster), before ...func(*cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, instances)
		defer c.end()
		for _, prepare := range before {
			prepare(c)
		}
		c.run()
		c.check()
		f(t, c)
	})
}

// whole tells whether every instance follows the primary and proves something.
func (c *cluster) whole() bool {
	s := c.state()
	for _, m := range c.store.members {
		if m.HasInstance() && m.Name != s.Primary.Node && (!s.Register.Has(m.Name) || s.Sources[m.Name] != s.Primary.Node) {
			return false
		}
		// By the node itself: what the leader has last seen may be of a former boot.
		if !m.HasInstance() {
			continue
		}
		c.fleet.mu.Lock()
		boot := c.server(m.Name).bootID()
		c.fleet.mu.Unlock()
		if !c.agents[m.Name].keeper.promises.certified(boot) {
			return false
		}
	}
	return c.certified()
}

// certified tells whether all instances may prove something.
func (c *cluster) certified() bool {
	for _, n := range c.agents["a1"].watcher.View().Nodes {
		if n.Instance != nil && !n.Certified {
			return false
		}
	}
	return true
}

func stepNames(r Report) []string {
	var names []string
	for _, s := range r.Steps {
		names = append(names, s.Name)
	}
	return names
}

func TestBootstrap(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		r := c.report(1)
		require.Equal(t, election.Bootstrap, r.Kind)
		require.Equal(t, Completed, r.Outcome)
		require.Equal(t, []string{stepClaim, stepRevoke, stepChoose, stepCatchUp, stepPromote, stepRoute, stepVerify}, stepNames(r))
		require.Equal(t, topology.NodeName("n1"), r.To, "by name, if nothing else speaks for one")
	})
}

func TestFailover(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		stop := c.clients()
		defer stop()
		time.Sleep(time.Second)
		killed := time.Now()
		c.server("n1").kill()
		c.check()
		s := c.state()
		r := c.report(s.Epoch)
		require.EqualValues(t, 2, s.Epoch, "one operation, no second one behind it")
		require.Equal(t, election.Failover, r.Kind)
		require.Equal(t, Completed, r.Outcome)
		require.Equal(t, []string{stepDetect, stepClaim, stepRevoke, stepChoose, stepCatchUp, stepPromote, stepRoute, stepVerify}, stepNames(r))
		require.Negative(t, r.Steps[0].BeganMS, "detection is before the operation began")
		for i, step := range r.Steps[1:] {
			require.Empty(t, step.Error)
			require.GreaterOrEqual(t, step.BeganMS, r.Steps[i].BeganMS, "steps in order")
		}
		require.Equal(t, topology.NodeName("n1"), r.From)
		require.Equal(t, s.Primary.Node, r.To)
		require.Equal(t, topology.Failed, r.Evidence.Verdict)
		require.NotEmpty(t, r.Gates)

		require.LessOrEqual(t, r.RTOBounds[0], r.RTOBounds[1])
		require.Equal(t, r.RTOMillis, r.RTOBounds[1], "the RTO is the upper bound")
		require.InDelta(t, 10, r.RTOBounds[1]-r.RTOBounds[0], 1e-6, "last good 30 ms, first bad 20 ms before the judgement")
		require.LessOrEqual(t, r.RTOMillis, millis(time.Since(killed))+30)

		require.EqualValues(t, 0, *r.RPO.LostCommits)
		require.Nil(t, r.RPO.InDoubt, "not before the old primary has come back")
		require.Equal(t, []topology.NodeName{"n2", "n3"}, r.RPO.Proof.Ackers)
		require.Equal(t, 1, r.RPO.Proof.K)
		require.Equal(t, 2, r.RPO.Proof.Needed)
		require.Equal(t, []topology.NodeName{"n2", "n3"}, r.RPO.Proof.Frozen)
		require.True(t, r.RPO.Proof.Promoted.Contains(r.RPO.Proof.Union))
		require.Contains(t, r.RPO.Proof.Statement, "2 of 2 registered ackers were frozen")

		c.server("n1").start(false)
		c.eventually("the old primary follows, and the report is complete", func() bool {
			return c.state().Register.Has("n1") && c.report(2).RPO.InDoubt != nil
		})
		c.check()
	})
}

func TestFailoverWithoutEnoughAckersClaimsNothing(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.server("n3").kill()
		time.Sleep(time.Second)
		c.server("n1").kill()
		time.Sleep(20 * time.Second)
		s := c.state()
		require.EqualValues(t, 1, s.Epoch, "an operation that cannot succeed costs no epoch")
		require.Empty(t, c.writable())
		g := closedGate(c.agents["a1"].control.Gates(), election.Failover)
		require.NotNil(t, g)
		require.Equal(t, gateRevocable, g.Name)
		require.Contains(t, g.Reason, "waiting for 1 of [n3]")

		c.server("n3").start(false)
		time.Sleep(20 * time.Second)
		require.Empty(t, c.writable(), "n3 restarted: what it says proves nothing")
		c.server("n1").start(false)
		c.check()
		require.Equal(t, topology.NodeName("n1"), c.state().Primary.Node)
	})
}

func TestFailoverThatLosesItsProofPromotesNothingAndFreesTheRecord(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.hook(func(e event) error {
			if e.what == "freeze" && e.to == "n3" {
				return errors.New("connection reset")
			}
			return nil
		})
		c.server("n1").kill()
		c.eventually("an operation ended without a primary", func() bool {
			s := c.state()
			return s.Epoch == 2 && s.Operation == nil
		})
		require.Empty(t, c.writable())
		c.eventually("it is in the ledger", func() bool { return c.store.has(2) })
		r := c.report(2)
		require.Equal(t, Failure, r.Outcome)
		require.Contains(t, r.Reason, ErrNoProof.Error())
		require.Contains(t, r.Reason, "n3: connection reset")
		require.Zero(t, *r.RPO.LostCommits)
		require.Contains(t, r.RPO.Proof.Statement, "nothing was promoted")

		c.hook(nil)
		c.check()
		require.NotEqual(t, topology.NodeName("n1"), c.state().Primary.Node)
	})
}

func (s *store) has(epoch topology.Epoch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reports[epoch] != nil
}

func TestCandidateDiesAtPromoteAndTheNextOperationGoesOn(t *testing.T) {
	withCluster(t, 5, func(t *testing.T, c *cluster) {
		var died topology.NodeName
		c.hook(func(e event) error {
			if e.what == "promote" && !e.after && died == "" {
				died = e.to
				c.server(died).kill()
			}
			return nil
		})
		stop := c.clients()
		defer stop()
		time.Sleep(100 * time.Millisecond)
		c.server("n1").kill()
		c.eventually("another candidate serves", func() bool {
			return c.settled() && c.state().Primary.Node != "n1" && c.state().Primary.Node != died
		})
		c.check()
		r := c.report(2)
		require.Equal(t, Failure, r.Outcome)
		require.Equal(t, died, r.To)
	})
}

func TestSwitchover(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		stop := c.clients()
		defer stop()
		time.Sleep(time.Second)
		r, err := c.agents["a1"].control.Switchover(t.Context(), "n3")
		require.NoError(t, err)
		require.Equal(t, Completed, r.Outcome)
		require.Equal(t, []string{stepClaim, stepPrepare, stepRevoke, stepChoose, stepCatchUp, stepPromote, stepRoute, stepVerify}, stepNames(r))
		require.Equal(t, "n3 is as level as it gets, already replicating from it: [n2]", r.Steps[1].Detail)
		require.EqualValues(t, 0, *r.RPO.LostCommits)
		require.EqualValues(t, 0, *r.RPO.InDoubt)
		c.check()
		require.Equal(t, topology.NodeName("n3"), c.state().Primary.Node)
		require.EqualValues(t, 2, c.state().Epoch)
		c.eventually("the former primary is an acker", func() bool { return c.state().Sources["n1"] == "n3" })

		r, err = c.agents["a1"].control.Switchover(t.Context(), "")
		require.NoError(t, err)
		require.Contains(t, names{"n1", "n2"}, r.To, "whichever has less left to apply")
		c.check()
	})
}

func TestSwitchoverIsRefusedByItsGates(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		control := c.agents["a1"].control
		refusal := func(to topology.NodeName) string {
			_, err := control.Switchover(t.Context(), to)
			var gate *GateError
			require.ErrorAs(t, err, &gate)
			require.ErrorIs(t, err, ErrGateClosed)
			return gate.Gate.Name
		}
		require.Equal(t, gateCandidate, refusal("n9"))
		require.Equal(t, gateCandidate, refusal("n1"))
		require.Equal(t, gateCandidate, refusal("a1"))
		_, err := c.agents["a2"].control.Switchover(t.Context(), "n2")
		require.ErrorIs(t, err, ErrNotLeader)
		require.EqualValues(t, 1, c.state().Epoch)
	})
}

func TestSwitchoverIsUndone(t *testing.T) {
	for _, tt := range []struct {
		name     string
		obstruct func(c *cluster)
		step     string
	}{
		{"when the primary cannot be closed", func(c *cluster) { c.fleet.change(func() { c.fleet.servers["n1"].busy = true }) }, stepRevoke},
		{"when the candidate does not catch up", func(c *cluster) { c.fleet.change(func() { c.fleet.servers["n2"].held = true }) }, stepCatchUp},
		{"when the candidate's agent is gone", func(c *cluster) {
			c.hook(func(e event) error {
				if e.what == "close" && e.after {
					c.reach("n2", false)
				}
				return nil
			})
		}, stepChoose},
	} {
		t.Run(tt.name, func(t *testing.T) {
			withCluster(t, 3, func(t *testing.T, c *cluster) {
				stop := c.clients()
				defer stop()
				time.Sleep(time.Second)
				tt.obstruct(c)
				time.Sleep(100 * time.Millisecond)
				began := time.Now()
				r, err := c.agents["a1"].control.Switchover(t.Context(), "n2")
				require.ErrorIs(t, err, ErrUndone)
				require.Equal(t, Undone, r.Outcome)
				require.Less(t, time.Since(began), levelLimit+2*DefaultLimits().Switchover)
				for _, s := range r.Steps {
					if s.Error != "" {
						require.Equal(t, tt.step, s.Name)
						break
					}
				}
				s := c.state()
				require.Equal(t, topology.NodeName("n1"), s.Primary.Node, "the old primary serves again")
				require.EqualValues(t, 2, r.Epoch)
				require.EqualValues(t, 3, s.Primary.Epoch, "in an epoch of its own: late orders of the switchover are refused")
				undoing := c.report(3)
				require.Equal(t, election.Resume, undoing.Kind)
				require.Equal(t, Completed, undoing.Outcome)
				require.Equal(t, "n1", string(c.agents["a1"].table.Current().Primary.Node))
				c.check()
			})
		})
	}
}

// While a switchover waits for its candidate, nothing is closed yet; the death
// of the primary ends the waiting.
func TestPrimaryDiesWhileASwitchoverIsPrepared(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		stop := c.clients()
		defer stop()
		c.fleet.change(func() { c.fleet.servers["n2"].held = true })
		time.Sleep(time.Second)
		answer := make(chan error, 1)
		go func() {
			_, err := c.agents["a1"].control.Switchover(t.Context(), "n2")
			answer <- err
		}()
		time.Sleep(time.Second)
		require.Equal(t, stepPrepare, c.state().Operation.Step)
		require.Equal(t, router.Open, c.agents["a1"].table.Current().Phase)
		require.Equal(t, c.server("n2"), c.server("n3").source, "it went ahead")
		c.fleet.change(func() { c.fleet.servers["n2"].held = false; c.fleet.servers["n2"].stalled = true })
		c.server("n1").kill()
		died := time.Now()
		err := <-answer
		require.ErrorIs(t, err, ErrPrimaryFailed)
		c.eventually("a failover", func() bool { return c.settled() && c.state().Primary.Node != "n1" })
		require.Less(t, time.Since(died), 2*time.Second)
		c.check()
	})
}

// An order of the switchover that arrives after it was undone must not take an
// acker away again.
func TestLateOrderOfAnUndoneSwitchoverIsRefused(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.hook(func(e event) error {
			if e.what == "follow" && e.to == "n3" && e.epoch == 2 {
				return errors.New("lost on its way")
			}
			return nil
		})
		c.fleet.change(func() { c.fleet.servers["n1"].busy = true })
		n2 := c.server("n2")
		late := FollowRequest{Epoch: 2, Source: "n2", SourceUUID: n2.uuid, Address: n2.address, SourceHas: n2.has(), Acker: true}
		_, err := c.agents["a1"].control.Switchover(t.Context(), "n2")
		require.ErrorIs(t, err, ErrUndone)
		c.hook(nil)
		require.ErrorIs(t, c.agents["n3"].keeper.Follow(t.Context(), late), ErrStaleEpoch)
		c.check()
		c.fleet.change(func() { require.Equal(t, c.fleet.servers["n1"], c.fleet.servers["n3"].source) })
		c.eventually("it is known whom it acknowledges", func() bool { return c.state().Sources["n3"] == "n1" })
	})
}

func TestPauseDuringAnOperationDoesNotEndIt(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		paused := false
		c.hook(func(e event) error {
			if e.what == "promote" && e.after && !paused {
				paused = true
				c.record(func(s *election.State) { s.Paused = &election.Pause{By: "kim"} })
			}
			return nil
		})
		c.server("n1").kill()
		c.check()
		s := c.state()
		require.EqualValues(t, 2, s.Epoch, "no second operation finished it")
		require.Equal(t, Completed, c.report(2).Outcome)
		require.Equal(t, "kim", s.Paused.By, "and the pause is kept")
	})
}

// X3: what an operation has not heard of by its end must not delay the next.
func TestSecondFailureRightAfterTheFirst(t *testing.T) {
	withCluster(t, 5, func(t *testing.T, c *cluster) {
		_, err := c.agents["a1"].control.Switchover(t.Context(), "n2")
		require.NoError(t, err)
		c.eventually("k is 2", func() bool {
			return c.state().Register.K == 2 && c.state().Sources["n1"] == "n2" && len(c.state().Register.Ackers) == 4
		})
		time.Sleep(time.Second)
		stop := c.clients()
		defer stop()
		c.reach("n5", false) // its host hangs: nobody hears a refusal
		c.server("n2").kill()
		c.eventually("the first failover", func() bool { return c.settled() && c.state().Primary.Node != "n2" })
		c.server("n2").start(false)
		c.eventually("its ackers", func() bool { return c.state().Register.Has("n2") && c.certified() })
		time.Sleep(time.Second)
		first, epoch := c.state().Primary.Node, c.state().Epoch
		c.server(first).kill()
		began := time.Now()
		c.eventually("the second", func() bool { return c.settled() && c.state().Epoch > epoch })
		require.Less(t, time.Since(began), 2*time.Second)
		c.check()
	}, acks(2))
}

func TestHungReplicaDoesNotDelayAFailover(t *testing.T) {
	withCluster(t, 4, func(t *testing.T, c *cluster) {
		// With k=2 the proof needs two of three.
		require.Equal(t, 2, c.state().Register.K)
		hanging := make(chan struct{}, 16)
		c.rawHook(func(e event) error {
			if e.what == "follow" && e.to == "n4" && !e.after {
				hanging <- struct{}{}
				c.fleet.change(func() { c.fleet.servers["n4"].hung = true })
			}
			return nil
		})
		c.fleet.change(func() { c.fleet.servers["n4"].acker = false })
		<-hanging // the order to follow hangs for up to 5 s
		c.server("n1").kill()
		began := time.Now()
		c.eventually("a failover", func() bool { return c.settled() && c.state().Primary.Node != "n1" })
		require.Less(t, time.Since(began), time.Second)
	}, acks(0))
}

// TestCandidateThatAnotherMemberCannotReach: whoever is promoted needs followers.
// One that a member cannot reach, which would have to follow it, comes last.
func TestCandidateThatAnotherMemberCannotReach(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		require.Equal(t, topology.NodeName("n1"), c.state().Primary.Node)
		c.mu.Lock()
		c.accused["n2"] = true
		c.mu.Unlock()
		c.server("n1").kill()
		c.check()
		require.Equal(t, topology.NodeName("n3"), c.state().Primary.Node, "by name it would be n2")
	})
}
