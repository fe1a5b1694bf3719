package failover

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"interrex/election"
	"interrex/internal/topology"
	"interrex/router"
)

// Policy is what the operator wants of operations.
type Policy struct {
	// Automatic: fail over on a Failed verdict without being asked.
	Automatic bool
	// Acks is k: how many ackers the primary waits for; 0 is auto: half of the
	// instances, and fewer, but at least one, when fewer are left.
	Acks int
	// Sites: every acknowledged commit is in so many sites beside the
	// primary's; 0 asks for none.
	Sites int
	// Degrade: with fewer ackers than Acks left, the primary waits for those
	// there are, and for nobody when none is left (I4). Otherwise writes wait.
	Degrade bool
	// DropAfter is how long an acker may be missing before it is dropped.
	DropAfter time.Duration
	// MaxLag is how far a switchover's candidate may be behind.
	MaxLag time.Duration
	// Rebuild: an instance with errant transactions is saved and rebuilt;
	// otherwise it is left closed and reported.
	Rebuild bool
	// FlapLimit is after how many failovers away from primaries that were not
	// proven dead, each within FlapWindow of the one before, no further one runs
	// by itself; 0: there is no limit.
	FlapLimit int
	// FlapCooldown is how long the second of them waits after the first; each
	// further one twice as long as the one before.
	FlapCooldown time.Duration
	FlapWindow   time.Duration
	// RestartFirst: a crashed server is given RestartGrace to come back in place.
	RestartFirst bool
	RestartGrace time.Duration
	// RestartLimit is which restart in place, each within FlapWindow of the one
	// before, makes the primary fail over instead; 0: none does.
	RestartLimit int
	// Expected is how many members the configuration lists: bootstrap waits
	// for all of them.
	Expected int
}

// minAcks is how many ackers a new primary must have at least.
func (p Policy) minAcks() int {
	switch {
	case p.Degrade:
		return 0
	case p.Acks == 0:
		return 1
	}
	return p.Acks
}

// The names of the gates (I10).
const (
	gateEtcd      = "etcd_quorum"
	gateLeader    = "leader"
	gateRecorded  = "primary_recorded"
	gateIdle      = "no_operation_in_flight"
	gateNotPaused = "not_paused"
	gateAutomatic = "automatic"
	gateFailed    = "primary_failed"
	gateHealthy   = "primary_healthy"
	gateRevocable = "ackers_revocable"
	gateCandidate = "candidate_available"
	gateCaughtUp  = "candidate_caught_up"
	gateMembers   = "all_members_present"
	gateCooled    = "cooled_down"
	gateGrace     = "restart_grace_over"
)

// GateCurrent is closed when members have seen a newer epoch than etcd has: it was
// put back to an older state.
const GateCurrent = "record_current"

// GateFlapping is closed when failovers have followed one another for too often:
// automation has stopped and waits for an operator.
const GateFlapping = "not_flapping"

// decideOperation says which operation the leader should run now, and why;
// false means none. It is pure.
func decideOperation(v View, p Policy) (kind election.Kind, cause string, run bool) {
	s := v.State
	if s.Primary == nil {
		if why := missingMembers(v, p); why != "" {
			return "", "", false
		}
		return election.Bootstrap, "the cluster has no primary yet", true
	}
	if outdated(v) != "" {
		return "", "", false
	}
	failed := v.Primary.Verdict == topology.Failed
	primary, reachable := v.Nodes[s.Primary.Node]
	answers := reachable && primary.Instance != nil && primary.Instance.ServerUUID == s.Primary.ServerUUID
	may := p.Automatic && s.Paused == nil && heldByUnrest(v, p) == nil
	abandoned, forgot := left(v), lostOwn(v)
	due := unfinished(s) || may
	switch {
	case failed && !answers && due:
		// An unfinished operation is finished also while paused or flapping:
		// neither ever leaves the cluster without a primary.
		return election.Failover, v.Primary.Explanation, true
	case abandoned != "" && due:
		return election.Failover, abandoned, true
	case forgot != "":
		// Never opened again, whoever may decide (I1).
		return election.Failover, forgot, due
	case unfinished(s) && answers && !(failed && may):
		// One that answers and is failed all the same (its disk is full, or only
		// its own agent reaches it) cannot be resumed.
		return election.Resume, unfinishedCause(s), true
	case answers && !primary.Instance.Writable() && s.Primary.Phase == election.Open:
		return decideClosed(v, p, primary)
	case failed && may:
		return election.Failover, v.Primary.Explanation, true
	}
	return "", "", false
}

// decideClosed is for a recorded primary that answers and is closed.
func decideClosed(v View, p Policy, primary NodeStatus) (kind election.Kind, cause string, run bool) {
	s := v.State
	if s.Paused != nil && primary.Certified {
		// It has not restarted since it was opened: somebody closed it, and
		// had asked to be left alone before.
		return "", "", false
	}
	if why := crashLoop(v, p); why != "" && p.Automatic && s.Paused == nil {
		return election.Failover, why, true
	}
	return election.Resume, fmt.Sprintf("%s is the recorded primary and is closed (it restarted, or was closed by hand)", s.Primary.Node), true
}

// unfinished tells whether an operation was begun that has not established a
// primary.
func unfinished(s election.State) bool {
	return s.Operation != nil || s.Epoch > s.Primary.Epoch || s.Primary.Phase != election.Open
}

func unfinishedCause(s election.State) string {
	if s.Operation != nil {
		return fmt.Sprintf("%s of epoch %d was left at step %s by %s", s.Operation.Kind, s.Operation.Epoch, s.Operation.Step, s.Operation.Leader)
	}
	return fmt.Sprintf("an operation of epoch %d ended without a primary", s.Epoch)
}

func missingMembers(v View, p Policy) string {
	var up int
	var missing []string
	for _, m := range v.Members {
		if !m.HasInstance() {
			up++
			continue
		}
		if n, ok := v.Nodes[m.Name]; ok && n.Instance != nil {
			up++
		} else {
			missing = append(missing, string(m.Name))
		}
	}
	if len(v.Members) < p.Expected {
		return fmt.Sprintf("%d of %d configured members have registered", len(v.Members), p.Expected)
	}
	if up < p.Expected {
		return "no answer from " + strings.Join(missing, ", ")
	}
	return ""
}

// expectedSurvey is the survey that a revocation would give now, from what
// the members last said of themselves.
func expectedSurvey(v View) survey {
	var seen []Frozen
	errs := map[topology.NodeName]string{}
	for _, m := range v.Members {
		if !m.HasInstance() {
			continue
		}
		n, ok := v.Nodes[m.Name]
		switch {
		case !ok:
			errs[m.Name] = "its agent does not answer: " + v.Unreachable[m.Name]
		case n.Rebuild.Underway():
			errs[m.Name] = "it is being rebuilt"
		case n.Instance == nil:
			errs[m.Name] = "its server does not answer: " + n.InstanceError
		default:
			seen = append(seen, frozenOf(m, *n.Instance, n.Certified))
		}
	}
	return surveyOf(seen, errs, v.State.Primary, v.State.Register)
}

// decideGates says, at all times, what each operation depends on and whether
// it may run now (I10). to is the wanted candidate of a switchover, empty for
// the best.
func decideGates(v View, p Policy, to topology.NodeName) []Gate {
	var gates []Gate
	add := func(op election.Kind, name string, open bool, yes, no string) {
		reason := yes
		if !open {
			reason = no
		}
		gates = append(gates, Gate{Name: name, Operation: op, Open: open, Reason: reason})
	}
	s := v.State
	if s.Primary == nil {
		why := missingMembers(v, p)
		add(election.Bootstrap, gateEtcd, v.EtcdReachable, "etcd answers", "etcd has no quorum or cannot be reached from "+string(v.Self))
		add(election.Bootstrap, gateMembers, why == "", "all members are present", why)
		return gates
	}
	for _, op := range []election.Kind{election.Failover, election.Switchover, Force} {
		add(op, gateEtcd, v.EtcdReachable, "etcd answers", "no promotion possible: etcd has no quorum or cannot be reached from "+string(v.Self))
		add(op, gateLeader, v.EtcdReachable && v.Leadership.Holder != "", "the leader is "+string(v.Leadership.Holder), leaderless(v))
		if op == Force {
			break // one that its leader left cannot go on without the proof either
		}
		why := outdated(v)
		add(op, GateCurrent, why == "", "nobody has seen a newer epoch than etcd has",
			why+". Nothing is done by itself: put the newest etcd back, or begin a new epoch with whoever has the most (`interrex failover --force`)")
		add(op, gateIdle, s.Operation == nil, "no operation is in flight", inFlight(s))
	}
	decideFailoverGates(v, p, add)
	decideSwitchoverGates(v, p, to, add)
	decideForceGates(v, add)
	return gates
}

// leaderless says why nobody is known to lead: without etcd's quorum the holder
// last seen cannot act as leader.
func leaderless(v View) string {
	if !v.EtcdReachable && v.Leadership.Holder != "" {
		return fmt.Sprintf("nobody leads for certain without etcd's quorum; %s did last", v.Leadership.Holder)
	}
	return "no member leads"
}

type addGate func(op election.Kind, name string, open bool, yes, no string)

func inFlight(s election.State) string {
	if s.Operation == nil {
		return ""
	}
	return fmt.Sprintf("%s of epoch %d is at step %s on %s", s.Operation.Kind, s.Operation.Epoch, s.Operation.Step, s.Operation.Leader)
}

func decideFailoverGates(v View, p Policy, add addGate) {
	s := v.State
	pausedBy := ""
	if s.Paused != nil {
		pausedBy = fmt.Sprintf("paused by %s since %s: %s", s.Paused.By, s.Paused.Since.Format(time.RFC3339), s.Paused.Reason)
	}
	add(election.Failover, gateNotPaused, s.Paused == nil, "automatic failover is not paused", pausedBy)
	add(election.Failover, gateAutomatic, p.Automatic, "failover is automatic", "failover.automatic is off in the configuration")
	for _, g := range unrestGates(v, p) {
		add(election.Failover, g.Name, g.Open, g.Reason, g.Reason)
	}
	failed := cmp.Or(left(v), lostOwn(v))
	add(election.Failover, gateFailed, v.Primary.Verdict == topology.Failed || failed != "",
		cmp.Or(failed, v.Primary.Explanation), v.Primary.Explanation)
	sv := withoutOld(expectedSurvey(v), *s.Primary)
	add(election.Failover, gateRevocable, sv.proven(), sv.summary(canBeFrozen), "no promotion possible: "+sv.summary(canBeFrozen)+"; waiting for "+missingFor(sv, s.Register, s.Primary.Node))
	c, _, err := chooseCandidate(sv, choosePolicy{kind: election.Failover, from: s.Primary.Node, minFollowers: p.minAcks(), policy: p})
	add(election.Failover, gateCandidate, err == nil, fmt.Sprintf("%s would be promoted", c.Node), fmt.Sprint(err))
}

// withoutOld leaves the old primary out: the gates of a failover tell what
// could be done if it were dead.
func withoutOld(s survey, old election.Primary) survey {
	s.oldClosed = false
	s.seen = slices.DeleteFunc(slices.Clone(s.seen), func(f Frozen) bool { return f.Node == old.Node })
	delete(s.silent, old.Node)
	s.union = old.Base
	for _, f := range s.seen {
		if slices.Contains(s.counted, f.Node) {
			s.union = s.union.Union(f.Received)
		}
	}
	return s
}

func decideSwitchoverGates(v View, p Policy, to topology.NodeName, add addGate) {
	s := v.State
	n, ok := v.Nodes[s.Primary.Node]
	healthy := ok && n.Instance != nil && n.Instance.Writable() && s.Primary.Phase == election.Open && v.Primary.Verdict != topology.Failed
	why := v.Primary.Explanation
	switch {
	case !ok:
		why = "its agent does not answer"
	case n.Instance == nil:
		why = "its server does not answer: " + n.InstanceError
	case !n.Instance.Writable() || s.Primary.Phase != election.Open:
		why = "it is closed"
	}
	add(election.Switchover, gateHealthy, healthy, string(s.Primary.Node)+" serves writes",
		fmt.Sprintf("%s is not serving writes: %s", s.Primary.Node, why))
	c, err := switchoverCandidate(v, p, to)
	add(election.Switchover, gateCandidate, err == nil, fmt.Sprintf("%s can be promoted", c.Node), fmt.Sprint(err))
	if err != nil {
		return
	}
	// That the candidate replicates from the recorded primary is more than a
	// matter of speed: behind one that does not, the others would acknowledge
	// another history while they go ahead (I1).
	why = behind(v.Nodes[c.Node], p.MaxLag)
	if why == "" && !streams(v.Nodes[c.Node], *s.Primary) {
		why = fmt.Sprintf("it does not replicate from %s", s.Primary.Node)
	}
	add(election.Switchover, gateCaughtUp, why == "", string(c.Node)+" has caught up", fmt.Sprintf("%s: %s", c.Node, why))
}

// switchoverCandidate is whom a switchover would promote now.
func switchoverCandidate(v View, p Policy, to topology.NodeName) (Frozen, error) {
	if to != "" && !slices.ContainsFunc(v.Members, func(m topology.Member) bool { return m.Name == to }) {
		return Frozen{}, fmt.Errorf("%w: the cluster has no member %q", ErrNoCandidate, to)
	}
	sv := expectedSurvey(v)
	if n, ok := v.Nodes[v.State.Primary.Node]; ok && n.Instance != nil {
		sv.union = n.Instance.Executed.Union(n.Instance.Committing)
	}
	c, _, err := chooseCandidate(sv, choosePolicy{kind: election.Switchover, to: to, from: v.State.Primary.Node, minFollowers: p.minAcks(), policy: p})
	return c, err
}

// behind says why a replica is too far behind for a switchover.
func behind(n NodeStatus, maxLag time.Duration) string {
	switch src := n.Instance.Source; {
	case src == nil:
		return "it does not replicate"
	case !src.ReceiverOn:
		return "its receiver is not connected: " + src.ReceiverError
	case !src.ApplierOn:
		return "its applier is stopped: " + src.ApplierError
	case src.Lag > maxLag:
		return fmt.Sprintf("it is %s behind (%d transactions to apply), more than the limit of %s", src.Lag.Round(time.Millisecond), src.Unapplied, maxLag)
	}
	return ""
}

// closedGate returns the first closed gate of an operation.
func closedGate(gates []Gate, op election.Kind) *Gate {
	for _, g := range gates {
		if g.Operation == op && !g.Open {
			return &g
		}
	}
	return nil
}

// served tells whether the record has clients write to the primary it names.
func served(s election.State) bool {
	if s.Primary == nil || s.Primary.Phase != election.Open {
		return false
	}
	preparing := s.Operation != nil && s.Operation.Step == stepPrepare // nothing is closed yet
	return preparing || s.Operation == nil && s.Epoch == s.Primary.Epoch
}

// decideRoute is the route that the cluster record implies. Members that did
// not get the push of an operation obey it as soon as they see the record.
func decideRoute(s election.State) router.Route {
	p := s.Primary
	if p == nil {
		return router.Route{Epoch: s.Epoch, Phase: router.Closed, Reason: "the cluster has no primary yet"}
	}
	if served(s) {
		return router.Route{Epoch: p.Epoch, Phase: router.Open, Primary: &router.Backend{Node: p.Node, Address: p.Address}}
	}
	r := router.Route{Epoch: s.Epoch, Phase: router.Closed, Reason: "an operation ended without a primary"}
	if s.Operation != nil {
		r.Reason = fmt.Sprintf("%s in progress", s.Operation.Kind)
		if s.Operation.Kind == election.Switchover || s.Operation.Kind == election.Resume {
			r.Primary = &router.Backend{Node: p.Node, Address: p.Address}
			if s.Operation.From != "" && s.Operation.From != p.Node {
				r.Primary = nil // past the point of no return: the old one is closed
			}
		}
	}
	return r
}
