package failover

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"interrex/internal/topology"
)

// errInterrupted is the cause of a command's context that a higher epoch
// ended.
var errInterrupted = errors.New("interrupted by a command of a higher epoch")

// commandGate lets one command at a time through. A command of a higher epoch
// interrupts the running one and goes next; others wait their turn, in the
// order in which they came.
type commandGate struct {
	mu      sync.Mutex
	running *runningCommand
	waiting []*waitingCommand
}

type runningCommand struct {
	epoch  topology.Epoch
	ctx    context.Context
	cancel context.CancelCauseFunc
}

type waitingCommand struct {
	epoch topology.Epoch
	ctx   context.Context
	turn  chan struct{}   // closed when it may run
	own   *runningCommand // set by then; guarded by the gate's mu
}

// enter waits until the command may run. Its error is the context's.
func (g *commandGate) enter(ctx context.Context, epoch topology.Epoch) (context.Context, func(), error) {
	g.mu.Lock()
	w := &waitingCommand{epoch: epoch, ctx: ctx, turn: make(chan struct{})}
	if r := g.running; r == nil {
		g.admit(w)
	} else {
		if r.epoch < epoch {
			r.cancel(errInterrupted)
		}
		g.waiting = append(g.waiting, w)
	}
	g.mu.Unlock()
	select {
	case <-w.turn:
	case <-ctx.Done():
	}
	if err := ctx.Err(); err != nil {
		g.withdraw(w)
		return nil, nil, err
	}
	return w.own.ctx, func() { g.leave(w.own) }, nil
}

// admit gives w its turn; the caller holds mu.
func (g *commandGate) admit(w *waitingCommand) {
	cctx, cancel := context.WithCancelCause(w.ctx)
	w.own = &runningCommand{epoch: w.epoch, ctx: cctx, cancel: cancel}
	g.running = w.own
	close(w.turn)
}

// withdraw takes back a command that does not run after all.
func (g *commandGate) withdraw(w *waitingCommand) {
	g.mu.Lock()
	own := w.own
	g.waiting = slices.DeleteFunc(g.waiting, func(o *waitingCommand) bool { return o == w })
	g.mu.Unlock()
	if own != nil {
		g.leave(own)
	}
}

func (g *commandGate) leave(r *runningCommand) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.cancel(nil)
	g.running = nil
	if len(g.waiting) == 0 {
		return
	}
	next := slices.MaxFunc(g.waiting, func(a, b *waitingCommand) int { return cmp.Compare(a.epoch, b.epoch) }) // the first of them
	g.waiting = slices.DeleteFunc(g.waiting, func(o *waitingCommand) bool { return o == next })
	g.admit(next)
}
