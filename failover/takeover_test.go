package failover

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/internal/topology"
	"interrex/router"
)

// die is the moment at which a leader dies: at the first event like it.
type die struct {
	name  string
	what  string
	to    topology.NodeName // any if empty
	after bool
}

// moments of an operation; before an order it has no effect, after it its
// answer is lost.
var (
	failoverMoments = []die{
		{"before the claim", "claim", "", false},
		{"after the claim", "claim", "", true},
		{"before a freeze", "freeze", "n2", false},
		{"after a freeze", "freeze", "n2", true},
		{"after the last freeze", "freeze", "n3", true},
		{"before the record", "record", "", false},
		{"after the record", "record", "", true},
		{"before a follower is told", "follow", "n3", false},
		{"after a follower was told", "follow", "n3", true},
		{"before promoting", "promote", "", false},
		{"after promoting", "promote", "", true},
		{"after a route was pushed", "route", "n3", true},
		{"before the record is closed", "end", "", false},
		{"after the record is closed", "end", "", true},
	}
	switchoverMoments = []die{
		{"after the claim", "claim", "", true},
		{"before an acker goes ahead", "follow", "n3", false},
		{"after an acker went ahead", "follow", "n3", true},
		{"before closing", "close", "n1", false},
		{"after closing", "close", "n1", true},
		{"before catching up", "catchup", "n2", false},
		{"after catching up", "catchup", "n2", true},
		{"after the candidate is frozen", "freeze", "n2", true},
		{"before the record", "record", "", false},
		{"after the record", "record", "", true},
		{"before the old primary is told to follow", "follow", "n1", false},
		{"after the old primary was told to follow", "follow", "n1", true},
		{"before promoting", "promote", "n2", false},
		{"after promoting", "promote", "n2", true},
		{"before the record is closed", "end", "", false},
		{"after the record is closed", "end", "", true},
	}
)

// killLeader stops a1's agent at the moment, and makes a2 the leader.
func (c *cluster) killLeader(at die) (died func() bool) {
	var done atomic.Bool
	c.hook(func(e event) error {
		if e.from != "a1" || done.Load() || e.what != at.what || e.after != at.after || (at.to != "" && e.to != at.to) {
			return nil
		}
		done.Store(true)
		c.agents["a1"].stop()
		c.lead("a2")
		return nil
	})
	return done.Load
}

// atEachMoment has a1 begin an operation on a cluster under load, and die at
// the moment; then looks at what became of it. A cluster for each moment.
func atEachMoment(t *testing.T, servers int, moments []die, begin, then func(t *testing.T, c *cluster)) {
	for _, at := range moments {
		t.Run(at.name, func(t *testing.T) {
			withCluster(t, servers, func(t *testing.T, c *cluster) {
				stop := c.clients()
				defer stop()
				time.Sleep(time.Second)
				died := c.killLeader(at)
				begin(t, c)
				c.eventually("the leader died", died)
				then(t, c)
				c.check()
			})
		})
	}
}

func switchOver(t *testing.T, c *cluster) {
	_, _ = c.agents["a1"].control.Switchover(t.Context(), "n2")
}

func TestTakeOverOfAFailover(t *testing.T) {
	atEachMoment(t, 3, failoverMoments, func(_ *testing.T, c *cluster) { c.server("n1").kill() }, func(t *testing.T, c *cluster) {
		c.check()
		require.NotEqual(t, topology.NodeName("n1"), c.state().Primary.Node)

		c.server("n1").start(false)
		c.eventually("the old primary is an acker", func() bool { return c.state().Sources["n1"] == c.state().Primary.Node })
	})
}

func TestTakeOverOfASwitchover(t *testing.T) {
	atEachMoment(t, 3, switchoverMoments, switchOver, func(_ *testing.T, c *cluster) {
		c.check()
		c.eventually("both others are ackers", func() bool {
			s := c.state()
			return len(s.Register.Ackers) == 2 && len(s.Sources) == 2
		})
	})
}

// The primary dies as well, after the leader that was moving it.
func TestTakeOverOfASwitchoverWhosePrimaryDies(t *testing.T) {
	atEachMoment(t, 5, switchoverMoments, switchOver, func(_ *testing.T, c *cluster) {
		victim := c.state().Primary.Node
		c.server(victim).kill()
		c.eventually("another primary serves", func() bool { return c.settled() && c.state().Primary.Node != victim })
	})
}

// The candidate dies as well, after the leader that was promoting it: another
// one takes its place, as another acker is dispensable.
func TestTakeOverOfAFailoverWhoseCandidateDies(t *testing.T) {
	for _, at := range failoverMoments {
		t.Run(at.name, func(t *testing.T) {
			withCluster(t, 5, func(t *testing.T, c *cluster) {
				stop := c.clients()
				defer stop()
				time.Sleep(time.Second)
				died := c.killLeader(at)
				c.server("n1").kill()
				c.eventually("the leader died", died)
				victim := topology.NodeName("n2") // of equals, by name
				c.server(victim).kill()
				c.eventually("another primary serves", func() bool {
					return c.settled() && c.state().Primary.Node != victim && c.state().Primary.Node != "n1"
				})
				c.check()
				c.server("n1").start(false)
				c.server(victim).start(false) // a marker that nobody acknowledged may be on it
				c.eventually("the old primary is an acker", func() bool { return c.state().Register.Has("n1") })
				c.check()
			}, acks(2))
		})
	}
}

// The old primary comes back meanwhile: closed, and never beside another one.
func TestTakeOverOfAFailoverWhoseOldPrimaryReturns(t *testing.T) {
	atEachMoment(t, 3, failoverMoments, func(_ *testing.T, c *cluster) { c.server("n1").kill() }, func(t *testing.T, c *cluster) {
		c.server("n1").start(false)
		c.check()
		c.eventually("both others are ackers", func() bool {
			s := c.state()
			return len(s.Register.Ackers) == 2 && len(s.Sources) == 2
		})
	})
}

func TestOneOfTwoControllersClaims(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		// Both act as leader: what is compared on writing decides.
		a1, a2 := c.agents["a1"].control, c.agents["a2"].control
		v := c.agents["a2"].watcher.RefreshAll(t.Context())
		orders := 0
		c.hook(func(e event) error {
			if e.from == "a2" && e.epoch != 0 {
				orders++
			}
			return nil
		})
		_, err := a1.Switchover(t.Context(), "n2")
		require.NoError(t, err)
		c.lead("a2")
		r, err := a2.operate(t.Context(), a2.plan(v, election.Switchover, "asked at the same time", "n3"))
		require.ErrorIs(t, err, election.ErrConflict)
		require.Equal(t, Superseded, r.Outcome)
		require.Zero(t, r.Epoch)
		c.hook(nil)
		require.Zero(t, orders, "who did not claim orders nothing")
		c.check()
		require.Equal(t, topology.NodeName("n2"), c.state().Primary.Node)
	})
}

func TestStaleLeadersCommandsAreRefused(t *testing.T) {
	for _, held := range []string{"promote", "catchup", "freeze"} {
		t.Run(held, func(t *testing.T) {
			withCluster(t, 3, func(t *testing.T, c *cluster) {
				resume, paused := make(chan struct{}), make(chan struct{})
				c.rawHook(func(e event) error {
					if e.from == "a1" && e.what == held && e.to == "n2" && !e.after && e.epoch == 2 {
						close(paused)
						<-resume // the leader's machine stands still here
					}
					return nil
				})
				answer := make(chan error, 1)
				go func() {
					r, err := c.agents["a1"].control.Switchover(t.Context(), "n2")
					if r.Outcome != Superseded {
						err = errors.New("outcome is " + string(r.Outcome))
					}
					answer <- err
				}()
				<-paused
				c.lead("a2")
				c.eventually("the other leader has finished it", func() bool { return c.settled() && c.state().Epoch > 2 })
				before := c.state()
				close(resume)
				err := <-answer
				require.True(t, errors.Is(err, ErrStaleEpoch) || errors.Is(err, election.ErrNotLeader), "%v", err)
				c.check()
				require.Equal(t, before, c.state(), "nothing it sent took effect")
			})
		})
	}
}

// The agent of the candidate freezes for good while its server is promoted: the
// server lives, so nothing is said against it, and nobody is there to open it.
func TestCandidateWhoseAgentIsGone(t *testing.T) {
	for _, at := range []die{
		{"before the record", "record", "", false},
		{"after the record", "record", "", true},
	} {
		t.Run(at.name, func(t *testing.T) {
			withCluster(t, 4, func(t *testing.T, c *cluster) {
				stop := c.clients()
				defer stop()
				time.Sleep(time.Second)
				var gone atomic.Bool
				c.rawHook(func(e event) error {
					if e.from == "a1" && e.what == at.what && e.after == at.after && !gone.Swap(true) {
						c.reach("n2", false)
					}
					return nil
				})
				c.server("n1").kill()
				began := time.Now()
				c.eventually("another primary serves", func() bool {
					return gone.Load() && c.settled() && c.state().Primary.Node != "n2" && c.state().Primary.Node != "n1"
				})
				require.Less(t, time.Since(began), 5*time.Second)
				c.check()
				c.reach("n2", true)
				c.server("n1").start(false)
				c.eventually("both are ackers", func() bool { return c.state().Register.Has("n1") && c.state().Register.Has("n2") })
				c.check()
			})
		})
	}
}

// TestLeaderThatCannotAskThePrimary: the others find the primary well, and its
// agent is there for all but the leader. Who cannot ask it can neither resume it
// nor fail over from it, and hands the leadership on.
func TestLeaderThatCannotAskThePrimary(t *testing.T) {
	cut := func(c *cluster, after string) {
		c.hook(func(e event) error {
			if e.from == "a1" && e.what == after && e.after {
				after = ""
			}
			if after == "" && (e.from == "a1" || e.from == "a2") && e.to == "n1" && !e.after {
				return errors.New("this link is cut")
			}
			return nil
		})
	}
	led := func(c *cluster) topology.NodeName { return c.agents["a2"].registry.Leadership().Holder }
	for name, strike := range map[string]func(t *testing.T, c *cluster){
		"and it restarts closed": func(_ *testing.T, c *cluster) {
			cut(c, "")
			c.server("n1").kill()
			c.server("n1").start(false)
		},
		"and it is in the middle of a switchover": func(t *testing.T, c *cluster) {
			cut(c, "claim")
			_, err := c.agents["a1"].control.Switchover(t.Context(), "n2")
			require.ErrorIs(t, err, ErrUndone)
			require.Equal(t, router.Open, c.agents["a2"].table.Current().Phase, "nothing was closed")
			require.Equal(t, []topology.NodeName{"n1"}, c.writable())
		},
	} {
		t.Run(name, func(t *testing.T) {
			withCluster(t, 3, func(t *testing.T, c *cluster) {
				require.Equal(t, topology.NodeName("n1"), c.state().Primary.Node)
				require.Equal(t, topology.NodeName("a1"), led(c))
				strike(t, c)
				began := time.Now()
				able := func() bool { return led(c) == "n2" || led(c) == "n3" }
				c.eventually("a leader that can ask it", able)
				require.Less(t, time.Since(began), 4*blindLimit)
				time.Sleep(time.Minute)
				require.True(t, able(), "%s leads", led(c))
				c.check()
				require.Equal(t, topology.NodeName("n1"), c.state().Primary.Node)
			})
		})
	}
}

// TestAgentOfThePrimaryIsGone: nobody can ask it, and it makes no difference who
// leads.
func TestAgentOfThePrimaryIsGone(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		before := c.agents["a2"].registry.Leadership()
		c.reach("n1", false)
		time.Sleep(time.Minute)
		require.Equal(t, before, c.agents["a2"].registry.Leadership(), "nor has it been handed round")
		require.Equal(t, []topology.NodeName{"n1"}, c.writable())
	})
}
