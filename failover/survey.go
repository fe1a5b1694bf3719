package failover

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
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

func (s survey) summary() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d needed ackers frozen", len(s.counted), s.needed)
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

// frozenOf describes an instance from a probe of it.
func frozenOf(m topology.Member, st dbrepl.Status, certified bool) Frozen {
	f := Frozen{
		Node: m.Name, ServerUUID: st.ServerUUID, Version: st.Version,
		Executed: st.Executed, Committing: st.Committing, Received: st.Received,
		Unapplied: st.Received.Minus(st.Executed).Count(), Marker: st.Marker,
		Amnesiac: !certified, Closed: st.SuperReadOnly, Priority: m.Priority,
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
	case old != nil && !f.Received.Contains(old.Base):
		return "it lacks commits from before the epoch began"
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
	case !f.Executed.Contains(old.Base):
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
	return s
}

// proven tells whether no commit of the old epoch can be acknowledged any
// more, and that every acknowledged one is in the union: enough ackers are
// frozen, or the old primary itself is closed.
func (s survey) proven() bool {
	return s.oldClosed || len(s.counted) >= s.needed
}

// choosePolicy is what the choice depends on besides the survey.
type choosePolicy struct {
	kind         election.Kind
	to           topology.NodeName // wanted candidate, empty for the best
	from         topology.NodeName // the old primary
	minFollowers int               // instances that must remain to acknowledge
}

// chooseCandidate picks the instance to promote and those that will follow
// it. Ties go to the fewest unapplied transactions, then priority, then name;
// if no instance qualifies, the error says why each does not.
func chooseCandidate(s survey, p choosePolicy) (Frozen, []Frozen, error) {
	var (
		fit      []Frozen
		rejected []string
	)
	for _, f := range s.seen {
		if why := unfit(f, s, p); why != "" {
			rejected = append(rejected, fmt.Sprintf("%s: %s", f.Node, why))
			continue
		}
		fit = append(fit, f)
	}
	for n, why := range s.silent {
		if !s.has(n) {
			rejected = append(rejected, fmt.Sprintf("%s: %s", n, why))
		}
	}
	slices.Sort(rejected)
	if len(fit) == 0 {
		return Frozen{}, nil, fmt.Errorf("%w: %s", ErrNoCandidate, strings.Join(rejected, "; "))
	}
	slices.SortFunc(fit, func(a, b Frozen) int { return compareCandidates(a, b, s, p) })
	best := fit[0]
	return best, followersOf(best, s, p), nil
}

func compareCandidates(a, b Frozen, s survey, p choosePolicy) int {
	if p.kind != election.Switchover {
		// An old primary that came back is chosen only when nobody else fits.
		if aOld, bOld := a.Node == p.from, b.Node == p.from; aOld != bOld {
			if aOld {
				return 1
			}
			return -1
		}
	}
	// What a switchover's candidate has not even received is work, too.
	work := func(f Frozen) uint64 { return f.Received.Union(s.union).Minus(f.Executed).Count() }
	if d := cmp.Compare(work(a), work(b)); d != 0 {
		return d
	}
	if a.Priority != b.Priority {
		return b.Priority - a.Priority
	}
	return strings.Compare(string(a.Node), string(b.Node))
}

// unfit says why an instance may not be promoted; empty means it may.
func unfit(f Frozen, s survey, p choosePolicy) string {
	if p.to != "" && f.Node != p.to {
		return fmt.Sprintf("%s is wanted", p.to)
	}
	if p.kind != election.Resume { // which takes the primary as it is
		if why := unpromotable(f, s, p); why != "" {
			return why
		}
	}
	followers := followersOf(f, s, p)
	if len(followers) < p.minFollowers {
		return fmt.Sprintf("only %d instances could acknowledge its commits, %d are required", len(followers), p.minFollowers)
	}
	if p.kind == election.Resume {
		return ""
	}
	for _, other := range followers {
		if newerVersion(f.Version, other.Version) {
			return fmt.Sprintf("its version %s is newer than %s of %s, which could not replicate from it", f.Version, other.Version, other.Node)
		}
	}
	return ""
}

// unpromotable says what of the instance itself forbids that it becomes
// another primary.
func unpromotable(f Frozen, s survey, p choosePolicy) string {
	switch {
	case p.kind == election.Switchover && f.Node == p.from:
		return "it is the primary already"
	case f.Priority < 0:
		return "its priority forbids promotion"
	case f.ApplierError != "":
		return "its applier stopped: " + f.ApplierError
	case p.kind != election.Switchover && !f.Received.Contains(s.union):
		// A switchover's candidate is still receiving; catch up waits for it.
		return fmt.Sprintf("it lacks %d transactions that may have been acknowledged", s.union.Minus(f.Received).Count())
	case p.kind == election.Bootstrap && slices.ContainsFunc(s.seen, func(o Frozen) bool { return !o.Closed && o.Node != f.Node }):
		// Its commits would go on, and be lost with it.
		return "another instance is open for writes"
	case isErrant(f, s):
		return "it holds transactions that no primary gave it: " + f.Received.Minus(s.union).String()
	}
	return ""
}

// isErrant tells whether an instance holds what neither the union has nor the
// old primary wrote. The latter is the old primary's unacknowledged tail: in
// doubt, and welcome.
func isErrant(f Frozen, s survey) bool {
	return s.oldUUID != "" && slices.ContainsFunc(f.Received.Minus(s.union).UUIDs(),
		func(uuid string) bool { return uuid != s.oldUUID })
}

// followersOf are the surveyed instances that can replicate from the
// candidate: what they hold is contained in what it will hold.
func followersOf(candidate Frozen, s survey, p choosePolicy) []Frozen {
	will := candidate.Received.Union(s.union).Union(candidate.Committing)
	var out []Frozen
	for _, f := range s.seen {
		if f.Node == candidate.Node {
			continue
		}
		// While the source of both still sends, which of them has more at the
		// moment says nothing.
		live := p.kind == election.Switchover || p.kind == election.Resume
		if live || will.Contains(f.Received) {
			out = append(out, f)
		}
	}
	return out
}

// newerVersion compares MySQL versions by their first two numbers: a source
// may be of the same series as its replicas or older, never newer.
func newerVersion(source, replica string) bool {
	var a, b [2]int
	_, errA := fmt.Sscanf(source, "%d.%d", &a[0], &a[1])
	_, errB := fmt.Sscanf(replica, "%d.%d", &b[0], &b[1])
	if errA != nil || errB != nil {
		return false
	}
	return slices.Compare(a[:], b[:]) > 0
}

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
	reg := election.Register{K: plan.Acks}
	if plan.From == candidate && s.Register.K > 0 {
		reg = sameRegister(s.Register, up.followers)
	} else {
		reg.Ackers = ackersAmong(up.followers, up.survey, plan)
	}
	for n, src := range sources {
		if (src == candidate || src == anyPrimary) && !reg.Has(n) {
			reg.Ackers = append(reg.Ackers, n)
		}
	}
	for _, n := range reg.Ackers {
		order(sources, n, candidate)
	}
	slices.Sort(reg.Ackers)
	return reg, sources
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

// sameRegister is the register of a primary that stays: nobody leaves it. If
// too few of it are there to acknowledge, all that are there join it.
func sameRegister(old election.Register, followers []Frozen) election.Register {
	reg := election.Register{K: old.K, Ackers: slices.Clone(old.Ackers)}
	there := 0
	for _, f := range followers {
		if old.Has(f.Node) {
			there++
		}
	}
	if there >= old.K {
		return reg
	}
	for _, f := range followers {
		if !old.Has(f.Node) {
			reg.Ackers = append(reg.Ackers, f.Node)
		}
	}
	return reg
}

// ackersAmong are the followers whose acknowledgements count from the first
// moment: those that proved to be complete. One that still has to catch up
// would only raise the number that the next revocation needs, so it waits for
// its admission, unless there are too few without it.
func ackersAmong(followers []Frozen, s survey, plan Plan) []topology.NodeName {
	var complete, all []topology.NodeName
	for _, f := range followers {
		all = append(all, f.Node)
		if slices.Contains(s.counted, f.Node) || (s.oldClosed && f.Node == plan.From) {
			complete = append(complete, f.Node)
		}
	}
	if len(complete) < plan.Acks {
		return all
	}
	return complete
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
	rpo.Proof = p
	return rpo
}
