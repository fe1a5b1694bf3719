package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
	"interrex/router"
)

// This file is the operation, told once and in order:
//
//	claim → (prepare) → revoke → choose → catch up → promote → route → verify → report
//
// Bootstrap, failover, switchover and resume are the same sequence; they
// differ in how the old primary is revoked and who may be chosen. Each step
// returns a value that only it can make and that the next one requires, so
// that a wrong order does not compile.

// The names of the steps, as the log, the ledger and the metrics use them.
const (
	stepDetect  = "detect"
	stepClaim   = "claim"
	stepPrepare = "prepare" // of a switchover only: while clients still write
	stepRevoke  = "revoke"
	stepChoose  = "choose"
	stepCatchUp = "catch_up"
	stepPromote = "promote"
	stepRoute   = "route"
	stepVerify  = "verify"
)

// claimed: the epoch is ours and the record says so.
type claimed struct{ epoch topology.Epoch }

// revoked: no commit can be acknowledged any more in the old epoch (I1).
type revoked struct {
	claimed
	survey survey
}

// chosen: the instance to promote holds, or has received, everything that was
// ever acknowledged.
type chosen struct {
	revoked
	candidate Frozen
	followers []Frozen
}

// caughtUp: the candidate has executed all of it.
type caughtUp struct {
	chosen
	executed gtid.Set
}

// promoted: the candidate is recorded, its marker acknowledged, and it is open.
type promoted struct {
	caughtUp
	primary election.Primary
	opened  time.Time
}

// routed: this member's own routes lead to the new primary.
type routed struct{ promoted }

// run is the sequence. It returns the first step's error; what is recorded in
// etcd by then lets any leader go on (I7).
func (o *operation) run(ctx context.Context) error {
	c, err := o.claim(ctx)
	if err != nil {
		return err
	}
	if err := o.prepare(ctx, c); err != nil {
		return o.restore(ctx, err)
	}
	r, err := o.revoke(ctx, c)
	if err != nil {
		return o.restore(ctx, err)
	}
	ch, err := o.choose(r)
	if err != nil {
		return o.restore(ctx, err)
	}
	up, err := o.catchUp(ctx, ch)
	if err != nil {
		return o.restore(ctx, err)
	}
	// The point of no return is inside promote: its first act records the
	// candidate. After it nothing is undone, only finished.
	p, err := o.promote(ctx, up)
	if err != nil {
		return err
	}
	rt, err := o.route(ctx, p)
	if err != nil {
		return err
	}
	return o.verify(ctx, rt)
}

// claim takes the next epoch in one transaction: still leader, record
// unchanged since it was judged, no other operation in flight (or ours to take
// over). It writes the operation's record.
func (o *operation) claim(ctx context.Context) (claimed, error) {
	done := o.step(stepClaim)
	base, step := o.plan.Base, stepRevoke
	if o.plan.Kind == election.Switchover {
		step = stepPrepare
	}
	snap, err := o.reg.Update(ctx, base, func(s *election.State) error {
		s.Epoch = max(s.Epoch, o.plan.Floor) + 1
		s.Past = o.plan.Past // also if this one fails: nobody has seen a newer epoch then
		s.Operation = &election.Operation{
			Kind: o.plan.Kind, Epoch: s.Epoch, Leader: o.self, Step: step,
			From: o.plan.From, To: o.plan.To, Cause: o.plan.Cause, StartedAt: o.startedAt,
		}
		// Whoever is needed to acknowledge may be told to, from here on.
		s.StopLeaving()
		// They are about to be ordered to the candidate, which may become the
		// primary without another order having reached them (I3).
		if s.Sources == nil {
			s.Sources = map[topology.NodeName]topology.NodeName{}
		}
		for _, n := range o.plan.Ahead {
			if s.Register.Has(n) {
				s.Sources[n] = anyPrimary
			}
		}
		return nil
	})
	if err != nil {
		done("", err)
		return claimed{}, fmt.Errorf("claim: %w", err)
	}
	o.snap = snap
	o.report.Epoch = snap.State.Epoch
	o.log = o.log.With(zap.Uint64("epoch", uint64(snap.State.Epoch)))
	done(fmt.Sprintf("epoch %d", snap.State.Epoch), nil)
	return claimed{epoch: snap.State.Epoch}, nil
}

// revoke makes it impossible for the old primary to acknowledge another
// commit. Routes are closed at the same time; a dead host is never waited for.
func (o *operation) revoke(ctx context.Context, c claimed) (revoked, error) {
	done := o.step(stepRevoke)
	var (
		sv  survey
		how string
		err error
	)
	if o.plan.Kind == election.Switchover {
		sv, how, err = o.drain(ctx, c.epoch)
	} else {
		o.closeRoutes(ctx, c.epoch)
		sv, err = o.freezeAll(ctx, c.epoch)
		how = sv.summary(areFrozen)
	}
	if err != nil {
		done(sv.summary(areFrozen), err)
		return revoked{}, fmt.Errorf("revoke: %w", err)
	}
	done(how, nil)
	return revoked{claimed: c, survey: sv}, nil
}

// choose picks the candidate. It is pure; see chooseCandidate.
func (o *operation) choose(r revoked) (chosen, error) {
	done := o.step(stepChoose)
	candidate, followers, err := chooseCandidate(r.survey, o.choosePolicy())
	if err != nil {
		done("", err)
		return chosen{}, fmt.Errorf("choose: %w", err)
	}
	if o.lossy(r.survey) {
		if err := o.plan.Force.exceeded(candidate); err != nil {
			done("", err)
			return chosen{}, fmt.Errorf("choose: %w", err)
		}
	} else if o.report.Forced != nil {
		o.report.Forced.Lossy = false
	}
	r.survey = o.choosePolicy().history(r.survey, candidate)
	o.report.To, o.doubted = candidate.Node, o.lost(candidate.Node) != nil
	done(fmt.Sprintf("%s, %d unapplied", candidate.Node, candidate.Unapplied), nil)
	return chosen{revoked: r, candidate: candidate, followers: followers}, nil
}

// catchUp has the candidate execute everything it received (I8: nothing that
// was received is ever dropped).
func (o *operation) catchUp(ctx context.Context, ch chosen) (caughtUp, error) {
	done := o.step(stepCatchUp)
	want := ch.survey.union
	// The candidate of a switchover is not frozen yet.
	frozen := o.plan.Kind != election.Switchover
	if frozen && ch.candidate.Executed.Contains(want) {
		done("nothing to apply", nil)
		return caughtUp{chosen: ch, executed: ch.candidate.Executed}, nil
	}
	node, err := o.nodes.Node(ch.candidate.Node)
	if err != nil {
		done("", err)
		return caughtUp{}, fmt.Errorf("catch up: %w", err)
	}
	limit := o.catchUpLimit()
	cctx, cancel := o.attended(ctx, ch.candidate.Node, limit+time.Second)
	defer cancel()
	// It acknowledges nobody any more before that is recorded (I1). With all of
	// it received, that is done first: it applies meanwhile, and writes pause.
	freeze := func() (err error) {
		if !frozen {
			_, err = node.Freeze(cctx, FreezeRequest{Epoch: ch.epoch})
			frozen = true
		}
		return err
	}
	if ch.candidate.Received.Contains(want) {
		err = freeze()
	}
	var got CaughtUp
	if err == nil {
		got, err = node.CatchUp(cctx, CatchUpRequest{Epoch: ch.epoch, Set: want, Limit: limit})
	}
	if err == nil && !got.Executed.Contains(want) {
		err = fmt.Errorf("%s still lacks %s", ch.candidate.Node, want.Minus(got.Executed))
	}
	if err == nil {
		err = freeze()
	}
	if err = because(cctx, err); err != nil {
		done("", err)
		return caughtUp{}, fmt.Errorf("catch up: %w", err)
	}
	done(fmt.Sprintf("%d transactions", want.Minus(ch.candidate.Executed).Count()), nil)
	return caughtUp{chosen: ch, executed: got.Executed}, nil
}

// promote records the candidate (the point of no return), then in parallel
// points the others at it and has it write its marker, which they acknowledge,
// and open.
func (o *operation) promote(ctx context.Context, up caughtUp) (promoted, error) {
	done := o.step(stepPromote)
	var primary election.Primary
	err := o.undrifted(up)
	if err == nil {
		primary, err = o.record(ctx, up)
	}
	if err != nil {
		done("", err)
		if errors.Is(err, election.ErrOutcomeUnknown) {
			return promoted{}, fmt.Errorf("promote: %w", err)
		}
		return promoted{}, o.restore(ctx, fmt.Errorf("promote: %w", err))
	}
	o.follow(ctx, up, primary)
	node, err := o.nodes.Node(primary.Node)
	if err != nil {
		done("", err)
		return promoted{}, fmt.Errorf("promote: %w", err)
	}
	pctx, cancel := o.attended(ctx, primary.Node, o.limits.Promote+time.Second)
	defer cancel()
	pr, err := node.Promote(pctx, PromoteRequest{Epoch: up.epoch, K: o.snap.State.Register.K, Limit: o.limits.Promote})
	if err = because(pctx, err); err != nil {
		done("", err)
		return promoted{}, fmt.Errorf("promote %s: %w", primary.Node, err)
	}
	o.report.RPO = proveRPO(o.plan, up)
	done(fmt.Sprintf("%s: armed %s, marker acknowledged %s, opened %s", primary.Node,
		ms(pr.Armed), ms(pr.Marked), ms(pr.Opened)), nil)
	return promoted{caughtUp: up, primary: primary, opened: time.Now()}, nil
}

// undrifted makes sure, last, that what was counted on still counts: the old
// primary's agent may have told meanwhile that it had not waited.
func (o *operation) undrifted(up caughtUp) error {
	if o.plan.Kind != election.Failover || up.survey.oldClosed || o.plan.Force != nil {
		return nil
	}
	if d := o.drift(); d != nil {
		return errUnrecorded(d)
	}
	return nil
}

// record makes the candidate the primary of the epoch in etcd, with the
// register of its ackers. A crash after it is finished by the next leader.
func (o *operation) record(ctx context.Context, up caughtUp) (election.Primary, error) {
	member, ok := o.member(up.candidate.Node)
	if !ok {
		return election.Primary{}, fmt.Errorf("%s is not a registered member", up.candidate.Node)
	}
	primary := election.Primary{
		Node: up.candidate.Node, ServerUUID: up.candidate.ServerUUID, Address: member.MySQL,
		Epoch: up.epoch, Phase: election.Promoting, Since: time.Now().UTC(), Base: up.executed,
	}
	o.recording = true
	err := o.update(ctx, func(s *election.State) error {
		s.Unrest = nextUnrest(s.Unrest, o.plan, primary)
		if old := s.Primary; o.plan.Kind == election.Resume && old != nil && old.Lossy.Ongoing() {
			primary.Lossy = old.Lossy // until its agent ends it
		}
		s.Primary, s.Past = &primary, ""
		s.Primary.Forced = o.mark(up, s.Epoch)
		s.Register, s.Sources = nextRegister(s, o.plan, up)
		switch {
		case s.Register.K > 0:
			s.Degraded = nil
		case s.Degraded == nil:
			s.Degraded = &election.Degraded{Since: time.Now().UTC(), Reason: "no instance was left to acknowledge"}
		}
		s.Operation.Step = stepPromote
		s.Operation.To = primary.Node
		return nil
	})
	if err != nil {
		return election.Primary{}, fmt.Errorf("record %s as primary: %w", primary.Node, err)
	}
	return primary, nil
}

// route sends the new route to every member and waits for none of them but
// the own: the others also learn it from etcd.
func (o *operation) route(ctx context.Context, p promoted) (routed, error) {
	done := o.step(stepRoute)
	r := router.Route{
		Epoch: p.epoch, Phase: router.Open,
		Primary: &router.Backend{Node: p.primary.Node, Address: p.primary.Address},
	}
	if err := o.pushRoute(ctx, r, true); err != nil {
		done("", err)
		return routed{}, fmt.Errorf("route: %w", err)
	}
	done(string(p.primary.Node), nil)
	return routed{p}, nil
}

// verify writes through the own route until a write is acknowledged: this
// moment ends the RTO. Then the operation's record is closed.
func (o *operation) verify(ctx context.Context, rt routed) error {
	done := o.step(stepVerify)
	vctx, cancel := context.WithTimeout(ctx, o.limits.Verify)
	defer cancel()
	err := o.verifier.VerifyWrite(vctx, rt.epoch)
	o.measureRTO(time.Now())
	detail := "a write through the route was acknowledged"
	if err != nil {
		detail = "no write through the route was acknowledged"
	}
	done(detail, err)
	if err != nil {
		o.report.Reason = "promoted and open, but not verified: " + err.Error()
	}
	// In the ledger before the record is closed: after that nobody would know
	// that the entry is missing.
	o.report.Outcome, o.report.EndedAt = Completed, time.Now().UTC()
	if err := o.saveReport(ctx); err != nil {
		return fmt.Errorf("close the operation's record: %w", err)
	}
	// The primary is open whether or not this member's own route works: the
	// record says so, and the report says what could not be verified.
	uerr := o.update(ctx, func(s *election.State) error {
		s.Primary.Phase = election.Open
		s.Operation = nil
		return nil
	})
	if uerr != nil {
		return fmt.Errorf("close the operation's record: %w", uerr)
	}
	return nil
}
