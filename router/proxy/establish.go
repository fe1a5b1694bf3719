package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
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
	w := &waiter{port: p, conn: conn, ctx: serving, pause: retryFirst}
	defer w.release()
	for {
		v := p.current(serving)
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
		case errors.Is(err, errNoReplica):
			return nil, &refusal{limit: err, obstacle: w.obstacle}
		case errors.Is(err, errSuperseded):
			w.pause = retryFirst
			continue
		}
		w.obstacle = err
		if t.Node != "" && !t.primary {
			continue // with another replica, or the fallback
		}
		if limit := w.hold(); limit != nil {
			return nil, &refusal{limit: limit, obstacle: err}
		}
		if errors.Is(err, errClosed) {
			w.waitFor(v, nil)
		}
	}
}

// connect makes one attempt. It fails with errSuperseded when the view ended
// meanwhile; every other failure is the instance's, and is told to the
// detector. After a primary's it returns when the next attempt may be made.
func (p *port) connect(w *waiter, v *view, t target) (*session, error) {
	p.take(t)
	g, err := w.enter(v, t)
	if err != nil {
		p.giveBack(t)
		if errors.Is(err, errCrowded) {
			p.failed(t, err)
		}
		return nil, err
	}
	leave := sync.OnceFunc(func() { <-g })
	defer leave()
	server, err := p.dialAndAwait(w, v, t, leave)
	if err == nil {
		s := &session{port: p, to: t, client: w.conn, server: server}
		if p.register(s, v) {
			return s, nil
		}
		reset(server)
		err = errSuperseded
	}
	p.giveBack(t)
	if errors.Is(err, errSuperseded) || w.ctx.Err() != nil {
		return nil, err
	}
	p.failed(t, err)
	if t.primary && w.hold() == nil {
		// In its place at the gate, so that a crowd knocks no more often than
		// the few who have one.
		timer := time.NewTimer(w.pause)
		w.waitFor(v, timer.C)
		timer.Stop()
		w.pause = min(2*w.pause, retryMost)
	}
	return nil, fmt.Errorf("%s: %w", t, err)
}

// dialAndAwait connects to the instance and waits until it begins to greet; it
// leaves the gate if that takes long.
func (p *port) dialAndAwait(w *waiter, v *view, t target, leave func()) (*net.TCPConn, error) {
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
	if errors.Is(err, os.ErrDeadlineExceeded) {
		leave()
		patience := w.patience(t)
		done()
		ctx, done = w.under(v)
		err = peek(ctx, server, patience)
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

// register makes the session one of the port's, unless the table is ahead of
// the view it was made under: once Table.Apply has returned, nobody is joined
// against the route.
func (p *port) register(s *session, v *view) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, moved := p.ahead(); moved || p.stopped || p.view != v {
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
