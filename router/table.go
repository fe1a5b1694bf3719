package router

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"

	"interrex/internal/topology"
)

// Table is a member's copy of the route. It starts closed at epoch 0,
// takes routes in whatever order and number they arrive, and never goes back
// (I5): tables that were given the same routes lead to the same primary. It is
// kept in memory only; a member that restarts learns the route anew.
//
// A Table is safe for concurrent use, and routes are copied on the way in and
// on the way out.
type Table struct {
	mu          sync.Mutex
	route       Route
	isolated    *isolated // nil while the route is obeyed
	subscribers map[chan struct{}]struct{}
}

// isolated is what is obeyed in place of the route.
type isolated struct {
	epoch  topology.Epoch // of the route it stands before
	reason string
	reads  []Backend
}

// NewTable returns a table that is closed at epoch 0 and leads nowhere.
func NewTable() *Table {
	return &Table{
		route:       Route{Phase: Closed, Replicas: []Backend{}, Reason: "no route is known yet"},
		subscribers: map[chan struct{}]struct{}{},
	}
}

// Apply obeys the route if it is newer than what the table has, by the rule in
// Route's comment. It returns false and no error for a route that says what
// the table says already. Otherwise the route is refused with ErrStaleRoute,
// ErrConflictingRoute or ErrInvalidRoute, and the table stays as it is.
func (t *Table) Apply(route Route) (applied bool, err error) {
	if err := route.validate(); err != nil {
		return false, fmt.Errorf("apply route of epoch %d: %w: %w", route.Epoch, ErrInvalidRoute, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	next, err := supersede(t.route, route)
	if err != nil {
		return false, fmt.Errorf("apply route of epoch %d at epoch %d: %w", route.Epoch, t.route.Epoch, err)
	}
	applied = !t.route.Equal(next)
	t.change(func() {
		t.route = next
		if t.isolated != nil && next.Epoch > t.isolated.epoch {
			t.isolated = nil // whoever sent it has found us
		}
	})
	return applied, nil
}

// Isolate closes the table whatever its route says, for a member that is cut off
// from the others: the route may not be true any more. Reads may go on to the
// given instances. The route is kept, and is obeyed again after Rejoin, or once
// one of a higher epoch arrives. It may be called again with other reads.
func (t *Table) Isolate(reason string, reads []Backend) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.change(func() { t.isolated = &isolated{t.route.Epoch, reason, append([]Backend{}, reads...)} })
}

// Rejoin ends what Isolate began; it may be called at any time.
func (t *Table) Rejoin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.change(func() { t.isolated = nil })
}

// SetReplicas replaces the replicas that may serve reads. It is how a member's
// own judgement of its peers enters the table; the order of the list has no
// meaning beyond what Current returns.
func (t *Table) SetReplicas(replicas []Backend) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.change(func() { t.route.Replicas = append([]Backend{}, replicas...) })
}

// Current returns the route to obey now.
func (t *Table) Current() Route {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.obeyed().Clone()
}

// obeyed is the route as it counts now. The caller holds the lock.
func (t *Table) obeyed() Route {
	if i := t.isolated; i != nil {
		return Route{Epoch: t.route.Epoch, Phase: Closed, Replicas: i.reads, Reason: i.reason}
	}
	return t.route
}

// Subscribe returns a channel that has a value in it whenever the route may
// have changed since the last receive, and has one from the start: receive,
// then read Current. Several changes may make one value. The channel is never
// closed; cancel ends the subscription and may be called more than once.
func (t *Table) Subscribe() (changed <-chan struct{}, cancel func()) {
	ch := make(chan struct{}, 1)
	ch <- struct{}{}
	t.mu.Lock()
	t.subscribers[ch] = struct{}{}
	t.mu.Unlock()
	return ch, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.subscribers, ch)
	}
}

// change changes the table and tells the subscribers, unless what is obeyed stays
// the same. The caller holds the lock; the route and its replicas are replaced,
// never altered.
func (t *Table) change(do func()) {
	before := t.obeyed()
	do()
	if before.Equal(t.obeyed()) {
		return
	}
	for ch := range t.subscribers {
		select {
		case ch <- struct{}{}:
		default: // not yet read: it will see this change too
		}
	}
}

// supersede returns what a table at current becomes when it is given next. It
// owns everything it returns.
func supersede(current, next Route) (Route, error) {
	next = next.Clone()
	if next.Replicas == nil {
		next.Replicas = current.Replicas
	}
	if next.Epoch != current.Epoch {
		if next.Epoch < current.Epoch {
			return Route{}, ErrStaleRoute
		}
		return next, nil
	}
	switch was, is := current.stage(), next.stage(); {
	case is > was:
		return next, nil
	case is < was:
		return Route{}, fmt.Errorf("%w: it is %s already", ErrStaleRoute, current.Phase)
	case !samePrimary(current.Primary, next.Primary):
		return Route{}, fmt.Errorf("%w: primary %s here, %s there", ErrConflictingRoute, current.Primary, next.Primary)
	case is == serving:
		return next, nil
	default: // closed for the reason that was given first
		return current, nil
	}
}

// validate reports every reason why the route can't be obeyed.
func (r Route) validate() error {
	var faults []error
	if r.Phase != Open && r.Phase != Closed {
		faults = append(faults, fmt.Errorf("unknown phase %q", r.Phase))
	}
	if r.Phase == Open && r.Primary == nil {
		faults = append(faults, errors.New("open without a primary"))
	}
	if r.Primary != nil {
		faults = append(faults, r.Primary.validate())
	}
	for _, b := range r.Replicas {
		faults = append(faults, b.validate())
	}
	return errors.Join(faults...)
}

// validate reports why no connection could be made to the backend.
func (b Backend) validate() error {
	if b.Node == "" {
		return fmt.Errorf("backend %q has no node name", b.Address)
	}
	host, port, err := net.SplitHostPort(b.Address)
	if err != nil {
		return fmt.Errorf("backend %s: %w", b.Node, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return fmt.Errorf("backend %s: address %q is not host:port", b.Node, b.Address)
	}
	return nil
}

// String names the backend as logs and errors do.
func (b Backend) String() string { return string(b.Node) + " (" + b.Address + ")" }
