package sim

import (
	"cmp"
	"context"
	"errors"
	"testing"
	"time"

	"interrex/failover"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// TestMutants takes away one safety check at a time, by a double in place of
// the part that makes it, and expects the checker to notice within the first 200
// seeds. The one that did when the seeds last changed is tried first.
func TestMutants(t *testing.T) {
	for _, m := range []struct {
		name    string
		doubles doubles
		first   uint64
	}{
		{"freezing stops the receiver (I1)", doubles{instance: func(i failover.Instance, own instance) failover.Instance { return leaky{i, own} }}, 177},
		{"a stale epoch is refused (I5)", doubles{node: func(n failover.Node, _ *agent) failover.Node { return obedient{n} }}, 19},
		{"a restarted acker proves nothing (I1)", doubles{node: func(n failover.Node, _ *agent) failover.Node { return trustful{n} }}, 12},
		{"a change of the record compares (I5)", doubles{anyBase: true}, 182},
		{"a server is armed by what opens it (I3)", doubles{instance: func(i failover.Instance, _ instance) failover.Instance { return careless{i} }}, 5},
		{"a server starts closed (I6)", doubles{startsOpen: true}, 1},
		{"a stop ends the sessions first (I2)", doubles{sessionsStay: true}, 3},
		{"no time releases a commit that waits (I2)", doubles{instance: func(i failover.Instance, own instance) failover.Instance { return impatient{i, own} }}, 6},
	} {
		t.Run(m.name, func(t *testing.T) {
			const within = 200
			for n := range uint64(within + 1) {
				seed := cmp.Or(n, m.first)
				out := runSeed(t, seed, options{doubles: m.doubles})
				if len(out.violations) > 0 {
					t.Logf("caught by seed %d: %s", seed, out.violations[0])
					return
				}
			}
			t.Errorf("not caught by the first %d seeds", within)
		})
	}
}

// leaky tells what was received, and goes on receiving.
type leaky struct {
	failover.Instance
	own instance
}

func (l leaky) Freeze(ctx context.Context) (executed, received gtid.Set, unapplied uint64, err error) {
	at, err := l.own.sets(ctx)
	return at.executed, at.received, at.received.Minus(at.executed).Count(), err
}

// obedient carries out commands of any epoch.
type obedient struct{ failover.Node }

func again(err error) (failover.StaleEpochError, bool) {
	var stale *failover.StaleEpochError
	if errors.As(err, &stale) {
		return *stale, true
	}
	return failover.StaleEpochError{}, false
}

func (o obedient) Freeze(ctx context.Context, req failover.FreezeRequest) (failover.Frozen, error) {
	f, err := o.Node.Freeze(ctx, req)
	if stale, ok := again(err); ok {
		req.Epoch = stale.Promised
		return o.Node.Freeze(ctx, req)
	}
	return f, err
}

func (o obedient) Promote(ctx context.Context, req failover.PromoteRequest) (failover.Promoted, error) {
	p, err := o.Node.Promote(ctx, req)
	if stale, ok := again(err); ok {
		req.Epoch = stale.Promised
		return o.Node.Promote(ctx, req)
	}
	return p, err
}

func (o obedient) Follow(ctx context.Context, req failover.FollowRequest) error {
	err := o.Node.Follow(ctx, req)
	if stale, ok := again(err); ok {
		req.Epoch = stale.Promised
		return o.Node.Follow(ctx, req)
	}
	return err
}

func (o obedient) Close(ctx context.Context, req failover.CloseRequest) (failover.Closed, error) {
	c, err := o.Node.Close(ctx, req)
	if stale, ok := again(err); ok {
		req.Epoch = stale.Promised
		return o.Node.Close(ctx, req)
	}
	return c, err
}

// trustful certifies every boot.
type trustful struct{ failover.Node }

func (n trustful) Status(ctx context.Context) (failover.NodeStatus, error) {
	st, err := n.Node.Status(ctx)
	st.Certified = true
	return st, err
}

func (n trustful) Freeze(ctx context.Context, req failover.FreezeRequest) (failover.Frozen, error) {
	f, err := n.Node.Freeze(ctx, req)
	f.Amnesiac = false
	return f, err
}

// impatient arms semi-sync as it is by default: after a while a commit is
// answered without acknowledgements.
type impatient struct {
	failover.Instance
	own instance
}

func (i impatient) Arm(ctx context.Context, k int) error {
	if err := i.Instance.Arm(ctx, k); err != nil {
		return err
	}
	return i.own.set(ctx, "set timeout", func() error { i.own.s.timeout = time.Second; return nil })
}

// careless opens a server as it finds it.
type careless struct{ failover.Instance }

func (c careless) WriteMarker(ctx context.Context, m topology.Marker, _ int, receivers ...string) (gtid.Set, error) {
	return c.Instance.WriteMarker(ctx, m, 0, receivers...)
}

func (c careless) OpenWrites(ctx context.Context, _ int) error { return c.Instance.OpenWrites(ctx, 0) }
