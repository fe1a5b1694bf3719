package failover

import (
	"context"
	"errors"
	"sync"

	"interrex/internal/topology"
)

// errInterrupted is the cause of a command's context that a higher epoch
// ended.
var errInterrupted = errors.New("interrupted by a command of a higher epoch")

// commandGate lets one command at a time through. A command of a higher epoch
// interrupts the running one and goes next; others wait their turn.
type commandGate struct {
	mu      sync.Mutex
	running *runningCommand
}

type runningCommand struct {
	epoch  topology.Epoch
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// enter waits until the command may run. Its error is the context's.
func (g *commandGate) enter(ctx context.Context, epoch topology.Epoch) (context.Context, func(), error) {
	for {
		g.mu.Lock()
		r := g.running
		if r == nil {
			if err := ctx.Err(); err != nil {
				g.mu.Unlock()
				return nil, nil, err
			}
			cctx, cancel := context.WithCancelCause(ctx)
			own := &runningCommand{epoch: epoch, cancel: cancel, done: make(chan struct{})}
			g.running = own
			g.mu.Unlock()
			return cctx, func() { g.leave(own) }, nil
		}
		if r.epoch < epoch {
			r.cancel(errInterrupted)
		}
		g.mu.Unlock()
		select {
		case <-r.done:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

func (g *commandGate) leave(r *runningCommand) {
	g.mu.Lock()
	g.running = nil
	g.mu.Unlock()
	r.cancel(nil)
	close(r.done)
}
