package failover

import (
	"maps"
	"slices"

	"interrex/election"
	"interrex/internal/topology"
)

// nextRegister is the acker register of the new epoch and who may hold an
// acknowledging receiver on whom from then on (I3). Where the primary stays
// the same, every old acker may still acknowledge, reached or not.
func nextRegister(s *election.State, plan Plan, up caughtUp) (election.Register, map[topology.NodeName]topology.NodeName) {
	sources := map[topology.NodeName]topology.NodeName{}
	maps.Copy(sources, s.Sources)
	candidate := up.candidate.Node
	// Its receiver is stopped, and so are those of all that were frozen.
	delete(sources, candidate)
	if plan.Kind == election.Failover || plan.Kind == election.Bootstrap {
		for _, f := range up.survey.seen {
			delete(sources, f.Node)
		}
	}
	if plan.Past != "" {
		noteUnseen(sources, plan, up.survey)
	}
	instances := 0
	users := map[topology.NodeName]string{}
	for _, m := range plan.Members {
		if m.HasInstance() {
			instances++
			users[m.Name] = m.ReplicationUser
		}
	}
	ackers, sites := plan.Policy.ackersAt(up.candidate.Site, up.followers)
	k := max(plan.Acks, plan.Policy.acks(instances, sites))
	if plan.Force != nil || k == unmeetable {
		// It is not to wait for those that are gone; nor is one that stays.
		k = max(plan.Acks, min(k, len(ackers)))
	}
	reg := election.Register{K: k}
	if plan.From == candidate && plan.Past == "" {
		reg = sameRegister(s.Register, ackers, k)
	} else {
		reg.Ackers = ackersAmong(ackers, up.survey, plan, k)
	}
	for n, src := range sources { // wherever it is: it may acknowledge
		// One that is shut out stays so: what keeps it out is of this server.
		if (src == candidate || src == anyPrimary) && !reg.Has(n) && !reg.IsShut(n) {
			reg.Ackers = append(reg.Ackers, n)
		}
	}
	// What a node may be receiving with is known until it is seen not to
	// acknowledge; those that are about to be ordered use their present account.
	for n, known := range s.Register.Accounts {
		if _, ordered := sources[n]; ordered || reg.Has(n) || reg.IsShut(n) {
			for _, user := range known {
				addAccount(&reg, n, user)
			}
		}
	}
	for _, n := range reg.Ackers {
		ordered := slices.ContainsFunc(up.followers, func(f Frozen) bool { return f.Node == n })
		if ordered || plan.Past != "" { // without one it could not be shut out, nor let go
			addAccount(&reg, n, users[n])
		}
	}
	for _, n := range reg.Ackers {
		order(sources, n, candidate)
	}
	slices.Sort(reg.Ackers)
	return reg, sources
}

// noteUnseen notes of whoever was not seen that it may acknowledge anybody: where
// the record is past, nothing that it says of it is true any more.
func noteUnseen(sources map[topology.NodeName]topology.NodeName, plan Plan, s survey) {
	for _, m := range plan.Members {
		if m.HasInstance() && !s.has(m.Name) {
			sources[m.Name] = anyPrimary
		}
	}
}

// addAccount notes with which account a node may receive from now on.
func addAccount(reg *election.Register, node topology.NodeName, user string) {
	if user == "" || slices.Contains(reg.Accounts[node], user) {
		return
	}
	if reg.Accounts == nil {
		reg.Accounts = map[topology.NodeName][]string{}
	}
	reg.Accounts[node] = append(reg.Accounts[node], user)
}

// anyPrimary in State.Sources: the instance was ordered to acknowledge the
// recorded primary, and had been ordered to acknowledge another one before.
// Until it was seen at the recorded one the order may not have arrived, and it
// may acknowledge either.
const anyPrimary topology.NodeName = ""

// order notes in sources that node is about to be ordered to acknowledge
// primary.
func order(sources map[topology.NodeName]topology.NodeName, node, primary topology.NodeName) {
	if before, ordered := sources[node]; ordered && before != primary {
		primary = anyPrimary
	}
	sources[node] = primary
}

// sameRegister is the register of a primary that stays: nobody leaves it, and k
// does not rise, as the primary may be answering commits by the old one. If too
// few of it are there to acknowledge, all that are there join it: also one that is
// kept out, which counts in every revocation as long as it is in the register.
func sameRegister(old election.Register, followers []Frozen, k int) election.Register {
	reg := election.Register{K: min(old.K, k), Ackers: slices.Clone(old.Ackers), Shut: slices.Clone(old.Shut)}
	there := 0
	for _, f := range followers {
		if old.Has(f.Node) && !old.IsShut(f.Node) {
			there++
		}
	}
	if there >= reg.K {
		return reg
	}
	for _, f := range followers {
		if !old.Has(f.Node) {
			reg.Ackers = append(reg.Ackers, f.Node)
		}
		reg.Shut = slices.DeleteFunc(reg.Shut, func(n topology.NodeName) bool { return n == f.Node })
	}
	return reg
}

// ackersAmong are the followers whose acknowledgements count from the first
// moment: those that proved to be complete. One that still has to catch up
// would only raise the number that the next revocation needs, so it waits for
// its admission, unless there are too few without it.
func ackersAmong(followers []Frozen, s survey, plan Plan, k int) []topology.NodeName {
	var complete, all []topology.NodeName
	for _, f := range followers {
		all = append(all, f.Node)
		if slices.Contains(s.counted, f.Node) || (s.oldClosed && f.Node == plan.From) {
			complete = append(complete, f.Node)
		}
	}
	if len(complete) < k {
		return all
	}
	return complete
}
