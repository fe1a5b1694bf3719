package failover

import (
	"errors"
	"fmt"

	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// The sentinels of this package. A node returns them to the leader, over the
// network too: failover/api carries each by name.
var (
	// ErrStaleEpoch: the node has seen a higher epoch (I5). The caller's
	// operation is over; it reads the record and stands down.
	ErrStaleEpoch = errors.New("epoch is stale")
	// ErrErrant: the instance holds transactions the source lacks; following
	// would lose or mix histories. It stays closed until it is rebuilt.
	ErrErrant = errors.New("instance holds transactions the primary lacks")
	// ErrNoInstance: the member has no instance, or it does not answer.
	ErrNoInstance = errors.New("no instance answers here")
	// ErrBusy: another command that excludes this one is running on the node;
	// nothing was begun.
	ErrBusy = errors.New("node is busy with another command")
	// ErrNotRecorded: the node was told to promote but the record in etcd does
	// not name it at that epoch; nothing changed.
	ErrNotRecorded = errors.New("the record does not name this node as primary of the epoch")
	// ErrCloseTimedOut: the instance could not be closed within the limit and
	// was left open.
	ErrCloseTimedOut = errors.New("instance could not be closed within the limit and is open as before")
	// ErrGateClosed: an operation was refused by a gate; nothing changed.
	ErrGateClosed = errors.New("refused by a gate")
	// ErrNotLeader: only the leader runs operations; ask it.
	ErrNotLeader = errors.New("this member is not the leader")
	// ErrNoProof: too few ackers could be frozen to prove that no acknowledged
	// commit is missing; nothing was promoted.
	ErrNoProof = errors.New("no proof that every acknowledged commit is present")
	// ErrNoCandidate: revoked, but no instance may be promoted.
	ErrNoCandidate = errors.New("no instance may be promoted")
	// ErrPrimaryFailed: the primary of a switchover failed before it was
	// closed; a failover is due instead.
	ErrPrimaryFailed = errors.New("the primary has failed meanwhile")
	// ErrNotConfirmed: a forced failover was asked for without accepting what
	// may be lost as it stands now; nothing was promoted. Look at it again.
	ErrNotConfirmed = errors.New("what may be lost was not confirmed")
	// ErrUndone: the operation could not finish and the former primary serves
	// again under a new epoch.
	ErrUndone = errors.New("operation was undone")
)

// StaleEpochError is ErrStaleEpoch with what the node has seen.
type StaleEpochError struct {
	Node     topology.NodeName `json:"node"`
	Asked    topology.Epoch    `json:"asked"`
	Promised topology.Epoch    `json:"promised"`
}

func (e *StaleEpochError) Error() string {
	return fmt.Sprintf("%s: command of epoch %d refused, epoch %d was seen: %v", e.Node, e.Asked, e.Promised, ErrStaleEpoch)
}

// Unwrap makes errors.Is(err, ErrStaleEpoch) true.
func (e *StaleEpochError) Unwrap() error { return ErrStaleEpoch }

// ErrantError is ErrErrant with the transactions.
type ErrantError struct {
	Node topology.NodeName `json:"node"`
	Set  gtid.Set          `json:"set"`
}

func (e *ErrantError) Error() string {
	return fmt.Sprintf("%s: %v: %s", e.Node, ErrErrant, e.Set)
}

// Unwrap makes errors.Is(err, ErrErrant) true.
func (e *ErrantError) Unwrap() error { return ErrErrant }

// GateError is ErrGateClosed with the gate.
type GateError struct {
	Gate Gate `json:"gate"`
}

func (e *GateError) Error() string {
	return fmt.Sprintf("gate %s is closed: %s", e.Gate.Name, e.Gate.Reason)
}

// Unwrap makes errors.Is(err, ErrGateClosed) true.
func (e *GateError) Unwrap() error { return ErrGateClosed }

// ConfirmationError is ErrNotConfirmed with what does not fit.
type ConfirmationError struct {
	Field string    `json:"field"` // of the order
	Given string    `json:"given"`
	Want  string    `json:"want"`
	Bound LossBound `json:"bound"`
}

func (e *ConfirmationError) Error() string {
	return fmt.Sprintf("%s is %q, not %q: %v", e.Field, e.Want, e.Given, ErrNotConfirmed)
}

// Unwrap makes errors.Is(err, ErrNotConfirmed) true.
func (e *ConfirmationError) Unwrap() error { return ErrNotConfirmed }
