package api

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/gin-gonic/gin"

	"interrex/failover"
	"interrex/internal/topology"
)

// Fault is what a member can be told to do to its own node in a drill, or to
// undo.
type Fault string

// The faults. Thaw and start undo the former two.
const (
	FaultKillServer   Fault = "kill_server"   // SIGKILL
	FaultFreezeServer Fault = "freeze_server" // SIGSTOP
	FaultStopAgent    Fault = "stop_agent"    // in order; its supervisor starts it again
	FaultThawServer   Fault = "thaw_server"
	FaultStartServer  Fault = "start_server"
)

// Undoes tells whether f ends a fault instead of causing one: such an order is
// obeyed whatever state the cluster is in.
func (f Fault) Undoes() bool { return f == FaultThawServer || f == FaultStartServer }

// FaultLimit is the longest a fault may stay in force: it is undone then,
// whatever became of the drill and of the agent.
const FaultLimit = 30 * time.Second

// FaultRequest is the body of POST /api/v1/drill/faults.
type FaultRequest struct {
	Fault Fault `json:"fault"`
	// Seconds is how long the fault stays in force at most, up to FaultLimit;
	// that unless it is given.
	Seconds int `json:"seconds"`
}

// FaultOrder is a fault that an operator asked a member for.
type FaultOrder struct {
	Fault Fault
	Limit time.Duration // 0 < Limit <= FaultLimit
	By    string        // address and request id of who asked
}

// FaultResult is what a member did to its node.
type FaultResult struct {
	Node   topology.NodeName `json:"node"`
	Fault  Fault             `json:"fault"`
	Detail string            `json:"detail"`
	// Until is when it is undone by itself at the latest; absent if there is
	// nothing to undo.
	Until *time.Time `json:"until,omitempty"`
}

// DrillState tells whether a member would cause a fault now.
type DrillState struct {
	Node    topology.NodeName `json:"node"`
	Enabled bool              `json:"enabled"` // drills, in its configuration
	// Gate is the first closed gate that would refuse a fault; null if none.
	Gate *failover.Gate `json:"gate"`
	// Active is the fault in force; null if none.
	Active *ActiveFault `json:"active"`
}

// ActiveFault is a fault in force.
type ActiveFault struct {
	Fault Fault     `json:"fault"`
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
	By    string    `json:"by"`
}

// Glance is the cluster as b sees it, as GET /api/v1/cluster tells it.
func Glance(cluster string, b Backend) Cluster {
	return newCluster(time.Now(), cluster, b.View(), b.Gates(), b.Evidence)
}

func (s *Server) getFaults(c *gin.Context) { s.reply(c, s.backend.Drills()) }

// postFault is obeyed by the member that is asked and never forwarded: a fault
// hits the node that the operator named by its address.
func (s *Server) postFault(c *gin.Context) {
	req := FaultRequest{Seconds: int(FaultLimit / time.Second)}
	o, ok := s.readOrder(c, &req)
	if !ok {
		return
	}
	var faults []FieldFault
	known := []Fault{FaultKillServer, FaultFreezeServer, FaultStopAgent, FaultThawServer, FaultStartServer}
	if !slices.Contains(known, req.Fault) {
		faults = append(faults, FieldFault{"fault", fmt.Sprintf("must be one of %v", known)})
	}
	if limit := int(FaultLimit / time.Second); req.Seconds < 1 || req.Seconds > limit {
		faults = append(faults, FieldFault{"seconds", fmt.Sprintf("must be a number from 1 to %d", limit)})
	}
	if o.key != "" && !isToken(o.key, keyLength) {
		faults = append(faults, FieldFault{headerIdempotency, fmt.Sprintf("must be 1 to %d letters, digits or . _ -", keyLength)})
	}
	if o.forwarder != "" {
		faults = append(faults, FieldFault{headerForwardedBy, "a fault is ordered from the member itself"})
	}
	if len(faults) > 0 {
		s.badRequest(c, faults...)
		return
	}
	by := fmt.Sprintf("operator at %s, request %s", o.peer, o.requestID)
	o.run = func(ctx context.Context) (any, bool, error) {
		r, err := s.backend.Fault(ctx, FaultOrder{Fault: req.Fault, Limit: time.Duration(req.Seconds) * time.Second, By: by})
		return r, true, err
	}
	s.carryOutOnce(c, o, true)
}
