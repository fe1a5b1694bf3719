package failover

import (
	"fmt"
	"maps"
	"slices"

	"interrex/election"
	"interrex/internal/topology"
)

// decideAdd returns the gate that keeps a node from becoming a member, or nil.
// It is pure.
func decideAdd(v View, voters []Voter, embedded bool, name topology.NodeName, voter bool) *Gate {
	if g := decideChange(v, MemberAdd, name); g != nil {
		return g
	}
	refuse := func(gate, format string, args ...any) *Gate {
		return &Gate{Name: gate, Operation: MemberAdd, Reason: fmt.Sprintf(format, args...)}
	}
	if _, member := v.State.Members[name]; member {
		return refuse(gateMember, "%s is a member already", name)
	}
	if !voter {
		return nil
	}
	if !embedded {
		return refuse(gateVoters, "the agents do not run etcd here, so no member has a vote in it: add %s without one", name)
	}
	for _, o := range voters {
		if o.Learner || !o.Answers {
			return refuse(gateVoters, "etcd's member %s does not answer, or has yet to catch up: a further one would make the loss of it worse", nameOf(o))
		}
	}
	return nil
}

// decideRemove returns the gate that keeps a member from being removed, or nil.
// It is pure.
func decideRemove(v View, voters []Voter, name topology.NodeName) *Gate {
	if g := decideChange(v, MemberRemove, name); g != nil {
		return g
	}
	refuse := func(gate, format string, args ...any) *Gate {
		return &Gate{Name: gate, Operation: MemberRemove, Reason: fmt.Sprintf(format, args...)}
	}
	s := v.State
	if _, member := s.Members[name]; !member {
		return refuse(gateMember, "the cluster has no member %s", name)
	}
	if s.Primary.Node == name {
		return refuse(gateNotPrimary, "%s is the primary: switch over first", name)
	}
	if why := lostVotes(voters, name); why != "" {
		return refuse(gateVoters, "%s", why)
	}
	if s.Register.Has(name) {
		left := 0
		for _, a := range s.Register.Ackers {
			n := v.Nodes[a]
			if a != name && streams(n, *s.Primary) && n.Instance.SemiSync.ReplicaActive {
				left++
			}
		}
		if left < max(s.Register.K, 1) {
			return refuse(gateAckers, "without %s only %d replicas would acknowledge, and the primary waits for %d", name, left, max(s.Register.K, 1))
		}
	}
	if n := v.Nodes[name]; s.Register.Has(name) && (n.Instance == nil || n.Rebuild.Underway()) {
		return refuse(gateReleased, "%s is a registered acker and does not answer, so it cannot be told to acknowledge no more: wait until it was dropped from the register (durability.drop_after), or bring its agent and server back", name)
	}
	return nil
}

// decideChange returns what keeps any member from being added or removed now.
func decideChange(v View, kind election.Kind, name topology.NodeName) *Gate {
	refuse := func(gate, reason string) *Gate { return &Gate{Name: gate, Operation: kind, Reason: reason} }
	s := v.State
	switch {
	case !v.EtcdReachable:
		return refuse(gateEtcd, "etcd has no quorum or cannot be reached from "+string(v.Self))
	case s.Primary == nil:
		return refuse(gateRecorded, "the cluster has no primary yet")
	case s.Operation != nil:
		return refuse(gateIdle, inFlight(s))
	case !servesAsRecorded(s):
		return refuse(gateIdle, fmt.Sprintf("an operation of epoch %d ended without a primary", s.Epoch))
	case s.Members == nil:
		return refuse(gateListed, "the leader has yet to write down who the members are: ask again in a few seconds")
	}
	for _, other := range slices.Sorted(maps.Keys(s.Members)) {
		seat := s.Members[other]
		joined := slices.ContainsFunc(v.Members, func(m topology.Member) bool { return m.Name == other })
		switch {
		case other == name:
		case seat.Leaving != nil:
			return refuse(gateOneChange, fmt.Sprintf("%s is being removed", other))
		case !joined:
			return refuse(gateOneChange, fmt.Sprintf("%s was added and has not been started yet: start its agent, or remove it", other))
		}
	}
	return nil
}

func servesAsRecorded(s election.State) bool {
	return s.Primary.Phase == election.Open && s.Epoch == s.Primary.Epoch
}

// lostVotes says why etcd would be without its quorum if a member left; empty
// if it would not, or has no vote there.
func lostVotes(voters []Voter, name topology.NodeName) string {
	votes, alive, has := 0, 0, false
	for _, o := range voters {
		switch {
		case o.Name == name:
			has = has || !o.Learner
		case !o.Learner:
			votes++
			if o.Answers {
				alive++
			}
		}
	}
	switch {
	case !has:
		return ""
	case votes == 0:
		return fmt.Sprintf("%s is the only one that votes: add another with a vote first", name)
	case alive < votes/2+1:
		return fmt.Sprintf("of the %d that would vote without %s, %d answer: etcd would have no quorum", votes, name, alive)
	}
	return ""
}

func nameOf(o Voter) topology.NodeName {
	if o.Name == "" {
		return "without a name"
	}
	return o.Name
}
