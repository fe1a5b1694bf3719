package proxy

import (
	"errors"
	"fmt"
)

// ErrNotListening is returned by Run when Listen has not been called, or its
// listeners are closed already. It is a fault of the caller.
var ErrNotListening = errors.New("proxy is not listening")

// Why a client could not be joined to an instance. These are the causes of the
// contexts that clients wait on, and what the packet for the client is made of.
var (
	errClosed      = errors.New("the route is closed")
	errSuperseded  = errors.New("the route moved")
	errNoReplica   = errors.New("no replica may serve reads")
	errHoldExpired = errors.New("held for as long as is allowed")
	errHoldFull    = errors.New("as many connections are held as are allowed")
	errClientLeft  = errors.New("the client left")
	errStopping    = errors.New("the proxy is stopping")
	errNoGreeting  = errors.New("no greeting")

	errCrowded         = errors.New("too many are connecting to it")
	errClosedUngreeted = errors.New("closed before it greeted")
)

// refusal is an error for a client: the last thing that kept it from its
// instance, and why it is not kept waiting any longer.
type refusal struct {
	limit    error // errHoldExpired, errHoldFull, errNoReplica, errStopping, errClientLeft
	obstacle error // nil if it never got as far
}

func (r *refusal) Error() string {
	if r.obstacle == nil {
		return r.limit.Error()
	}
	return fmt.Sprintf("%v (%v)", r.obstacle, r.limit)
}

func (r *refusal) Unwrap() error { return r.limit }
