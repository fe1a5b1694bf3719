package failover

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// registrar keeps the acker register fit for the next failover (I3): an acker
// that has been gone for a while is dropped, so that no proof has to wait for
// it, and the number of acknowledgements follows the ackers that are left.
//
// What makes the guarantee weaker for proofs (an acker more, an acknowledgement
// less) is recorded first and then done. What makes it stronger is recorded as
// an intent, done by the primary, and then recorded in a change of that very
// revision which the primary obeyed.
type registrar struct {
	cfg ControllerConfig
	log *zap.Logger
	// missing says since when an acker has not been seen acknowledging, or has held
	// what the primary lacks.
	missing map[topology.NodeName]time.Time
	alone   map[topology.NodeName]gtid.Set // what it has held alone all the while
	epoch   topology.Epoch
}

func newRegistrar(cfg ControllerConfig, log *zap.Logger) *registrar {
	return &registrar{cfg: cfg, log: log.Named("register"), missing: map[topology.NodeName]time.Time{}, alone: map[topology.NodeName]gtid.Set{}}
}

// registerStep is one change of the register.
type registerStep struct {
	what string
	// obeyFirst: the primary is to have obeyed the record as it is before the
	// change is made, and Base then moves to what it had.
	obeyFirst bool
	change    func(s *election.State)
}

// tidy takes the steps that are due, one after another.
func (r *registrar) tidy(ctx context.Context, v View) {
	p := v.State.Primary
	if p == nil || !servesAs(p.Node, v.State) {
		return
	}
	if primary, ok := v.Nodes[p.Node]; !ok || primary.Instance == nil || !primary.Instance.Writable() ||
		primary.Instance.ServerUUID != p.ServerUUID {
		return
	}
	r.look(v, time.Now())
	for range 2 * len(v.Members) {
		step, due := decideRegister(v, r.cfg.Policy, r.gone)
		if !due {
			return
		}
		snap, err := r.take(ctx, v, step)
		if err != nil {
			if ctx.Err() == nil {
				r.log.Warn("register not changed yet", zap.String("change", step.what), zap.Error(err))
			}
			return
		}
		r.log.Info("register changed", zap.String("change", step.what), zap.Any("ackers", snap.State.Register.Ackers),
			zap.Int("k", snap.State.Register.K), zap.Any("shut", snap.State.Register.Shut))
		v.State, v.base = snap.State, snap
	}
}

// look notes which ackers are missing, and since when: those that are not seen
// to acknowledge, or, while they are shut out, to answer. One that holds what
// the primary lacks is as good as missing: what it proved would be taken for
// acknowledged.
func (r *registrar) look(v View, now time.Time) {
	if r.epoch != v.State.Epoch {
		r.epoch, r.missing = v.State.Epoch, map[topology.NodeName]time.Time{}
	}
	maps.DeleteFunc(r.missing, func(n topology.NodeName, _ time.Time) bool { return !v.State.Register.Has(n) })
	for _, n := range v.State.Register.Ackers {
		there := acknowledges(v, n)
		if v.State.Register.IsShut(n) { // it cannot, whatever it is like
			there = v.Nodes[n].Instance != nil && !v.Nodes[n].Rebuild.Underway()
		}
		if there && !r.holdsAlone(v, n) {
			delete(r.missing, n)
		} else if r.missing[n].IsZero() {
			r.missing[n] = now
		}
	}
}

// holdsAlone tells whether an acker holds something that the primary lacked at the
// look before, too. The two were not asked at one moment, so that says little at
// once; the same transactions have to be lacking for as long as it is to count.
func (r *registrar) holdsAlone(v View, n topology.NodeName) bool {
	primary, acker := v.Nodes[v.State.Primary.Node].Instance, v.Nodes[n].Instance
	if primary == nil || acker == nil {
		return false
	}
	alone := acker.Received.Minus(primary.Executed.Union(primary.Committing))
	if still := alone.Intersect(r.alone[n]); !still.IsEmpty() {
		r.alone[n] = still
		return true
	}
	r.alone[n] = alone
	return false
}

// gone tells whether an acker has been missing for so long that it is not
// waited for any more.
func (r *registrar) gone(n topology.NodeName) bool {
	since := r.missing[n]
	return !since.IsZero() && time.Since(since) >= r.cfg.Policy.DropAfter
}

// acknowledges tells whether an acker is seen to acknowledge the primary.
func acknowledges(v View, n topology.NodeName) bool {
	return streams(v.Nodes[n], *v.State.Primary) && v.Nodes[n].Instance.SemiSync.ReplicaActive
}

// ackersSeen is what a view says of the registered ackers.
type ackersSeen struct {
	instances int
	users     map[topology.NodeName]string // with which each member receives now
	gone      map[topology.NodeName]bool
	misplaced map[topology.NodeName]string // why one that is there may not acknowledge
	present   []string                     // the sites of the others
	active    int                          // those of the others that acknowledge now
	clients   int                          // that the primary itself counts
}

// leaves tells whether n is to be no acker any more.
func (s ackersSeen) leaves(n topology.NodeName) bool { return s.gone[n] || s.misplaced[n] != "" }

func seeAckers(v View, p Policy, gone func(topology.NodeName) bool) ackersSeen {
	reg, sites := v.State.Register, sitesOf(v.Members)
	seen := ackersSeen{
		users: map[topology.NodeName]string{}, gone: map[topology.NodeName]bool{}, misplaced: map[topology.NodeName]string{},
	}
	for _, m := range v.Members {
		if m.HasInstance() {
			seen.instances++
			seen.users[m.Name] = m.ReplicationUser
		}
	}
	for _, n := range reg.Ackers {
		if gone(n) {
			seen.gone[n] = true
			continue
		}
		if !p.mayAck(sites[v.State.Primary.Node], sites[n]) {
			seen.misplaced[n] = "in the primary's own site"
			continue
		}
		if inst := v.Nodes[n].Instance; inst != nil && inst.Inadmissible != "" {
			seen.misplaced[n] = "inadmissible: " + inst.Inadmissible
			continue
		}
		seen.present = append(seen.present, sites[n])
		if !reg.IsShut(n) && acknowledges(v, n) {
			seen.active++
		}
	}
	if p := v.Nodes[v.State.Primary.Node]; p.Instance != nil {
		seen.clients = p.Instance.SemiSync.Clients
	}
	return seen
}

// decideRegister says what is to be changed of the register next. It is pure.
func decideRegister(v View, p Policy, gone func(topology.NodeName) bool) (step registerStep, due bool) {
	reg, seen := v.State.Register, seeAckers(v, p, gone)
	want := p.acks(seen.instances, seen.present)
	if want == 0 && seen.clients > 0 {
		want = min(reg.K, 1) // their agents are silent, and they acknowledge
	}
	for _, n := range reg.Ackers {
		// Recorded before it is told to receive with it: both may acknowledge.
		if user, known := seen.users[n], reg.Accounts[n]; user != "" && len(known) > 0 && !slices.Contains(known, user) {
			return registerStep{what: fmt.Sprintf("%s receives with account %s", n, user), change: func(s *election.State) {
				addAccount(&s.Register, n, user)
			}}, true
		}
	}
	if step, due = decideShut(v, reg, seen); due {
		return step, true
	}
	switch {
	case reg.NextK != 0 && want < reg.NextK:
		return registerStep{what: "not enough ackers for more acknowledgements", change: func(s *election.State) { s.Register.NextK = 0 }}, true
	case reg.NextK != 0:
		return registerStep{what: fmt.Sprintf("the primary waits for %d", reg.NextK), obeyFirst: true, change: raised}, true
	case want < reg.K && p.Sites == 0:
		return registerStep{what: fmt.Sprintf("%d ackers are left: the primary is to wait for %d", len(seen.present), want), change: lower(want)}, true
	case want < reg.K:
		return lowerBySites(reg, seen, p, want)
	}
	if step, due = decideToShut(reg, seen); due {
		return step, true
	}
	if want > reg.K && seen.active >= want {
		return registerStep{what: fmt.Sprintf("%d ackers are there: the primary is to wait for %d", seen.active, want), change: func(s *election.State) {
			s.Register.NextK = want
		}}, true
	}
	return registerStep{}, false
}

// decideShut says what becomes of those that are to be kept out, or are.
func decideShut(v View, reg election.Register, seen ackersSeen) (registerStep, bool) {
	for _, n := range reg.Shut {
		switch {
		case reg.Has(n) && !seen.leaves(n) && v.Nodes[n].Instance != nil:
			return registerStep{what: fmt.Sprintf("%s is back: it stays an acker", n), change: letIn(n)}, true
		case reg.Has(n) && seen.leaves(n) && len(seen.present) >= max(reg.K, 1):
			return registerStep{what: fmt.Sprintf("%s is shut out: no acker any more", n), obeyFirst: true, change: drop(n)}, true
		}
	}
	return registerStep{}, false
}

// decideToShut says who is to be kept out: enough others acknowledge.
func decideToShut(reg election.Register, seen ackersSeen) (registerStep, bool) {
	for _, n := range reg.Ackers {
		if seen.leaves(n) && !reg.IsShut(n) && seen.active >= max(reg.K, 1) && hasOwnAccount(reg, seen.users, n) {
			why := "gone"
			if !seen.gone[n] {
				why = seen.misplaced[n]
			}
			return registerStep{what: fmt.Sprintf("%s is %s: it is to be shut out", n, why), change: shut(n)}, true
		}
	}
	return registerStep{}, false
}

func shut(nodes ...topology.NodeName) func(*election.State) {
	return func(s *election.State) { s.Register.Shut = append(s.Register.Shut, nodes...) }
}

func letIn(n topology.NodeName) func(*election.State) {
	return func(s *election.State) {
		s.Register.Shut = slices.DeleteFunc(s.Register.Shut, func(o topology.NodeName) bool { return o == n })
	}
}

// drop leaves Sources as it is: n still acknowledges this primary wherever it
// is let in without having been told otherwise.
func drop(n topology.NodeName) func(*election.State) {
	return func(s *election.State) {
		s.Register.Ackers = slices.DeleteFunc(s.Register.Ackers, func(o topology.NodeName) bool { return o == n })
	}
}

func raised(s *election.State) {
	s.Register.K, s.Register.NextK, s.Degraded = s.Register.NextK, 0, nil
}

func lower(k int) func(*election.State) {
	return func(s *election.State) {
		s.Register.K = k
		if k == 0 {
			s.Degraded = &election.Degraded{Since: time.Now().UTC(), Reason: "no acker is left (durability.when_no_acker is degrade)"}
		}
	}
}

// hasOwnAccount tells whether an acker can be shut out without anybody else:
// all it may receive with is known, and so is that nobody else uses it.
func hasOwnAccount(reg election.Register, users map[topology.NodeName]string, n topology.NodeName) bool {
	mine := reg.Accounts[n]
	shared := func(other topology.NodeName, user string) bool { return other != n && slices.Contains(mine, user) }
	for _, other := range reg.Ackers {
		if len(reg.Accounts[other]) == 0 {
			return false
		}
	}
	for other, theirs := range reg.Accounts {
		if slices.ContainsFunc(theirs, func(user string) bool { return shared(other, user) }) {
			return false
		}
	}
	for other, user := range users {
		if user == "" || shared(other, user) {
			return false
		}
	}
	return len(mine) > 0
}

// take makes one change; the primary obeys it before or after.
func (r *registrar) take(ctx context.Context, v View, step registerStep) (election.Snapshot, error) {
	base := v.base
	var has gtid.Set
	if step.obeyFirst {
		o, err := r.obey(ctx, v.State)
		if err != nil {
			return base, err
		}
		if o.Revision != base.Revision {
			return base, fmt.Errorf("the primary obeyed revision %d, not %d: %w", o.Revision, base.Revision, election.ErrConflict)
		}
		// The proof that the change allows is to be had at once.
		if err := r.awaitProof(ctx, v, step, o.Has); err != nil {
			return base, err
		}
		has = o.Has
	}
	uctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	snap, err := r.cfg.Registry.Update(uctx, base, func(s *election.State) error {
		step.change(s)
		if step.obeyFirst && s.Register.K > 0 { // with 0 nothing is ever proven
			s.Primary.Base = s.Primary.Base.Union(has)
		}
		return nil
	})
	if err != nil || step.obeyFirst {
		return snap, err
	}
	// The primary's agent does it by itself as well; until then the server is
	// stricter than the record.
	if _, err := r.obey(ctx, snap.State); err != nil && ctx.Err() == nil {
		r.log.Debug("register not obeyed at once", zap.Error(err))
	}
	return snap, nil
}

func (r *registrar) obey(ctx context.Context, s election.State) (Obeyed, error) {
	node, err := r.cfg.Nodes.Node(s.Primary.Node)
	if err != nil {
		return Obeyed{}, err
	}
	octx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return node.Obey(octx, ObeyRequest{Epoch: s.Epoch})
}

// awaitProof waits until so many ackers hold what the primary had that the
// change makes no failover harder to prove: what was about to be committed when
// it obeyed may not have reached anybody, and might never.
func (r *registrar) awaitProof(ctx context.Context, v View, step registerStep, has gtid.Set) error {
	after := election.State{Register: v.State.Register}
	after.Register.Ackers = slices.Clone(after.Register.Ackers)
	step.change(&after)
	reg := after.Register
	there := slices.DeleteFunc(slices.Clone(reg.Ackers), func(n topology.NodeName) bool { return !acknowledges(v, n) })
	needed := min(reg.Needed(), max(len(there), 1))
	if reg.K == 0 {
		return nil // nothing can be proven
	}
	wctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		holding := 0
		for _, n := range there {
			st, err := r.cfg.Watcher.Ask(wctx, n)
			if err == nil && st.Instance != nil && st.Certified && st.Instance.Received.Contains(has) {
				holding++
			}
		}
		if holding >= needed {
			return nil
		}
		select {
		case <-wctx.Done():
			return fmt.Errorf("%d of %d ackers hold what the primary has, %d are needed: %w", holding, len(reg.Ackers), needed, wctx.Err())
		case <-tick.C:
		}
	}
}

// readmit lets a member that was shut out receive again, as one that does not
// acknowledge; it is admitted as an acker like any other when it has caught up.
// It was told so and has done it before: what it is told later, it compares
// with a record at least as new.
func (r *rejoiner) readmit(ctx context.Context, v View, n, primary NodeStatus) error {
	name := n.Member.Name
	// What is changed is the record as it was before the order: nobody can have
	// let it acknowledge since.
	base := r.cfg.Registry.Snapshot()
	if err := r.follow(ctx, v.State, n, primary, false); err != nil {
		return err
	}
	st, err := r.cfg.Watcher.Ask(ctx, name)
	if err != nil {
		return err
	}
	if st.Instance == nil || st.Instance.SemiSync.ReplicaEnabled || st.Instance.SemiSync.ReplicaActive {
		return fmt.Errorf("%s still acknowledges after it was told not to", name)
	}
	_, err = r.recordFrom(ctx, base, v.State.Epoch, name, func(s *election.State) {
		letIn(name)(s)
		delete(s.Sources, name)
		delete(s.Register.Accounts, name)
	})
	if err == nil {
		r.log.Info("member that was shut out may receive again", zap.String("instance", string(name)))
	}
	return err
}
