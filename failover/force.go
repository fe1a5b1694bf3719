package failover

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"time"

	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// Force is what the gates of a forced failover guard. The operation itself is a
// failover like any other, but for the proof.
const Force election.Kind = "force"

// ForceOrder is an operator's order to fail over although acknowledged commits
// may be lost. What it names must be what is: an order written for another
// cluster, or before something changed, does nothing.
type ForceOrder struct {
	Cluster string         // its name
	Epoch   topology.Epoch // of the primary that is given up, as the operator saw it
	Confirm string         // LossBound.Confirm, as the operator saw it
	By      string         // who accepts the loss
}

// LossPreview is what a forced failover would mean now.
type LossPreview struct {
	Cluster string
	Epoch   topology.Epoch    // that primary was promoted in
	Old     topology.NodeName // the recorded primary; empty before there is one
	Bound   LossBound
	Gates   []Gate // of Force
}

// forcing is the accepted loss that an operation runs with.
type forcing struct {
	by       string
	at       time.Time
	bound    LossBound
	reported gtid.Set // what members told of
}

// PreviewForce asks every member and says what a forced failover would lose, as
// Force would find it. Only on the leader, whose bound is the one that counts.
func (c *Controller) PreviewForce(ctx context.Context) (LossPreview, error) {
	if !c.cfg.Registry.Leadership().Mine {
		return LossPreview{}, ErrNotLeader
	}
	return previewForce(c.cfg.Watcher.RefreshAll(ctx), c.cfg.Policy), nil
}

func previewForce(v View, p Policy) LossPreview {
	out := LossPreview{Cluster: v.State.Cluster}
	if v.State.Primary == nil {
		return out
	}
	// The primary's own epoch: what is accepted of one is not accepted of its
	// successor, and attempts that fail take epochs, too.
	out.Old, out.Epoch, out.Bound = v.State.Primary.Node, v.State.Primary.Epoch, boundLoss(v)
	for _, g := range decideGates(v, p, "") {
		if g.Operation == Force {
			out.Gates = append(out.Gates, g)
		}
	}
	return out
}

// Force fails over although the proof is missing that nothing acknowledged is
// lost. It is refused with a *GateError by a gate, and with a
// *ConfirmationError if the order does not name what is so now. Only on the
// leader.
func (c *Controller) Force(ctx context.Context, o ForceOrder) (Report, error) {
	return c.ask(ctx, Force, func(ctx context.Context) (Report, error) { return c.force(ctx, o) })
}

func (c *Controller) force(ctx context.Context, o ForceOrder) (Report, error) {
	c.endTidying()
	if !c.cfg.Registry.Leadership().Mine {
		return Report{}, ErrNotLeader
	}
	v := c.cfg.Watcher.RefreshAll(ctx)
	now := previewForce(v, c.cfg.Policy)
	if err := o.check(now); err != nil {
		return Report{}, err
	}
	p := c.plan(v, election.Failover, fmt.Sprintf("forced by %s, who accepted what may be lost (%s)", o.By, now.Bound.Confirm), "")
	p.Force = &forcing{by: o.By, at: time.Now().UTC(), bound: now.Bound, reported: reportedCommits(v)}
	p.Acks = 0 // whoever is left: with nobody to acknowledge, the record says so (I4)
	p.Past = outdated(v)
	return c.operate(ctx, p)
}

// check refuses an order that does not name what is so now.
func (o ForceOrder) check(now LossPreview) error {
	if now.Old == "" {
		return &GateError{Gate{Name: gateRecorded, Operation: Force, Reason: "the cluster has no primary yet"}}
	}
	for _, f := range []struct{ field, given, want string }{
		{"cluster", o.Cluster, now.Cluster},
		{"epoch", epochText(o.Epoch), epochText(now.Epoch)},
	} {
		if f.given != f.want {
			return &ConfirmationError{Field: f.field, Given: f.given, Want: f.want, Bound: now.Bound}
		}
	}
	if g := closedGate(now.Gates, Force); g != nil {
		return &GateError{Gate: *g}
	}
	if o.Confirm != now.Bound.Confirm {
		return &ConfirmationError{Field: "confirm", Given: o.Confirm, Want: now.Bound.Confirm, Bound: now.Bound}
	}
	return nil
}

func epochText(e topology.Epoch) string { return strconv.FormatUint(uint64(e), 10) }

// exceeded says why promoting f would lose more than was accepted; nil if it
// would not. Who was to be promoted may have died since.
func (f *forcing) exceeded(candidate Frozen) error {
	if f == nil || f.bound.Confirm == Unbounded {
		return nil
	}
	missing := f.reported.Minus(candidate.Received)
	if n := missing.Count(); n > f.bound.Count {
		b := f.bound
		b.Candidate, b.Missing, b.Count, b.Confirm = candidate.Node, missing, n, strconv.FormatUint(n, 10)
		return &ConfirmationError{Field: "confirm", Given: f.bound.Confirm, Want: b.Confirm, Bound: b}
	}
	return nil
}

// forced is what the ledger says of it.
func (f *forcing) forced() *Forced {
	if f == nil {
		return nil
	}
	return &Forced{By: f.by, At: f.at, Accepted: f.bound.Confirm, Lossy: !f.bound.Proven, Bound: f.bound}
}

// lossy tells whether the operation goes on without the proof.
func (o *operation) lossy(s survey) bool { return o.plan.Force != nil && !s.proven() }

// mark is what the record says of a primary that was promoted without the
// proof. It stays while that instance is primary, also when it is resumed.
func (o *operation) mark(up caughtUp, epoch topology.Epoch) *election.Forced {
	if old := o.plan.Old; o.plan.Kind == election.Resume && old != nil {
		return old.Forced
	}
	if !o.lossy(up.survey) {
		return nil
	}
	return &election.Forced{By: o.plan.Force.by, At: o.plan.Force.at, Accepted: o.plan.Force.bound.Confirm, Epoch: epoch}
}

// decideForceGates: it is not for a primary that anybody can still talk to, and
// the members must have somebody to promote.
func decideForceGates(v View, add addGate) {
	s := v.State
	n, reachable := v.Nodes[s.Primary.Node]
	why := v.Primary.Explanation
	down := v.Primary.Verdict != topology.Healthy
	if reachable && n.Instance != nil {
		down, why = false, fmt.Sprintf("%s answers: use a switchover, or wait", s.Primary.Node)
	}
	if doubt := cmp.Or(outdated(v), left(v), lostOwn(v)); doubt != "" {
		down, why = true, doubt
	}
	add(Force, gateFailed, down, why, why)
	b := boundLoss(v)
	add(Force, gateCandidate, b.Candidate != "", fmt.Sprintf("%s would be promoted; %s", b.Candidate, b.Statement), b.Statement)
}
