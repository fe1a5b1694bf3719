package election

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errClosed: the client was used after Run had returned.
var errClosed = errors.New("client is closed")

// pool holds one client per etcd endpoint. etcd's own client goes round its
// endpoints, so that a frozen one costs every third call a full deadline; here
// the endpoint that answered last is asked first, and another one as well when
// it is slow.
type pool struct {
	cfg    Config
	log    *zap.Logger
	ctx    context.Context // of all connections; ended by close
	cancel context.CancelFunc

	running sync.WaitGroup // attempts whose call may have returned already

	mu        sync.Mutex  // guards what follows and the endpoints' failed
	endpoints []*endpoint // the own node's first
	closed    bool
}

func newPool(cfg Config, log *zap.Logger) *pool {
	ctx, cancel := context.WithCancel(context.Background())
	p := &pool{cfg: cfg, log: log, ctx: ctx, cancel: cancel}
	for _, address := range cfg.Endpoints {
		p.endpoints = append(p.endpoints, &endpoint{address: address})
	}
	return p
}

// close ends every connection and waits for the attempts under way.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel()
	p.running.Wait()
	for _, e := range p.order() {
		e.close()
	}
}

// setEndpoints replaces the endpoints; those that stay keep their connections.
func (p *pool) setEndpoints(addresses []string) {
	p.mu.Lock()
	gone := p.endpoints
	if p.closed {
		gone, addresses = nil, nil // close ends all there are
	}
	var next []*endpoint
	for _, address := range addresses {
		i := slices.IndexFunc(gone, func(e *endpoint) bool { return e.address == address })
		if i < 0 {
			next = append(next, &endpoint{address: address})
			continue
		}
		next = append(next, gone[i])
		gone = slices.Delete(slices.Clone(gone), i, i+1)
	}
	if len(next) > 0 {
		p.endpoints = next
		for _, e := range gone {
			e.failed = time.Now() // who still watches through it looks elsewhere
		}
	}
	p.mu.Unlock()
	if len(next) > 0 {
		for _, e := range gone {
			e.close()
		}
	}
}

// spawn runs an attempt that close waits for; it returns false after close.
func (p *pool) spawn(attempt func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.running.Go(attempt)
	return true
}

// order is who to ask, best first: the healthy endpoints as configured, then
// the failing ones, the one that failed longest ago first.
func (p *pool) order() []*endpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	ordered := slices.Clone(p.endpoints)
	slices.SortStableFunc(ordered, func(a, b *endpoint) int {
		switch {
		case a.failed.IsZero() && b.failed.IsZero():
			return 0
		case a.failed.IsZero():
			return -1
		case b.failed.IsZero():
			return 1
		default:
			return a.failed.Compare(b.failed)
		}
	})
	return ordered
}

// best is the endpoint to keep a long stream on.
func (p *pool) best() *endpoint { return p.order()[0] }

// anyHealthy tells whether the last that was heard of some endpoint is good.
func (p *pool) anyHealthy() bool { return p.healthy(p.best()) }

func (p *pool) healthy(e *endpoint) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return e.failed.IsZero()
}

func (p *pool) note(e *endpoint, err error) {
	p.mu.Lock()
	was := e.failed
	if err == nil {
		e.failed = time.Time{}
	} else {
		e.failed = time.Now()
	}
	p.mu.Unlock()
	switch {
	case err != nil && was.IsZero():
		p.log.Warn("etcd endpoint stopped answering", zap.String("endpoint", e.address), zap.Error(err))
	case err == nil && !was.IsZero():
		p.log.Info("etcd endpoint answers again", zap.String("endpoint", e.address))
	}
}

// probe asks every endpoint once whether it can reach the quorum, so that one
// that came back is used again and one that froze is left.
func (p *pool) probe(ctx context.Context, key string) {
	var all sync.WaitGroup
	for _, e := range p.order() {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, p.cfg.CallTimeout)
			defer cancel()
			_, _ = attempt(ctx, p, e, func(ctx context.Context, client Etcd) (struct{}, error) {
				_, err := client.Get(ctx, key, clientv3.WithCountOnly())
				return struct{}{}, err
			})
		})
	}
	all.Wait()
}

// request is one operation on one endpoint. It is asked of several endpoints
// at once when the first is slow, so it must be a read, or a write that a
// second arrival cannot repeat.
type request[T any] func(context.Context, Etcd) (T, error)

// call asks the best endpoint, and the next one as well whenever an answer
// takes longer than HedgeAfter or is an error that another member may not
// give. The first answer counts. It returns within CallTimeout, with
// ErrUnreachable when nobody answered.
func call[T any](ctx context.Context, p *pool, do request[T]) (T, error) {
	type answer struct {
		value T
		err   error
	}
	var none T
	parent := ctx
	ctx, cancel := context.WithTimeout(ctx, p.cfg.CallTimeout)
	defer cancel()

	waiting := p.order()
	answers := make(chan answer, len(waiting))
	pending := 0
	next := func() {
		e := waiting[0]
		waiting = waiting[1:]
		pending++
		if !p.spawn(func() {
			value, err := attempt(ctx, p, e, do)
			answers <- answer{value, err}
		}) {
			answers <- answer{err: errClosed}
		}
	}
	next()
	hedge := time.NewTicker(p.cfg.HedgeAfter)
	defer hedge.Stop()
	var errs []error
	for pending > 0 {
		select {
		case a := <-answers:
			pending--
			if a.err == nil || !passing(a.err) {
				return a.value, a.err
			}
			errs = append(errs, a.err)
			if len(waiting) > 0 {
				next()
				hedge.Reset(p.cfg.HedgeAfter)
			}
		case <-hedge.C:
			if len(waiting) > 0 {
				next()
			}
		case <-ctx.Done():
			if err := parent.Err(); err != nil {
				return none, fmt.Errorf("%w: %w", ErrUnreachable, err)
			}
			errs = append(errs, fmt.Errorf("no answer within %v", p.cfg.CallTimeout))
			return none, fmt.Errorf("%w: %w", ErrUnreachable, errors.Join(errs...))
		}
	}
	return none, fmt.Errorf("%w: %w", ErrUnreachable, errors.Join(errs...))
}

// attempt runs one request on one endpoint and notes what it tells about it. An
// attempt that was called off early because another answered tells nothing.
func attempt[T any](ctx context.Context, p *pool, e *endpoint, do request[T]) (T, error) {
	begun := time.Now()
	client, err := e.dial(p)
	var value T
	if err == nil {
		value, err = do(ctx, client)
	}
	calledOff := ctx.Err() != nil && time.Since(begun) < p.cfg.HedgeAfter
	switch {
	case err == nil || !passing(err):
		p.note(e, nil)
	case !calledOff && p.ctx.Err() == nil:
		p.note(e, err)
	}
	if err != nil {
		return value, fmt.Errorf("%s: %w", e.address, err)
	}
	return value, nil
}

// passing tells whether err is about the way to etcd or the state of one of its
// members. Any other error is etcd's considered answer, the same everywhere.
func passing(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, rpctypes.ErrTooManyRequests) {
		return true
	}
	code, text := codes.Unknown, ""
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		code, text = known.Code(), known.Error()
	} else if s, ok := status.FromError(err); ok {
		code, text = s.Code(), s.Message()
	}
	if text == rpctypes.ErrorDesc(rpctypes.ErrGRPCNotSupportedForLearner) {
		return true // a voter will say
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Internal, codes.Unknown, codes.Aborted:
		return true
	default:
		return false
	}
}
