package api

import (
	"errors"
	"fmt"

	"interrex/internal/topology"
)

var (
	// ErrNotExecuted: the command certainly was not begun: the member was not
	// reached, or refused before beginning. Nothing changed.
	ErrNotExecuted = errors.New("command was not executed")
	// ErrOutcomeUnknown: the command was sent and no answer came. It may have
	// been executed, may still be, or not at all; ask the node's status.
	ErrOutcomeUnknown = errors.New("outcome of the command is unknown")
	// ErrDrillsDisabled: this member's configuration allows no drills; nothing
	// was done. The operator sets drills: enabled there, if faults are wanted.
	ErrDrillsDisabled = errors.New("drills are disabled")
	// ErrUnknownMember: no member of that name is registered.
	ErrUnknownMember = errors.New("no such member")
)

// RemoteError is an error that another member returned. errors.Is and
// errors.As see what they would have seen there.
type RemoteError struct {
	Node    topology.NodeName
	Command string
	Message string // the error's text at the other member
	causes  []error
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("%s %s: %s", e.Command, e.Node, e.Message)
}

// Unwrap gives the sentinels and typed errors the remote error was.
func (e *RemoteError) Unwrap() []error { return e.causes }
