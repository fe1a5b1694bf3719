package dbrepl

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/go-sql-driver/mysql"
)

var (
	// ErrUnsupported is returned by Probe and Prepare for a server that is no
	// MySQL 8.0.26 or later (MariaDB among them). Nothing was done to it.
	ErrUnsupported = errors.New("unsupported server")
	// ErrOutcomeUnknown is returned when a statement was sent and neither its
	// success nor its end could be seen. It may take effect later: look at
	// the instance before ordering anything else.
	ErrOutcomeUnknown = errors.New("outcome unknown")
	// ErrRollingBack is returned while what was received of a transaction is
	// still rolled back.
	ErrRollingBack = errors.New("part of a transaction is still being rolled back")
	// ErrGivenUp is returned when ctx ended before a statement did; its server
	// thread was killed and seen gone, so it will not take effect any more.
	ErrGivenUp = errors.New("statement given up and ended")
	// ErrCommitsWaiting is returned by Follow and Isolate while commits wait
	// for acknowledgements: releasing them would tell clients of a success
	// that is none (I2). Let an acker acknowledge them, or end the process
	// (StopServer) and compare its sets when it is back.
	ErrCommitsWaiting = errors.New("commits wait for an acknowledgement")
	// ErrCloseTimedOut is returned by CloseWrites when it did not succeed in
	// time and was undone: the instance is open as before.
	ErrCloseTimedOut = errors.New("close timed out and was undone")
	// ErrApplierStopped is returned by CatchUp and Follow when the applier
	// does not run although it was started; the message has its own error.
	ErrApplierStopped = errors.New("applier is stopped")
	// ErrNotCaughtUp is returned by CatchUp when the limit passed first.
	ErrNotCaughtUp = errors.New("not caught up")
	// ErrNotReplicated is returned by Retire for an instance that has received
	// what it has not executed; its relay log is kept (I8).
	ErrNotReplicated = errors.New("received transactions are not executed")
	// ErrForgotten is returned by Follow when the server has dropped what was
	// received and not executed, because its applier failed as the source was
	// changed. The source is changed. What the instance acknowledged may be
	// gone from it: it proves nothing before it has caught up (I1).
	ErrForgotten = errors.New("received transactions were dropped before they were executed")
	// ErrIncomplete is returned by SaveErrant when the binary logs do not have
	// all that was asked for; no file was left.
	ErrIncomplete = errors.New("not all transactions are in the binary logs")
	// ErrNoAccount is returned by LetIn for a replication user that has no
	// account on the instance, and by ShutOut for none.
	ErrNoAccount = errors.New("no such account; `interrex mysql grants` prints the statements that make it")
	// ErrNotLocal is returned by StopServer when the server's process cannot
	// be found, with certainty, on this host. Nothing was done to it.
	ErrNotLocal = errors.New("server process is not on this host")
)

// FailureKind says in which way an instance failed to answer.
type FailureKind string

// The kinds of failures, from Classify.
const (
	Refused            FailureKind = "refused"              // nobody listens
	Broken             FailureKind = "broken"               // the connection ended under a question
	ConnectTimedOut    FailureKind = "connect timed out"    // no connection in time
	QueryTimedOut      FailureKind = "query timed out"      // connected, and no greeting or no answer in time
	TooManyConnections FailureKind = "too many connections" // alive, and saturated
	AccessDenied       FailureKind = "access denied"        // alive, and the account or a privilege is wrong
	ReadOnly           FailureKind = "read only"            // alive, and closed for writes
	Other              FailureKind = "other"
)

// Numbers of server errors, as in the manual's error reference.
const (
	errCantCreateTable    = 1005
	errDiskFull           = 1021
	errOnWrite            = 1026
	errEngine             = 1030
	errOpenReadOnly       = 1036
	errAccessDeniedDB     = 1044
	errAccessDenied       = 1045
	errSyntax             = 1064
	errNoSuchThread       = 1094
	errNotOwner           = 1095
	errTableFull          = 1114
	errUnknownDatabase    = 1049
	errTooManyConnections = 1040
	errCommandDenied      = 1142
	errColumnDenied       = 1143
	errNoSuchTable        = 1146
	errUnknownVariable    = 1193
	errUserLimit          = 1203
	errUserResource       = 1226
	errSpecificAccess     = 1227
	errOptionPrevents     = 1290
	errQueryInterrupted   = 1317
	errReadOnlyMode       = 1836
	errApplierMetadata    = 1872
	errAccountLocked      = 3118
	errSpaceFull          = 3675
	errRestartFailed      = 3707
)

// connectError marks what went wrong before a connection was usable. reached:
// the host had accepted it.
type connectError struct {
	err     error
	reached bool
}

func (e *connectError) Error() string { return "connect: " + e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

// Classify tells how an instance failed, from an error of Ping or Probe. It
// says nothing of whose fault it is: that takes more than one observer.
func Classify(err error) FailureKind {
	var refusal *mysql.MySQLError
	if errors.As(err, &refusal) {
		return classifyNumber(refusal.Number)
	}
	var connecting *connectError
	var netErr net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, os.ErrNotExist):
		return Refused
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &netErr) && netErr.Timeout():
		if errors.As(err, &connecting) && !connecting.reached {
			return ConnectTimedOut
		}
		return QueryTimedOut
	case errors.Is(err, mysql.ErrInvalidConn), errors.Is(err, driver.ErrBadConn), errors.Is(err, io.EOF),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Broken
	default:
		return Other
	}
}

func classifyNumber(number uint16) FailureKind {
	switch number {
	case errTooManyConnections, errUserLimit, errUserResource:
		return TooManyConnections
	case errAccessDenied, errAccessDeniedDB, errCommandDenied, errColumnDenied, errSpecificAccess, errAccountLocked:
		return AccessDenied
	case errOptionPrevents, errReadOnlyMode:
		return ReadOnly
	default:
		return Other
	}
}

// isServerError tells whether the server itself answered with one of numbers.
func isServerError(err error, numbers ...uint16) bool {
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		return false
	}
	for _, n := range numbers {
		if e.Number == n {
			return true
		}
	}
	return false
}

// refusedByServer tells whether the server answered that a statement failed:
// then it has no effect. An interruption is no such answer.
func refusedByServer(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && e.Number != errQueryInterrupted
}
