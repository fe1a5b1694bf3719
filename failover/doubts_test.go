package failover

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// acked is every commit that a client was told is done.
func (c *cluster) acked() gtid.Set {
	c.fleet.mu.Lock()
	defer c.fleet.mu.Unlock()
	return c.fleet.acked
}

// restart ends a server and has it back before anybody notices, without what is
// in lost.
func (c *cluster) restart(name topology.NodeName, lost gtid.Set) {
	s := c.server(name)
	s.start(false)
	c.fleet.change(func() {
		s.executed, s.received = s.executed.Minus(lost), s.received.Minus(lost)
		s.next -= int(lost.Count()) // their numbers are given again
	})
}

// M6: the primary's host loses power, and its disk the end of the binary log. It
// is back at once, closed, and nothing in the record tells it from one that is
// complete. Opened, it would give the numbers of what it has lost to other
// commits.
func TestPrimaryThatLostItsOwnCommits(t *testing.T) {
	for name, paused := range map[string]bool{"": false, "paused": true} {
		t.Run(name, func(t *testing.T) {
			withCluster(t, 3, func(t *testing.T, c *cluster) {
				for range 3 {
					require.NoError(t, c.commitBy("n1", time.Second))
				}
				before := c.acked()
				require.NoError(t, c.commitBy("n1", time.Second))
				require.NoError(t, c.commitBy("n1", time.Second))
				time.Sleep(time.Second)
				if paused {
					require.NoError(t, c.agents["a1"].control.Pause(t.Context(), "kim", "moving racks"))
				}
				c.restart("n1", c.acked().Minus(before))
				if paused {
					time.Sleep(time.Minute)
					require.Empty(t, c.writable(), "it is not opened, whoever has paused")
					g := closedGate(c.agents["a1"].control.Gates(), election.Failover)
					require.Equal(t, gateNotPaused, g.Name)
					require.NoError(t, c.agents["a1"].control.Resume(t.Context()))
				}
				c.check()
				require.NotEqual(t, topology.NodeName("n1"), c.state().Primary.Node)
				require.Contains(t, c.report(c.state().Epoch).Cause, "it lacks 2 transactions of its own that n2 has received of it")
				// What it wrote itself nobody can send it: it needs a copy.
				time.Sleep(time.Minute)
				require.False(t, c.state().Register.Has("n1"))
				require.Contains(t, c.describe(), "from nobody (receiver false, acker false), executed "+before.String())
			})
		})
	}
}

// An acker that knows more is found out also by the operation itself, after the
// decision: it answers again only then.
func TestResumeFindsOutWhatThePrimaryLost(t *testing.T) {
	old := Frozen{Node: "n1", ServerUUID: uuidOf("1"), Executed: gtids("1:1-9"), Received: gtids("1:1-9"), Closed: true, ReadOnly: true, Amnesiac: true}
	recorded := primaryOf("1:1-5")
	acker := Frozen{Node: "n2", ServerUUID: uuidOf("2"), Executed: gtids("1:1-11"), Received: gtids("1:1-12"), Closed: true}
	s := surveyOf([]Frozen{old, acker}, nil, recorded, register(1, "n2", "n3"))
	require.False(t, s.proven(), "it is closed, and does not know what it acknowledged")
	require.Contains(t, s.silent["n1"], "it lacks 3 transactions of its own that n2 has received of it")
	served := old
	served.Amnesiac = false
	require.True(t, surveyOf([]Frozen{served, acker}, nil, recorded, register(1, "n2", "n3")).proven(), "in the process in which it served")
	stranger := acker
	stranger.Node = "n4"
	require.True(t, surveyOf([]Frozen{old, stranger}, nil, recorded, register(1, "n2", "n3")).proven(), "what others hold is their affair")
	old.Committing = gtids("1:10-12")
	require.True(t, surveyOf([]Frozen{old, acker}, nil, recorded, register(1, "n2", "n3")).proven(), "what it is about to commit it has")
}

// Nobody could acknowledge: a primary that restarted is not tried to open again
// and again, each time for an epoch and an entry in the ledger.
func TestResumeWaitsForAckersWithoutClaiming(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.server("n2").kill()
		c.server("n3").kill()
		time.Sleep(time.Second)
		c.restart("n1", gtid.Set{})
		time.Sleep(10 * time.Minute)
		require.Empty(t, c.writable())
		require.LessOrEqual(t, c.state().Epoch, topology.Epoch(3))
		c.server("n3").start(false)
		c.check()
		require.Equal(t, topology.NodeName("n1"), c.state().Primary.Node)
	})
}

// A primary that answers and does not get open is given up for one that can.
func TestPrimaryThatCannotBeOpened(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		require.NoError(t, c.commitBy("n1", time.Second))
		c.hook(func(e event) error {
			if e.to == "n1" && e.what == "promote" && !e.after {
				return errors.New("the marker was not written: the disk takes nothing")
			}
			return nil
		})
		c.restart("n1", gtid.Set{})
		time.Sleep(time.Minute)
		require.Equal(t, topology.NodeName("n1"), c.state().Primary.Node, "as far as anybody knows another one would not open either")
		c.mu.Lock()
		c.ailing["n1"] = true
		c.mu.Unlock()
		c.check()
		require.NotEqual(t, topology.NodeName("n1"), c.state().Primary.Node)
		require.Regexp(t, `n1 could not be opened again in \d+ attempts: `, c.report(c.state().Epoch).Cause)
	})
}

// The server is well and closed, and the agent that could open it is gone for
// good.
func TestClosedPrimaryWithoutItsAgent(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		require.NoError(t, c.commitBy("n1", time.Second))
		require.NoError(t, c.agents["a1"].control.Pause(t.Context(), "kim", "moving racks"))
		c.reach("n1", false)
		time.Sleep(time.Second)
		c.restart("n1", gtid.Set{})
		time.Sleep(10 * time.Second)
		require.Empty(t, c.writable(), "paused: nothing is done")
		require.NoError(t, c.agents["a1"].control.Resume(t.Context()))
		c.check()
		require.NotEqual(t, topology.NodeName("n1"), c.state().Primary.Node)
		require.Contains(t, c.report(c.state().Epoch).Cause, "n1 is closed for writes, and its agent, which could open it, is gone")
	})
}

func TestDoubtsDecide(t *testing.T) {
	lost := with("n1", func(s *NodeStatus, i *dbrepl.Status) {
		s.Certified, i.SuperReadOnly, i.ReadOnly, i.Executed, i.Received = false, true, true, gtids("1:1-7"), gtids("1:1-7")
	})
	agentGone := func(v *View) {
		gone("n1")(v)
		v.AgentGone = true
	}
	votes := func(kind string, observers ...topology.NodeName) func(*View) {
		return func(v *View) {
			v.Primary.Needed = 2
			for _, n := range observers {
				v.Primary.Votes = append(v.Primary.Votes, Vote{Observer: n, Kind: kind, For: true})
			}
		}
	}
	seen := func(n topology.NodeName, epoch topology.Epoch) func(*View) {
		return with(n, func(s *NodeStatus, _ *dbrepl.Status) { s.Promised = epoch })
	}
	marked := with("n3", func(_ *NodeStatus, i *dbrepl.Status) { i.Marker.Epoch = 9 })
	amid := with("n1", func(_ *NodeStatus, i *dbrepl.Status) { i.SuperReadOnly = false })
	certified := with("n1", func(s *NodeStatus, _ *dbrepl.Status) { s.Certified = true })
	noEtcd := func(v *View) { v.EtcdReachable = false }
	unrelated := func(v *View) {
		v.State.Register, v.State.Sources = register(1, "n2"), map[topology.NodeName]topology.NodeName{"n2": "n1"}
	}
	for name, test := range map[string]struct {
		change []func(*View)
		want   election.Kind
	}{
		"it lost its own commits":                                 {[]func(*View){lost}, election.Failover},
		"and automation is paused: not opened":                    {[]func(*View){lost, pausedByOperator}, ""},
		"and an operation was begun":                              {[]func(*View){lost, inOperation(election.Failover, stepRevoke)}, election.Failover},
		"open, others are told more at any time":                  {[]func(*View){with("n2", func(_ *NodeStatus, i *dbrepl.Status) { i.Received = gtids("1:1-12") })}, ""},
		"closed, its agent gone":                                  {[]func(*View){agentGone, votes("closed", "n2", "n3")}, election.Failover},
		"the same, paused":                                        {[]func(*View){agentGone, votes("closed", "n2", "n3"), pausedByOperator}, ""},
		"open, its agent gone":                                    {[]func(*View){agentGone, votes("alive", "n2", "n3")}, ""},
		"one finds it open still":                                 {[]func(*View){agentGone, votes("closed", "n2"), votes("alive", "n3")}, ""},
		"one alone finds it closed":                               {[]func(*View){agentGone, votes("closed", "n2")}, ""},
		"closed, its agent only not reached by us":                {[]func(*View){gone("n1"), votes("closed", "n2", "n3")}, ""},
		"failed, and an acker has seen more":                      {[]func(*View){failed, gone("n1"), seen("n2", 6)}, ""},
		"failed, and an acker has replicated a newer marker":      {[]func(*View){failed, gone("n1"), marked}, ""},
		"failed, and a new epoch was ordered in vain":             {[]func(*View){failed, gone("n1"), func(v *View) { v.State.Past = "etcd was put back" }}, ""},
		"failed, an acker has seen more, and etcd is not reached": {[]func(*View){failed, gone("n1"), seen("n2", 6), noEtcd}, election.Failover},
		"it lost its own commits, amid a promotion":               {[]func(*View){lost, amid, func(v *View) { v.State.Epoch = 6 }}, election.Failover},
		"closed in the process that served: it lost nothing":      {[]func(*View){lost, certified}, election.Resume},
		"closed, and it has seen more itself":                     {[]func(*View){closed("n1"), seen("n1", 6)}, ""},
		"failed, and one without a part in it has":                {[]func(*View){failed, gone("n1"), unrelated, seen("n3", 60)}, election.Failover},
		"failed, and all have seen what the record has":           {[]func(*View){failed, gone("n1"), seen("n2", 5)}, election.Failover},
	} {
		t.Run(name, func(t *testing.T) {
			kind, _, run := decideOperation(quietView(test.change...), Policy{Automatic: true, Acks: 1, Expected: 3})
			require.Equal(t, test.want != "", run)
			if run {
				require.Equal(t, test.want, kind)
			}
		})
	}
}

// Beside a record that is past: who is promoted.
func TestChooseWithoutARecord(t *testing.T) {
	under := func(name topology.NodeName, received string, epoch topology.Epoch, open bool, unapplied uint64) Frozen {
		f := replica(name, received)
		f.Marker.Epoch, f.Unapplied, f.Closed, f.ReadOnly = epoch, unapplied, !open, !open
		return f
	}
	for name, test := range map[string]struct {
		seen []Frozen
		want topology.NodeName
	}{
		"who is open": {[]Frozen{under("n1", "1:1-9", 6, false, 0), under("n2", "1:1-9", 6, true, 0), under("n3", "1:1-12", 6, false, 3)}, "n2"},
		"not one that was replaced, whatever it has alone": {[]Frozen{under("n1", "1:1-99", 5, true, 0), under("n2", "1:1-9", 6, false, 0), under("n3", "1:1-9", 6, false, 0)}, "n2"},
		"who has the most, executed or not":                {[]Frozen{under("n1", "1:1-9", 6, false, 0), under("n2", "1:1-12", 5, false, 7)}, "n2"},
	} {
		t.Run(name, func(t *testing.T) {
			s := unbelieved(surveyOf(test.seen, nil, primaryOf("1:1-5"), register(1, "n2", "n3")))
			got, _, err := chooseCandidate(s, choosePolicy{kind: election.Failover, forced: true, past: true})
			require.NoError(t, err)
			require.Equal(t, test.want, got.Node)
		})
	}
}
