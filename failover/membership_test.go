package failover

import (
	"context"
	"encoding/json"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/topology"
)

func listed(names ...topology.NodeName) func(*View) {
	return func(v *View) {
		v.State.Members = map[topology.NodeName]election.Seat{}
		for _, n := range names {
			v.State.Members[n] = election.Seat{Voter: true}
		}
		v.State.Primary.Phase, v.State.Primary.Epoch = election.Open, v.State.Epoch
	}
}

func pending(n topology.NodeName, leaving bool) func(*View) {
	return func(v *View) {
		seat := election.Seat{}
		if leaving {
			seat.Leaving = new(time.Time)
		}
		v.State.Members[n] = seat
	}
}

func threeVoters(silent ...topology.NodeName) []Voter {
	var out []Voter
	for _, n := range []topology.NodeName{"n1", "n2", "n3"} {
		out = append(out, Voter{Name: n, Answers: !slices.Contains(silent, n)})
	}
	return out
}

// The refusals that hold for every change of the members.
func changeRefusals() map[string]struct {
	change []func(*View)
	gate   string
} {
	return map[string]struct {
		change []func(*View)
		gate   string
	}{
		"etcd is out of reach":     {[]func(*View){func(v *View) { v.EtcdReachable = false }}, gateEtcd},
		"there is no primary":      {[]func(*View){func(v *View) { v.State.Primary = nil }}, gateRecorded},
		"an operation runs":        {[]func(*View){func(v *View) { v.State.Operation = &election.Operation{Kind: election.Failover} }}, gateIdle},
		"an epoch without primary": {[]func(*View){func(v *View) { v.State.Epoch++ }}, gateIdle},
		"a primary that promotes":  {[]func(*View){func(v *View) { v.State.Primary.Phase = election.Promoting }}, gateIdle},
		"nobody is written down":   {[]func(*View){func(v *View) { v.State.Members = nil }}, gateListed},
		"another has not started":  {[]func(*View){pending("n8", false)}, gateOneChange},
		"another is leaving":       {[]func(*View){pending("n2", true)}, gateOneChange},
	}
}

func TestWhatRefusesAnAddition(t *testing.T) {
	view := func(change ...func(*View)) View {
		return quietView(append([]func(*View){listed("n1", "n2", "n3")}, change...)...)
	}
	for name, c := range changeRefusals() {
		g := decideAdd(view(c.change...), threeVoters(), true, "n4", true)
		require.NotNil(t, g, name)
		require.Equal(t, c.gate, g.Name, name)
		require.Equal(t, MemberAdd, g.Operation)
		require.NotEmpty(t, g.Reason)
	}
	for name, c := range map[string]struct {
		v        View
		voters   []Voter
		embedded bool
		node     topology.NodeName
		voter    bool
		gate     string // empty: allowed
	}{
		"a voter":                      {view(), threeVoters(), true, "n4", true, ""},
		"a member without a vote":      {view(), threeVoters("n2"), true, "n4", false, ""},
		"a member already":             {view(), threeVoters(), true, "n2", false, gateMember},
		"a vote in somebody's etcd":    {view(), nil, false, "n4", true, gateVoters},
		"without a vote there":         {view(), nil, false, "n4", false, ""},
		"a voter while one is away":    {view(), threeVoters("n3"), true, "n4", true, gateVoters},
		"a voter while one is learner": {view(), append(threeVoters(), Voter{Learner: true, Answers: true}), true, "n4", true, gateVoters},
	} {
		g := decideAdd(c.v, c.voters, c.embedded, c.node, c.voter)
		if c.gate == "" {
			require.Nil(t, g, name)
			continue
		}
		require.NotNil(t, g, name)
		require.Equal(t, c.gate, g.Name, name)
	}
}

func TestWhatRefusesARemoval(t *testing.T) {
	view := func(change ...func(*View)) View {
		return quietView(append([]func(*View){listed("n1", "n2", "n3")}, change...)...)
	}
	for name, c := range changeRefusals() {
		g := decideRemove(view(c.change...), threeVoters(), "n3")
		require.NotNil(t, g, name)
		require.Equal(t, c.gate, g.Name, name)
		require.Equal(t, MemberRemove, g.Operation)
	}
	unregistered := func(v *View) {
		v.State.Register.Ackers = []topology.NodeName{"n2"}
		delete(v.State.Sources, "n3")
	}
	for name, c := range map[string]struct {
		v      View
		voters []Voter
		node   topology.NodeName
		gate   string // empty: allowed
	}{
		"an acker":                   {view(), threeVoters(), "n3", ""},
		"one that is leaving":        {view(pending("n3", true)), threeVoters(), "n3", ""},
		"one that was never started": {view(pending("n4", false)), threeVoters(), "n4", ""},
		"nobody":                     {view(), threeVoters(), "n9", gateMember},
		"the primary":                {view(), threeVoters(), "n1", gateNotPrimary},
		"too few to acknowledge":     {view(func(v *View) { v.State.Register.K = 2 }), threeVoters(), "n3", gateAckers},
		"the other acker is dead":    {view(gone("n2")), threeVoters(), "n3", gateAckers},
		"the other does not stream":  {view(with("n2", func(_ *NodeStatus, i *dbrepl.Status) { i.Source.ReceiverOn = false })), threeVoters(), "n3", gateAckers},
		"a dead acker":               {view(gone("n3")), threeVoters("n3"), "n3", gateReleased},
		"an acker whose server died": {view(mysqldGone("n3")), threeVoters(), "n3", gateReleased},
		"dead and dropped": {view(unregistered, func(v *View) {
			v.State.Sources["n3"] = "n1"
			v.State.Register.Shut = []topology.NodeName{"n3"}
		}, gone("n3")), threeVoters(), "n3", ""},
		"dead and never an acker":    {view(unregistered, gone("n3")), threeVoters("n3"), "n3", ""},
		"etcd would lose its quorum": {view(), threeVoters("n2"), "n3", gateVoters},
		"of two, the living one":     {view(), []Voter{{Name: "n2"}, {Name: "n3", Answers: true}}, "n3", gateVoters},
		"the only voter":             {view(), []Voter{{Name: "n3", Answers: true}}, "n3", gateVoters},
		"the dead voter":             {view(unregistered, gone("n3")), threeVoters("n3"), "n3", ""},
		"a learner beside one voter": {view(), []Voter{{Name: "n1", Answers: true}, {Name: "n3", Learner: true}}, "n3", ""},
		"somebody's etcd has no say": {view(), nil, "n3", ""},
	} {
		g := decideRemove(c.v, c.voters, c.node)
		if c.gate == "" {
			require.Nil(t, g, "%s: %+v", name, g)
			continue
		}
		require.NotNil(t, g, name)
		require.Equal(t, c.gate, g.Name, name)
	}
}

func TestNotesOnMembers(t *testing.T) {
	seats := func(voters, others int) election.State {
		s := election.State{Members: map[topology.NodeName]election.Seat{}}
		for i := range voters + others {
			s.Members[topology.NodeName(rune('a'+i))] = election.Seat{Voter: i < voters}
		}
		return s
	}
	servers := func(n int) []topology.Member { return slices.Repeat([]topology.Member{{MySQL: "h:1"}}, n) }
	require.Empty(t, notesOn(seats(3, 1), servers(4), true, Policy{Acks: 1}))
	require.Empty(t, notesOn(seats(0, 4), servers(4), false, Policy{Acks: 1}))
	require.ElementsMatch(t, []string{"4 members vote, which survives no more losses than 3: add one that votes, or remove one"}, notesOn(seats(4, 0), servers(4), true, Policy{Acks: 1}))
	two := notesOn(seats(2, 0), servers(2), true, Policy{Acks: 1})
	require.Len(t, two, 2)
	require.Contains(t, two[0], "2 members vote")
	require.Contains(t, two[1], "no failover is possible")
}

// The members of a new cluster are written down once, as they registered.
func TestMembersAreWrittenDown(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		s := c.state()
		require.Len(t, s.Members, 5)
		require.Contains(t, s.Members, topology.NodeName("a2"))
	})
}

// listedVoters is an etcd of these members.
type listedVoters struct {
	Voters
	names atomic.Pointer[[]topology.NodeName]
}

func (v *listedVoters) List(context.Context) (all []Voter, _ error) {
	for _, n := range *v.names.Load() {
		all = append(all, Voter{Name: n, Answers: true})
	}
	return all, nil
}

// A member that begins with an empty folder leaves etcd and joins again: between
// the two it is none of its members, and is to have its vote all the same.
func TestMembersAreNotWrittenDownWhileOneJoinsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		voters := &listedVoters{}
		voters.names.Store(&[]topology.NodeName{"n1", "n2"})
		c := newCluster(t, 3)
		defer c.end()
		for i, m := range c.store.members {
			c.agents[m.Name].control.members.cfg.Voters = voters
			if m.HasInstance() {
				c.store.members[i].EtcdPeer = string(m.Name) + ":2380"
			}
		}
		c.run()
		time.Sleep(10 * time.Second)
		require.Equal(t, []topology.NodeName{"n1"}, c.writable())
		require.Nil(t, c.state().Members)
		voters.names.Store(&[]topology.NodeName{"n1", "n2", "n3"})
		c.check()
		s := c.state()
		require.True(t, s.Members["n3"].Voter)
		require.False(t, s.Members["a1"].Voter)
	})
}

// TestInvariant_I1_RemovedAckerTakesNothingAlong: what a member alone had
// acknowledged, the others hold before it is no acker any more, and it
// acknowledges nothing afterwards, whatever order to do so arrives late.
func TestInvariant_I1_RemovedAckerTakesNothingAlong(t *testing.T) {
	withCluster(t, 4, func(t *testing.T, c *cluster) {
		p := c.state().Primary
		others := slices.DeleteFunc([]topology.NodeName{"n1", "n2", "n3", "n4"}, func(n topology.NodeName) bool { return n == p.Node })
		leaver, others := others[0], others[1:]
		c.stall(true, others...)
		require.NoError(t, c.commitBy(p.Node, time.Second), "only the leaver has it")
		result := make(chan error, 1)
		go func() {
			_, err := c.agents["a1"].control.RemoveMember(context.Background(), leaver)
			result <- err
		}()
		time.Sleep(5 * time.Second)
		require.True(t, c.state().Belongs(leaver), "the others do not hold what it acknowledged")
		c.stall(false, others...)
		require.NoError(t, <-result)
		s := c.state()
		require.False(t, s.Belongs(leaver))
		require.False(t, s.Register.Has(leaver))
		require.NotContains(t, s.Sources, leaver)
		require.Contains(t, s.Removed, leaver)

		// An order that was under way since before.
		err := c.agents[leaver].keeper.Follow(context.Background(), FollowRequest{
			Epoch: s.Epoch, Source: p.Node, SourceUUID: p.ServerUUID, Address: p.Address, Acker: true, SourceHas: c.server(p.Node).executed,
		})
		require.ErrorIs(t, err, ErrNotRecorded)
		c.stall(true, others...)
		require.ErrorIs(t, c.commitBy(p.Node, 2*time.Second), context.DeadlineExceeded, "it acknowledged %s %s", leaver, c.describe())
		c.stall(false, others...)
		c.eventually("its receiver is stopped", func() bool { return !c.receives(leaver) })

		// And the rest fails over without it.
		c.server(p.Node).kill()
		c.eventually("another primary", func() bool { q := c.state().Primary; return q.Node != p.Node && q.Phase == election.Open })
		c.check()
		require.NotEqual(t, leaver, c.state().Primary.Node)
	})
}

// TestInvariant_I1_RemovedDeadAcker: a dead acker is removed once the primary has
// shut it out. What it was told last stays known, with its account, so that the
// primary it follows can shut it out again when that has lost its role meanwhile.
func TestInvariant_I1_RemovedDeadAcker(t *testing.T) {
	withCluster(t, 4, func(t *testing.T, c *cluster) {
		p := c.state().Primary
		leaver := slices.DeleteFunc([]topology.NodeName{"n1", "n2"}, func(n topology.NodeName) bool { return n == p.Node })[0]
		c.reach(leaver, false)
		c.server(leaver).kill()
		remove := func() error {
			_, err := c.agents["a1"].control.RemoveMember(context.Background(), leaver)
			return err
		}
		var refused *GateError
		require.ErrorAs(t, remove(), &refused)
		require.Equal(t, gateReleased, refused.Gate.Name)
		c.eventually("it is dropped", func() bool { return !c.state().Register.Has(leaver) })
		require.NoError(t, remove())
		s := c.state()
		require.False(t, s.Belongs(leaver))
		require.Contains(t, s.Sources, leaver)
		require.True(t, s.Register.IsShut(leaver))
		require.NotEmpty(t, s.Register.Accounts[leaver])

		// The primary comes back to its role: the removed one counts as an acker
		// by what it was told, and is shut out once more.
		to := slices.DeleteFunc([]topology.NodeName{"n3", "n4"}, func(n topology.NodeName) bool { return n == p.Node })[0]
		for _, next := range []topology.NodeName{to, p.Node} {
			c.eventually("a switchover", func() bool {
				_, err := c.agents["a1"].control.Switchover(context.Background(), next)
				return err == nil
			})
			c.check()
		}
		require.True(t, c.state().Register.Has(leaver), "it was told to acknowledge this primary")
		c.eventually("it is no acker", func() bool { return !c.state().Register.Has(leaver) })
		c.check()
		require.Equal(t, p.Node, c.state().Primary.Node)
	})
}

// A leader that dies in the middle leaves a removal that the next one finishes;
// an operation takes one back.
func TestRemovalIsTakenOverOrBack(t *testing.T) {
	withCluster(t, 4, func(t *testing.T, c *cluster) {
		p := c.state().Primary.Node
		others := slices.DeleteFunc([]topology.NodeName{"n1", "n2", "n3", "n4"}, func(n topology.NodeName) bool { return n == p })
		leaver, other := others[0], others[1]
		var marked atomic.Bool
		c.hook(func(e event) error {
			if e.from == "a1" && e.what == "follow" && e.to == leaver && marked.Load() {
				return context.DeadlineExceeded
			}
			return nil
		})
		marked.Store(true)
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		change, err := c.agents["a1"].control.RemoveMember(ctx, leaver)
		cancel()
		require.NoError(t, err)
		require.False(t, change.Done)
		require.NotEmpty(t, change.Waiting)
		_, err = c.agents["a1"].control.AddMember(context.Background(), "n9", false)
		require.ErrorIs(t, err, ErrGateClosed)
		c.lead("a2")
		c.eventually("the next leader removes it", func() bool { return !c.state().Belongs(leaver) })

		marked.Store(false)
		c.hook(func(e event) error {
			if e.what == "follow" && e.to == other && !e.acker {
				return context.DeadlineExceeded
			}
			return nil
		})
		result := make(chan error, 1)
		go func() {
			_, err := c.agents["a2"].control.RemoveMember(context.Background(), other)
			result <- err
		}()
		c.eventually("it is asked for", func() bool { return c.state().Leaving(other) })
		c.server(p).kill()
		require.ErrorIs(t, <-result, ErrUndone)
		c.hook(nil)
		c.server(p).start(false)
		c.check()
		require.True(t, c.state().Belongs(other))
		c.eventually("it acknowledges again", func() bool { return c.state().Register.Has(other) || c.state().Primary.Node == other })
	})
}

// The leader hands over before it is removed itself.
func TestLeaderIsRemovedByAnother(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		_, err := c.agents["a1"].control.RemoveMember(context.Background(), "a1")
		require.ErrorIs(t, err, ErrNotLeader)
		leader := c.agents["a2"].registry.Leadership().Holder
		require.NotEqual(t, topology.NodeName("a1"), leader)
		change, err := c.agents[leader].control.RemoveMember(context.Background(), "a1")
		require.NoError(t, err)
		require.True(t, change.Done)
		synctest.Wait()
		r := RouteKeeper{Watcher: c.agents["a1"].watcher}.route(c.state())
		require.Equal(t, "this node was removed from the cluster", r.Reason)
		c.eventually("its routes are closed", func() bool { return c.agents["a1"].table.Current().Primary == nil })
	})
}

// What completes an entry of a newer leader keeps what that wrote.
func TestCompletingKeepsTheRest(t *testing.T) {
	stored := `{"epoch":3,"weather":"fine","steps":[{"name":"claim","mood":"good"}],"rpo":{"lost_commits":0,"in_doubt":null,"sigma":5,"proof":{"k":1,"seal":"x"}}}`
	var rep Report
	require.NoError(t, json.Unmarshal([]byte(stored), &rep))
	two := uint64(2)
	rep.RPO.InDoubt = &two
	raw, err := withRPO([]byte(stored), rep.RPO)
	require.NoError(t, err)
	for _, want := range []string{`"weather":"fine"`, `"mood":"good"`, `"sigma":5`, `"seal":"x"`, `"in_doubt":2`} {
		require.Contains(t, string(raw), want)
	}
}
