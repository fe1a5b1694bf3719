package proxy

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"interrex/router"
)

// view is the route as one port obeys it, until another supersedes it.
type view struct {
	route     router.Route // never changed
	gates     map[router.Backend]gate
	ctx       context.Context
	supersede context.CancelCauseFunc
}

func newView(serving context.Context, route router.Route) *view {
	v := &view{route: route, gates: map[router.Backend]gate{}}
	for _, b := range route.Replicas {
		v.gates[b] = make(gate, gateWidth)
	}
	if route.Primary != nil {
		v.gates[*route.Primary] = make(gate, gateWidth)
	}
	v.ctx, v.supersede = context.WithCancelCause(serving)
	return v
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

// adopt obeys the table: it wakes those who wait, and cuts the sessions the
// route has no place for. It returns when those given grace are due.
func (p *port) adopt(serving context.Context, now time.Time) (due time.Time, more bool) {
	p.mu.Lock()
	route, moved := p.ahead()
	former := p.view
	if moved {
		p.view = newView(serving, route)
	}
	doomed, due, more := p.sweep(route, now)
	p.mu.Unlock()

	if moved && former != nil {
		former.supersede(errSuperseded)
	}
	p.cut(doomed)
	if moved || len(doomed) > 0 {
		p.log.Info("route adopted", zap.Uint64("epoch", uint64(route.Epoch)), zap.String("phase", string(route.Phase)),
			zap.Stringer("primary", route.Primary), zap.Int("replicas", len(route.Replicas)), zap.Int("sessions_cut", len(doomed)))
	}
	return due, more
}

// ahead returns the table's route as far as it concerns this port, and whether
// it is newer than the view. The caller holds the lock, so what it reads never
// goes back.
func (p *port) ahead() (route router.Route, moved bool) {
	route = p.table.Current()
	if p.role == ReadWrite {
		route.Replicas = nil // a change of replicas must not disturb it
	}
	return route, p.view == nil || !p.view.route.Equal(route)
}

// current returns the view to obey now. Whoever finds that the table is ahead
// of it adopts the route, not to act against it.
func (p *port) current(serving context.Context) *view {
	p.mu.Lock()
	v := p.view
	_, moved := p.ahead()
	p.mu.Unlock()
	if !moved {
		return v
	}
	p.adopt(serving, time.Now()) // the follower will see to the grace
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.view
}

func (p *port) cut(doomed []*session) {
	for _, s := range doomed {
		s.cut()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count.Cut += uint64(len(doomed))
}

// sweep picks the sessions to cut now, and tells when those given grace are
// due. The caller holds the lock.
func (p *port) sweep(route router.Route, now time.Time) (doomed []*session, due time.Time, more bool) {
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
			} else if !more || end.Before(due) {
				due, more = end, true
			}
		}
	}
	p.left = left
	return doomed, due, more
}
