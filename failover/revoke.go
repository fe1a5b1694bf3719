package failover

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"interrex/election"
	"interrex/internal/topology"
)

// answer is what one instance said to a revocation or a survey.
type answer struct {
	node   topology.NodeName
	frozen Frozen
	err    error
}

// freezeAll revokes for every kind but a switchover. For a failover all
// instances are frozen in parallel and the old primary is told to isolate
// itself; as soon as I1 is proven it goes on. Bootstrap needs everybody.
// Resume freezes nobody: the primary stays, and so do its replicas.
func (o *operation) freezeAll(ctx context.Context, epoch topology.Epoch) (survey, error) {
	if o.plan.Kind == election.Resume {
		return o.look(ctx, epoch)
	}
	rctx, cancel := context.WithTimeout(ctx, o.limits.Revoke)
	old := o.plan.From
	answers := o.ask(rctx, cancel, func(ctx context.Context, m topology.Member, n Node) (Frozen, error) {
		if m.Name == old && o.plan.Past == "" { // which names a former one
			if _, err := n.Close(ctx, CloseRequest{Epoch: epoch, Limit: time.Second, Isolate: true}); err != nil {
				return Frozen{}, err
			}
		}
		return n.Freeze(ctx, FreezeRequest{Epoch: epoch})
	})
	wantAll := o.plan.Kind == election.Bootstrap
	sv := o.gather(answers, o.plan.From, func(s survey) bool {
		if wantAll || !s.proven() {
			return false
		}
		// The proof alone is of no use without a candidate and those who will
		// acknowledge it: a busy host answers late.
		p := o.choosePolicy()
		p.minFollowers = max(p.minFollowers, 1) // with fewer only when nobody else answers
		_, _, err := chooseCandidate(s, p)
		return err == nil
	})
	switch {
	case wantAll && len(sv.silent) > 0:
		return sv, fmt.Errorf("%w: bootstrap needs every instance: %s", ErrNoProof, sv.summary(areFrozen))
	case !sv.proven() && o.plan.Force == nil:
		return sv, fmt.Errorf("%w: %s; waiting for %s", ErrNoProof, sv.summary(areFrozen), missingFor(sv, o.plan.Register, old))
	}
	return sv, nil
}

// missingFor names who could complete the proof: those that have not answered,
// if they come back without having restarted. One that answers and proves
// nothing has to catch up with the old primary first.
func missingFor(s survey, reg election.Register, old topology.NodeName) string {
	var names []string
	for _, a := range reg.Ackers {
		if _, silent := s.silent[a]; silent && !s.has(a) {
			names = append(names, string(a))
		}
	}
	short := s.needed - len(s.counted)
	if len(names) < short {
		return fmt.Sprintf("the old primary %s itself: nobody else can make up for it", old)
	}
	return fmt.Sprintf("%d of [%s], if the server there has not restarted, or for the old primary %s itself", short, strings.Join(names, " "), old)
}

// ask sends one order to every member with an instance, in parallel. The
// channel gets one answer each and is closed after the last; release is
// called then. Nothing waits for a host that stays silent beyond ctx.
func (o *operation) ask(ctx context.Context, release context.CancelFunc, order func(context.Context, topology.Member, Node) (Frozen, error)) <-chan answer {
	var asked []topology.Member
	for _, m := range o.plan.Members {
		if m.HasInstance() {
			asked = append(asked, m)
		}
	}
	answers := make(chan answer, len(asked))
	pending := make(chan struct{}, len(asked))
	for _, m := range asked {
		o.wg.Add(1)
		go func() {
			defer o.wg.Done()
			defer func() { pending <- struct{}{} }()
			node, err := o.nodes.Node(m.Name)
			if err != nil {
				answers <- answer{node: m.Name, err: err}
				return
			}
			f, err := order(ctx, m, node)
			f.Site = m.Site
			answers <- answer{node: m.Name, frozen: f, err: err}
		}()
	}
	o.wg.Add(1)
	go func() {
		defer o.wg.Done()
		defer release()
		for range asked {
			<-pending
		}
		close(answers)
	}()
	return answers
}

// gather collects answers until all have answered, or enough says so and all
// but the dispensable node have, or a short grace for them has passed.
func (o *operation) gather(answers <-chan answer, dispensable topology.NodeName, enough func(survey) bool) survey {
	var (
		seen    []Frozen
		errs    = map[topology.NodeName]string{}
		grace   <-chan time.Time
		pending = map[topology.NodeName]bool{}
	)
	for _, m := range o.plan.Members {
		if m.HasInstance() && m.Name != dispensable {
			pending[m.Name] = true
		}
	}
	for {
		select {
		case a, ok := <-answers:
			if !ok {
				return o.surveyOf(seen, errs)
			}
			if a.err != nil {
				errs[a.node] = a.err.Error()
			} else {
				seen = append(seen, a.frozen)
			}
			delete(pending, a.node)
			if !enough(o.surveyOf(seen, errs)) {
				continue
			}
			if len(pending) == 0 {
				return o.surveyOf(seen, errs)
			}
			if grace == nil {
				wait := graceForOthers
				if o.plan.Kind == election.Switchover || o.plan.Kind == election.Resume {
					wait = graceForFollowers
				}
				t := time.NewTimer(wait)
				defer t.Stop()
				grace = t.C
			}
		case <-grace:
			return o.surveyOf(seen, errs)
		}
	}
}

// surveyOf judges answers by the record, if that can be believed.
func (o *operation) surveyOf(seen []Frozen, errs map[topology.NodeName]string) survey {
	s := surveyOf(seen, errs, o.plan.Old, o.plan.Register)
	if o.plan.Past != "" {
		s = unbelieved(s)
	}
	return s
}

// drain closes the living primary of a switchover: running transactions end
// by themselves or are ended, and the return of the closing statement proves
// that nothing more commits.
func (o *operation) drain(ctx context.Context, epoch topology.Epoch) (sv survey, how string, err error) {
	old, err := o.nodes.Node(o.plan.From)
	if err != nil {
		return sv, "", err
	}
	// From here on the record, too, says that the routes are closed.
	err = o.update(ctx, func(s *election.State) error {
		s.Operation.Step = stepRevoke
		return nil
	})
	if err != nil {
		return sv, "", err
	}
	o.closeRoutes(ctx, epoch)
	limit := o.limits.Switchover / 2
	cctx, cancel := context.WithTimeout(ctx, limit+time.Second)
	defer cancel()
	closing := time.Now()
	closed, err := old.Close(cctx, CloseRequest{Epoch: epoch, Drain: limit / 2, Limit: limit})
	if err != nil {
		return sv, "", err
	}
	o.drainedAt = time.Now()
	// The sessions that are left could only be refused from now on. Cut off,
	// an idle client connects again, is held at the routes and sees nothing
	// but latency.
	o.cutRoutes(ctx, epoch)
	sv, err = o.look(ctx, epoch)
	if err == nil && !sv.oldClosed {
		err = fmt.Errorf("%w: %s was closed and is not any more: %s", ErrNoProof, o.plan.From, sv.silent[o.plan.From])
	}
	how = fmt.Sprintf("routes held in %s, %s closed in %s, %d sessions ended, all asked in %s",
		ms(closing.Sub(o.closedAt)), o.plan.From, ms(o.drainedAt.Sub(closing)), closed.Killed, ms(time.Since(o.drainedAt)))
	return sv, how, err
}

// look surveys without stopping any receiver. The recorded primary promises
// the epoch; the others are asked how they are.
func (o *operation) look(ctx context.Context, epoch topology.Epoch) (survey, error) {
	lctx, cancel := context.WithTimeout(ctx, time.Second)
	from, to := o.plan.From, o.plan.To
	answers := o.ask(lctx, cancel, func(ctx context.Context, m topology.Member, n Node) (Frozen, error) {
		if m.Name == from {
			return n.Freeze(ctx, FreezeRequest{Epoch: epoch})
		}
		st, err := n.Status(ctx)
		if err != nil {
			return Frozen{}, err
		}
		if st.Instance == nil {
			return Frozen{}, fmt.Errorf("%w: %s", ErrNoInstance, st.InstanceError)
		}
		return frozenOf(m, *st.Instance, st.Certified), nil
	})
	sv := o.gather(answers, "", func(s survey) bool {
		return s.has(from) && (to == "" || s.has(to)) && len(s.seen) > max(o.plan.Acks, 1)
	})
	i := slices.IndexFunc(sv.seen, func(f Frozen) bool { return f.Node == from })
	if i < 0 {
		return sv, fmt.Errorf("primary %s does not answer: %s: %w", from, sv.silent[from], ErrNoInstance)
	}
	if why := changedOf(sv.seen[i], *o.plan.Old); why != "" {
		return sv, fmt.Errorf("%w: primary %s: %s", ErrNoProof, from, why)
	}
	if lost, by := forgotten(sv.seen[i], sv.seen, o.plan.Register); by != "" {
		return sv, fmt.Errorf("%w: primary %s: %s", ErrNoProof, from, forgottenText(lost, by))
	}
	sv.union = sv.seen[i].Executed
	return sv, nil
}
