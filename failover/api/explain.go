package api

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/gin-gonic/gin"

	"interrex/election"
	"interrex/failover"
	"interrex/internal/topology"
)

// The number of decisions in one answer.
const (
	decisionsDefault = 20
	decisionsMax     = 1000
)

// Explained is the answer of /api/v1/explain.
type Explained struct {
	failover.Explanation
	// By is the member that says so.
	By topology.NodeName `json:"by"`
	// Evidence is the judgement that it is about; absent where there was none.
	Evidence *Judgement `json:"evidence,omitempty"`
	// Gates are those of the operation that it is about.
	Gates []failover.Gate `json:"gates"`
}

// Decision is an episode of evidence against an instance, as one member saw it.
type Decision struct {
	ID      string                   `json:"id"`
	By      topology.NodeName        `json:"by"`
	Subject topology.NodeName        `json:"subject"`
	Primary bool                     `json:"primary"` // it was the primary then
	Led     bool                     `json:"led"`     // By led then
	Outcome failover.DecisionOutcome `json:"outcome"`
	Epoch   topology.Epoch           `json:"epoch,omitempty"` // of the operation that ended it
	BeganAt time.Time                `json:"began_at"`
	EndedAt *time.Time               `json:"ended_at,omitempty"` // absent while it goes on
	LastMS  float64                  `json:"lasted_ms"`
	Times   int                      `json:"times"` // how often the evidence came and went
	Held    []HeldBack               `json:"held"`
	// Evidence is the judgement in which most spoke against it.
	Evidence Judgement            `json:"evidence"`
	Words    failover.Explanation `json:"words"`
}

// HeldBack is a gate that held a failover back.
type HeldBack struct {
	Gate   string  `json:"gate"`
	Reason string  `json:"reason"`
	ForMS  float64 `json:"for_ms"`
}

// DecisionList is the answer of /api/v1/decisions.
type DecisionList struct {
	Decisions []Decision `json:"decisions"`
}

func newDecision(d failover.Decision) Decision {
	out := Decision{
		ID: d.ID, By: d.By, Subject: d.Subject, Primary: d.Primary, Led: d.Led, Outcome: d.Outcome, Epoch: d.Epoch,
		BeganAt: d.BeganAt, EndedAt: moment(d.EndedAt), LastMS: millis(d.Lasted), Times: d.Times,
		Held: []HeldBack{}, Evidence: newJudgement(d.Worst), Words: failover.ExplainDecision(d),
	}
	for _, h := range d.Held {
		out.Held = append(out.Held, HeldBack{h.Gate, h.Reason, millis(h.For)})
	}
	return out
}

// getExplain says why there is, or is not, a failover now; or, with an epoch,
// why there was one.
func (s *Server) getExplain(c *gin.Context) {
	member, epoch := topology.NodeName(c.Query("member")), c.Query("epoch")
	if member != "" && epoch != "" {
		s.badRequest(c, FieldFault{"epoch", "cannot be asked for together with member"})
		return
	}
	if epoch != "" {
		s.explainEpoch(c, epoch)
		return
	}
	v := s.backend.View()
	p := v.State.Primary
	out := Explained{By: s.cfg.Self, Gates: []failover.Gate{}}
	switch {
	case member == "" || p != nil && p.Node == member:
		kind := election.Failover
		if p == nil {
			kind = election.Bootstrap
		} else {
			j := newJudgement(v.Primary)
			out.Evidence = &j
		}
		gates := s.backend.Gates()
		out.Explanation = failover.ExplainNow(v, gates)
		out.Gates = append(out.Gates, slices.DeleteFunc(slices.Clone(gates), func(g failover.Gate) bool { return g.Operation != kind })...)
	default:
		j, ok := s.backend.Evidence(member)
		if !ok {
			s.fail(c, problem(problemNotFound, "no member of that name is registered"))
			return
		}
		shown := newJudgement(j)
		out.Explanation, out.Evidence = failover.ExplainMember(v, member, j), &shown
	}
	s.reply(c, out)
}

func (s *Server) explainEpoch(c *gin.Context, text string) {
	epoch, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		s.badRequest(c, FieldFault{"epoch", "must be a number"})
		return
	}
	r, err := s.backend.Report(c.Request.Context(), topology.Epoch(epoch))
	switch {
	case errors.Is(err, election.ErrNotFound):
		s.fail(c, problem(problemNotFound, fmt.Sprintf("the ledger has no epoch %d", epoch)))
		return
	case err != nil:
		s.failLedger(c, err)
		return
	}
	shown := newReport(r)
	out := Explained{Explanation: failover.ExplainReport(r), By: s.cfg.Self, Gates: shown.Gates}
	if r.Evidence.Subject != "" {
		out.Evidence = &shown.Evidence
	}
	s.reply(c, out)
}

func (s *Server) getDecisions(c *gin.Context) {
	n := decisionsDefault
	if text := c.Query("limit"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 1 || n > decisionsMax {
			s.badRequest(c, FieldFault{"limit", fmt.Sprintf("must be a number from 1 to %d", decisionsMax)})
			return
		}
	}
	member := topology.NodeName(c.Query("member"))
	out := DecisionList{[]Decision{}}
	for _, d := range s.backend.Decisions() {
		if (member == "" || d.Subject == member) && len(out.Decisions) < n {
			out.Decisions = append(out.Decisions, newDecision(d))
		}
	}
	s.reply(c, out)
}
