package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/topology"
)

const (
	// look is how often a round looks at the cluster while it waits.
	look = 50 * time.Millisecond
	// flowLimit is how long writes may take to begin to flow.
	flowLimit = 10 * time.Second
	// leaveAgent is how long a stopped agent may take to be gone.
	leaveAgent = 10 * time.Second
	// undoLimit bounds undoing a fault and reading back the rows.
	undoLimit = 90 * time.Second
	// incidentAfter is how long something may be wrong with what the drill
	// does not touch before that is an incident.
	incidentAfter = 5 * time.Second
	// quietMargin keeps the fault itself out of what is measured before it.
	quietMargin = 100 * time.Millisecond
)

// round is one fault on its way from the check to the report.
type round struct {
	*Runner
	plan Plan
	Round
	load Load
	// undo is the fault to order if the round ends now; empty for none.
	undo   api.Fault
	stayed bool // the switchover was undone: the primary is the one it was
	stuck  bool // the cluster did not become healthy again
}

// run runs the round: load, quiet, fault, new primary, undo, health, verify.
// It leaves no fault in force and nothing running. The table is dropped if
// this is the last round, or if it fails.
func (r *round) run(ctx context.Context, o Objectives, last bool) (err error) {
	if err := r.startLoad(ctx); err != nil {
		return err
	}
	var seen Sight
	defer func() {
		if seen == nil {
			seen = r.load.Stop()
		}
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		err = errors.Join(err, r.undoFault(after))
		if err != nil || last || r.stuck {
			err = errors.Join(err, seen.Drop(after))
		}
	}()
	warm := time.Now()
	if err := pause(ctx, r.cfg.Quiet); err != nil {
		return err
	}
	if err := r.cause(ctx); err != nil {
		return err
	}
	if err := r.watch(ctx); err != nil {
		return err
	}
	seen = r.load.Stop()
	r.describeClients(seen, warm)
	if err := r.verify(ctx, seen); err != nil {
		return err
	}
	if err := r.findLedger(ctx); err != nil {
		return err
	}
	r.Missed = append(r.Missed, judge(r.plan.Kind, o, r.Round)...)
	r.Met = len(r.Missed) == 0
	return nil
}

// event notes and tells what happened now.
func (r *round) event(format string, args ...any) {
	e := Event{What: fmt.Sprintf(format, args...)}
	if !r.FaultAt.IsZero() {
		e.AtMillis = millis(time.Since(r.FaultAt))
		r.Timeline = append(r.Timeline, e)
	}
	r.tell(e)
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// pause waits for a time that is wanted for itself.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrAborted, context.Cause(ctx))
	}
}

// poll asks again and again until done, an error, or the limit: then it
// returns false.
func poll(ctx context.Context, limit time.Duration, done func() (bool, error)) (bool, error) {
	end := time.Now().Add(limit)
	for {
		ok, err := done()
		if ok || err != nil {
			return ok, err
		}
		if time.Now().After(end) {
			return false, nil
		}
		if err := pause(ctx, look); err != nil {
			return false, err
		}
	}
}

func (r *round) startLoad(ctx context.Context) error {
	load, err := r.prober.Start(ctx, r.plan.Routes)
	if err != nil {
		return fmt.Errorf("%w: write through %s: %w", ErrNotRun, routesText(r.plan.Routes), err)
	}
	r.load = load
	ok, err := r.awaitWrites(ctx, 0)
	if err == nil && !ok {
		err = fmt.Errorf("%w: no write through %s is acknowledged", ErrNotRun, routesText(r.plan.Routes))
	}
	if err != nil {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
		defer cancel()
		return errors.Join(err, load.Stop().Drop(after))
	}
	r.event("round %d: writes flow through %s", r.Number, routesText(r.plan.Routes))
	return nil
}

// awaitWrites waits until more than count rows were acknowledged.
func (r *round) awaitWrites(ctx context.Context, count int) (bool, error) {
	return poll(ctx, flowLimit, func() (bool, error) { return r.load.Acknowledged() > count, nil })
}

// cause causes the fault, or orders the switchover. FaultAt is taken before
// the order: the order is a part of what happens to clients.
func (r *round) cause(ctx context.Context) error {
	fault, undo := r.plan.Kind.faults()
	r.FaultAt = time.Now()
	if r.plan.Kind == Switchover {
		r.event("switchover from %s ordered", r.plan.Node)
		report, err := r.api.Switchover(ctx, "")
		if err != nil && report.Epoch == 0 {
			return fmt.Errorf("%w: %w", ErrNotRun, err)
		}
		// One that was begun is in the ledger, however it ended.
		r.stayed = err != nil
		return nil
	}
	// The order may have been obeyed even if its answer is an error.
	r.undo = undo
	result, err := r.api.Fault(ctx, r.plan.Node, api.FaultRequest{Fault: fault, Seconds: int(api.FaultLimit / time.Second)})
	if errors.Is(err, ErrNotRun) {
		r.undo = ""
	}
	if err != nil {
		return fmt.Errorf("cause %s on %s: %w", fault, r.plan.Node, err)
	}
	r.event("%s: %s", r.plan.Node, result.Detail)
	return nil
}

// watch waits for the new primary and for writes, undoes the fault, and waits
// for the cluster to be healthy.
func (r *round) watch(ctx context.Context) error {
	var err error
	switch {
	case r.plan.Kind == StopAgent:
		err = r.awaitAgent(ctx)
	case !r.stayed:
		err = r.awaitPrimary(ctx)
	}
	if err != nil {
		return err
	}
	r.RestoredAt = time.Now()
	if err := pause(ctx, max(0, r.cfg.Duration-time.Since(r.FaultAt))); err != nil {
		return err
	}
	if err := r.undoFault(ctx); err != nil {
		return err
	}
	return r.awaitHealth(ctx)
}

// awaitCluster waits until the cluster is as wanted; done says what still is
// not. It returns false when the limit has passed, after noting why as missed.
func (r *round) awaitCluster(ctx context.Context, limit time.Duration, what string, done func(api.Cluster) (waiting string)) (bool, error) {
	var incident time.Time
	last := "nobody was asked"
	ok, err := poll(ctx, limit, func() (bool, error) {
		c, err := r.api.Cluster(ctx)
		if err != nil {
			last = err.Error()
			return false, nil // agents may be away: that is what the limit is for
		}
		if last = done(c); last == "" {
			return true, nil
		}
		why := trouble(c, r.plan.Node)
		if why == "" {
			incident = time.Time{}
		} else if incident.IsZero() {
			incident = time.Now()
		}
		if why != "" && time.Since(incident) > incidentAfter {
			return false, fmt.Errorf("%w: %s, which is not this drill's doing", ErrAborted, why)
		}
		return false, nil
	})
	if err == nil && !ok {
		r.Missed = append(r.Missed, fmt.Sprintf("%s: not after %s: %s", what, limit, last))
		r.event("%s: not after %s: %s", what, limit, last)
	}
	return ok, err
}

// trouble is what is wrong with what the drill does not touch. It is pure.
func trouble(c api.Cluster, touched topology.NodeName) string {
	if !c.EtcdReachable {
		return "etcd cannot be reached"
	}
	for _, m := range c.Members {
		if m.Name != touched && m.Role == api.RoleUnreachable {
			return fmt.Sprintf("%s cannot be reached: %s", m.Name, m.Error)
		}
	}
	return ""
}

func (r *round) awaitPrimary(ctx context.Context) error {
	ok, err := r.awaitCluster(ctx, api.FaultLimit, "a new primary", func(c api.Cluster) string {
		switch {
		case c.Primary == nil || c.Operation != nil || c.Primary.Phase != "open":
			return fmt.Sprintf("the cluster is %s", c.Status)
		case c.Primary.Node == r.plan.Node:
			return fmt.Sprintf("%s is still the primary", c.Primary.Node)
		}
		r.NewPrimary = c.Primary.Node
		return ""
	})
	if err != nil || !ok {
		return err
	}
	r.event("%s is the primary", r.NewPrimary)
	ok, err = r.awaitWrites(ctx, r.load.Acknowledged())
	if err == nil && ok {
		r.event("writes go on")
	} else if err == nil {
		r.Missed = append(r.Missed, fmt.Sprintf("writes go on: not within %s of the new primary", flowLimit))
	}
	return err
}

// awaitAgent waits until the agent was away and is back.
func (r *round) awaitAgent(ctx context.Context) error {
	answers := func() bool {
		_, err := r.api.Drills(ctx, r.plan.Node)
		return err == nil
	}
	if _, err := poll(ctx, leaveAgent, func() (bool, error) { return !answers(), nil }); err != nil {
		return err
	}
	r.event("the agent of %s is away", r.plan.Node)
	ok, err := poll(ctx, r.cfg.HealLimit, func() (bool, error) { return answers(), nil })
	if err == nil && ok {
		r.event("the agent of %s is back", r.plan.Node)
	} else if err == nil {
		r.Missed = append(r.Missed, fmt.Sprintf("the agent of %s was not started again within %s: does its supervisor do that?", r.plan.Node, r.cfg.HealLimit))
	}
	return err
}

// undoFault undoes the fault if one may be in force.
func (r *round) undoFault(ctx context.Context) error {
	if r.undo == "" {
		return nil
	}
	result, err := r.api.Fault(ctx, r.plan.Node, api.FaultRequest{Fault: r.undo, Seconds: int(api.FaultLimit / time.Second)})
	if err != nil {
		return fmt.Errorf("%s on %s (it is undone by itself within %s of the fault): %w", r.undo, r.plan.Node, api.FaultLimit, err)
	}
	r.undo = ""
	r.event("%s: %s", r.plan.Node, result.Detail)
	return nil
}

// awaitHealth waits until the cluster is healthy, with the node that was hit
// back as a replica of the new primary or, after a mere stop of its agent, as
// the primary it was.
func (r *round) awaitHealth(ctx context.Context) error {
	ok, err := r.awaitCluster(ctx, r.cfg.HealLimit, "the cluster healthy again", func(c api.Cluster) string {
		if g := closedGate(c); g != nil {
			return g.Reason
		}
		for _, m := range c.Members {
			if m.Name == r.plan.Node && m.Role != api.RoleReplica && r.plan.Kind != StopAgent && !r.stayed {
				return fmt.Sprintf("%s is %s", m.Name, m.Role)
			}
		}
		r.NewPrimary = c.Primary.Node
		return ""
	})
	if err != nil {
		return err
	}
	if r.stuck = !ok; ok {
		r.event("the cluster is healthy: %s is the primary", r.NewPrimary)
	}
	return nil
}

func (r *round) describeClients(seen Sight, warm time.Time) {
	outage := seen.LongestOutage(r.FaultAt, r.RestoredAt)
	after := seen.LongestOutage(r.RestoredAt, time.Time{})
	quiet := seen.LongestOutage(warm, r.FaultAt.Add(-quietMargin))
	r.Clients = Clients{
		RTOMillis: millis(outage.Length()), OutageFrom: outage.From.UTC(), OutageTo: outage.To.UTC(),
		AfterMillis: millis(after.Length()), QuietMillis: millis(quiet.Length()),
		Acknowledged: seen.Acknowledged(), Refused: seen.Refused(), Unknown: seen.Unknown(),
		Errors: errorCounts(seen.Errors()),
	}
	r.Timeline = append(r.Timeline,
		Event{millis(outage.From.Sub(r.FaultAt)), "last write acknowledged before the longest outage"},
		Event{millis(outage.To.Sub(r.FaultAt)), "first write acknowledged after it"})
	slices.SortStableFunc(r.Timeline, func(a, b Event) int { return cmp.Compare(a.AtMillis, b.AtMillis) })
	r.FaultAt, r.RestoredAt = r.FaultAt.UTC(), r.RestoredAt.UTC()
}

func (r *round) verify(ctx context.Context, seen Sight) error {
	ctx, cancel := context.WithTimeout(ctx, undoLimit)
	defer cancel()
	check, err := seen.Verify(ctx)
	if err != nil {
		return fmt.Errorf("read the rows back: %w", err)
	}
	r.Clients.Settled = check.Settled
	r.Clients.Lost, r.Clients.Ghosts = append([]string{}, check.Lost...), append([]string{}, check.Ghosts...)
	return nil
}

// findLedger finds the cluster's own report of what the fault led to: of the
// operations that began after the fault from the node (of all, if none was to
// begin) the first that was completed, or the first of all.
func (r *round) findLedger(ctx context.Context) error {
	reports, err := r.api.Reports(ctx, 20)
	if err != nil {
		return fmt.Errorf("read the ledger: %w", err)
	}
	for _, report := range slices.Backward(reports) { // oldest first
		if report.Epoch <= r.plan.Epoch || (r.plan.Kind != StopAgent && report.From != r.plan.Node) {
			continue
		}
		if r.Ledger == nil || (r.Ledger.Outcome != failover.Completed && report.Outcome == failover.Completed) {
			r.Ledger = &report
		}
	}
	return nil
}
