package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"go.uber.org/zap"
)

const (
	// retryFirst and retryMost are the pauses between attempts to connect to
	// a primary that the route leads to but that does not answer: it has most
	// likely just died, and the route will move.
	retryFirst = 5 * time.Millisecond
	retryMost  = 50 * time.Millisecond
	// greetingPatience is how long an instance may take to greet before the
	// client counts as held.
	greetingPatience = 20 * time.Millisecond
)

// establish joins a client to an instance. As long as there is none that
// greets it, the client is held, until its limit. Errors are refusals.
func (p *port) establish(serving context.Context, conn *net.TCPConn) (*session, error) {
	w := &waiter{port: p, conn: conn, ctx: serving}
	defer w.release()
	pause := retryFirst
	for {
		v := p.current()
		t, err := p.choose(v)
		if err == nil {
			var s *session
			if s, err = p.connect(w, v, t); err == nil {
				return s, nil
			}
		}
		if limit := context.Cause(w.ctx); limit != nil {
			return nil, &refusal{limit: limit, obstacle: w.obstacle}
		}
		switch {
		case errors.Is(err, errSuperseded):
			pause = retryFirst
			continue
		case errors.Is(err, errNoReplica), errors.Is(err, errHoldFull), errors.Is(err, errHoldExpired):
			return nil, &refusal{limit: err, obstacle: w.obstacle}
		}
		w.obstacle = err
		if !t.primary && t.Node != "" {
			continue // another replica, or the fallback
		}
		if limit := w.hold(); limit != nil {
			return nil, &refusal{limit: limit, obstacle: w.obstacle}
		}
		if errors.Is(err, errClosed) {
			w.waitFor(v, nil)
			continue
		}
		timer := time.NewTimer(pause)
		w.waitFor(v, timer.C)
		timer.Stop()
		pause = min(2*pause, retryMost)
	}
}

func (p *port) current() *view {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.view
}

// connect makes one attempt. It fails with errSuperseded when the view ended
// meanwhile; every other failure is the instance's, and is told to the
// detector.
func (p *port) connect(w *waiter, v *view, t target) (*session, error) {
	p.take(t)
	server, err := p.dialAndAwait(w, v, t)
	if err == nil {
		s := &session{port: p, to: t, client: w.conn, server: server}
		if p.register(s, v) {
			return s, nil
		}
		reset(server)
		err = errSuperseded
	}
	p.giveBack(t)
	if errors.Is(err, errSuperseded) || errors.Is(err, errHoldFull) || errors.Is(err, errHoldExpired) || w.ctx.Err() != nil {
		return nil, err
	}
	p.failed(t, err)
	return nil, fmt.Errorf("%s: %w", t, err)
}

// dialAndAwait connects to the instance and waits until it begins to greet.
func (p *port) dialAndAwait(w *waiter, v *view, t target) (*net.TCPConn, error) {
	ctx, done := w.under(v)
	defer func() { done() }()
	conn, err := p.dialer.DialContext(ctx, "tcp", t.Address)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	server := conn.(*net.TCPConn) // "tcp" makes no other kind
	err = peek(ctx, server, greetingPatience)
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
		if err = w.hold(); err == nil {
			done()
			ctx, done = w.under(v)
			err = peek(ctx, server, p.patience(t))
		}
	}
	if err != nil {
		reset(server)
		switch {
		case errors.Is(err, io.EOF):
			err = errClosedUngreeted
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = errNoGreeting
		}
		return nil, err
	}
	return server, nil
}

// patience is how long a held client waits for the greeting of an instance
// that has taken its connection: 0 is as long as it is held. There is only one
// primary to wait for; a replica that is stuck is passed over.
func (p *port) patience(t target) time.Duration {
	if t.primary {
		return 0
	}
	return p.cfg.ConnectTimeout
}

// register makes the session one of the port's, unless the view it was made
// under has been superseded: then it may lead to a former primary.
func (p *port) register(s *session, v *view) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped || p.view != v {
		return false
	}
	p.sessions[s] = struct{}{}
	return true
}

func (p *port) forget(s *session) {
	p.mu.Lock()
	delete(p.sessions, s)
	p.mu.Unlock()
	p.giveBack(s.to)
}

func (p *port) take(t target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.load[t.Backend]++
}

func (p *port) giveBack(t target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.load[t.Backend]--; p.load[t.Backend] == 0 {
		delete(p.load, t.Backend)
	}
}

// failed notes that an instance could not be connected to.
func (p *port) failed(t target, err error) {
	p.mu.Lock()
	p.count.ConnectFailures++
	if !t.primary {
		p.avoid[t.Backend] = time.Now().Add(avoidFor)
	}
	p.mu.Unlock()
	p.log.Debug("connect failed", zap.Stringer("backend", t), zap.Error(err))
	p.broken(t)
}

// waiter is a client on its way to an instance. It belongs to the goroutine
// that serves the client.
type waiter struct {
	port *port
	conn *net.TCPConn
	// ctx ends, with the cause, when the client may wait no longer.
	ctx      context.Context
	obstacle error // what kept it from an instance last
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
