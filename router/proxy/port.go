package proxy

import (
	"context"
	"errors"
	"net"
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
// anything waits; the table's may be taken under it, never the reverse.
type port struct {
	cfg     *Config
	table   *router.Table
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

// target is an instance chosen for a client, and what it was chosen as.
type target struct {
	router.Backend
	primary bool
}

func newPort(cfg *Config, table *router.Table, role Role, address string, log *zap.Logger) *port {
	return &port{
		cfg:      cfg,
		table:    table,
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
	lc := net.ListenConfig{KeepAliveConfig: keepAlive()}
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

// stop cuts all sessions; none can be made any more.
func (p *port) stop() {
	p.mu.Lock()
	p.stopped = true
	doomed := make([]*session, 0, len(p.sessions))
	for s := range p.sessions {
		doomed = append(doomed, s)
	}
	p.mu.Unlock()
	p.cut(doomed)
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
		p.cut([]*session{s})
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
