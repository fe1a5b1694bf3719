package failover

import (
	"cmp"
	"fmt"
	"slices"

	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// This file is what keeps automation from believing a record, or a recorded
// primary, that others know more than.

// outdated says why the record cannot be believed: somebody whom it names has
// seen a higher epoch than it has ever issued (E8). An epoch is in the record
// before any order of it is given, so that can only be after etcd was put back
// to an older state, or for the moment in which the record that is seen here
// lags behind. Empty: it can.
//
// Members without a part in the record are not asked: one that comes from
// another cluster brings that one's epochs along, and has no say.
func outdated(v View) string {
	s := v.State
	if s.Primary == nil || !v.EtcdReachable { // without etcd what is seen of it is old
		return ""
	}
	newest, by := s.Epoch, topology.NodeName("")
	for _, m := range v.Members {
		_, ordered := s.Sources[m.Name]
		n, answers := v.Nodes[m.Name]
		if !answers || m.Name != s.Primary.Node && !s.Register.Has(m.Name) && !ordered {
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

// forgotten is what a server that calls itself old has lost of its own commits:
// what others have received of it and it neither holds nor is about to. A
// replica is sent nothing before it is flushed to the source's binary log, so
// that can only be after the source has lost the end of it: power that failed
// beside sync_binlog other than 1, a disk that lied, a virtual machine that was
// put back. What is lost may have been acknowledged, and its numbers would be
// given to other commits (I1).
func forgotten(old Frozen, others []Frozen) (lost gtid.Set, by topology.NodeName) {
	has := old.Executed.Union(old.Committing)
	for _, f := range others {
		if f.Node == old.Node {
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
	if v.State.Primary == nil || !closedInPlace(v) {
		return ""
	}
	old := v.Nodes[v.State.Primary.Node]
	var others []Frozen
	for name, n := range v.Nodes {
		if n.Instance != nil && !n.Rebuild.Underway() && v.State.Register.Has(name) {
			others = append(others, frozenOf(n.Member, *n.Instance, n.Certified))
		}
	}
	slices.SortFunc(others, func(a, b Frozen) int { return cmp.Compare(a.Node, b.Node) })
	lost, by := forgotten(frozenOf(old.Member, *old.Instance, old.Certified), others)
	if by == "" {
		return ""
	}
	return fmt.Sprintf("%s cannot be opened again: %s", v.State.Primary.Node, forgottenText(lost, by))
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
// so many attempts have failed, the last one with last, and another instance can
// take over from it. Empty if it is not.
func unresumable(v View, p Policy, tries int, last error) string {
	if tries < resumeTries || !p.Automatic || v.State.Paused != nil || heldByUnrest(v, p) != nil || closedFor(v, p, election.Failover) != nil {
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
