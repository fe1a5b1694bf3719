package failover

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// What is told of the ackers that count: in an operation, and of one that might
// be.
const (
	areFrozen   = "frozen"
	canBeFrozen = "can be frozen"
)

// survey is what the operation knows of the instances once nothing more can
// be acknowledged in the old epoch.
type survey struct {
	seen    []Frozen            // every instance that answered
	counted []topology.NodeName // registered ackers that prove something
	needed  int                 // how many of them the proof takes
	// union contains every commit that was ever acknowledged.
	union gtid.Set
	// silent says why each instance that did not answer, or answered and
	// proves nothing, does not count.
	silent map[topology.NodeName]string
	// oldClosed: the old primary itself is closed, which its own agent proved.
	oldClosed bool
	// oldUUID is the server that may have written beyond the union: what it
	// wrote and nobody acknowledged is in doubt, what others did is errant.
	oldUUID string
}

func (s survey) has(node topology.NodeName) bool {
	return slices.ContainsFunc(s.seen, func(f Frozen) bool { return f.Node == node })
}

// summary tells who proves what. state is what they are: frozen, or that they
// can be.
func (s survey) summary(state string) string {
	var b strings.Builder
	if s.needed > 0 {
		fmt.Fprintf(&b, "%d of %d needed ackers %s", len(s.counted), s.needed, state)
	} else {
		fmt.Fprintf(&b, "%d instances %s", len(s.counted), state)
	}
	if s.oldClosed {
		b.WriteString(", old primary closed")
	}
	names := make([]string, 0, len(s.silent))
	for n, why := range s.silent {
		names = append(names, fmt.Sprintf("%s: %s", n, why))
	}
	slices.Sort(names)
	if len(names) > 0 {
		b.WriteString("; not counted: " + strings.Join(names, "; "))
	}
	return b.String()
}

// work is how much an instance would have to execute as the new primary. What a
// switchover's candidate has not even received is work, too.
func (s survey) work(f Frozen) uint64 { return f.Received.Union(s.union).Minus(f.Executed).Count() }

// frozenOf describes an instance from a probe of it.
func frozenOf(m topology.Member, st dbrepl.Status, certified bool) Frozen {
	f := Frozen{
		Node: m.Name, ServerUUID: st.ServerUUID, Version: st.Version,
		Executed: st.Executed, Committing: st.Committing, Received: st.Received,
		Unapplied: st.Received.Minus(st.Executed).Count(), Marker: st.Marker,
		Amnesiac: !certified, Closed: st.SuperReadOnly, ReadOnly: !st.Writable(), Priority: m.Priority, Site: m.Site,
		Inadmissible: st.Inadmissible,
	}
	if st.Source != nil {
		f.ApplierError = st.Source.ApplierError
	}
	return f
}

// proofOf says why a frozen instance counts towards the revocation of the
// register's epoch, or why it does not (empty: it counts). An acker counts if
// it is registered, has not forgotten anything since its server started, and
// holds everything from before the epoch.
func proofOf(f Frozen, old *election.Primary, reg election.Register) string {
	switch {
	case !reg.Has(f.Node):
		return "not a registered acker"
	case f.Amnesiac:
		return "its server restarted and has not caught up since (it may have forgotten what it acknowledged)"
	case old != nil && old.Lossy.Ongoing():
		return "commits are answered without its acknowledgement: " + old.Lossy.Reason
	case old != nil && !f.Received.Contains(old.Base):
		return "it lacks commits that were answered without its acknowledgement (from before the epoch began, or see lossy)"
	default:
		return ""
	}
}

// closedOf says why the old primary's own answer does not prove that it can
// acknowledge nothing more (empty: it does).
func closedOf(f Frozen, old election.Primary) string {
	if !f.Closed {
		return "it is open for writes"
	}
	return changedOf(f, old)
}

// changedOf says why an instance cannot be what the recorded primary was.
func changedOf(f Frozen, old election.Primary) string {
	switch {
	case f.ServerUUID != old.ServerUUID:
		return "it is another server than the recorded one"
	case !f.Executed.Union(f.Committing).Contains(old.Base):
		return "it lacks commits from before its epoch began"
	default:
		return ""
	}
}

// surveyOf judges the answers of a revocation (I1). It is pure: the same
// answers always give the same survey, so the ledger can be checked later.
func surveyOf(answers []Frozen, errs map[topology.NodeName]string, old *election.Primary, reg election.Register) survey {
	s := survey{seen: answers, silent: map[topology.NodeName]string{}}
	if old != nil {
		s.needed = max(reg.Needed(), 1)
		s.union, s.oldUUID = old.Base, old.ServerUUID
	}
	for n, why := range errs {
		s.silent[n] = why
	}
	for _, f := range answers {
		if old != nil && f.Node == old.Node {
			if why := closedOf(f, *old); why != "" {
				s.silent[f.Node] = why
				continue
			}
			s.oldClosed = true
			s.union = s.union.Union(f.Executed)
			continue
		}
		why := ""
		if old != nil {
			why = proofOf(f, old, reg)
		}
		if why != "" {
			s.silent[f.Node] = why
			continue
		}
		s.counted = append(s.counted, f.Node)
		s.union = s.union.Union(f.Received)
	}
	slices.Sort(s.counted)
	if i := slices.IndexFunc(answers, func(f Frozen) bool { return old != nil && f.Node == old.Node }); i >= 0 && s.oldClosed {
		// Closed as it is: it does not know any more all that it acknowledged.
		if lost, by := forgotten(answers[i], answers, reg); by != "" {
			s.oldClosed = false
			s.silent[old.Node] = forgottenText(lost, by)
		}
	}
	return s
}

// proven tells whether no commit of the old epoch can be acknowledged any
// more, and that every acknowledged one is in the union: enough ackers are
// frozen, or the old primary itself is closed.
func (s survey) proven() bool {
	return s.oldClosed || len(s.counted) >= s.needed
}

// unbelieved is the survey without what an outdated record says: nobody's answer
// proves anything, and whose commits are in doubt, or errant, is not known.
func unbelieved(s survey) survey {
	s.counted, s.oldClosed, s.union, s.oldUUID = nil, false, gtid.Set{}, ""
	s.needed = max(s.needed, 1)
	return s
}

// newestMarker is the highest epoch that any instance has executed.
func (s survey) newestMarker() (newest topology.Epoch) {
	for _, f := range s.seen {
		newest = max(newest, f.Marker.Epoch)
	}
	return newest
}

// beyond is what anybody seen has received and f has not.
func (s survey) beyond(f Frozen) gtid.Set {
	var all gtid.Set
	for _, other := range s.seen {
		if !isErrant(other, s) {
			all = all.Union(other.Received)
		}
	}
	return all.Minus(f.Received)
}

// proveRPO states why nothing acknowledged is missing from what was promoted.
func proveRPO(plan Plan, up caughtUp) RPO {
	var zero uint64
	p := Proof{
		Ackers: plan.Register.Ackers, K: plan.Register.K, Needed: up.survey.needed,
		Frozen: up.survey.counted, Union: up.survey.union, Promoted: up.executed,
	}
	rpo := RPO{LostCommits: &zero}
	switch {
	case plan.Force != nil && !up.survey.proven():
		// Nothing is known to be lost, and nothing proves that nothing is.
		rpo.LostCommits = nil
		p.Statement = fmt.Sprintf("not proven: forced by %s, who accepted %q; %d of %d needed ackers were frozen, waiting for %s; %s",
			plan.Force.by, plan.Force.bound.Confirm, len(up.survey.counted), up.survey.needed, plan.Force.bound.Needs, plan.Force.bound.Statement)
	case plan.Kind == election.Resume && plan.Old != nil && plan.Old.Forced != nil && plan.Old.Phase == election.Promoting:
		rpo.LostCommits = nil
		p.Statement = fmt.Sprintf("not proven: this finishes the promotion of epoch %d, which %s forced", plan.Old.Forced.Epoch, plan.Old.Forced.By)
	case plan.Kind == election.Bootstrap:
		p.Statement = "the first primary contains everything that any instance holds"
		rpo.InDoubt = &zero
	case plan.Kind == election.Switchover && up.survey.oldClosed:
		p.Statement = "the old primary was closed and the new one executed all that it held"
		rpo.InDoubt = &zero
	case up.candidate.Node == plan.From:
		p.Statement = "the primary stayed the same instance, which holds every commit that it acknowledged"
		rpo.InDoubt = &zero
	case len(up.survey.counted) >= up.survey.needed:
		p.Statement = fmt.Sprintf("%d of %d registered ackers were frozen, %d were needed (|A| - k + 1): every acknowledged commit is in what they received, and the promoted instance executed all of it",
			len(up.survey.counted), len(plan.Register.Ackers), up.survey.needed)
	default:
		p.Statement = "the old primary was closed by its own agent and the promoted instance executed all that it held"
	}
	if old := plan.Old; old != nil && old.Lossy != nil && rpo.LostCommits != nil {
		p.Statement += fmt.Sprintf("; from %s on up to %d commits were answered without acknowledgement (%s): they are among it",
			old.Lossy.Since.Format(time.RFC3339), old.Lossy.Commits, old.Lossy.Reason)
	}
	rpo.Proof = p
	return rpo
}
