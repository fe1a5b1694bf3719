package failover

import (
	"fmt"

	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// This file is what keeps automation from believing a record, or a recorded
// primary, that others know more than.

// outdated says why the record cannot be believed: its primary or an acker has
// seen a higher epoch than it has ever issued (E8). An epoch is in the record
// before any order of it is given, so that can only be after etcd was put back
// to an older state, or for the moment in which the record that is seen here
// lags behind; or an operator's new epoch after that has not come to a primary yet
// (State.Past). Empty: it can.
//
// Others are not asked: one that comes from another cluster brings that one's
// epochs along, and has no say. Markers count, as a folder of an agent may be put
// back with etcd's. They are rows like any other, and a dump of another cluster may
// bring one: rather that than a record that is past.
func outdated(v View) string {
	s := v.State
	if s.Primary == nil || !v.EtcdReachable { // without etcd what is seen of it is old
		return ""
	}
	if s.Past != "" {
		return s.Past
	}
	newest, by := s.Epoch, topology.NodeName("")
	for _, m := range v.Members {
		n, answers := v.Nodes[m.Name]
		named := m.Name == s.Primary.Node || s.Register.Has(m.Name)
		if !answers || !named {
			continue
		}
		seen := n.Promised
		if n.Instance != nil {
			seen = max(seen, n.Instance.Marker.Epoch)
		}
		if seen > newest {
			newest, by = seen, m.Name
		}
	}
	if by == "" {
		return ""
	}
	return fmt.Sprintf("%s has seen epoch %d, and the newest in etcd is %d: etcd was put back to an older state, whose primary, register and proofs are past", by, newest, s.Epoch)
}

// forgotten is what a server has lost of its own commits: what registered ackers
// have received of it and it neither holds nor is about to. A replica is sent
// nothing before it is flushed to the source's binary log, so that can only be
// after the source has lost the end of it: power that failed beside sync_binlog
// other than 1, a disk that lied, a virtual machine that was put back. What is
// lost may have been acknowledged, and its numbers would be given to other
// commits (I1).
//
// Only a server process that has not served yet can have lost anything, and of one
// that serves the others are told more while they are asked.
func forgotten(old Frozen, others []Frozen, reg election.Register) (lost gtid.Set, by topology.NodeName) {
	if !old.Amnesiac || !old.refuses() {
		return lost, ""
	}
	has := old.Executed.Union(old.Committing)
	for _, f := range others {
		if f.Node == old.Node || !reg.Has(f.Node) {
			continue
		}
		if more := f.Received.Of(old.ServerUUID).Minus(has); more.Count() > lost.Count() {
			lost, by = more, f.Node
		}
	}
	return lost, by
}

func forgottenText(lost gtid.Set, by topology.NodeName) string {
	return fmt.Sprintf("it lacks %d transactions of its own that %s has received of it: it has lost the end of its binary log (sync_binlog other than 1, or a disk that was put back)", lost.Count(), by)
}

// lostOwn says that the recorded primary is closed and has lost commits of its
// own; empty if not. Opening it would lose them for all.
func lostOwn(v View) string {
	p := v.State.Primary
	if p == nil {
		return ""
	}
	n, ok := v.Nodes[p.Node]
	if !ok || n.Instance == nil || n.Instance.ServerUUID != p.ServerUUID || n.Certified {
		return "" // asked at every turn: nothing is compared in quiet times
	}
	var others []Frozen
	for _, m := range v.Members {
		if o, ok := v.Nodes[m.Name]; ok && o.Instance != nil && !o.Rebuild.Underway() {
			others = append(others, frozenOf(m, *o.Instance, o.Certified))
		}
	}
	lost, by := forgotten(frozenOf(n.Member, *n.Instance, n.Certified), others, v.State.Register)
	if by == "" {
		return ""
	}
	return fmt.Sprintf("%s cannot be opened again: %s", p.Node, forgottenText(lost, by))
}

// left says that the recorded primary is closed and nobody is there to open it:
// its server may be well, its agent is gone. Empty if it is not so.
func left(v View) string {
	s := v.State
	if _, reachable := v.Nodes[s.Primary.Node]; reachable || !v.AgentGone {
		return ""
	}
	switch {
	case unfinished(s):
		return fmt.Sprintf("%s, and the agent of %s is gone", unfinishedCause(s), s.Primary.Node)
	case closedToOthers(v.Primary):
		return fmt.Sprintf("%s is closed for writes, and its agent, which could open it, is gone", s.Primary.Node)
	}
	return ""
}

// closedToOthers tells whether as many members as it takes to fail an instance
// find it closed, and none finds it open.
func closedToOthers(j Judgement) bool {
	closed := 0
	for _, vote := range j.Votes {
		switch {
		case !vote.For:
		case vote.Kind == causeClosed:
			closed++
		default:
			return false
		}
	}
	return j.Needed > 0 && closed >= j.Needed
}

// resumeTries is how often opening the recorded primary is tried before another
// one is promoted instead.
const resumeTries = 3

// unresumable says why a primary that is there and does not get open is given up:
// its own agent finds something wrong with it, so many attempts have failed, the
// last one with last, and another instance can take over from it. Empty if it is
// not: where commits get acknowledged nowhere, another primary would not open
// either.
func unresumable(v View, p Policy, tries int, last error) string {
	if tries < resumeTries || !v.Primary.ownAgainst() || !p.Automatic || v.State.Paused != nil || heldByUnrest(v, p) != nil || closedFor(v, p, election.Failover) != nil {
		return ""
	}
	return fmt.Sprintf("%s could not be opened again in %d attempts: %v", v.State.Primary.Node, tries, last)
}

// foreseen says why an operation would not succeed, by what the members last said
// of themselves; nil if nothing speaks against it.
func foreseen(v View, p Policy, plan Plan) error {
	switch plan.Kind {
	case election.Failover:
		if g := closedFor(v, p, plan.Kind); g != nil {
			return &GateError{*g}
		}
	case election.Resume:
		sv := expectedSurvey(v)
		n, ok := v.Nodes[plan.From]
		if !ok || n.Instance == nil {
			return nil // it was there a moment ago
		}
		sv.union = n.Instance.Executed
		_, _, err := chooseCandidate(sv, choosePolicy{kind: plan.Kind, to: plan.To, from: plan.From, minFollowers: plan.Acks, policy: p})
		return err
	}
	return nil
}

// closedFor is the gate that would keep a failover from its goal; nil if none
// does.
func closedFor(v View, p Policy, kind election.Kind) *Gate {
	for _, g := range decideGates(v, p, "") {
		if g.Operation == kind && !g.Open && (g.Name == gateRevocable || g.Name == gateCandidate) {
			return &g
		}
	}
	return nil
}
