package failover

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/topology"
)

func TestCertainOfSites(t *testing.T) {
	for _, c := range []struct {
		sites []string
		n     int
		want  int
	}{
		{nil, 1, unmeetable},
		{[]string{"b"}, 1, 1},
		{[]string{"b", "b", "b"}, 1, 1},
		{[]string{"b", "b", "b"}, 2, unmeetable},
		{[]string{"b", "c"}, 2, 2},
		{[]string{"b", "b", "c"}, 2, 3},
		{[]string{"b", "b", "c", "d"}, 2, 3},
		{[]string{"b", "b", "c", "d"}, 3, 4},
		{[]string{"b", "b", "c", "c", "c", "d"}, 2, 4},
		{[]string{"b", "b", "c", "c", "c", "d"}, 3, 6},
	} {
		t.Run(fmt.Sprint(c.sites, c.n), func(t *testing.T) {
			require.Equal(t, c.want, certain(c.sites, c.n))
			if c.want == unmeetable {
				return
			}
			// By exhaustion: any so many are in n sites at least, and one less
			// is not enough.
			require.GreaterOrEqual(t, fewestSites(c.sites, c.want), c.n)
			require.Less(t, fewestSites(c.sites, c.want-1), c.n)
		})
	}
}

// fewestSites is in how few sites k of these members can be.
func fewestSites(sites []string, k int) int {
	fewest := len(sites)
	for chosen := range 1 << len(sites) {
		in, n := map[string]bool{}, 0
		for i, s := range sites {
			if chosen&(1<<i) != 0 {
				in[s] = true
				n++
			}
		}
		if n == k {
			fewest = min(fewest, len(in))
		}
	}
	return fewest
}

func TestAcksBySites(t *testing.T) {
	for _, c := range []struct {
		name    string
		policy  Policy
		present []string
		want    int
	}{
		{"no sites asked for", Policy{}, []string{"", "", "", ""}, 2},
		{"as acks says, where that is more", Policy{Acks: 3, Sites: 1}, []string{"b", "b", "c"}, 3},
		{"as the sites need, where that is", Policy{Acks: 1, Sites: 2}, []string{"b", "b", "c"}, 3},
		{"auto", Policy{Sites: 2}, []string{"b", "c"}, 2},
		{"too few sites: writes wait", Policy{Sites: 2}, []string{"b", "b"}, unmeetable},
		{"or go on with those there are", Policy{Sites: 2, Degrade: true}, []string{"b", "b"}, 2},
		{"or with none", Policy{Sites: 2, Degrade: true}, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) { require.Equal(t, c.want, c.policy.acks(5, c.present)) })
	}
}

func inSite(s string) func(*Frozen) { return func(f *Frozen) { f.Site = s } }

func TestChooseBySites(t *testing.T) {
	seen := []Frozen{
		replica("n2", "1:1-9", inSite("a")), replica("n3", "1:1-9", inSite("b")), replica("n4", "1:1-9", inSite("b")), replica("n5", "1:1-9", inSite("c")),
	}
	s := surveyOf(seen, nil, primaryOf("1:1-5"), register(1, "n3", "n4", "n5"))
	p := func(sites int) choosePolicy {
		return choosePolicy{kind: election.Failover, from: "n1", minFollowers: 1, policy: Policy{Sites: sites}}
	}
	for sites, want := range map[int]topology.NodeName{0: "n2", 1: "n2", 2: "n2"} {
		c, _, err := chooseCandidate(s, p(sites))
		require.NoError(t, err)
		require.Equal(t, want, c.Node)
	}
	_, _, err := chooseCandidate(s, p(3))
	require.ErrorContains(t, err, "those that could acknowledge its commits are in fewer than 3 other sites")

	alone := surveyOf(seen[1:3], nil, primaryOf("1:1-5"), register(1, "n3", "n4"))
	_, _, err = chooseCandidate(alone, p(1))
	require.ErrorContains(t, err, "0 of the 1 needed instances of other sites could acknowledge its commits")
	free := p(1)
	free.minFollowers = 0
	c, _, err := chooseCandidate(alone, free)
	require.NoError(t, err, "where nobody has to (degrade)")
	require.Equal(t, topology.NodeName("n3"), c.Node)
}

func TestNextRegisterBySites(t *testing.T) {
	seen := []Frozen{
		replica("n2", "1:1-9", inSite("a")), replica("n3", "1:1-9", inSite("b")), replica("n4", "1:1-9", inSite("b")), replica("n5", "1:1-9", inSite("c")),
	}
	next := func(to int, p Policy, force *forcing) election.Register {
		plan := Plan{Kind: election.Failover, From: "n1", Old: primaryOf("1:1-5"), Register: register(3, "n3", "n4", "n5"), Acks: p.minAcks(), Policy: p, Force: force}
		for _, f := range seen {
			plan.Members = append(plan.Members, topology.Member{Name: f.Node, MySQL: "x", Site: f.Site})
		}
		if force != nil {
			plan.Acks = 0
		}
		up := caughtUp{}
		up.survey, up.candidate = surveyOf(seen, nil, plan.Old, plan.Register), seen[to]
		up.followers = slices.DeleteFunc(slices.Clone(seen), func(f Frozen) bool { return f.Node == up.candidate.Node })
		reg, _ := nextRegister(&election.State{Register: plan.Register}, plan, up)
		return reg
	}
	require.Equal(t, register(2, "n3", "n4", "n5"), next(0, Policy{Sites: 1}, nil), "nobody else is in a")
	require.Equal(t, register(3, "n3", "n4", "n5"), next(0, Policy{Sites: 2}, nil), "b has two")
	require.Equal(t, register(2, "n2", "n5"), next(1, Policy{Acks: 2, Sites: 1}, nil), "n4 is in its site; n2 was no acker, and is needed")
	seen[0], seen[3] = replica("n2", "1:1-9", inSite("b")), replica("n5", "1:1-9", inSite("b"))
	require.Equal(t, register(0), next(0, Policy{Sites: 1}, &forcing{}), "forced: those that are left")
}

func TestRegisterBySites(t *testing.T) {
	view := func(change ...func(*View)) View {
		v := quietView(append([]func(*View){func(v *View) {
			n4 := v.Nodes["n3"]
			inst := *n4.Instance
			n4.Instance, n4.Member.Name = &inst, "n4"
			v.Nodes["n4"] = n4
			v.Members = append(v.Members, topology.Member{Name: "n4", MySQL: "127.0.0.1:3304"})
			v.State.Register = register(3, "n2", "n3", "n4")
			v.State.Register.Accounts = map[topology.NodeName][]string{}
			for i, site := range []string{"a", "b", "b", "c"} {
				m := &v.Members[i]
				m.Site, m.ReplicationUser = site, userOf(m.Name)
				n := v.Nodes[m.Name]
				n.Member = *m
				v.Nodes[m.Name] = n
				if m.Name != "n1" {
					v.State.Register.Accounts[m.Name] = []string{m.ReplicationUser}
				}
			}
		}}, change...)...)
		return v
	}
	gone := func(names ...topology.NodeName) func(topology.NodeName) bool {
		return func(n topology.NodeName) bool { return slices.Contains(names, n) }
	}
	block, degrade := Policy{Sites: 2}, Policy{Acks: 1, Sites: 2, Degrade: true}
	_, due := decideRegister(view(), block, gone())
	require.False(t, due, "as it should be")

	step, due := decideRegister(view(), block, gone("n2"))
	require.True(t, due)
	after := view().State
	step.change(&after)
	require.Equal(t, 2, after.Register.K, "n3 and n4 are in two sites")
	require.Equal(t, []topology.NodeName{"n2"}, after.Register.Shut, "in the same change: n2 and n3 would be in one")
	_, due = decideRegister(view(func(v *View) { delete(v.State.Register.Accounts, "n2") }), block, gone("n2"))
	require.False(t, due, "it cannot be shut out: writes wait")

	_, due = decideRegister(view(), block, gone("n4"))
	require.False(t, due, "no other site than b is left: writes wait")
	step, due = decideRegister(view(), degrade, gone("n4"))
	require.True(t, due)
	after = view().State
	step.change(&after)
	require.Equal(t, 1, after.Register.K, "or go on with b alone, which the record says first (I4)")

	near := func(v *View) {
		v.Members[1].Site = "a"
		v.State.Register.K = 1
	}
	step, due = decideRegister(view(near), Policy{Sites: 1}, gone())
	require.True(t, due)
	require.Contains(t, step.what, "n2 is in the primary's own site: it is to be shut out")
	shut := view(near)
	step.change(&shut.State)
	step, due = decideRegister(shut, Policy{Sites: 1}, gone())
	require.True(t, due)
	require.Contains(t, step.what, "no acker any more")
	require.True(t, step.obeyFirst, "it leaves when it can acknowledge no more (I3)")
}

func TestWhoMayAckBySites(t *testing.T) {
	v := quietView(func(v *View) { v.State.Register = register(1, "n3") }, with("n2", func(s *NodeStatus, i *dbrepl.Status) {
		s.Member.Site, i.SemiSync.ReplicaEnabled = "a", false
	}), with("n1", func(s *NodeStatus, _ *dbrepl.Status) { s.Member.Site = "a" }))
	for site, want := range map[string]remedy{"a": remedyNone, "": remedyNone, "b": remedyAdmit} {
		n := v.Nodes["n2"]
		n.Member.Site = site
		got, _ := decideRemedy(v.State, n, v.Nodes["n1"], Policy{Sites: 1})
		require.Equal(t, want, got, "in %q", site)
	}
	ahead := func(site string) []topology.NodeName {
		return decideAhead(quietView(func(v *View) { v.Members[1].Site, v.Members[2].Site = "b", site }), Policy{Sites: 1}, "n2")
	}
	require.Equal(t, []topology.NodeName{"n3"}, ahead("c"))
	require.Empty(t, ahead("b"), "it would acknowledge the candidate, in its own site")
}

// sites puts the servers into sites, in their order, and asks for so many.
func sites(n int, names ...string) func(*cluster) {
	return func(c *cluster) {
		c.policy(func(p *Policy) { p.Acks, p.Sites = 0, n })
		for i, site := range names {
			c.store.members[i].Site = site
			c.agents[c.store.members[i].Name].keeper.cfg.Member.Site = site
		}
		of := sitesOf(c.store.members)
		c.fleet.told = func(primary topology.NodeName, by map[topology.NodeName]bool) {
			in := map[string]bool{}
			for name := range by {
				if of[name] != of[primary] {
					in[of[name]] = true
				}
			}
			if len(in) < n {
				c.t.Errorf("%s told a client that a commit is done which only %v have", primary, slices.Sorted(maps.Keys(by)))
			}
		}
	}
}

// withSites is withCluster, where not every instance is an acker.
func withSites(t *testing.T, n int, names []string, f func(t *testing.T, c *cluster)) {
	t.Helper()
	inBubble(t, len(names), func(t *testing.T, c *cluster) {
		c.eventually("those that may are ackers", func() bool { return c.sitesFit() == "" && c.certified() })
		f(t, c)
	}, sites(n, names...))
}

// sitesFit says why the register is not what the sites ask for, with all there.
func (c *cluster) sitesFit() string {
	s := c.state()
	of := sitesOf(c.store.members)
	var want []topology.NodeName
	var at []string
	for _, m := range c.store.members {
		if m.HasInstance() && of[m.Name] != of[s.Primary.Node] {
			want, at = append(want, m.Name), append(at, m.Site)
		}
	}
	got := slices.Sorted(slices.Values(s.Register.Ackers))
	if !slices.Equal(got, want) || len(s.Register.Shut) > 0 {
		return fmt.Sprintf("ackers are %v, not %v; shut %v", got, want, s.Register.Shut)
	}
	if k := certain(at, c.agents["a1"].control.cfg.Policy.Sites); s.Register.K < k {
		return fmt.Sprintf("k is %d, and %d are needed to be certain", s.Register.K, k)
	}
	return ""
}

// Every commit that a client is told of is in as many other sites as are asked
// for, whatever moves: the check is in what sites() installs.
func TestCommitsAreInOtherSites(t *testing.T) {
	withSites(t, 2, []string{"a", "a", "b", "b", "c"}, func(t *testing.T, c *cluster) {
		stop := c.clients()
		defer stop()
		time.Sleep(time.Second)
		_, err := c.agents["a1"].control.Switchover(context.Background(), "n3")
		require.NoError(t, err)
		c.check()
		c.eventually("fits b", func() bool { return c.sitesFit() == "" })

		// One of two in a site dies: the other one is enough.
		c.server("n2").kill()
		c.eventually("n2 is dropped", func() bool { s := c.state(); return !s.Register.Has("n2") && s.Register.K == 2 })
		time.Sleep(time.Second)
		c.server("n2").start(false)
		c.eventually("fits again", func() bool { return c.sitesFit() == "" })

		c.server("n3").kill()
		c.eventually("a failover", func() bool { return c.settled() && c.state().Primary.Node != "n3" })
		c.server("n3").start(false)
		c.eventually("fits the next", func() bool { return c.sitesFit() == "" })
		c.check()
	})
}

// A site dies whose acknowledgement is asked for: writes wait, and nothing is
// lost; when it is back, they go on.
func TestASiteIsLost(t *testing.T) {
	withSites(t, 1, []string{"a", "a", "b"}, func(t *testing.T, c *cluster) {
		require.NoError(t, c.commitBy("n1", time.Second))
		c.server("n3").kill()
		answer := make(chan error, 1)
		go func() { answer <- c.commitBy("n1", time.Hour) }()
		time.Sleep(time.Minute)
		require.Empty(t, answer, "n2 has it, in the primary's own site")
		require.Nil(t, c.state().Degraded)
		c.server("n3").start(false)
		require.NoError(t, <-answer)
		c.check()
	})
}

// The sites were not asked for when an acker of the primary's own was admitted:
// it leaves the register by being shut out, and follows without acknowledging.
func TestAckerOfTheOwnSiteLeaves(t *testing.T) {
	withSites(t, 1, []string{"a", "a", "b"}, func(t *testing.T, c *cluster) {
		c.fleet.change(func() { c.fleet.servers["n2"].acker = true })
		c.store.mu.Lock()
		s := &c.store.state
		s.Register.Ackers = append(s.Register.Ackers, "n2")
		s.Register.Accounts["n2"], s.Sources["n2"] = []string{userOf("n2")}, "n1"
		c.store.revision++
		c.store.mu.Unlock()
		c.watchRegister()
		c.eventually("it acknowledges no more", func() bool {
			return c.sitesFit() == "" && c.connected("n2") && c.state().Sources["n2"] == ""
		})
		require.NoError(t, c.commitBy("n1", time.Second))
		c.check()
	})
}
