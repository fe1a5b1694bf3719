package failover

import (
	"context"
	"fmt"

	"interrex/internal/topology"
	"interrex/router"
)

// linkedNodes are the members as one of them reaches them.
type linkedNodes struct {
	c    *cluster
	from topology.NodeName
}

func (l linkedNodes) Node(name topology.NodeName) (Node, error) {
	if _, ok := l.c.agents[name]; !ok {
		return nil, fmt.Errorf("no member %q", name)
	}
	return link{l.c, l.from, name}, nil
}

// link is a Node over a network that can be cut, and is watched by the test.
type link struct {
	c        *cluster
	from, to topology.NodeName
}

func (l link) order(ctx context.Context, what string, epoch topology.Epoch, do func(context.Context, *Keeper) error) error {
	return l.carry(ctx, event{from: l.from, to: l.to, what: what, epoch: epoch}, do)
}

func (l link) carry(ctx context.Context, e event, do func(context.Context, *Keeper) error) error {
	l.c.mu.Lock()
	cut := l.c.cut[l.from] || l.c.cut[l.to]
	l.c.mu.Unlock()
	target := l.c.agents[l.to]
	if l.from != l.to && (cut || target.ctx.Err() != nil) {
		<-ctx.Done()
		return fmt.Errorf("%s: no answer: %w", l.to, ctx.Err())
	}
	if err := l.c.happen(ctx, e); err != nil {
		return err
	}
	err := do(ctx, target.keeper)
	e.after = true
	if herr := l.c.happen(ctx, e); herr != nil {
		return herr
	}
	return err
}

func (l link) Status(ctx context.Context) (st NodeStatus, err error) {
	err = l.order(ctx, "status", 0, func(ctx context.Context, k *Keeper) error { st, err = k.Status(ctx); return err })
	return st, err
}

func (l link) Freeze(ctx context.Context, req FreezeRequest) (f Frozen, err error) {
	err = l.order(ctx, "freeze", req.Epoch, func(ctx context.Context, k *Keeper) error { f, err = k.Freeze(ctx, req); return err })
	return f, err
}

func (l link) CatchUp(ctx context.Context, req CatchUpRequest) (u CaughtUp, err error) {
	err = l.order(ctx, "catchup", req.Epoch, func(ctx context.Context, k *Keeper) error { u, err = k.CatchUp(ctx, req); return err })
	return u, err
}

func (l link) Promote(ctx context.Context, req PromoteRequest) (p Promoted, err error) {
	err = l.order(ctx, "promote", req.Epoch, func(ctx context.Context, k *Keeper) error { p, err = k.Promote(ctx, req); return err })
	return p, err
}

func (l link) Follow(ctx context.Context, req FollowRequest) error {
	e := event{from: l.from, to: l.to, what: "follow", epoch: req.Epoch, acker: req.Acker}
	return l.carry(ctx, e, func(ctx context.Context, k *Keeper) error { return k.Follow(ctx, req) })
}

func (l link) Close(ctx context.Context, req CloseRequest) (cl Closed, err error) {
	err = l.order(ctx, "close", req.Epoch, func(ctx context.Context, k *Keeper) error { cl, err = k.Close(ctx, req); return err })
	return cl, err
}

func (l link) Obey(ctx context.Context, req ObeyRequest) (o Obeyed, err error) {
	err = l.order(ctx, "obey", req.Epoch, func(ctx context.Context, k *Keeper) error { o, err = k.Obey(ctx, req); return err })
	return o, err
}

func (l link) Rebuild(ctx context.Context, req RebuildRequest) error {
	return l.order(ctx, "rebuild", req.Epoch, func(ctx context.Context, k *Keeper) error { return k.Rebuild(ctx, req) })
}

func (l link) Route(ctx context.Context, r router.Route) error {
	return l.order(ctx, "route", r.Epoch, func(ctx context.Context, k *Keeper) error { return k.Route(ctx, r) })
}
