package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"interrex/election"
	"interrex/internal/topology"
	"interrex/router"
)

// Plan is what an operation sets out to do and what it was decided on.
type Plan struct {
	Kind  election.Kind
	From  topology.NodeName // the recorded primary; empty at bootstrap
	To    topology.NodeName // the wanted candidate; empty for the best
	Cause string
	// Base is the record the decision was made on: claiming fails if it has
	// changed since.
	Base election.Snapshot
	// Floor is the highest epoch any node has seen: an epoch is never issued
	// twice, also when etcd was restored from a snapshot (I5).
	Floor    topology.Epoch
	Old      *election.Primary
	Register election.Register
	Members  []topology.Member
	Evidence Judgement
	Gates    []Gate
	Acks     int // the least k of the new epoch
	Policy   Policy
	// Calm is View.Calm when it was decided.
	Calm time.Duration
	// Proven: the old primary was proven dead, or to be closed.
	Proven bool
	// Restarted: its server restarted in place.
	Restarted bool
	// Ahead are the replicas that a switchover points at its candidate before
	// the primary is closed.
	Ahead []topology.NodeName
	// Force: an operator accepted that acknowledged commits may be lost.
	Force *forcing
	// Past says why the record proves nothing: members have seen more than it has.
	// Empty: it does.
	Past string
}

// Limits bound the steps of an operation.
type Limits struct {
	// Revoke: how long to wait for enough ackers; more helps slow replicas,
	// less fails sooner when the proof cannot be had.
	Revoke time.Duration
	// CatchUp: how long the candidate may take to apply what it received.
	CatchUp time.Duration
	// Promote: how long the marker may take to be acknowledged.
	Promote time.Duration
	// Verify: how long to try writes through the route.
	Verify time.Duration
	// Switchover: the longest write pause of a switchover; beyond it the
	// switchover is undone. Half of it is for closing the old primary.
	Switchover time.Duration
}

// DefaultLimits are the limits without configuration.
func DefaultLimits() Limits {
	return Limits{
		Revoke: 3 * time.Second, CatchUp: 30 * time.Second, Promote: 10 * time.Second,
		Verify: 5 * time.Second, Switchover: 2 * time.Second,
	}
}

// graceForOthers is how long a revocation that is proven already waits for
// instances that have not answered yet: they may hold a better candidate and
// will be followers from the first moment.
const graceForOthers = 20 * time.Millisecond

// graceForFollowers is the same where the old primary is alive. Without the
// others it would be the only one to acknowledge the new primary, and it takes
// a second to put off its old role.
const graceForFollowers = 150 * time.Millisecond

// operation is one run of the sequence in failover.go.
type operation struct {
	self     topology.NodeName
	plan     Plan
	limits   Limits
	reg      Registry
	nodes    Nodes
	verifier Verifier
	det      Detector
	drift    func() *Drift // see unrecorded
	table    *router.Table
	log      *zap.Logger

	started   time.Time // monotonic
	startedAt time.Time
	closedAt  time.Time // when the routes were closed
	drainedAt time.Time // when the living primary of a switchover was closed
	snap      election.Snapshot
	doubted   bool // the candidate was judged Failed when it was chosen
	recording bool // the record of another primary was, or may have been, written
	report    *Report
	// wg has the pushes and orders that the operation does not wait for: each
	// ends by its own limit, and a host that is gone must not keep the next
	// operation waiting.
	wg *sync.WaitGroup
}

// execute runs the operation and returns its report, on every path (step 8).
func (o *operation) execute(ctx context.Context) (Report, error) {
	o.started = time.Now()
	o.startedAt = o.started.UTC()
	o.report = &Report{
		Kind: o.plan.Kind, Outcome: Unfinished, Leader: o.self, From: o.plan.From, To: o.plan.To,
		Cause: o.plan.Cause, StartedAt: o.startedAt, Evidence: o.plan.Evidence, Gates: o.plan.Gates,
		Forced: o.plan.Force.forced(),
	}
	o.reportDetection()
	err := o.run(ctx)
	switch {
	case err == nil:
		o.report.Outcome = Completed
	case errors.Is(err, ErrUndone):
		o.report.Outcome, o.report.Reason = Undone, err.Error()
	case errors.Is(err, ErrStaleEpoch), errors.Is(err, election.ErrNotLeader), errors.Is(err, election.ErrConflict):
		o.report.Outcome, o.report.Reason = Superseded, err.Error()
	default:
		o.report.Outcome, o.report.Reason = Failure, err.Error()
	}
	o.report.EndedAt = time.Now().UTC()
	if o.report.RPO.LostCommits == nil && !o.recording {
		// Ended before the point of no return: no other history was begun.
		var zero uint64
		o.report.RPO.LostCommits = &zero
		o.report.RPO.Proof.Statement = "nothing was promoted: the recorded primary and all it acknowledged are as they were"
	}
	if o.report.Epoch != 0 {
		_ = o.saveReport(ctx) // told already
	}
	return *o.report, err
}

func (o *operation) choosePolicy() choosePolicy {
	instances := 0
	for _, m := range o.plan.Members {
		if m.HasInstance() {
			instances++
		}
	}
	from := o.plan.From
	if o.plan.Past != "" {
		from = "" // who is the primary is not known
	}
	return choosePolicy{
		instances: instances,
		kind:      o.plan.Kind, to: o.plan.To, from: from, minFollowers: o.plan.Acks, policy: o.plan.Policy, forced: o.plan.Force != nil, past: o.plan.Past != "",
		ailing: func(n topology.NodeName) bool {
			// By the count: time-outs of others are no verdict where the own agent is answered.
			j := o.det.Judge(n)
			return j.ownAgainst() || j.Needed > 0 && j.against() >= j.Needed
		},
		doubters: o.doubters,
	}
}

// doubters are the members that would have to follow an instance, and have no
// answer from it.
func (o *operation) doubters(n topology.NodeName) (names []topology.NodeName) {
	for _, v := range o.det.Judge(n).Votes {
		m, ok := o.member(v.Observer)
		if v.Against && v.Observer != n && v.Observer != o.plan.From && ok && m.HasInstance() {
			names = append(names, v.Observer)
		}
	}
	return names
}

// saveReport writes the ledger entry, and tells if it could not.
func (o *operation) saveReport(ctx context.Context) error {
	raw, err := json.Marshal(o.report)
	if err != nil {
		o.log.Error("report cannot be encoded", zap.Error(err))
		return err
	}
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := o.reg.SaveReport(sctx, o.report.Epoch, raw); err != nil {
		o.log.Error("report could not be written to the ledger", zap.Error(err), zap.ByteString("report", raw))
		return err
	}
	return nil
}

// update changes the record in the course of this operation. If it was changed
// meanwhile by something beside it (a pause), that is kept and it is tried
// again; if the operation in it is another one, the error is ErrConflict.
func (o *operation) update(ctx context.Context, change func(*election.State) error) error {
	for {
		snap, err := o.reg.Update(ctx, o.snap, change)
		if err == nil {
			o.snap = snap
			return nil
		}
		if !errors.Is(err, election.ErrConflict) {
			return err
		}
		now, rerr := o.reg.Read(ctx)
		if rerr != nil {
			return fmt.Errorf("%w; %w", err, rerr)
		}
		op, epoch := now.State.Operation, o.report.Epoch
		if now.Revision == o.snap.Revision || op == nil || op.Epoch != epoch || op.Leader != o.self || now.State.Epoch != epoch {
			return err
		}
		o.snap = now
	}
}

// step begins a step in the report; the returned function ends it.
func (o *operation) step(name string) func(detail string, err error) {
	began := time.Now()
	return func(detail string, err error) {
		s := Step{
			Name: name, BeganMS: millis(began.Sub(o.started)), TookMS: millis(time.Since(began)), Detail: detail,
		}
		fields := []zap.Field{zap.String("step", name), zap.Float64("took_ms", s.TookMS), zap.String("detail", detail)}
		if err != nil {
			s.Error = err.Error()
			o.log.Warn("step failed", append(fields, zap.Error(err))...)
		} else {
			o.log.Info("step done", fields...)
		}
		o.report.Steps = append(o.report.Steps, s)
	}
}

func (o *operation) reportDetection() {
	if o.plan.Kind != election.Failover {
		return
	}
	since := o.started.Sub(o.plan.Evidence.At) + o.plan.Evidence.LastGood
	o.report.Steps = append(o.report.Steps, Step{
		Name: stepDetect, BeganMS: -millis(since), TookMS: millis(since), Detail: o.plan.Evidence.Explanation,
	})
}

// measureRTO sets the RTO and its bounds at the moment a write through the
// route was acknowledged. After a failover writes ended somewhere between the
// last good sign of the old primary and the first bad one; in a planned
// operation they ended when the routes were closed.
func (o *operation) measureRTO(end time.Time) {
	if o.plan.Kind != election.Failover {
		upper := millis(end.Sub(o.closedAt))
		lower := upper
		if !o.drainedAt.IsZero() {
			lower = millis(end.Sub(o.drainedAt))
		}
		o.report.RTOMillis, o.report.RTOBounds = upper, [2]float64{lower, upper}
		return
	}
	since := end.Sub(o.plan.Evidence.At)
	upper := millis(since + o.plan.Evidence.LastGood)
	lower := millis(since + o.plan.Evidence.FirstBad)
	o.report.RTOMillis, o.report.RTOBounds = upper, [2]float64{min(lower, upper), upper}
}

func (o *operation) member(name topology.NodeName) (topology.Member, bool) {
	for _, m := range o.plan.Members {
		if m.Name == name {
			return m, true
		}
	}
	return topology.Member{}, false
}

func (o *operation) catchUpLimit() time.Duration {
	if o.plan.Kind == election.Switchover {
		return max(o.limits.Switchover-time.Since(o.closedAt), time.Millisecond)
	}
	return o.limits.CatchUp
}

// closeRoutes tells every member to hold new connections. A planned operation
// leaves the sessions that exist to the draining of the server; a failover
// cuts them.
func (o *operation) closeRoutes(ctx context.Context, epoch topology.Epoch) {
	o.closedAt = time.Now()
	r := router.Route{Epoch: epoch, Phase: router.Closed, Reason: string(o.plan.Kind) + " in progress"}
	if old := o.plan.Old; old != nil && o.plan.Kind != election.Failover {
		r.Primary = &router.Backend{Node: old.Node, Address: old.Address}
	}
	if err := o.pushRoute(ctx, r, o.plan.Kind == election.Switchover); err != nil {
		o.log.Warn("own routes were not closed", zap.Error(err))
	}
}

// cutRoutes has every member end the sessions that are left.
func (o *operation) cutRoutes(ctx context.Context, epoch topology.Epoch) {
	r := router.Route{Epoch: epoch, Phase: router.Closed, Reason: string(o.plan.Kind) + " in progress"}
	if err := o.pushRoute(ctx, r, false); err != nil {
		o.log.Warn("own routes were not cut", zap.Error(err))
	}
}

// pushRoute applies the route here and sends it to the others. With settle,
// it gives those that answer a moment to have obeyed; none is ever waited for
// longer, since they also learn it from etcd.
func (o *operation) pushRoute(ctx context.Context, r router.Route, settle bool) error {
	_, err := o.table.Apply(r)
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	var pushes sync.WaitGroup
	for _, m := range o.plan.Members {
		if m.Name == o.self {
			continue
		}
		node, nerr := o.nodes.Node(m.Name)
		if nerr != nil {
			continue
		}
		pushes.Add(1)
		go func() {
			defer pushes.Done()
			if perr := node.Route(sctx, r); perr != nil {
				o.log.Debug("route not delivered", zap.String("member", string(m.Name)), zap.Error(perr))
			}
		}()
	}
	all := make(chan struct{})
	o.wg.Add(1)
	go func() {
		defer o.wg.Done()
		defer cancel()
		pushes.Wait()
		close(all)
	}()
	if settle {
		t := time.NewTimer(graceForOthers)
		defer t.Stop()
		select {
		case <-all:
		case <-t.C:
		}
	}
	return err
}

// follow orders every follower to the new primary. Nobody waits for all of
// them: the marker's acknowledgement shows that enough of them do.
func (o *operation) follow(ctx context.Context, up caughtUp, primary election.Primary) {
	has := up.executed.Union(up.candidate.Committing)
	for _, f := range up.followers {
		node, err := o.nodes.Node(f.Node)
		if err != nil {
			continue
		}
		req := FollowRequest{
			Epoch: up.epoch, Source: primary.Node, SourceUUID: primary.ServerUUID,
			Address: primary.Address, SourceHas: has, Acker: o.snap.State.Register.Has(f.Node),
		}
		o.wg.Add(1)
		go func() {
			defer o.wg.Done()
			fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.limits.Promote)
			defer cancel()
			began := time.Now()
			if err := node.Follow(fctx, req); err != nil {
				o.log.Warn("instance does not follow yet", zap.String("instance", string(f.Node)), zap.Error(err))
				return
			}
			o.log.Info("instance follows", zap.String("instance", string(f.Node)),
				zap.Bool("acker", req.Acker), zap.Duration("took", time.Since(began)))
		}()
	}
}

// restore ends an operation that cannot go on, before the point of no return.
// A switchover leaves its record: what it did is undone under the next epoch,
// which fences off every order of this one that may still be on its way.
// Otherwise the record is freed, and what to do next is decided anew.
func (o *operation) restore(ctx context.Context, cause error) error {
	if errors.Is(cause, ErrStaleEpoch) || errors.Is(cause, election.ErrNotLeader) ||
		errors.Is(cause, election.ErrConflict) || ctx.Err() != nil {
		return cause // somebody else goes on under a higher epoch
	}
	if o.plan.Kind == election.Switchover {
		if !o.closedAt.IsZero() {
			o.measureRTO(time.Now()) // the rest of the pause is the next one's
		}
		return fmt.Errorf("%w: %w", ErrUndone, cause)
	}
	// In the ledger before the record is freed, see verify. If it cannot be
	// written, the next leader finds the operation in the record.
	o.report.Outcome, o.report.Reason, o.report.EndedAt = Failure, cause.Error(), time.Now().UTC()
	err := o.saveReport(ctx)
	if err == nil {
		err = o.update(ctx, func(s *election.State) error {
			s.Operation = nil
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("%w; and the record was not freed: %w", cause, err)
	}
	return cause
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", millis(d)) }
