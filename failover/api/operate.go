package api

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"go.uber.org/zap"

	"interrex/election"
	"interrex/failover"
	"interrex/internal/topology"
)

const (
	// acceptAfter is how long a call that does not wait still does, so that a
	// refusal is its answer and not "accepted".
	acceptAfter = 500 * time.Millisecond
	// leaderMoves is how long an order waits for a leadership that is on its way
	// from one member to another.
	leaderMoves = time.Second
	nameLength  = 128
	keyLength   = 128
	reasonRunes = 500
)

// SwitchoverRequest is the body of POST /api/v1/switchover.
type SwitchoverRequest struct {
	// To is the candidate; empty for the best one.
	To string `json:"to"`
	// Wait says whether to answer with the report, when it ended; true unless
	// it is given.
	Wait bool `json:"wait"`
}

// PauseRequest is the body of POST /api/v1/pause.
type PauseRequest struct {
	Reason string `json:"reason"`
}

// PauseState is the answer of POST /api/v1/pause and resume.
type PauseState struct {
	Paused bool   `json:"paused"`
	Reason string `json:"reason,omitempty"`
}

// Accepted is the answer to a switchover nobody waits for.
type Accepted struct {
	Accepted bool   `json:"accepted"`
	See      string `json:"see"` // path where it can be followed
}

// order is what an operator asked for, apart from the request it came with: it
// outlives that request.
type order struct {
	method    string
	path      string
	operation election.Kind // whose gates may refuse it
	requestID string
	key       string // Idempotency-Key
	forwarder string // the member that forwarded it; empty if none
	peer      string
	body      []byte
	// run carries it out here. begun tells that something was done, so that
	// the order is not to be given to another member, whatever err is.
	run func(ctx context.Context) (result any, begun bool, err error)
}

// outcome is the answer to an order.
type outcome struct {
	status      int
	contentType string
	body        []byte
}

func (s *Server) postSwitchover(c *gin.Context) {
	req := SwitchoverRequest{Wait: true}
	o, ok := s.readOrder(c, &req)
	if !ok {
		return
	}
	if req.To != "" && !isToken(req.To, nameLength) {
		s.badRequest(c, FieldFault{"to", "must be the name of a member"})
		return
	}
	if o.key != "" && !isToken(o.key, keyLength) {
		s.badRequest(c, FieldFault{headerIdempotency, fmt.Sprintf("must be 1 to %d letters, digits or . _ -", keyLength)})
		return
	}
	o.operation = election.Switchover
	o.run = func(ctx context.Context) (any, bool, error) {
		r, err := s.backend.Switchover(ctx, topology.NodeName(req.To))
		return newReport(r), r.Epoch != 0, err
	}
	s.carryOutOnce(c, o, req.Wait)
}

func (s *Server) postPause(c *gin.Context) {
	var req PauseRequest
	o, ok := s.readOrder(c, &req)
	if !ok {
		return
	}
	req.Reason = strings.TrimSpace(req.Reason)
	if n := len([]rune(req.Reason)); n == 0 || n > reasonRunes {
		s.badRequest(c, FieldFault{"reason", fmt.Sprintf("must say why, in 1 to %d characters", reasonRunes)})
		return
	}
	o.run = func(ctx context.Context) (any, bool, error) {
		return PauseState{Paused: true, Reason: req.Reason}, false, s.backend.Pause(ctx, req.Reason)
	}
	s.respond(c, s.carryOut(c.Request.Context(), o))
}

func (s *Server) postResume(c *gin.Context) {
	var req nothing
	o, ok := s.readOrder(c, &req)
	if !ok {
		return
	}
	o.run = func(ctx context.Context) (any, bool, error) {
		return PauseState{}, false, s.backend.Resume(ctx)
	}
	s.respond(c, s.carryOut(c.Request.Context(), o))
}

// readOrder reads the body into req; it returns false if it has answered.
func (s *Server) readOrder(c *gin.Context, req any) (order, bool) {
	body, ok := s.readBody(c, bodyBytes)
	if !ok {
		return order{}, false
	}
	if faults := decodeStrict(body, req); len(faults) > 0 {
		s.badRequest(c, faults...)
		return order{}, false
	}
	return order{
		method: http.MethodPost, path: c.FullPath(), operation: election.Failover, requestID: requestID(c), key: c.GetHeader(headerIdempotency),
		forwarder: c.GetHeader(headerForwardedBy), peer: c.Request.RemoteAddr, body: body,
	}, true
}

// carryOutOnce carries the order out in the background, so that a client that
// goes away does not cut an operation short, and at most once per key.
func (s *Server) carryOutOnce(c *gin.Context, o order, wait bool) {
	a, first := s.answers.claim(o.key, sha256.Sum256(o.body))
	switch {
	case a == nil:
		s.fail(c, problem(problemKeyReused, "it was sent with another body"))
		return
	case !first:
		c.Header(headerIdempotencyReplay, "true")
	case !s.background(func(ctx context.Context) { s.answers.settle(o.key, a, s.carryOut(ctx, o)) }):
		s.answers.settle(o.key, a, problemOutcome(o, problem(problemNotReady, "the agent stops")))
	}
	var accepted <-chan time.Time
	if !wait {
		t := time.NewTimer(acceptAfter)
		defer t.Stop()
		accepted = t.C
	}
	select {
	case <-a.done:
		s.respond(c, a.outcome)
	case <-accepted:
		s.write(c, http.StatusAccepted, contentTypeJSON, Accepted{Accepted: true, See: "/api/v1/cluster"})
	case <-c.Request.Context().Done():
		c.Abort() // nobody is there to be told
	}
}

// background runs an operation that Serve waits for; false if the agent stops.
func (s *Server) background(run func(context.Context)) bool {
	s.lifeMu.Lock()
	defer s.lifeMu.Unlock()
	if s.life.Err() != nil {
		return false
	}
	s.inFlight.Go(func() {
		ctx, cancel := context.WithTimeout(s.life, s.cfg.OperationLimit)
		defer cancel()
		run(ctx)
	})
	return true
}

// carryOut runs the order here or, where that is for another to do, there.
func (s *Server) carryOut(ctx context.Context, o order) (out outcome) {
	defer func() {
		if cause := recover(); cause != nil {
			s.log.Error("operation panicked", zap.String("request_id", o.requestID), zap.Any("panic", cause), zap.Stack("stack"))
			out = problemOutcome(o, problem(problemInternal, ""))
		}
		if o.method == http.MethodGet {
			return // a question
		}
		s.log.Info("operator's order", zap.String("request_id", o.requestID), zap.String("route", o.path),
			zap.String("peer", o.peer), zap.String("forwarder", o.forwarder), zap.ByteString("body", o.body), zap.Int("status", out.status))
	}()
	result, begun, err := o.run(ctx)
	for errors.Is(err, failover.ErrNotLeader) && !begun {
		out, former := s.forward(ctx, o)
		if former == "" || o.forwarder != "" || !s.leaderMoved(ctx, former) {
			return out
		}
		result, begun, err = o.run(ctx)
	}
	switch {
	case err == nil:
		body, err := json.Marshal(result)
		if err != nil {
			panic(err) // the types of this package are encodable
		}
		return outcome{http.StatusOK, contentTypeJSON, body}
	case lacksQuorum(err) && !begun:
		return problemOutcome(o, s.noQuorum(o.operation))
	}
	p := operationProblem(err)
	if r, ok := result.(Report); ok && begun {
		p.Report = &r
	}
	return problemOutcome(o, p)
}

// operationProblem tells why an operation was refused or failed. The operator
// has shown a token, so the text may be seen.
func operationProblem(err error) Problem {
	var gate *failover.GateError
	var confirmation *failover.ConfirmationError
	switch {
	case errors.As(err, &gate):
		p := problem(problemGateClosed, err.Error())
		p.Gate = &gate.Gate
		return p
	case errors.Is(err, failover.ErrGateClosed):
		return problem(problemGateClosed, err.Error())
	case errors.As(err, &confirmation):
		p := problem(problemNotConfirmed, err.Error())
		p.Loss = &confirmation.Bound
		return p
	case errors.Is(err, failover.ErrNotConfirmed):
		return problem(problemNotConfirmed, err.Error())
	case errors.Is(err, failover.ErrBusy):
		return problem(problemBusy, err.Error())
	case errors.Is(err, ErrDrillsDisabled):
		return problem(problemDrillsDisabled, err.Error())
	case errors.Is(err, failover.ErrUndone):
		return problem(problemUndone, err.Error())
	case errors.Is(err, failover.ErrNoCandidate), errors.Is(err, failover.ErrNoProof), errors.Is(err, failover.ErrErrant),
		errors.Is(err, failover.ErrCloseTimedOut), errors.Is(err, failover.ErrStaleEpoch), errors.Is(err, failover.ErrNoInstance),
		errors.Is(err, failover.ErrNotRecorded), errors.Is(err, failover.ErrPrimaryFailed):
		return problem(problemRefused, err.Error())
	case errors.Is(err, election.ErrNewerFormat), errors.Is(err, election.ErrNotMember):
		return problem(problemRefused, err.Error())
	case errors.Is(err, election.ErrOutcomeUnknown):
		return problem(problemOutcomeUnknown, err.Error())
	case errors.Is(err, failover.ErrNotLeader):
		return problem(problemNotLeader, err.Error())
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return problem(problemDeadline, err.Error())
	}
	return problem(problemOperationFailed, err.Error())
}

func problemOutcome(o order, p Problem) outcome {
	p.Instance = "urn:interrex:request:" + o.requestID
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // a Problem is encodable
	}
	return outcome{p.Status, contentTypeProblem, body}
}

func (s *Server) respond(c *gin.Context, out outcome) {
	if out.status == http.StatusServiceUnavailable {
		c.Header("Retry-After", "1")
	}
	s.send(c, out.status, out.contentType, out.body)
}

// forward gives the order to the leader; once: an order that was forwarded
// already is not passed on again. It names the former leader if the one that this
// member takes for the leader does not lead any more, or not yet.
func (s *Server) forward(ctx context.Context, o order) (out outcome, former topology.NodeName) {
	v := s.backend.View()
	leader := v.Leadership.Holder
	_, silent := v.Unreachable[leader]
	switch {
	case !v.EtcdReachable && (o.forwarder != "" || leader == "" || leader == s.cfg.Self || silent):
		// Nobody leads without a quorum. Another member is asked first if it
		// answers: it may be this one alone that etcd is out of reach of.
		return problemOutcome(o, s.noQuorum(o.operation)), ""
	case o.forwarder != "":
		return problemOutcome(o, problem(problemNotLeader, fmt.Sprintf("%s forwarded this to %s, which does not lead", o.forwarder, s.cfg.Self))), ""
	case leader == "":
		return problemOutcome(o, problem(problemNoLeader, "an order needs a leader; members elect one as soon as etcd has a quorum")), ""
	case leader == s.cfg.Self:
		return problemOutcome(o, problem(problemNotLeader, "leadership is changing")), leader
	}
	client, err := s.peers.client(leader)
	if err != nil {
		return problemOutcome(o, problem(problemLeaderGone, err.Error())), ""
	}
	header := http.Header{}
	header.Set(headerForwardedBy, string(s.cfg.Self))
	header.Set(headerRequestID, o.requestID)
	if o.key != "" {
		header.Set(headerIdempotency, o.key)
	}
	got, err := client.send(ctx, call{method: o.method, path: o.path, header: header, body: o.body})
	switch {
	case errors.Is(err, ErrNotExecuted):
		return problemOutcome(o, problem(problemLeaderGone, fmt.Sprintf("%s: %v", leader, err))), ""
	case err != nil:
		return problemOutcome(o, problem(problemOutcomeUnknown, fmt.Sprintf("%s: %v", leader, err))), ""
	case got.status == http.StatusUnauthorized, got.status == http.StatusForbidden:
		return problemOutcome(o, problem(problemLeaderGone, fmt.Sprintf("%s does not accept %s as a member", leader, s.cfg.Self))), ""
	}
	var p Problem
	if json.Unmarshal(got.body, &p) == nil && p.Type == ProblemType+problemNotLeader {
		former = leader
	}
	return outcome{got.status, got.header.Get("Content-Type"), got.body}, former
}

// leaderMoved waits for a moment until another member is known to lead, or this
// one does: an order that nobody has begun is worth a second try then.
func (s *Server) leaderMoved(ctx context.Context, former topology.NodeName) bool {
	wctx, cancel := context.WithTimeout(ctx, leaderMoves)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		if l := s.backend.View().Leadership; l.Mine || l.Holder != "" && l.Holder != former {
			return true
		}
		select {
		case <-wctx.Done():
			return false
		case <-tick.C:
		}
	}
}
