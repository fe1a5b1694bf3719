package failover

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/internal/topology"
	"interrex/router"
)

// The tests here are rows of docs/faults.md, after which they are named.

// doubled has withCluster's primary wait for two of four.
func doubled(t *testing.T, f func(t *testing.T, c *cluster)) {
	withCluster(t, 5, func(t *testing.T, c *cluster) {
		c.eventually("k is 2", func() bool { return c.state().Register.K == 2 })
		f(t, c)
	}, acks(2))
}

// at has do happen at the first event like at, whoever causes it.
func (c *cluster) at(at die, do func(e event)) (happened func() bool) {
	var done atomic.Bool
	c.hook(func(e event) error {
		if e.what == at.what && e.after == at.after && (at.to == "" || e.to == at.to) && !done.Load() {
			done.Store(true)
			do(e)
		}
		return nil
	})
	return done.Load
}

// killBehind kills the primary while its replicas have still to execute the last
// commit, which they do a moment later.
func (c *cluster) killBehind(name topology.NodeName) {
	hold := func(on bool) {
		c.fleet.change(func() {
			for _, s := range c.fleet.servers {
				s.held = on && s.name != name
			}
		})
	}
	hold(true)
	require.NoError(c.t, c.commitBy(name, time.Second))
	c.server(name).kill()
	time.AfterFunc(300*time.Millisecond, func() { hold(false) })
}

// onlyTheRecorded asserts that no server takes writes but the one in the record.
func (c *cluster) onlyTheRecorded() {
	for _, n := range c.writable() {
		assert.Equal(c.t, c.state().Primary.Node, n, "takes writes and is not in the record")
	}
}

func TestX1CandidateDiesAtEachStep(t *testing.T) {
	for _, at := range []die{
		{"after it was frozen", "freeze", "n2", true},
		{"before it catches up", "catchup", "", false},
		{"after it caught up", "catchup", "", true},
		{"before the record", "record", "", false},
		{"after the record", "record", "", true},
		{"before a follower is told", "follow", "", false},
		{"after a follower was told", "follow", "", true},
		{"before promoting", "promote", "", false},
		{"after promoting", "promote", "", true},
		{"as the routes are told", "route", "n3", true},
		{"before the record is closed", "end", "", false},
		{"after the record is closed", "end", "", true},
	} {
		t.Run(at.name, func(t *testing.T) {
			doubled(t, func(t *testing.T, c *cluster) {
				stop := c.clients()
				defer stop()
				time.Sleep(time.Second)
				candidate, died := topology.NodeName(""), false
				c.hook(func(e event) error {
					if !died && (e.what == "catchup" || e.what == "freeze" && at.what == "freeze") {
						candidate = e.to
					}
					if candidate != "" && !died && e.what == at.what && e.after == at.after && (at.to == "" || e.to == at.to) {
						died = true
						c.server(candidate).kill()
					}
					return nil
				})
				c.killBehind("n1")
				c.eventually("the candidate died", func() bool { c.hooking.Lock(); defer c.hooking.Unlock(); return died })
				c.hook(nil)
				c.eventually("another one serves", func() bool {
					return c.settled() && c.state().Primary.Node != candidate && c.state().Primary.Node != "n1"
				})
				c.check()
			})
		})
	}
}

// Where the candidate was needed for the proof, nothing is promoted without it.
func TestX1CandidateDiesAndNobodyElseProvesIt(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		died := c.at(die{"", "catchup", "n2", false}, func(event) { c.server("n2").kill() })
		c.killBehind("n1")
		c.eventually("the candidate died", died)
		c.eventually("it is told who is needed", func() bool {
			g := closedGate(c.agents["a1"].control.Gates(), election.Failover)
			return g != nil && g.Name == gateRevocable && strings.Contains(g.Reason, "waiting for 1 of [n2]")
		})
		time.Sleep(20 * time.Second)
		require.Empty(t, c.writable())
		c.server("n1").start(false)
		c.check()
	})
}

func TestX2OldPrimaryReturnsAtEachStep(t *testing.T) {
	for _, at := range failoverMoments {
		t.Run(at.name, func(t *testing.T) {
			withCluster(t, 3, func(t *testing.T, c *cluster) {
				stop := c.clients()
				defer stop()
				time.Sleep(time.Second)
				back := c.at(at, func(event) { c.server("n1").start(false) })
				c.server("n1").kill()
				for range 300 {
					time.Sleep(10 * time.Millisecond)
					c.onlyTheRecorded()
				}
				c.eventually("it is back", back)
				c.hook(nil)
				c.eventually("it follows, or is the primary again", func() bool {
					return c.settled() && (c.state().Primary.Node == "n1" || c.state().Register.Has("n1"))
				})
				c.check()
			})
		})
	}
}

// TestX6CutAtEachStep: the primary is cut off from all but its clients, and is
// back at each step; or two ackers are cut off then, too, and may go on
// acknowledging.
func TestX6CutAtEachStep(t *testing.T) {
	for _, cut := range []string{"the cut heals", "a second one"} {
		for _, at := range failoverMoments {
			t.Run(cut+" "+at.name, func(t *testing.T) {
				doubled(t, func(t *testing.T, c *cluster) {
					happened := c.at(at, func(event) {
						if cut == "a second one" {
							c.reach("n2", false) // with n1's clients: its side has two acknowledgements
							c.reach("n3", false)
							return
						}
						c.judge("n1", false)
						c.reach("n1", true)
					})
					var clients sync.WaitGroup
					defer clients.Wait()
					goOn, stop := context.WithCancel(context.Background())
					defer stop()
					for range 3 {
						clients.Go(func() {
							for goOn.Err() == nil {
								_ = c.commitBy("n1", time.Second)
								time.Sleep(20 * time.Millisecond)
							}
						})
					}
					c.reach("n1", false)
					c.judge("n1", true)
					c.eventually("the moment", happened)
					time.Sleep(3 * time.Second)
					c.hook(nil)
					c.judge("n1", false)
					c.reach("n1", true)
					c.reach("n2", true)
					c.reach("n3", true)
					c.eventually("all routes lead to the one primary", func() bool {
						s, led := c.state(), 0
						for _, a := range c.agents {
							if r := a.table.Current(); r.Phase == router.Open && r.Epoch == s.Epoch && r.Primary.Node == s.Primary.Node {
								led++
							}
						}
						return led == len(c.agents) && c.settled()
					})
					c.check()
				})
			})
		}
	}
}

// TestC5LeaderDiesWhileTheCandidateCatchesUp: another one goes on, with any
// candidate.
func TestC5LeaderDiesWhileTheCandidateCatchesUp(t *testing.T) {
	moments := []die{{"before the order", "catchup", "", false}, {"after the answer", "catchup", "", true}}
	atEachMoment(t, 3, moments, func(_ *testing.T, c *cluster) { c.killBehind("n1") }, func(t *testing.T, c *cluster) {
		c.check()
		require.NotEqual(t, topology.NodeName("n1"), c.state().Primary.Node)
	})
}

// TestC7MarkerInDoubt: the marker is written and nobody acknowledges it; leader
// and candidate die. The next epoch supersedes it, whatever becomes of it.
func TestC7MarkerInDoubt(t *testing.T) {
	doubled(t, func(t *testing.T, c *cluster) {
		require.NoError(t, c.commitBy("n1", time.Second))
		var candidate topology.NodeName
		others := []topology.NodeName{"n2", "n3", "n4", "n5"}
		begun := c.at(die{"", "promote", "", false}, func(e event) { candidate = e.to; c.stall(true, others...) })
		c.server("n1").kill()
		c.eventually("a candidate is to be promoted", begun)
		c.eventually("its marker waits", func() bool {
			c.fleet.mu.Lock()
			defer c.fleet.mu.Unlock()
			s := c.fleet.servers[candidate]
			return s.marker.Epoch == 2 && len(s.acks) > 0
		})
		require.Empty(t, c.writable())
		c.agents["a1"].stop()
		c.server(candidate).kill()
		c.lead("a2")
		c.hook(nil)
		c.stall(false, others...)
		c.eventually("another one serves", func() bool { return c.settled() && c.state().Primary.Node != candidate })
		c.server(candidate).start(false)
		time.Sleep(10 * time.Second)
		c.check()
		require.Equal(t, []topology.NodeName{c.state().Primary.Node}, c.writable())
	})
}

// TestD5PowerLostOnPrimaryAndAckers: all three lose power, and both ackers what
// they had not executed. Only the primary still has it.
func TestD5PowerLostOnPrimaryAndAckers(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		hold := func(on bool) {
			c.fleet.change(func() { c.fleet.servers["n2"].held, c.fleet.servers["n3"].held = on, on })
		}
		hold(true)
		require.NoError(t, c.commitBy("n1", time.Second), "acknowledged, and executed by nobody else")
		for _, n := range []topology.NodeName{"n1", "n2", "n3"} {
			c.server(n).kill()
		}
		c.server("n2").start(true)
		c.server("n3").start(true)
		hold(false)
		time.Sleep(30 * time.Second)
		require.Empty(t, c.writable(), "they agree, and have both forgotten it")
		require.Contains(t, closedGate(c.agents["a1"].control.Gates(), election.Failover).Reason, "waiting for the old primary n1 itself")
		c.server("n1").start(false)
		c.check()
		require.Equal(t, topology.NodeName("n1"), c.state().Primary.Node)
	})
}

// TestD6CandidateThatCannotApplyIsPassedOver: what it received is damaged, which
// shows when it executes it. It keeps what it has.
func TestD6CandidateThatCannotApplyIsPassedOver(t *testing.T) {
	doubled(t, func(t *testing.T, c *cluster) {
		var damaged topology.NodeName
		happened := c.at(die{"", "catchup", "", false}, func(e event) {
			damaged = e.to
			c.fleet.change(func() { c.fleet.servers[e.to].fault = "Event crc check failed! Most likely there is event corruption." })
		})
		c.killBehind("n1")
		c.eventually("a candidate cannot apply", happened)
		c.eventually("another one serves", func() bool { return c.settled() && c.state().Primary.Node != damaged })
		c.hook(nil)
		c.check()
	})
}

// TestM5OnlyCompleteCandidateIsBroken: nothing is promoted with a loss, and the
// reason is told; repaired, it is promoted.
func TestM5OnlyCompleteCandidateIsBroken(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.stall(true, "n3")
		c.fleet.change(func() { c.fleet.servers["n2"].fault = "Duplicate entry '7' for key 't.PRIMARY'" })
		require.NoError(t, c.commitBy("n1", time.Second), "n2 acknowledges it")
		c.server("n1").kill()
		c.stall(false, "n3")
		time.Sleep(30 * time.Second)
		require.Empty(t, c.writable())
		var why string
		for _, g := range c.agents["a1"].control.Gates() {
			if g.Operation == election.Failover && g.Name == gateCandidate && !g.Open {
				why = g.Reason
			}
		}
		require.Contains(t, why, "Duplicate entry '7'")
		c.fleet.change(func() { c.fleet.servers["n2"].fault = "" })
		c.eventually("it is promoted", func() bool { return c.settled() && c.state().Primary.Node == "n2" })
		c.check()
	})
}

// TestW2SmallSideWithAnAcker: primary, clients and one acker are on the smaller
// side of a cut. Where that one's acknowledgement is enough, the larger side
// must wait; where it is not, the smaller side answers nobody.
func TestW2SmallSideWithAnAcker(t *testing.T) {
	cutOff := func(c *cluster) {
		c.stall(true, "n3", "n4", "n5")
		c.reach("n1", false)
		c.reach("n2", false)
		c.judge("n1", true)
	}
	heal := func(c *cluster) {
		c.judge("n1", false)
		c.reach("n1", true)
		c.reach("n2", true)
		c.stall(false, "n3", "n4", "n5")
	}
	t.Run("it is enough", func(t *testing.T) {
		withCluster(t, 5, func(t *testing.T, c *cluster) {
			cutOff(c)
			for range 30 {
				require.NoError(t, c.commitBy("n1", time.Second))
				time.Sleep(time.Second)
			}
			require.Equal(t, topology.NodeName("n1"), c.state().Primary.Node)
			require.Contains(t, closedGate(c.agents["a1"].control.Gates(), election.Failover).Reason, "n2")
			heal(c)
			c.check()
		})
	})
	t.Run("it is not", func(t *testing.T) {
		doubled(t, func(t *testing.T, c *cluster) {
			c.at(die{"", "record", "", true}, func(event) { c.stall(false, "n3", "n4", "n5") })
			cutOff(c)
			c.eventually("the larger side has a primary", func() bool { return c.state().Primary.Node != "n1" && c.state().Primary.Phase == election.Open })
			require.ErrorIs(t, c.commitBy("n1", 5*time.Second), context.DeadlineExceeded)
			heal(c)
			c.check()
		})
	})
}

// TestW7EtcdCutAtThePrimaryOnly is no reason for anything.
func TestW7EtcdCutAtThePrimaryOnly(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		r := c.agents["n1"].registry
		last := r.Snapshot()
		c.store.mu.Lock()
		r.cut, r.pinned = true, &last
		c.store.mu.Unlock()
		for range 60 {
			require.NoError(t, c.commitBy("n1", time.Second))
			time.Sleep(time.Second)
		}
		require.EqualValues(t, 1, c.state().Epoch)
		c.check()
	})
}
