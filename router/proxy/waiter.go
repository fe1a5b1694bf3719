package proxy

import (
	"context"
	"errors"
	"net"
	"time"
)

// gateWidth is how many clients of a port are on their way to one instance at
// a time, not yet greeted. All held clients at once would overflow the queue of
// a server's listener, and what it drops is sent again a second later. Three
// agents together stay below the smallest queue in use, the server's default
// of 151.
const gateWidth = 32

// gate is entered by sending and left by receiving.
type gate chan struct{}

// waiter is a client on its way to an instance. It belongs to the goroutine
// that serves the client.
type waiter struct {
	port *port
	conn *net.TCPConn
	// ctx ends, with the cause, when the client may wait no longer.
	ctx      context.Context
	obstacle error // what kept it from an instance last
	pause    time.Duration
	held     bool
	letGo    context.CancelCauseFunc
	watched  chan struct{} // closed when the watching of the client has ended
}

// hold makes the client one of those held, if it is not yet: it takes a place,
// and its time begins to run. It fails with the limit that forbids it.
func (w *waiter) hold() error {
	if w.held {
		return nil
	}
	if w.port.cfg.HoldTime == 0 {
		return errHoldExpired
	}
	if !w.port.takePlace() {
		return errHoldFull
	}
	w.held = true
	timed, stopTimer := context.WithTimeoutCause(w.ctx, w.port.cfg.HoldTime, errHoldExpired)
	ctx, cancel := context.WithCancelCause(timed)
	w.ctx = ctx
	w.letGo = func(cause error) { cancel(cause); stopTimer() }
	w.watched = make(chan struct{})
	go func() { // release waits for it
		defer close(w.watched)
		// It has nothing to say before it is greeted, so what ends the peek
		// without an error is a client that talks: its business.
		if err := peek(ctx, w.conn, 0); err != nil && ctx.Err() == nil {
			cancel(errClientLeft)
		}
	}()
	return nil
}

// release ends the holding, if any, and gives the place back.
func (w *waiter) release() {
	if !w.held {
		return
	}
	w.letGo(nil)
	<-w.watched
	w.port.leavePlace()
}

// under returns a context that ends with the view or with the client's time,
// whichever is first; done must be called.
func (w *waiter) under(v *view) (ctx context.Context, done func()) {
	if !w.held {
		return v.ctx, func() {} // which ends with the proxy, too
	}
	ctx, cancel := context.WithCancelCause(w.ctx)
	stop := context.AfterFunc(v.ctx, func() { cancel(context.Cause(v.ctx)) })
	return ctx, func() { stop(); cancel(nil) }
}

// waitFor returns when the view is superseded, the client's time is over, or
// there is something in or.
func (w *waiter) waitFor(v *view, or <-chan time.Time) {
	select {
	case <-v.ctx.Done():
	case <-w.ctx.Done():
	case <-or:
	}
}

// patience makes the client one of those held and returns how long it may wait
// for an instance that keeps it waiting; 0 is for as long as it is held. There
// is only one primary to wait for, a replica that is stuck is passed over. A
// client that may not be held is given a little longer, no error.
func (w *waiter) patience(t target) time.Duration {
	if w.hold() == nil && t.primary {
		return 0
	}
	return w.port.cfg.ConnectTimeout
}

// enter waits for a place among those on their way to the instance, which the
// caller gives back by receiving from the gate.
func (w *waiter) enter(v *view, t target) (gate, error) {
	g := v.gates[t.Backend]
	err := w.enterWithin(greetingPatience, v, g)
	if errors.Is(err, errCrowded) {
		err = w.enterWithin(w.patience(t), v, g)
	}
	return g, err
}

func (w *waiter) enterWithin(patience time.Duration, v *view, g gate) error {
	select {
	case g <- struct{}{}:
		return nil
	default:
	}
	var over <-chan time.Time
	if patience > 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case g <- struct{}{}:
		return nil
	case <-v.ctx.Done():
		return errSuperseded
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	case <-over:
		return errCrowded
	}
}

func (p *port) takePlace() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.count.Held >= p.cfg.HoldConnections {
		return false
	}
	p.count.Held++
	p.count.HeldTotal++
	return true
}

func (p *port) leavePlace() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count.Held--
}
