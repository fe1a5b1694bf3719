package router

import "errors"

// ErrStaleRoute is returned by Table.Apply for a route that the table is
// already past: of a lower epoch, or of an earlier state in the same epoch.
// The caller drops the route; whoever sent it learns that it is behind (I5).
var ErrStaleRoute = errors.New("route is stale")

// ErrConflictingRoute is returned by Table.Apply for a route that names
// another primary than the table knows in the same epoch and state. An epoch
// has one primary, so this is a fault of the sender that a person must hear
// of; the table keeps what it has.
var ErrConflictingRoute = errors.New("route conflicts with another of the same epoch")

// ErrInvalidRoute is returned by Table.Apply for a route that can't be obeyed:
// an unknown phase, an open route without a primary, a backend without a name
// or a usable address. The table keeps what it has.
var ErrInvalidRoute = errors.New("route is invalid")
