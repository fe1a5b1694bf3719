package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"go.uber.org/zap"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/failover"
	"interrex/internal/topology"
)

// The number of ledger entries in one answer.
const (
	reportsDefault = 20
	reportsMax     = 1000
)

// MemberList is the answer of /api/v1/members.
type MemberList struct {
	Members []Member `json:"members"`
}

// GateList is the answer of /api/v1/gates.
type GateList struct {
	Gates []failover.Gate `json:"gates"`
}

// ReportList is the answer of /api/v1/failovers, newest first.
type ReportList struct {
	Failovers []Report `json:"failovers"`
}

// Objectives is the answer of /api/v1/objectives.
type Objectives struct {
	failover.Attainment
	// Status is how the cluster is now: downtime that no operation has ended
	// is not in the windows.
	Status Status `json:"status"`
}

// Passed is the answer of a probe.
type Passed struct {
	Status string            `json:"status"` // ok
	Node   topology.NodeName `json:"node"`
	Epoch  topology.Epoch    `json:"epoch"`
	LagMS  *float64          `json:"lag_ms,omitempty"` // of /replica
}

func (s *Server) pass(c *gin.Context, v failover.View, lag *float64) {
	s.reply(c, Passed{Status: "ok", Node: s.cfg.Self, Epoch: v.State.Epoch, LagMS: lag})
}

func (s *Server) getHealth(c *gin.Context) {
	if faults := s.backend.Health().Faults; len(faults) > 0 {
		s.fail(c, problem(problemNotHealthy, strings.Join(faults, "; ")))
		return
	}
	s.pass(c, s.backend.View(), nil)
}

// getReady passes when the agent works and can route: it has read the record
// and obeys a route.
func (s *Server) getReady(c *gin.Context) {
	v, h := s.backend.View(), s.backend.Health()
	reasons := slices.Clone(h.Faults)
	if v.State.Epoch == 0 {
		reasons = append(reasons, "the cluster record was not read yet, or there is no cluster yet")
	}
	if v.State.WasRemoved(s.cfg.Self) {
		reasons = append(reasons, "this node was removed from the cluster")
	}
	if v.Isolated != nil {
		reasons = append(reasons, v.Isolated.String())
	}
	if v.Nodes[s.cfg.Self].Route.Epoch == 0 {
		reasons = append(reasons, "no route is known yet")
	}
	if len(reasons) > 0 {
		s.fail(c, problem(problemNotReady, strings.Join(reasons, "; ")))
		return
	}
	s.pass(c, v, nil)
}

func (s *Server) getPrimary(c *gin.Context) {
	v := s.backend.View()
	if why := notPrimary(v, s.cfg.Self); why != "" {
		s.fail(c, problem(problemNotPrimary, why))
		return
	}
	s.pass(c, v, nil)
}

// notPrimary says why self's instance is not the open recorded primary.
func notPrimary(v failover.View, self topology.NodeName) string {
	p, n := v.State.Primary, v.Nodes[self]
	switch {
	case p == nil:
		return "the cluster has no primary yet"
	case v.Isolated != nil:
		return v.Isolated.String()
	case p.Node != self:
		return fmt.Sprintf("the primary is %s", p.Node)
	case !serves(v.State):
		return "an operation is in flight or ended without a primary"
	case n.Promised > p.Epoch:
		return fmt.Sprintf("epoch %d was begun", n.Promised)
	case n.Instance == nil:
		return "the instance does not answer: " + n.InstanceError
	case !n.Instance.Writable():
		return "the instance is closed"
	}
	return ""
}

func (s *Server) getReplica(c *gin.Context) {
	limit := s.cfg.LagLimit
	if text := c.Query("lag"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			s.badRequest(c, FieldFault{"lag", "must be a duration of 0 or more such as 500ms or 5s"})
			return
		}
		limit = d
	}
	v := s.backend.View()
	if why := notReplica(v, s.cfg.Self, limit); why != "" {
		s.fail(c, problem(problemNotReplica, why))
		return
	}
	lag := millis(v.Nodes[s.cfg.Self].Instance.Source.Lag)
	s.pass(c, v, &lag)
}

// notReplica says why self's instance is no replica fit for reads.
func notReplica(v failover.View, self topology.NodeName, limit time.Duration) string {
	n := v.Nodes[self]
	switch {
	case v.State.Primary == nil:
		return "the cluster has no primary yet"
	case v.Isolated != nil && !v.Isolated.Reads:
		return v.Isolated.String()
	case v.State.Primary.Node == self:
		return "the instance is the recorded primary"
	case n.Errant != nil:
		return "the instance holds transactions the primary lacks"
	case n.Rebuild.Underway():
		return "the instance is being rebuilt"
	case n.Instance == nil:
		return "the instance does not answer: " + n.InstanceError
	case n.Instance.Writable():
		return "the instance is open for writes"
	}
	return notFollowing(n.Instance, v.State.Primary, limit)
}

func notFollowing(s *dbrepl.Status, p *election.Primary, limit time.Duration) string {
	switch {
	case !follows(s, p):
		return "the instance does not follow the primary"
	case !s.Source.ReceiverOn:
		return "the receiver is " + s.Source.ReceiverState
	case !s.Source.ApplierOn:
		return "the applier is stopped"
	case s.Source.Filters != "":
		return "the applier leaves out a part of what it receives (replication filters: " + s.Source.Filters + ")"
	case s.Source.Lag > limit:
		return fmt.Sprintf("%s behind, the limit is %s", s.Source.Lag, limit)
	}
	return ""
}

func (s *Server) cluster() Cluster {
	v := s.backend.View()
	return newCluster(time.Now(), s.cfg.Cluster, v, s.backend.Gates(), s.backend.Evidence)
}

func (s *Server) getCluster(c *gin.Context) { s.reply(c, s.cluster()) }

func (s *Server) getMembers(c *gin.Context) {
	s.reply(c, MemberList{newMembers(s.backend.View(), s.backend.Evidence)})
}

func (s *Server) getMember(c *gin.Context) {
	name := topology.NodeName(c.Param("name"))
	for _, m := range newMembers(s.backend.View(), s.backend.Evidence) {
		if m.Name == name {
			s.reply(c, m)
			return
		}
	}
	s.fail(c, problem(problemNotFound, "no member of that name is registered"))
}

// getEvidence answers with the verdict Unknown for a member nobody has judged.
func (s *Server) getEvidence(c *gin.Context) {
	name := topology.NodeName(c.Param("name"))
	j, ok := s.backend.Evidence(name)
	if !ok {
		known := func(m topology.Member) bool { return m.Name == name }
		if !slices.ContainsFunc(s.backend.View().Members, known) {
			s.fail(c, problem(problemNotFound, "no member of that name is registered"))
			return
		}
		j = failover.Judgement{Subject: name, Explanation: "there is no evidence on this member"}
	}
	s.reply(c, newJudgement(j))
}

func (s *Server) getGates(c *gin.Context) { s.reply(c, GateList{list(s.backend.Gates())}) }

func (s *Server) getReports(c *gin.Context) {
	n := reportsDefault
	if text := c.Query("limit"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > reportsMax {
			s.badRequest(c, FieldFault{"limit", fmt.Sprintf("must be a number from 1 to %d", reportsMax)})
			return
		}
	}
	reports, err := s.backend.Reports(c.Request.Context(), n)
	if err != nil {
		s.failLedger(c, err)
		return
	}
	out := ReportList{make([]Report, 0, len(reports))}
	for _, r := range reports {
		out.Failovers = append(out.Failovers, newReport(r))
	}
	s.reply(c, out)
}

func (s *Server) getReport(c *gin.Context) {
	epoch, err := strconv.ParseUint(c.Param("epoch"), 10, 64)
	if err != nil {
		s.badRequest(c, FieldFault{"epoch", "must be a number"})
		return
	}
	r, err := s.backend.Report(c.Request.Context(), topology.Epoch(epoch))
	switch {
	case errors.Is(err, election.ErrNotFound):
		s.fail(c, problem(problemNotFound, fmt.Sprintf("the ledger has no epoch %d", epoch)))
	case err != nil:
		s.failLedger(c, err)
	default:
		s.reply(c, newReport(r))
	}
}

func (s *Server) getObjectives(c *gin.Context) {
	a, err := s.backend.Objectives(c.Request.Context())
	if err != nil {
		s.failLedger(c, err)
		return
	}
	a.Windows = list(a.Windows)
	s.reply(c, Objectives{a, s.cluster().Status})
}

// failLedger keeps the error's text in the log: readers need no account.
func (s *Server) failLedger(c *gin.Context, err error) {
	s.log.Warn("ledger cannot be read", zap.String("request_id", requestID(c)), zap.Error(err))
	s.fail(c, problem(problemLedger, ""))
}

func (s *Server) getMetrics(c *gin.Context) {
	_ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Now().Add(writeLimit))
	s.metrics.handler.ServeHTTP(c.Writer, c.Request)
}
