package failover

import (
	"fmt"
	"math"
	"slices"

	"interrex/election"
	"interrex/internal/topology"
)

// A server that waits for acknowledgements counts them and does not know where
// they come from. That a commit is in so many other sites is therefore made
// certain by who may acknowledge, and by how many are waited for: the register
// has members of other sites only, and k is so large that fewer sites than are
// asked for do not have as many of them.

// unmeetable is a k that nobody can reach: what is asked for cannot be had.
const unmeetable = math.MaxInt32

// mayAck tells whether a member may be an acker of a primary in site. One whose
// site is not known is nowhere else for certain.
func (p Policy) mayAck(site, acker string) bool { return p.Sites == 0 || outside(site, acker) }

func outside(site, acker string) bool { return acker != "" && acker != site }

// certain is how many acknowledgements of members in these sites are from n
// different ones, whichever they are; unmeetable if there are fewer sites.
func certain(sites []string, n int) int {
	bySite := map[string]int{}
	for _, s := range sites {
		bySite[s]++
	}
	if len(bySite) < n || n == 0 {
		return unmeetable
	}
	var sizes []int
	for _, size := range bySite {
		sizes = append(sizes, size)
	}
	slices.Sort(sizes)
	k := 1
	for _, size := range sizes[len(sizes)-n+1:] { // the largest n-1 may have all the others
		k += size
	}
	return k
}

// acks is how many acknowledgements the primary is to wait for, of so many
// instances, where those that are present and may acknowledge are in these
// sites. It is unmeetable where they are in too few.
func (p Policy) acks(instances int, present []string) int {
	want := p.Acks
	if want == 0 {
		want = max(1, min(instances/2, len(present)))
	}
	if p.Sites > 0 {
		k := certain(present, p.Sites)
		for n := p.Sites - 1; k == unmeetable && p.Degrade && n > 0; n-- {
			k = certain(present, n)
		}
		want = max(want, k)
	}
	if p.Degrade {
		want = min(want, len(present))
	}
	return want
}

// ackersAt are those of the followers that may acknowledge a primary in site,
// and their sites.
func (p Policy) ackersAt(site string, followers []Frozen) (ackers []Frozen, sites []string) {
	for _, f := range followers {
		if p.mayAck(site, f.Site) && f.Inadmissible == "" {
			ackers = append(ackers, f)
			sites = append(sites, f.Site)
		}
	}
	return ackers, sites
}

// sitesOf are the members' sites, by name.
func sitesOf(members []topology.Member) map[topology.NodeName]string {
	sites := make(map[topology.NodeName]string, len(members))
	for _, m := range members {
		sites[m.Name] = m.Site
	}
	return sites
}

// lowerBySites has the primary wait for fewer, and those that are gone shut out
// with the same change: fewer would be enough with one of them only. Where that
// cannot be, writes wait, unless policy lets them go on.
func lowerBySites(reg election.Register, seen ackersSeen, p Policy, want int) (registerStep, bool) {
	out := slices.DeleteFunc(slices.Clone(reg.Ackers), func(n topology.NodeName) bool { return !seen.leaves(n) || reg.IsShut(n) })
	able := seen.active >= max(want, 1) && !slices.ContainsFunc(out, func(n topology.NodeName) bool { return !hasOwnAccount(reg, seen.users, n) })
	if !able && !p.Degrade {
		return registerStep{}, false
	}
	what := fmt.Sprintf("%d ackers are left: the primary is to wait for %d", len(seen.present), want)
	if !able {
		return registerStep{what: what, change: lower(want)}, true
	}
	return registerStep{what: fmt.Sprintf("%s, and to shut out %v", what, out), change: func(s *election.State) {
		lower(want)(s)
		shut(out...)(s)
	}}, true
}
