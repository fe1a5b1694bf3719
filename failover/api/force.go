package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"

	"interrex/failover"
	"interrex/internal/topology"
)

// ForcePreview is what a forced failover would mean now: the answer of
// GET /api/v1/failover/force.
type ForcePreview struct {
	Cluster string `json:"cluster"`
	// Epoch is the one that Primary was promoted in.
	Epoch topology.Epoch `json:"epoch"`
	// Primary is the recorded one, which would be given up; empty before there
	// is one.
	Primary topology.NodeName `json:"primary"`
	// Bound is what may be lost. Its confirm is what the order has to say.
	Bound failover.LossBound `json:"bound"`
	Gates []failover.Gate    `json:"gates"`
}

// ForceRequest is the body of POST /api/v1/failover/force: what the preview
// said, and who accepts it.
type ForceRequest struct {
	Cluster string         `json:"cluster"`
	Epoch   topology.Epoch `json:"epoch"`
	Confirm string         `json:"confirm"`
	By      string         `json:"by"`
	// Wait says whether to answer with the report, when it ended; true unless
	// it is given.
	Wait bool `json:"wait"`
}

// getForce is answered by the leader: what others remember of the lost members
// may be less.
func (s *Server) getForce(c *gin.Context) {
	o := order{
		method: http.MethodGet, path: c.FullPath(), operation: failover.Force, requestID: requestID(c),
		forwarder: c.GetHeader(headerForwardedBy), peer: c.Request.RemoteAddr,
	}
	o.run = func(ctx context.Context) (any, bool, error) {
		p, err := s.backend.PreviewForce(ctx)
		return ForcePreview{Cluster: p.Cluster, Epoch: p.Epoch, Primary: p.Old, Bound: p.Bound, Gates: list(p.Gates)}, false, err
	}
	s.respond(c, s.carryOut(c.Request.Context(), o))
}

func (s *Server) postForce(c *gin.Context) {
	req := ForceRequest{Wait: true}
	o, ok := s.readOrder(c, &req)
	if !ok {
		return
	}
	var faults []FieldFault
	need := func(field string, value *string) {
		*value = strings.TrimSpace(*value)
		if n := len([]rune(*value)); n == 0 || n > nameLength {
			faults = append(faults, FieldFault{field, fmt.Sprintf("is needed, in 1 to %d characters", nameLength)})
		}
	}
	need("cluster", &req.Cluster)
	need("confirm", &req.Confirm)
	need("by", &req.By)
	if req.Epoch == 0 {
		faults = append(faults, FieldFault{"epoch", "is needed: the primary's, as the preview said"})
	}
	if o.key != "" && !isToken(o.key, keyLength) {
		faults = append(faults, FieldFault{headerIdempotency, fmt.Sprintf("must be 1 to %d letters, digits or . _ -", keyLength)})
	}
	if len(faults) > 0 {
		s.badRequest(c, faults...)
		return
	}
	o.operation = failover.Force
	o.run = func(ctx context.Context) (any, bool, error) {
		r, err := s.backend.Force(ctx, failover.ForceOrder{Cluster: req.Cluster, Epoch: req.Epoch, Confirm: req.Confirm, By: req.By})
		return newReport(r), r.Epoch != 0, err
	}
	s.carryOutOnce(c, o, req.Wait)
}
