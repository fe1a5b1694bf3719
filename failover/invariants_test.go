package failover

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/internal/topology"
)

// Each test here has a schedule that breaks its invariant where the defence is
// taken away. The numbers are those of the package comment.

// commitBy has a client commit on a server and returns what it was told.
func (c *cluster) commitBy(name topology.NodeName, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := c.server(name).commit(ctx, true)
	return err
}

func (c *cluster) receives(name topology.NodeName) bool {
	c.fleet.mu.Lock()
	defer c.fleet.mu.Unlock()
	return c.fleet.servers[name].receiverOn
}

// stall keeps replicas connected and receiving nothing.
func (c *cluster) stall(on bool, nodes ...topology.NodeName) {
	c.fleet.change(func() {
		for _, n := range nodes {
			c.fleet.servers[n].stalled = on
		}
	})
}

// W1, X2: the old primary is alive and judged Failed, its agent cut off, its
// clients write on.
func TestInvariant_I2_ReplacedPrimaryAcknowledgesNothing(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		require.NoError(t, c.commitBy("n1", time.Second))
		c.reach("n1", false)
		c.judge("n1", true)
		c.eventually("another primary", func() bool { p := c.state().Primary; return p.Node != "n1" && p.Phase == election.Open })
		require.Contains(t, c.writable(), topology.NodeName("n1"))
		require.ErrorIs(t, c.commitBy("n1", 5*time.Second), context.DeadlineExceeded, "it waits, and is told nothing")
		answer := make(chan error, 1)
		go func() { answer <- c.commitBy("n1", time.Hour) }()
		c.reach("n1", true)
		require.ErrorContains(t, <-answer, "outcome unknown", "its agent ends the server; nobody gets OK")
		c.judge("n1", false)
		c.check()
		require.NotEqual(t, topology.NodeName("n1"), c.state().Primary.Node)
	})
}

// A switchover's primary is opened again by hand, after it was closed.
func TestInvariant_I2_SwitchoverNeedsAClosedPrimary(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.hook(func(e event) error {
			if e.what == "close" && e.after {
				c.fleet.change(func() { c.fleet.servers["n1"].superRO, c.fleet.servers["n1"].readOnly = false, false })
			}
			return nil
		})
		r, err := c.agents["a1"].control.Switchover(t.Context(), "n2")
		require.ErrorIs(t, err, ErrUndone)
		require.Contains(t, r.Reason, "n1 was closed and is not any more")
		c.hook(nil)
		c.check()
	})
}

// An acker is in the register before its first acknowledgement can count, and
// stays there as long as it might.
func TestInvariant_I3_RegisteredBeforeItAcknowledges(t *testing.T) {
	withCluster(t, 4, func(t *testing.T, c *cluster) {
		orders := 0
		c.hook(func(e event) error {
			if e.what == "follow" && e.acker && !e.after {
				orders++
				assert.True(t, c.state().Register.Has(e.to), "%s", e)
			}
			return nil
		})
		stop := c.clients()
		defer stop()
		c.server("n3").kill()
		time.Sleep(time.Second)
		require.True(t, c.state().Register.Has("n3"), "dead is no proof that it did not acknowledge")
		c.server("n3").start(true)
		_, err := c.agents["a1"].control.Switchover(t.Context(), "n2")
		require.NoError(t, err)
		c.eventually("all are ackers again", func() bool { return len(c.state().Register.Ackers) == 3 })
		c.check()
		c.hook(nil)
		require.GreaterOrEqual(t, orders, 3)
		c.store.mu.Lock()
		defer c.store.mu.Unlock()
		for i, s := range c.store.history[1:] {
			was := c.store.history[i]
			if was.Primary != nil && was.Primary.Node == s.Primary.Node {
				require.Subset(t, s.Register.Ackers, was.Register.Ackers, "nobody leaves the register of a primary that stays")
			}
		}
	})
}

// No acker is left: writes wait, however long; nothing degrades by itself.
func TestInvariant_I4_NothingDegradesByTime(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		before := c.state()
		c.server("n2").kill()
		c.server("n3").kill()
		answer := make(chan error, 1)
		go func() { answer <- c.commitBy("n1", 24*time.Hour) }()
		time.Sleep(time.Minute)
		require.Empty(t, answer)
		require.Contains(t, c.describe(), "n1: boot 1, down false, super_read_only false, read_only false, armed true")
		require.Equal(t, before, c.state(), "no epoch was spent, no acker dropped")
		c.server("n3").start(false)
		require.NoError(t, <-answer)
		c.check()
	})
}

// E8: etcd comes back from a backup that knows less than the nodes. Whoever
// serves goes on, nobody acts on what is past, and a new epoch takes an
// operator's word: above all that were ever seen.
func TestInvariant_I5_EpochNeverGoesBack(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		stop := c.clients()
		defer stop()
		backup := c.state()
		for _, to := range []topology.NodeName{"n2", "n3", "n2"} {
			_, err := c.agents["a1"].control.Switchover(t.Context(), to)
			require.NoError(t, err)
			c.check()
			time.Sleep(2 * time.Second)
		}
		require.EqualValues(t, 4, c.state().Epoch)
		c.record(func(s *election.State) { *s = copyOf(backup) })
		c.store.mu.Lock()
		c.store.history = nil
		c.store.mu.Unlock()
		err := c.agents["n3"].keeper.Follow(t.Context(), followRequest(2, c.server("n1"), true))
		require.ErrorIs(t, err, ErrStaleEpoch)
		_, err = c.agents["a1"].control.Switchover(t.Context(), "n3")
		var refused *GateError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, GateCurrent, refused.Gate.Name)

		time.Sleep(time.Minute)
		require.Equal(t, []topology.NodeName{"n2"}, c.writable(), "who serves goes on")
		require.NoError(t, c.commitBy("n2", time.Second), "and so do those that acknowledge")
		require.Equal(t, backup, c.state(), "nobody acts on a record that is past")

		c.server("n3").kill()
		time.Sleep(time.Minute)
		require.NoError(t, c.commitBy("n2", time.Second))
		require.Equal(t, backup, c.state(), "nobody leaves a register that is past")
		c.server("n3").start(false)
		c.server("n2").kill()
		time.Sleep(time.Minute)
		require.Empty(t, c.writable())
		require.Equal(t, backup, c.state())
		require.Equal(t, GateCurrent, closedGate(c.agents["a1"].control.Gates(), election.Failover).Name)
		o := c.forceOrder()
		require.Equal(t, Unbounded, o.Confirm, "nothing in the record bounds a loss")
		r, err := c.force(o)
		require.NoError(t, err)
		require.Greater(t, r.Epoch, topology.Epoch(4))
		require.True(t, r.Forced.Lossy)
		require.Nil(t, r.RPO.LostCommits, "the register proves nothing: it is past, too")
		c.server("n2").start(false)
		c.eventually("lossless", func() bool { return c.settled() && c.state().Degraded == nil })
		require.Empty(t, c.acked().Minus(c.server(c.state().Primary.Node).executed).String())
		c.store.mu.Lock()
		defer c.store.mu.Unlock()
		for _, s := range c.store.history {
			require.True(t, s.Epoch == backup.Epoch || s.Epoch > 4, "epoch %d is issued twice", s.Epoch)
		}
	})
}

// The same, where the primary that serves is to go on: no member's own transactions
// are in doubt, also where the record happens to name it, and whoever could not be
// asked is registered, as it may acknowledge.
func TestForcedEpochAfterARestoredEtcd(t *testing.T) {
	for truth, test := range map[topology.NodeName]struct {
		moves    []topology.NodeName
		unasked  topology.NodeName
		whatever topology.NodeName
	}{
		"n2": {[]topology.NodeName{"n2"}, "n1", "n3"},
		"n1": {[]topology.NodeName{"n3", "n1"}, "n3", "n2"},
	} {
		t.Run(string(truth), func(t *testing.T) {
			withCluster(t, 3, func(t *testing.T, c *cluster) {
				backup := c.state()
				for _, to := range test.moves {
					_, err := c.agents["a1"].control.Switchover(t.Context(), to)
					require.NoError(t, err)
					c.check()
					time.Sleep(2 * time.Second)
				}
				c.record(func(s *election.State) { *s = copyOf(backup) })
				c.server(test.whatever).kill()
				time.Sleep(time.Minute)
				require.Equal(t, backup, c.state(), "nobody leaves a register that is past, whoever its primary is")
				c.server(test.whatever).start(false)
				c.reach(test.unasked, false)
				require.NoError(t, c.commitBy(truth, time.Second))
				time.Sleep(time.Second)

				// An order that fails half-way has raised the epoch above all that was seen.
				c.hook(func(e event) error {
					if e.what == "freeze" && !e.after {
						return errors.New("not now")
					}
					return nil
				})
				_, err := c.force(c.forceOrder())
				require.Error(t, err)
				c.hook(nil)
				time.Sleep(time.Minute)
				s := c.state()
				require.NotEmpty(t, s.Past, "the record is as past as before")
				require.Equal(t, backup.Primary, s.Primary)
				require.Equal(t, []topology.NodeName{truth}, c.writable())

				r, err := c.force(c.forceOrder())
				require.NoError(t, err)
				require.Equal(t, truth, r.To, "who is open")
				require.Empty(t, c.state().Past)
				require.True(t, c.state().Register.Has(test.unasked), "its server may acknowledge")
				require.NotEmpty(t, c.state().Register.Accounts[test.unasked], "and can be shut out")
				c.reach(test.unasked, true)
				c.eventually("lossless, and all prove something", func() bool {
					v := c.agents["a1"].watcher.View()
					return c.settled() && v.State.Degraded == nil && len(v.State.Register.Ackers) == 2 &&
						v.Nodes["n1"].Certified && v.Nodes["n2"].Certified && v.Nodes["n3"].Certified
				})
				c.server(truth).kill()
				c.eventually("a failover as usual", func() bool { return c.settled() && c.state().Primary.Node != truth })
				require.Empty(t, c.acked().Minus(c.server(c.state().Primary.Node).executed).String())
			})
		})
	}
}

// Every instance starts closed, and only etcd's word opens it.
func TestInvariant_I6_StartsClosed(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.store.mu.Lock()
		c.store.down = true
		c.store.mu.Unlock()
		c.server("n1").kill()
		c.server("n1").start(false)
		time.Sleep(time.Minute)
		require.Empty(t, c.writable(), "without etcd nobody knows whether it is still primary")
		c.store.mu.Lock()
		c.store.down = false
		c.store.mu.Unlock()
		c.check()
		require.Equal(t, topology.NodeName("n1"), c.state().Primary.Node, "restarted in place")
		require.EqualValues(t, 2, c.state().Epoch, "under a new epoch")
		require.Equal(t, election.Resume, c.report(2).Kind)
	})
}

// Leadership moves again and again in the midst of operations, and no former
// leader is told: each goes on until it is refused (X5). Meanwhile primaries
// die and restart.
func TestInvariant_I7_TakenOverAgainAndAgain(t *testing.T) {
	for seed := range uint64(6) {
		t.Run("", func(t *testing.T) {
			withCluster(t, 5, func(t *testing.T, c *cluster) {
				var left atomic.Int32
				draw := rand.New(rand.NewPCG(seed, 7))
				steps := make([]int32, 12)
				for i := range steps {
					steps[i] = 1 + draw.Int32N(25)
				}
				left.Store(steps[0])
				var moves atomic.Int32
				c.hook(func(e event) error {
					if e.what == "status" || e.what == "report" || left.Add(-1) != 0 {
						return nil
					}
					n := moves.Add(1)
					c.lead([]topology.NodeName{"a1", "a2"}[n%2])
					left.Store(steps[int(n)%len(steps)])
					return nil
				})
				stop := c.clients()
				defer stop()
				for range 4 {
					time.Sleep(time.Duration(draw.Int32N(1500)) * time.Millisecond)
					victim := c.server(c.state().Primary.Node)
					victim.kill()
					time.Sleep(time.Duration(draw.Int32N(3000)) * time.Millisecond)
					victim.start(draw.Int32N(2) == 0)
					_, _ = c.agents["a1"].control.Switchover(t.Context(), "")
				}
				c.hook(nil)
				c.lead("a1")
				c.check()
				require.Positive(t, moves.Load())
			})
		})
	}
}

// M2: the killed primary comes back with commits that were never acknowledged.
func TestInvariant_I8_TailIsKeptAndReported(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.stall(true, "n2", "n3")
		require.ErrorIs(t, c.commitBy("n1", time.Second), context.DeadlineExceeded)
		c.server("n1").kill()
		c.stall(false, "n2", "n3")
		c.check()
		c.server("n1").start(false)
		c.eventually("it is compared", func() bool { return c.report(2).RPO.InDoubt != nil })
		r := c.report(2)
		require.EqualValues(t, 1, *r.RPO.InDoubt)
		require.EqualValues(t, 0, *r.RPO.LostCommits)
		require.EqualValues(t, 1, r.RPO.Proof.Errant.Count())
		time.Sleep(10 * time.Second)
		n1 := c.server("n1")
		require.Contains(t, c.describe(), "n1: boot 2, down false, super_read_only true, read_only true, armed false, from nobody", "following would mix the histories")
		require.True(t, n1.has().Contains(*r.RPO.Proof.Errant))
		require.False(t, c.state().Register.Has("n1"))
		c.check()
	})
}

// An instance that lacks what the primary seems to have lost is not thrown away.
func TestInvariant_I8_EmptiedPrimaryMakesNobodyErrant(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		_, err := c.agents["a1"].control.Switchover(t.Context(), "n2")
		require.NoError(t, err)
		time.Sleep(2 * time.Second)
		rebuilds := 0
		c.hook(func(e event) error {
			if e.what == "rebuild" {
				rebuilds++
			}
			return nil
		})
		c.fleet.change(func() {
			n2 := c.fleet.servers["n2"]
			n2.executed, n2.received = gtids("2:1"), gtids("2:1")
		})
		time.Sleep(10 * time.Second)
		c.hook(nil)
		require.Zero(t, rebuilds)
	}, func(c *cluster) {
		for _, a := range c.agents {
			a.control.rejoin.cfg.Policy.Rebuild = true
		}
	})
}

// Also etcd's death is no reason to touch what serves.
func TestInvariant_I9_WritesGoOnWithoutEtcd(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.store.mu.Lock()
		c.store.down = true
		c.store.mu.Unlock()
		for range 60 {
			require.NoError(t, c.commitBy("n1", time.Second))
			time.Sleep(time.Second)
		}
		require.Equal(t, gateEtcd, closedGate(c.agents["a1"].control.Gates(), election.Failover).Name)
		c.server("n1").kill()
		time.Sleep(time.Minute)
		require.Empty(t, c.writable(), "nothing is promoted without its quorum")
		c.store.mu.Lock()
		c.store.down = false
		c.store.mu.Unlock()
		c.check()
	})
}

// At every moment of a failover every gate is readable and has its reason, and
// what is refused names one.
func TestInvariant_I10_WhatIsRefusedIsExplained(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		control := c.agents["a1"].control
		seen := map[string]bool{}
		c.hook(func(event) error {
			for _, g := range control.Gates() {
				assert.NotEmpty(t, g.Reason, "%s of %s", g.Name, g.Operation)
				seen[g.Name] = seen[g.Name] || !g.Open
			}
			return nil
		})
		c.server("n1").kill()
		c.check()
		c.hook(nil)
		for _, g := range []string{gateFailed, gateIdle, gateHealthy} {
			require.True(t, seen[g], "%s was closed at some moment", g)
		}
		require.NoError(t, control.Pause(t.Context(), "kim", "moving racks"))
		c.server(c.state().Primary.Node).kill()
		time.Sleep(10 * time.Second)
		require.Empty(t, c.writable())
		require.Equal(t, gateNotPaused, closedGate(control.Gates(), election.Failover).Name)
		_, err := control.Switchover(t.Context(), "")
		var refused *GateError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, gateHealthy, refused.Gate.Name)
		require.NoError(t, control.Resume(t.Context()))
		c.server("n1").start(false)
		synctest.Wait()
	})
}

// E2: the ledger cannot be written as an operation ends, nor by the next one.
func TestInvariant_I7_NoEpochWithoutItsLedgerEntry(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		var lost atomic.Bool
		lost.Store(true)
		c.hook(func(e event) error {
			if lost.Load() && (e.what == "report" || e.what == "freeze" && e.to == "n3") {
				return election.ErrUnreachable
			}
			return nil
		})
		c.server("n1").kill()
		time.Sleep(20 * time.Second)
		s := c.state()
		require.EqualValues(t, 2, s.Epoch, "nobody claims another while this one is nowhere but in the record")
		require.NotNil(t, s.Operation)
		lost.Store(false)
		c.check()
		require.Greater(t, c.state().Epoch, topology.Epoch(2))
		require.Equal(t, Superseded, c.report(2).Outcome)
	})
}
