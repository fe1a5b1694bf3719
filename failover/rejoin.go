package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// rejoiner brings instances back behind the primary in quiet times: those that
// hold nothing of their own follow and are admitted as ackers when they have
// caught up; those with errant transactions are rebuilt, or left closed and
// reported.
type rejoiner struct {
	cfg ControllerConfig
	log *zap.Logger
	// notBefore keeps a node whose last order failed from being asked at
	// every tick.
	notBefore map[topology.NodeName]time.Time
	// compared remembers what of a node has been written to the ledger.
	compared map[topology.NodeName]comparison
	// suspected holds what looked errant, or purged before it was received, at the
	// pass before: nothing is rebuilt on one look alone.
	suspected map[topology.NodeName]gtid.Set
}

type comparison struct {
	epoch     topology.Epoch
	savedFile string
}

func newRejoiner(cfg ControllerConfig, log *zap.Logger) *rejoiner {
	return &rejoiner{cfg: cfg, log: log.Named("rejoin"), notBefore: map[topology.NodeName]time.Time{},
		compared: map[topology.NodeName]comparison{}, suspected: map[topology.NodeName]gtid.Set{},
	}
}

// remedy is what an instance needs to be a good replica.
type remedy int

const (
	remedyNone remedy = iota
	remedyFollow
	remedyAdmit
	remedyConfirm // its acknowledging receiver is seen where it was ordered to be
	remedyReadmit // it was shut out
	remedyRebuild
	remedyReport // errant, or lacking what nobody can send it, and to be left alone
	remedyRefit  // its receiver's times are not as they are configured
)

// caughtUpWithin is how many transactions behind an instance may be to be
// admitted as an acker: under load it is never exactly level.
const caughtUpWithin = 500

// decideRemedy is pure. primary must have been read after n.
func decideRemedy(state election.State, n NodeStatus, primary NodeStatus, p Policy) (remedy, gtid.Set) {
	inst, has := n.Instance, primary.Instance.Executed.Union(primary.Instance.Committing)
	errant := inst.Received.Minus(has)
	src := inst.Source
	if !errant.IsEmpty() || cutFrom(inst, primary.Instance) || !lacksOwn(inst, has).IsEmpty() {
		return remedyBeyond(inst.Executed.Intersect(has), errant, p), errant
	}
	switch {
	case state.Register.IsShut(n.Member.Name):
		if state.Register.Has(n.Member.Name) {
			return remedyNone, errant // it is about to leave the register, or to stay
		}
		return remedyReadmit, errant
	case !followsPrimary(inst.Source, primary), !inst.SuperReadOnly, n.Errant != nil:
		return remedyFollow, errant
	}
	registered := state.Register.Has(n.Member.Name)
	mayAck := p.mayAck(primary.Member.Site, n.Member.Site) && inst.Inadmissible == ""
	switch {
	case registered && src.ReceiverOn && !inst.SemiSync.ReplicaActive:
		return remedyFollow, errant
	case registered && state.Sources[n.Member.Name] != state.Primary.Node && n.Promised < state.Primary.Epoch:
		return remedyFollow, errant // it follows already, and promises the epoch with the order
	case registered && state.Sources[n.Member.Name] != state.Primary.Node:
		// It was probed after it had promised this epoch: no earlier order
		// can move it any more.
		return remedyConfirm, errant
	case !registered && mayAck && n.Certified && src.ReceiverOn && has.Minus(inst.Received).Count() <= caughtUpWithin:
		return remedyAdmit, errant
	case !registered && inst.SemiSync.ReplicaEnabled:
		return remedyFollow, errant // it must not acknowledge (I1)
	case src.Unfit != "":
		return remedyRefit, errant
	}
	return remedyNone, errant
}

// remedyBeyond is for what cannot be made to follow as it is: it is errant, or cut
// from the primary. Where it has nothing in common with this cluster its data may
// be somebody's, whatever its GTIDs say.
func remedyBeyond(common, errant gtid.Set, p Policy) remedy {
	if p.Rebuild && (!errant.IsEmpty() || !common.IsEmpty()) {
		return remedyRebuild
	}
	return remedyReport
}

// cutFrom tells whether an instance, which receives nothing, lacks what the
// primary has purged: it could not follow, and only a copy brings it back.
func cutFrom(inst, primary *dbrepl.Status) bool {
	receives := inst.Source != nil && inst.Source.ReceiverOn
	return !receives && !primary.Purged.Minus(inst.Received).IsEmpty()
}

// lacksOwn is what a closed instance once wrote itself, is in has, and is not on it
// any more: its disk was put back. Replication does not bring it back, as a receiver
// passes over what bears its own server's id; only a copy does. The rest would come,
// and reads show a hole.
func lacksOwn(inst *dbrepl.Status, has gtid.Set) gtid.Set {
	if !inst.SuperReadOnly {
		return gtid.Set{} // seen while it was the primary
	}
	return has.Of(inst.ServerUUID).Minus(inst.Received).Minus(inst.Executed).Minus(inst.Committing)
}

// irretrievable is what an instance lacks and nobody can send it, in words and in
// transactions.
func irretrievable(inst, primary *dbrepl.Status) (why string, lacks gtid.Set) {
	if own := lacksOwn(inst, primary.Executed.Union(primary.Committing)); !own.IsEmpty() {
		return "instance has lost transactions of its own, which replication does not bring back", own
	}
	return "instance needs binary logs that the primary has purged", primary.Purged.Minus(inst.Received)
}

// followsPrimary tells whether a receiver and an applier work behind the primary.
func followsPrimary(src *dbrepl.SourceStatus, primary NodeStatus) bool {
	return src != nil && src.ServerUUID == primary.Instance.ServerUUID && src.ReceiverState != "OFF" && src.ApplierOn
}

// tidy gives each instance that is not as it should be its remedy.
func (r *rejoiner) tidy(ctx context.Context, v View) {
	p := v.State.Primary
	if p == nil || p.Phase != election.Open || v.State.Epoch != p.Epoch {
		return
	}
	primary, err := r.cfg.Watcher.Ask(ctx, p.Node) // after the view was gathered
	if err != nil || primary.Instance == nil || !primary.Instance.Writable() {
		return
	}
	if primary.Instance.ServerUUID != p.ServerUUID || !primary.Instance.Executed.Union(primary.Instance.Committing).Contains(p.Base) {
		// Beside another server, or an emptied one, everything looks errant.
		r.log.Error("the recorded primary is not the server it was: nothing is brought back behind it",
			zap.String("instance", string(p.Node)), zap.String("server_uuid", primary.Instance.ServerUUID))
		return
	}
	for _, name := range slices.Sorted(maps.Keys(v.Nodes)) {
		n := v.Nodes[name]
		if ctx.Err() != nil {
			return // an operation is due
		}
		if name == p.Node || n.Instance == nil || time.Now().Before(r.notBefore[name]) {
			continue
		}
		if s := r.cfg.Registry.Snapshot().State; n.Rebuild.Underway() || !s.Belongs(name) || s.Leaving(name) {
			continue
		}
		what, errant := decideRemedy(v.State, n, primary, r.cfg.Policy)
		found := errant
		if errant.IsEmpty() && (what == remedyRebuild || what == remedyReport) {
			_, found = irretrievable(n.Instance, primary.Instance)
		}
		before := r.suspected[name]
		r.suspected[name] = found
		if !found.IsEmpty() && before.Intersect(found).IsEmpty() {
			continue
		}
		// Not while it is yet to follow: commits that still wait on a server that
		// was thawed are in none of its sets, and in doubt all the same.
		if what != remedyFollow {
			r.completeReport(ctx, v.State.Epoch, n, errant)
		}
		if err := r.apply(ctx, v, n, primary, what, errant); err != nil && ctx.Err() == nil {
			r.notBefore[name] = time.Now().Add(time.Second)
			r.log.Warn("instance is not back yet", zap.String("instance", string(name)), zap.Error(err))
		}
	}
}

func (r *rejoiner) apply(ctx context.Context, v View, n, primary NodeStatus, what remedy, errant gtid.Set) error {
	name := n.Member.Name
	switch what {
	case remedyFollow:
		r.log.Info("instance is told to follow", zap.String("instance", string(name)))
		return r.follow(ctx, v.State, n, primary, v.State.Register.Has(name))
	case remedyRefit:
		// For a moment it acknowledges nothing: one after another.
		if !othersAcknowledge(v, name) {
			return nil
		}
		r.notBefore[name] = time.Now().Add(5 * time.Second)
		r.log.Info("instance is told to follow with other times", zap.String("instance", string(name)), zap.String("detail", n.Instance.Source.Unfit))
		return r.follow(ctx, v.State, n, primary, v.State.Register.Has(name))
	case remedyAdmit:
		return r.admit(ctx, v, n, primary)
	case remedyConfirm:
		_, err := r.record(ctx, v, name, func(s *election.State) { s.Sources[name] = s.Primary.Node })
		return err
	case remedyReadmit:
		return r.readmit(ctx, v, n, primary)
	case remedyRebuild:
		r.notBefore[name] = time.Now().Add(5 * time.Second)
		return r.rebuild(ctx, v, n, primary, errant)
	case remedyReport:
		r.notBefore[name] = time.Now().Add(30 * time.Second)
		if errant.IsEmpty() {
			why, lacks := irretrievable(n.Instance, primary.Instance)
			r.log.Error(why+", and is left as it is (failover.rejoin is leave, or the two have no history in common)",
				zap.String("instance", string(name)), zap.Stringer("lacks", lacks))
			return nil
		}
		r.log.Error("instance holds errant transactions and is left as it is (failover.rejoin is leave)",
			zap.String("instance", string(name)), zap.Stringer("errant", errant))
	case remedyNone:
	}
	return nil
}

// raiseForSites: with one more in a site, as many as before may all be in it.
func (r *rejoiner) raiseForSites(s *election.State, members []topology.Member) {
	if r.cfg.Policy.Sites == 0 || s.Register.K == 0 {
		return
	}
	var at []string
	sites := sitesOf(members)
	for _, a := range s.Register.Ackers {
		if outside(sites[s.Primary.Node], sites[a]) {
			at = append(at, sites[a])
		}
	}
	if k := certain(at, r.cfg.Policy.Sites); k != unmeetable && k > s.Register.Acks() {
		s.Register.NextK = k
	}
}

// othersAcknowledge tells whether every acker but name was seen to acknowledge.
func othersAcknowledge(v View, name topology.NodeName) bool {
	return !slices.ContainsFunc(v.State.Register.Ackers, func(a topology.NodeName) bool {
		n, ok := v.Nodes[a]
		return a != name && (!ok || n.Instance == nil || !n.Instance.SemiSync.ReplicaActive)
	})
}

func (r *rejoiner) follow(ctx context.Context, s election.State, n, primary NodeStatus, acker bool) error {
	if acker && s.Register.NextK > s.Register.K {
		// The primary waits for more before another one is counted.
		source, err := r.cfg.Nodes.Node(s.Primary.Node)
		if err != nil {
			return err
		}
		octx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		o, err := source.Obey(octx, ObeyRequest{Epoch: s.Epoch})
		if err != nil {
			return fmt.Errorf("have the primary wait for %d before %s acknowledges: %w", s.Register.NextK, n.Member.Name, err)
		}
		if o.Acks < s.Register.NextK {
			return fmt.Errorf("the primary waits for %d, not %d: %w", o.Acks, s.Register.NextK, election.ErrConflict)
		}
	}
	node, err := r.cfg.Nodes.Node(n.Member.Name)
	if err != nil {
		return err
	}
	fctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return node.Follow(fctx, FollowRequest{
		Epoch: s.Primary.Epoch, Source: s.Primary.Node, SourceUUID: s.Primary.ServerUUID, Address: s.Primary.Address,
		SourceHas: primary.Instance.Executed.Union(primary.Instance.Committing), Acker: acker,
	})
}

// admit registers an instance that has caught up, then lets it acknowledge:
// it is in the register before its first acknowledgement can count (I3).
func (r *rejoiner) admit(ctx context.Context, v View, n, primary NodeStatus) error {
	name := n.Member.Name
	snap, err := r.record(ctx, v, name, func(s *election.State) {
		if !s.Register.Has(name) {
			s.Register.Ackers = append(s.Register.Ackers, name)
			r.raiseForSites(s, v.Members)
		}
		addAccount(&s.Register, name, n.Member.ReplicationUser)
		order(s.Sources, name, s.Primary.Node)
	})
	if err != nil {
		return err
	}
	r.log.Info("instance has caught up: registered as acker", zap.String("instance", string(name)))
	return r.follow(ctx, snap.State, n, primary, true)
}

// record changes what v saw, if it is still so. change gets Sources to alter.
// Nobody is admitted who was removed since, or is about to be.
func (r *rejoiner) record(ctx context.Context, v View, name topology.NodeName, change func(*election.State)) (election.Snapshot, error) {
	// v's own is old once this pass has changed it.
	return r.recordFrom(ctx, r.cfg.Registry.Snapshot(), v.State.Epoch, name, change)
}

func (r *rejoiner) recordFrom(ctx context.Context, snap election.Snapshot, epoch topology.Epoch, name topology.NodeName, change func(*election.State)) (election.Snapshot, error) {
	uctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if snap.State.Epoch != epoch || snap.State.Operation != nil {
		return snap, fmt.Errorf("record of epoch %d: %w", epoch, election.ErrConflict)
	}
	if !snap.State.Belongs(name) || snap.State.Leaving(name) {
		return snap, fmt.Errorf("%s: %w", name, election.ErrNotMember)
	}
	return r.cfg.Registry.Update(uctx, snap, func(s *election.State) error {
		if s.Sources == nil {
			s.Sources = map[topology.NodeName]topology.NodeName{}
		}
		change(s)
		return nil
	})
}

// rebuild orders a copy from a replica that has caught up, or else from the
// primary: cloning costs the donor, and the primary has other work.
func (r *rejoiner) rebuild(ctx context.Context, v View, n, primary NodeStatus, errant gtid.Set) error {
	name := n.Member.Name
	donor := v.State.Primary.Node
	for _, other := range slices.Sorted(maps.Keys(v.Nodes)) {
		st := v.Nodes[other]
		if other != name && other != donor && st.Instance != nil && st.Certified && st.Errant == nil &&
			st.Instance.Source != nil && st.Instance.Source.ReceiverOn && v.State.Register.Has(other) && behind(st, time.Second) == "" {
			donor = other
			break
		}
	}
	node, err := r.cfg.Nodes.Node(name)
	if err != nil {
		return err
	}
	var address string
	for _, m := range v.Members {
		if m.Name == donor {
			address = m.MySQL
		}
	}
	why := "instance holds errant transactions: saving them and rebuilding"
	if errant.IsEmpty() {
		lack, _ := irretrievable(n.Instance, primary.Instance)
		why = lack + ": rebuilding"
	}
	r.log.Warn(why, zap.String("instance", string(name)), zap.String("donor", string(donor)), zap.Stringer("errant", errant))
	octx, cancel := context.WithTimeout(ctx, 5*time.Second) // it is only begun in that time
	defer cancel()
	if err := node.Rebuild(octx, RebuildRequest{Epoch: v.State.Primary.Epoch, Donor: donor, Address: address, Errant: errant}); err != nil && !errors.Is(err, ErrBusy) {
		return err
	}
	return nil
}

// completeReport writes into the ledger what was in doubt, once the old
// primary of an operation has come back and could be compared.
func (r *rejoiner) completeReport(ctx context.Context, epoch topology.Epoch, n NodeStatus, errant gtid.Set) {
	now := comparison{epoch: epoch}
	if n.Rebuild != nil {
		now.savedFile = n.Rebuild.SavedFile
	}
	if r.compared[n.Member.Name] == now {
		return
	}
	rctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	raws, err := r.cfg.Registry.Reports(rctx, 10)
	if err != nil {
		return
	}
	for _, raw := range raws {
		var rep Report
		if json.Unmarshal(raw, &rep) != nil || rep.From != n.Member.Name || rep.Outcome != Completed || (rep.RPO.LostCommits == nil && rep.Forced == nil) {
			continue
		}
		if !complete(&rep, n, errant) {
			break
		}
		if raw, err = withRPO(raw, rep.RPO); err == nil {
			err = r.cfg.Registry.SaveReport(rctx, rep.Epoch, raw)
		}
		if err != nil {
			r.log.Warn("ledger entry not completed", zap.Uint64("epoch", uint64(rep.Epoch)), zap.Error(err))
			return
		}
		break // only its newest loss of the role
	}
	r.compared[n.Member.Name] = now
}

// withRPO replaces the RPO of an entry. Whoever wrote the entry may be newer, and
// all else stays as it wrote it.
func withRPO(entry []byte, rpo RPO) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(entry, &fields); err != nil {
		return nil, err
	}
	own, err := json.Marshal(rpo)
	if err != nil {
		return nil, err
	}
	if fields["rpo"], err = election.KeepUnknown[RPO](own, fields["rpo"]); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

// complete fills in what is known now; false if that adds nothing.
func complete(rep *Report, n NodeStatus, errant gtid.Set) bool {
	changed := false
	if rep.RPO.InDoubt == nil {
		count := errant.Count()
		rep.RPO.InDoubt = &count
		if count > 0 {
			rep.RPO.Proof.Errant = &errant
		}
		changed = true
	}
	if n.Rebuild != nil && n.Rebuild.SavedFile != "" && rep.RPO.Proof.SavedFile == "" && rep.RPO.Proof.Errant != nil {
		rep.RPO.Proof.SavedFile = n.Rebuild.SavedFile
		changed = true
	}
	return changed
}
