package api

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"interrex/failover"
)

// ProblemType is the URN prefix of every problem's type (RFC 9457).
const ProblemType = "urn:interrex:problem:"

// Problem is the body of every answer that is not a success (RFC 9457,
// application/problem+json).
type Problem struct {
	Type     string `json:"type"` // ProblemType and a name of the list in docs
	Title    string `json:"title"`
	Status   int    `json:"status"`
	Detail   string `json:"detail,omitempty"`
	Instance string `json:"instance,omitempty"` // urn:interrex:request:<id>, as in the log
	// Fields are the faults of a request, all of them.
	Fields []FieldFault `json:"fields,omitempty"`
	// Gate is the gate that refused the operation.
	Gate *failover.Gate `json:"gate,omitempty"`
	// Loss is what may be lost as it stands now, where that was not confirmed.
	Loss *failover.LossBound `json:"loss,omitempty"`
	// Report is the ledger entry of an operation that ended otherwise than
	// asked for.
	Report *Report `json:"report,omitempty"`
	// Error is the error of a command between members.
	Error *wireError `json:"error,omitempty"`
}

// FieldFault is what is wrong with one field of a request.
type FieldFault struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// The names of the problems.
const (
	problemBadRequest      = "bad-request"
	problemUnauthorized    = "unauthorized"
	problemForeignHost     = "foreign-host"
	problemCrossSite       = "cross-site"
	problemNotFound        = "not-found"
	problemMethod          = "method-not-allowed"
	problemKeyReused       = "key-reused"
	problemTooLarge        = "body-too-large"
	problemMediaType       = "unsupported-media-type"
	problemMisdirected     = "misdirected"
	problemTooMany         = "too-many-attempts"
	problemGateClosed      = "gate-closed"
	problemBusy            = "busy"
	problemNotConfirmed    = "not-confirmed"
	problemUndone          = "undone"
	problemRefused         = "operation-refused"
	problemDrillsDisabled  = "drills-disabled"
	problemNotHealthy      = "not-healthy"
	problemNotReady        = "not-ready"
	problemNotPrimary      = "not-primary"
	problemNotReplica      = "not-replica"
	problemNoQuorum        = "no-quorum"
	problemNoLeader        = "no-leader"
	problemNotLeader       = "not-leader"
	problemLedger          = "ledger-unavailable"
	problemLeaderGone      = "leader-unreachable"
	problemOutcomeUnknown  = "outcome-unknown"
	problemDeadline        = "deadline-passed"
	problemCommand         = "command-failed"
	problemOperationFailed = "operation-failed"
	problemInternal        = "internal"
)

const (
	contentTypeProblem      = "application/problem+json"
	contentTypeJSON         = "application/json"
	headerRequestID         = "X-Request-Id"
	headerForwardedBy       = "Interrex-Forwarded-By"
	headerTimeout           = "Interrex-Timeout-Us"
	headerCluster           = "Interrex-Cluster" // that a command is meant for
	headerIdempotency       = "Idempotency-Key"
	headerIdempotencyReplay = "Idempotency-Replayed"
)

// describe gives the status and title of a problem.
func describe(name string) (status int, title string) {
	switch name {
	case problemBadRequest:
		return http.StatusBadRequest, "The request is not valid; nothing changed"
	case problemUnauthorized:
		return http.StatusUnauthorized, "A valid token is required; nothing changed"
	case problemForeignHost:
		return http.StatusForbidden, "The Host header names no address of this member"
	case problemCrossSite:
		return http.StatusForbidden, "Requests of other web sites are refused"
	case problemDrillsDisabled:
		return http.StatusForbidden, "Drills are disabled on this member; nothing was done"
	case problemNotFound:
		return http.StatusNotFound, "There is no such thing here"
	case problemMethod:
		return http.StatusMethodNotAllowed, "The method is not allowed here"
	case problemKeyReused:
		return http.StatusUnprocessableEntity, "The idempotency key was used for another request; nothing changed"
	case problemTooLarge:
		return http.StatusRequestEntityTooLarge, "The body is too large; nothing changed"
	case problemMediaType:
		return http.StatusUnsupportedMediaType, "The body must be application/json; nothing changed"
	case problemMisdirected:
		return http.StatusMisdirectedRequest, "The command is for another member; nothing changed"
	case problemTooMany:
		return http.StatusTooManyRequests, "Too many wrong tokens from this address"
	case problemGateClosed:
		return http.StatusConflict, "The operation is refused by a gate; nothing changed"
	case problemBusy:
		return http.StatusConflict, "Another operation is in flight; nothing changed"
	case problemNotConfirmed:
		return http.StatusConflict, "What may be lost was not confirmed as it stands now; nothing was promoted"
	case problemUndone:
		return http.StatusConflict, "The operation was undone; the former primary serves again"
	case problemRefused:
		return http.StatusConflict, "The operation could not be carried out"
	case problemCommand:
		return http.StatusConflict, "The command failed on the node"
	case problemDeadline:
		return http.StatusGatewayTimeout, "The time for this had passed"
	}
	return describeServer(name)
}

func describeServer(name string) (status int, title string) {
	switch name {
	case problemNotHealthy:
		return http.StatusServiceUnavailable, "The agent does not work"
	case problemNotReady:
		return http.StatusServiceUnavailable, "The agent is not ready"
	case problemNotPrimary:
		return http.StatusServiceUnavailable, "This member's instance is not the open primary"
	case problemNotReplica:
		return http.StatusServiceUnavailable, "This member's instance is not a replica fit for reads"
	case problemNoQuorum:
		return http.StatusServiceUnavailable, "Refused for want of etcd's quorum; nothing changed"
	case problemNoLeader:
		return http.StatusServiceUnavailable, "No member leads now; nothing changed"
	case problemNotLeader:
		return http.StatusServiceUnavailable, "This member does not lead; nothing changed"
	case problemLedger:
		return http.StatusServiceUnavailable, "The ledger cannot be read now"
	case problemLeaderGone:
		return http.StatusBadGateway, "The leader could not be reached; nothing changed"
	case problemOutcomeUnknown:
		return http.StatusBadGateway, "Whether it was done is not known; see /api/v1/cluster and /api/v1/failovers"
	case problemOperationFailed:
		return http.StatusInternalServerError, "The operation failed; see its report"
	default:
		return http.StatusInternalServerError, "Something is wrong in the agent; see its log"
	}
}

// problem makes the problem of that name.
func problem(name, detail string) Problem {
	status, title := describe(name)
	return Problem{Type: ProblemType + name, Title: title, Status: status, Detail: detail}
}

// fail ends the request with p.
func (s *Server) fail(c *gin.Context, p Problem) {
	p.Instance = "urn:interrex:request:" + requestID(c)
	s.write(c, p.Status, contentTypeProblem, p)
	c.Abort()
}
