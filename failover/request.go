package failover

import (
	"context"
	"errors"
	"fmt"

	"interrex/election"
	"interrex/internal/topology"
)

// request is an operation that an operator asked for.
type request struct {
	ctx   context.Context
	run   func(context.Context) (Report, error)
	reply chan requestReply
}

type requestReply struct {
	report Report
	err    error
}

func (c *Controller) answer(req request) {
	report, err := req.run(req.ctx)
	req.reply <- requestReply{report, err}
}

// Switchover moves the primary to a member, or to the best one when to is
// empty. It is refused with a *GateError naming the gate that is closed, and
// undone (ErrUndone) if it cannot finish within its limit. Only on the leader.
func (c *Controller) Switchover(ctx context.Context, to topology.NodeName) (Report, error) {
	return c.ask(ctx, election.Switchover, func(ctx context.Context) (Report, error) { return c.switchover(ctx, to) })
}

// ask has the controller's loop run an operator's operation.
func (c *Controller) ask(ctx context.Context, kind election.Kind, run func(context.Context) (Report, error)) (Report, error) {
	if c.busy.Load() {
		return Report{}, &GateError{Gate{Name: gateIdle, Operation: kind, Reason: "another operation is running"}}
	}
	req := request{ctx: context.WithoutCancel(ctx), run: run, reply: make(chan requestReply, 1)}
	select {
	case c.requests <- req:
	case <-ctx.Done():
		return Report{}, ctx.Err()
	}
	select {
	case r := <-req.reply:
		return r.report, r.err
	case <-ctx.Done():
		return Report{}, fmt.Errorf("%s goes on without the caller: %w", kind, ctx.Err())
	}
}

func (c *Controller) switchover(ctx context.Context, to topology.NodeName) (Report, error) {
	c.endTidying()
	if !c.cfg.Registry.Leadership().Mine {
		return Report{}, ErrNotLeader
	}
	// What was polled before the last operation ended must not refuse this one.
	v := c.cfg.Watcher.RefreshAll(ctx)
	if g := closedGate(decideGates(v, c.cfg.Policy, to), election.Switchover); g != nil {
		return Report{}, &GateError{Gate: *g}
	}
	candidate, err := switchoverCandidate(v, c.cfg.Policy, to)
	if err != nil {
		return Report{}, err // its gate was open
	}
	p := c.plan(v, election.Switchover, "asked for by an operator", candidate.Node)
	p.Ahead = decideAhead(v, c.cfg.Policy, candidate.Node)
	report, err := c.operate(ctx, p)
	if errors.Is(err, ErrUndone) {
		if uerr := c.undo(ctx); uerr != nil {
			err = fmt.Errorf("%w; the former primary does not serve yet: %w", err, uerr)
		}
	}
	return report, err
}

// undo does at once what is due after a switchover that could not go on; if
// that fails, too, the loop goes on trying.
func (c *Controller) undo(ctx context.Context) error {
	v := c.cfg.Watcher.RefreshAll(ctx)
	kind, cause, run := decideOperation(v, c.cfg.Policy)
	if !run && served(v.State) {
		return nil // nothing was closed
	}
	if !run {
		return fmt.Errorf("primary %s: %s", v.State.Primary.Node, v.Primary.Explanation)
	}
	return c.attempt(ctx, v, kind, cause)
}
