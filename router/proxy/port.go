package proxy

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"interrex/router"
)

// Role is what a port is for.
type Role string

// The roles.
const (
	ReadWrite Role = "read-write"
	ReadOnly  Role = "read-only"
)

const (
	// avoidFor is how long a replica that could not be connected to gets no
	// further reads.
	avoidFor = time.Second
	// acceptPause follows an accept that failed, mostly for want of file
	// descriptors: some may be free by then.
	acceptPause = 20 * time.Millisecond
)

// port is one listener with what it serves. Its lock is never held while
// anything waits.
type port struct {
	cfg     *Config
	role    Role
	address string
	dialer  *net.Dialer
	log     *zap.Logger

	listener *net.TCPListener
	clients  sync.WaitGroup

	mu       sync.Mutex
	view     *view
	stopped  bool
	sessions map[*session]struct{}
	load     map[router.Backend]int       // connections made or being made
	avoid    map[router.Backend]time.Time // until when
	left     map[router.Backend]time.Time // since when a replica is not in the route
	turn     int                          // whose turn it is among equally loaded replicas
	count    Counts
}

// view is the route as one port obeys it, until another supersedes it.
type view struct {
	route     router.Route // never changed
	ctx       context.Context
	supersede context.CancelCauseFunc
}

// target is an instance chosen for a client, and what it was chosen as.
type target struct {
	router.Backend
	primary bool
}

func newPort(cfg *Config, role Role, address string, log *zap.Logger) *port {
	return &port{
		cfg:      cfg,
		role:     role,
		address:  address,
		dialer:   dialer(cfg),
		log:      log.With(zap.String("port", string(role))),
		sessions: map[*session]struct{}{},
		load:     map[router.Backend]int{},
		avoid:    map[router.Backend]time.Time{},
		left:     map[router.Backend]time.Time{},
	}
}

func (p *port) listen(ctx context.Context) error {
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	lc.SetMultipathTCP(false) // sessions are spliced
	l, err := lc.Listen(ctx, "tcp", p.address)
	if err != nil {
		return err
	}
	p.listener = l.(*net.TCPListener) // "tcp" makes no other kind
	return nil
}

func (p *port) close() error {
	if p.listener == nil {
		return nil
	}
	if err := p.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// accept takes connections until the listener is closed, then waits for those
// it took.
func (p *port) accept(serving context.Context) {
	defer p.clients.Wait()
	for {
		conn, err := p.listener.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			p.log.Warn("accept failed", zap.Error(err))
			wait(serving, acceptPause)
			continue
		}
		if !p.admit() {
			sendPacket(conn, errorPacket(codeTooManyConnections, "Too many connections"))
			_ = conn.Close() // it was never served
			continue
		}
		p.clients.Go(func() { p.serve(serving, conn) })
	}
}

// admit takes one of the places for connections; serve gives it back.
func (p *port) admit() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count.Accepted++
	if p.count.Connections >= p.cfg.MaxConnections {
		p.count.Refused++
		return false
	}
	p.count.Connections++
	return true
}

// serve leads one client from accept to close.
func (p *port) serve(serving context.Context, conn *net.TCPConn) {
	defer func() {
		_ = conn.Close() // closed already after a session
		p.mu.Lock()
		p.count.Connections--
		p.mu.Unlock()
	}()
	s, err := p.establish(serving, conn)
	if err != nil {
		p.refused(conn, err)
		return
	}
	s.run()
	p.forget(s)
}

// refused tells the client why, unless it is not there any more.
func (p *port) refused(conn *net.TCPConn, err error) {
	p.mu.Lock()
	left := errors.Is(err, errClientLeft)
	if left {
		p.count.ClientsLeft++
	} else {
		p.count.Refused++
	}
	route := p.view.route
	p.mu.Unlock()
	if !left {
		refuse(conn, p.cfg.Cluster, route, err)
	}
}

// choose picks the instance for the next connection. It fails with errClosed
// when the client may be held for one, with errNoReplica when it may not.
func (p *port) choose(v *view) (target, error) {
	if p.role == ReadOnly {
		if b, ok := p.leastLoaded(v.route.Replicas); ok {
			return target{Backend: b}, nil
		}
		if p.cfg.ReadFallback == FallbackNone {
			return target{}, errNoReplica
		}
	}
	if v.route.Phase != router.Open {
		return target{}, errClosed
	}
	return target{Backend: *v.route.Primary, primary: true}, nil
}

// leastLoaded picks the replica with the fewest connections, in turn among
// equals, and passes over those that could not be connected to a moment ago.
func (p *port) leastLoaded(replicas []router.Backend) (best router.Backend, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.turn++
	for i := range replicas {
		b := replicas[(p.turn+i)%len(replicas)]
		if until, avoided := p.avoid[b]; avoided && now.Before(until) {
			continue
		}
		delete(p.avoid, b)
		if !ok || p.load[b] < p.load[best] {
			best, ok = b, true
		}
	}
	return best, ok
}

// fate is what becomes of a session under a route.
type fate int

const (
	keep fate = iota
	cutSoon
	cutNow
)

// judge tells the fate of sessions to the target. Whoever was led to the
// primary as such may be writing, whichever port it came by.
func (p *port) judge(route router.Route, t target) fate {
	switch {
	case t.primary && route.LeadsTo(t.Backend),
		!t.primary && slices.Contains(route.Replicas, t.Backend):
		return keep
	case t.primary:
		return cutNow
	case p.cfg.ReadFallback == FallbackPrimary && route.LeadsTo(t.Backend):
		return keep // promoted: it serves reads as well as ever
	default:
		return cutSoon
	}
}

// adopt obeys the route: it wakes those who wait, and cuts the sessions the
// route has no place for. It returns when those given grace are due.
func (p *port) adopt(serving context.Context, route router.Route, now time.Time) (due time.Time, any bool) {
	if p.role == ReadWrite {
		route.Replicas = nil // a change of replicas must not disturb it
	}
	p.mu.Lock()
	former, moved := p.view, p.view == nil || !p.view.route.Equal(route)
	if moved {
		p.view = &view{route: route}
		p.view.ctx, p.view.supersede = context.WithCancelCause(serving)
	}
	doomed, due, any := p.sweep(route, now)
	p.count.Cut += uint64(len(doomed))
	p.mu.Unlock()

	if moved && former != nil {
		former.supersede(errSuperseded)
	}
	for _, s := range doomed {
		s.cut()
	}
	if moved || len(doomed) > 0 {
		p.log.Info("route adopted", zap.Uint64("epoch", uint64(route.Epoch)), zap.String("phase", string(route.Phase)),
			zap.Stringer("primary", route.Primary), zap.Int("replicas", len(route.Replicas)), zap.Int("sessions_cut", len(doomed)))
	}
	return due, any
}

// sweep picks the sessions to cut now, and tells when those given grace are
// due. The caller holds the lock.
func (p *port) sweep(route router.Route, now time.Time) (doomed []*session, due time.Time, any bool) {
	left := map[router.Backend]time.Time{}
	for s := range p.sessions {
		switch p.judge(route, s.to) {
		case keep:
		case cutNow:
			doomed = append(doomed, s)
		case cutSoon:
			since, known := p.left[s.to.Backend]
			if !known {
				since = now
			}
			left[s.to.Backend] = since
			if end := since.Add(p.cfg.ReplicaGrace); !now.Before(end) {
				doomed = append(doomed, s)
			} else if !any || end.Before(due) {
				due, any = end, true
			}
		}
	}
	p.left = left
	return doomed, due, any
}

// stop cuts all sessions; none can be made any more.
func (p *port) stop() {
	p.mu.Lock()
	p.stopped = true
	doomed := make([]*session, 0, len(p.sessions))
	for s := range p.sessions {
		doomed = append(doomed, s)
	}
	p.mu.Unlock()
	for _, s := range doomed {
		s.cut()
	}
}

// cutSilent cuts the sessions with a host that does not answer any more.
func (p *port) cutSilent() {
	p.mu.Lock()
	all := make([]*session, 0, len(p.sessions))
	for s := range p.sessions {
		all = append(all, s)
	}
	p.mu.Unlock()
	for _, s := range all {
		server := silent(s.server, p.cfg.PeerTimeout)
		if !server && !silent(s.client, p.cfg.PeerTimeout) {
			continue
		}
		p.log.Warn("peer is silent: session cut", zap.Stringer("backend", s.to), zap.Stringer("client", s.client.RemoteAddr()),
			zap.Bool("backend_silent", server))
		s.cut()
		if server {
			p.broken(s.to)
		}
	}
}

// broken tells the detector.
func (p *port) broken(t target) {
	if p.cfg.OnBackendBroken != nil {
		p.cfg.OnBackendBroken(t.Node)
	}
}

// wait passes the time, or returns early when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
