package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"interrex/election"
	"interrex/internal/topology"
	"interrex/router"
)

// Leader is how leadership moves; election.Client implements it.
type Leader interface {
	// TakeOver seizes the leadership of a member that is judged Failed,
	// without waiting for its lease: epochs protect, leases do not.
	TakeOver(ctx context.Context, from topology.NodeName) error
	// Transfer hands the leadership to another member.
	Transfer(ctx context.Context, to topology.NodeName) error
}

// Placement moves what should not share a host with the primary.
type Placement interface {
	// MoveAway moves etcd's own leader off the node, if it can.
	MoveAway(ctx context.Context, node topology.NodeName) error
}

// ControllerConfig is what the controller is made of.
type ControllerConfig struct {
	Self      topology.NodeName
	Policy    Policy
	Limits    Limits
	Registry  Registry
	Leader    Leader
	Placement Placement // nil with an external etcd
	Voters    Voters    // likewise
	Nodes     Nodes
	Watcher   *Watcher
	Verifier  Verifier
	Table     *router.Table
}

// Controller runs operations while its member leads, and keeps the cluster as
// the record says in quiet times. One operation runs at a time.
type Controller struct {
	cfg      ControllerConfig
	log      *zap.Logger
	requests chan request
	busy     atomic.Bool
	register *registrar
	rejoin   *rejoiner
	members  *membership

	orders  sync.WaitGroup // orders of operations that have ended
	tidying *tidyPass      // the last one; owned by Run
	// dueSince is since when a resume has been due without having succeeded.
	dueSince time.Time
	// blindSince is since when this leader has not been able to ask the primary.
	blindSince time.Time

	wake     <-chan struct{}
	failures int       // operations in a row that ended without a primary
	notUntil time.Time // when the next may be tried
	placeAt  time.Time // when leaderships are looked at next

	// unresumed counts the attempts in a row to open the recorded primary again
	// that failed, the last one with lastResume.
	unresumed  int
	lastResume error
}

// tidyPass is one pass over the instances in quiet times. It runs beside the
// controller's loop, and ends at once when an operation is due: an instance
// that hangs must not keep a failover waiting.
type tidyPass struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// NewController returns the controller; Run makes it work.
func NewController(cfg ControllerConfig, log *zap.Logger) *Controller {
	log = log.Named("failover")
	return &Controller{
		cfg: cfg, log: log, requests: make(chan request),
		register: newRegistrar(cfg, log), rejoin: newRejoiner(cfg, log), members: newMembership(cfg, log),
	}
}

// WakeBy sets the channel that has a value whenever the record, the leadership
// or a verdict may have changed. Call it before Run.
func (c *Controller) WakeBy(changes <-chan struct{}) { c.wake = changes }

// placeEvery is how often the leader looks where the leaderships are.
const placeEvery = 5 * time.Second

// idleTick is how often the leader looks at the cluster when nothing wakes it.
const idleTick = 250 * time.Millisecond

// Run leads while this member is the leader, until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	defer c.orders.Wait()
	defer c.endTidying()
	tick := time.NewTicker(idleTick)
	defer tick.Stop()
	for ctx.Err() == nil {
		// What has gathered during an operation is not left to chance: who asked
		// comes first.
		select {
		case req := <-c.requests:
			c.answer(req)
			continue
		default:
		}
		select {
		case <-tick.C:
			c.turn(ctx, true)
			continue
		default:
		}
		select {
		case <-ctx.Done():
		case req := <-c.requests:
			c.answer(req)
		case <-c.wake:
			c.turn(ctx, false)
		case <-tick.C:
			c.turn(ctx, true)
		}
	}
	return nil
}

// turn does what the moment asks for: take over a dead leader, run the
// operation that is due, or, on a tick, tidy the cluster.
func (c *Controller) turn(ctx context.Context, tidy bool) {
	v := c.cfg.Watcher.View()
	if !v.Leadership.Mine {
		c.blindSince = time.Time{}
		c.unresumed = 0
		c.endTidying()
		c.takeOverDeadLeader(ctx, v)
		return
	}
	v, err := c.markDrift(ctx, v)
	if err != nil {
		c.log.Warn("nothing is decided before it is recorded", zap.Error(err))
		return
	}
	due, _, run := decideOperation(v, c.cfg.Policy)
	if !run || due != election.Resume {
		c.dueSince = time.Time{}
		c.unresumed = 0
	} else if c.dueSince.IsZero() {
		c.dueSince = time.Now()
	}
	if c.isBlind(v) {
		c.handOver(ctx, v, "this leader cannot ask the primary's agent")
		return
	}
	if !run {
		if tidy && v.State.Primary != nil && v.State.Operation == nil && outdated(v) == "" {
			c.beginTidying(ctx, v)
		}
		return
	}
	c.endTidying()
	if due == election.Resume || lostOwn(v) != "" {
		// The view may be older than the record: a primary that has just
		// opened must not be taken for a closed one.
		v = c.cfg.Watcher.Refresh(ctx, v.State.Primary.Node)
	} else {
		v = c.cfg.Watcher.View() // with what tidying changed
	}
	kind, cause, run := decideOperation(v, c.cfg.Policy)
	// Without etcd nothing is tried, and nothing said of it at every turn.
	if run && v.EtcdReachable && !time.Now().Before(c.notUntil) {
		if err := c.attempt(ctx, v, kind, cause); err != nil {
			c.log.Error("an operation is due and did not reach its goal", zap.String("kind", string(kind)), zap.Error(err))
		}
	}
}

func (c *Controller) beginTidying(ctx context.Context, v View) {
	if c.tidying != nil {
		select {
		case <-c.tidying.done:
		default:
			return
		}
	}
	place := !time.Now().Before(c.placeAt)
	if place {
		c.placeAt = time.Now().Add(placeEvery)
	}
	tctx, cancel := context.WithCancel(ctx)
	pass := &tidyPass{cancel: cancel, done: make(chan struct{})}
	c.tidying = pass
	go func() {
		defer close(pass.done)
		defer cancel()
		c.register.tidy(tctx, v)
		c.rejoin.tidy(tctx, v)
		c.members.tidy(tctx, c.cfg.Watcher.View())
		if place {
			c.place(tctx, v)
		}
	}()
}

// endTidying ends the pass that runs, if one does, and waits for it.
func (c *Controller) endTidying() {
	if c.tidying != nil {
		c.tidying.cancel()
		<-c.tidying.done
	}
}

// attempt runs an automatic operation if it can succeed. One that cannot is
// not claimed: a claim closes the routes and costs an epoch.
func (c *Controller) attempt(ctx context.Context, v View, kind election.Kind, cause string) error {
	if !v.EtcdReachable {
		return fmt.Errorf("%s is due: %w", kind, election.ErrUnreachable)
	}
	if why := unresumable(v, c.cfg.Policy, c.unresumed, c.lastResume); kind == election.Resume && why != "" {
		kind, cause = election.Failover, why
	}
	plan := c.plan(v, kind, cause, "")
	if err := foreseen(v, c.cfg.Policy, plan); err != nil {
		c.backOff()
		return fmt.Errorf("%s is due and would not succeed: %w", kind, err)
	}
	report, err := c.operate(ctx, plan)
	switch {
	case err == nil || kind != election.Resume:
		c.unresumed = 0
	case report.Outcome == Failure && !errors.Is(err, election.ErrUnreachable) && !errors.Is(err, election.ErrOutcomeUnknown):
		c.unresumed++
		c.lastResume = err
	}
	if err != nil {
		c.backOff()
		return err
	}
	c.failures = 0
	c.placeAt = time.Time{}
	return nil
}

// backOff keeps attempts that fail from using up epochs: 0.25 s, doubling to
// 5 s. What makes them fail is looked at again by then.
func (c *Controller) backOff() {
	c.failures = min(c.failures+1, 5)
	c.notUntil = time.Now().Add(min(idleTick<<(c.failures-1), 5*time.Second))
}

func (c *Controller) plan(v View, kind election.Kind, cause string, to topology.NodeName) Plan {
	p := Plan{
		Kind: kind, To: to, Cause: cause, Old: v.State.Primary, Register: v.State.Register,
		Members: v.Members, Evidence: v.Primary, Acks: c.cfg.Policy.minAcks(), Policy: c.cfg.Policy,
		Gates: slices.DeleteFunc(decideGates(v, c.cfg.Policy, to), func(g Gate) bool { return g.Operation != kind }),
		// If the record has changed since v, claiming fails: acting on a
		// register that is not the recorded one would prove nothing (I1).
		Base: v.base,
	}
	if v.State.Primary != nil {
		p.From = v.State.Primary.Node
		p.Calm, p.Proven, p.Restarted = v.Calm, provenDead(v) || closedInPlace(v), restartedInPlace(v)
	}
	if kind == election.Resume {
		p.To = p.From
		// Right after a start the others are on their way, too: none of them
		// is missing yet.
		switch {
		case v.State.Degraded != nil:
			p.Acks = 0 // the record says already that it waits for nobody (I4)
		case c.dueSince.IsZero() || time.Since(c.dueSince) < c.cfg.Policy.DropAfter:
			p.Acks = max(p.Acks, 1)
		}
	}
	for _, n := range v.Nodes {
		p.Floor = max(p.Floor, n.Promised)
		if n.Instance != nil {
			p.Floor = max(p.Floor, n.Instance.Marker.Epoch)
		}
	}
	return p
}

func (c *Controller) operate(ctx context.Context, p Plan) (Report, error) {
	c.busy.Store(true)
	defer c.busy.Store(false)
	if d := unrecorded(c.cfg.Watcher.View()); d != nil {
		return Report{}, errUnrecorded(d)
	}
	if err := c.closeAbandoned(ctx, p); err != nil {
		return Report{}, err
	}
	log := c.log.With(zap.String("kind", string(p.Kind)))
	log.Info("operation begins", zap.String("from", string(p.From)), zap.String("to", string(p.To)), zap.String("cause", p.Cause))
	o := &operation{
		self: c.cfg.Self, plan: p, limits: c.cfg.Limits, reg: c.cfg.Registry, nodes: c.cfg.Nodes,
		drift:    func() *Drift { return unrecorded(c.cfg.Watcher.View()) },
		verifier: c.cfg.Verifier, det: c.cfg.Watcher.det, table: c.cfg.Table, log: log, wg: &c.orders,
	}
	report, err := o.execute(ctx)
	log.Info("operation ended", zap.Uint64("epoch", uint64(report.Epoch)), zap.String("outcome", string(report.Outcome)),
		zap.String("to", string(report.To)), zap.Float64("rto_ms", report.RTOMillis), zap.String("reason", report.Reason))
	return report, err
}

// closeAbandoned writes the ledger entry of an operation whose leader left it,
// so that the ledger has one terminal entry for every epoch that was issued.
// The next claim waits for it: after that nobody knows of the operation.
func (c *Controller) closeAbandoned(ctx context.Context, p Plan) error {
	op := p.Base.State.Operation
	if op == nil {
		return nil
	}
	sctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := c.cfg.Registry.Report(sctx, op.Epoch)
	if err == nil {
		return nil
	}
	if !errors.Is(err, election.ErrNotFound) {
		return fmt.Errorf("look for the ledger entry of the operation left by %s: %w", op.Leader, err)
	}
	r := Report{
		Epoch: op.Epoch, Kind: op.Kind, Outcome: Superseded, Leader: op.Leader, From: op.From, To: op.To,
		Cause: op.Cause, StartedAt: op.StartedAt, EndedAt: time.Now().UTC(),
		Reason: fmt.Sprintf("left at step %s; %s goes on with a %s", op.Step, c.cfg.Self, p.Kind),
	}
	if past := p.Base.State.Primary; past != nil && past.Forced != nil && past.Forced.Epoch == op.Epoch {
		r.Forced = &Forced{By: past.Forced.By, At: past.Forced.At, Accepted: past.Forced.Accepted, Lossy: true}
	}
	raw, err := json.Marshal(r)
	if err == nil {
		err = c.cfg.Registry.SaveReport(sctx, op.Epoch, raw)
	}
	if err != nil {
		return fmt.Errorf("write the ledger entry of the operation left by %s: %w", op.Leader, err)
	}
	return nil
}

// takeOverDeadLeader seizes the leadership of a member that is Failed.
func (c *Controller) takeOverDeadLeader(ctx context.Context, v View) {
	holder := v.Leadership.Holder
	if holder == "" || holder == c.cfg.Self || !c.cfg.Watcher.det.MemberFailed(holder) {
		return
	}
	tctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := c.cfg.Leader.TakeOver(tctx, holder); err != nil {
		c.log.Debug("leadership not taken over", zap.String("from", string(holder)), zap.Error(err))
		return
	}
	c.log.Warn("leader is judged failed: took over its leadership", zap.String("from", string(holder)))
}

// place moves our leadership and etcd's off the primary's node, so that the
// death of that host costs one election less.
func (c *Controller) place(ctx context.Context, v View) {
	pctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if c.cfg.Placement != nil {
		if err := c.cfg.Placement.MoveAway(pctx, v.State.Primary.Node); err != nil {
			c.log.Debug("etcd's leader stays on the primary's node", zap.Error(err))
		}
	}
	if v.State.Primary.Node == c.cfg.Self {
		c.handOver(pctx, v, "the primary is on this node")
	}
}

// handOver hands the leadership to the next member that answers, so that in the end
// everybody's turn comes.
func (c *Controller) handOver(ctx context.Context, v View, why string) {
	hctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	own := 1 + slices.IndexFunc(v.Members, func(m topology.Member) bool { return m.Name == c.cfg.Self })
	for _, m := range slices.Concat(v.Members[own:], v.Members[:own]) {
		if _, answers := v.Nodes[m.Name]; !answers || m.Name == c.cfg.Self {
			continue
		}
		if err := c.cfg.Leader.Transfer(hctx, m.Name); err != nil {
			c.log.Debug("leadership not handed over", zap.String("to", string(m.Name)), zap.Error(err))
			continue
		}
		c.log.Info("leadership handed over: "+why, zap.String("to", string(m.Name)))
		return
	}
}

// blindLimit is how long a leader bears not to reach the agent of a primary that
// others find well. It is longer than a restart of that agent takes.
const blindLimit = 5 * time.Second

// isBlind tells whether this leader has not been able to ask the agent of the
// recorded primary for a while, although neither that agent is gone nor the
// primary failed: it can neither resume a closed primary nor fail over from it.
// Another member may be able to.
func (c *Controller) isBlind(v View) bool {
	p := v.State.Primary
	blind := p != nil && v.EtcdReachable && v.Primary.Verdict != topology.Failed && !v.AgentGone
	if blind {
		_, reachable := v.Nodes[p.Node]
		blind = !reachable
	}
	switch {
	case !blind:
		c.blindSince = time.Time{}
	case c.blindSince.IsZero():
		c.blindSince = time.Now()
	case time.Since(c.blindSince) >= blindLimit:
		c.blindSince = time.Time{} // whoever leads next has as long
		return true
	}
	return false
}

// Gates are the gates as they stand now.
func (c *Controller) Gates() []Gate {
	return decideGates(c.cfg.Watcher.View(), c.cfg.Policy, "")
}

// Pause stops automatic operations until Resume. Only on the leader.
func (c *Controller) Pause(ctx context.Context, by, reason string) error {
	return c.change(ctx, func(s *election.State) error {
		s.Paused = &election.Pause{By: by, Reason: reason, Since: time.Now().UTC()}
		return nil
	})
}

// Resume lifts a pause, and forgets what automation had slowed down or stopped
// for: somebody has looked. Without either it changes nothing.
func (c *Controller) Resume(ctx context.Context) error {
	return c.change(ctx, func(s *election.State) error {
		s.Paused, s.Unrest = nil, nil
		return nil
	})
}

// change updates the record, trying again when it changed in between.
func (c *Controller) change(ctx context.Context, f func(*election.State) error) error {
	for {
		snap, err := c.cfg.Registry.Read(ctx)
		if err != nil {
			return err
		}
		if _, err = c.cfg.Registry.Update(ctx, snap, f); !errors.Is(err, election.ErrConflict) {
			return err
		}
	}
}
