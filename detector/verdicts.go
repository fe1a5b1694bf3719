package detector

import (
	"context"
	"time"

	"go.uber.org/zap"

	"interrex/internal/topology"
)

// judgement is the pure judgement over what is known now. d.mu is held here
// and below.
func (d *Detector) judgement(m matter, now time.Time) Judgement {
	if m.member {
		return judgeMember(now, d.w, d.registered, m.name, d.store.about(m.name, true), d.store.heard(m.name, now))
	}
	return judge(now, d.w, d.registered, m.name, d.store.all(m.name))
}

// weigh is judgement without the words.
func (d *Detector) weigh(m matter, now time.Time) Judgement {
	if m.member {
		return weighMember(now, d.w, d.registered, m.name, d.store.about(m.name, true), d.store.heard(m.name, now))
	}
	return weigh(now, d.w, d.registered, m.name, d.store.all(m.name))
}

// judge renews one opinion and wakes the reader of Changes if it is another.
func (d *Detector) judge(m matter, now time.Time) {
	if m.member {
		// What became of its agent is in the verdict on an instance.
		defer d.judge(matter{name: m.name}, now)
	}
	if _, ok := d.subjects[m.name]; !m.member && !ok {
		return
	}
	j := d.weigh(m, now)
	old := d.verdicts[m]
	next := opinion{verdict: j.Verdict, cause: j.Cause}
	if j.next > 0 {
		next.due = now.Add(j.next)
	}
	d.verdicts[m] = next
	if !next.due.IsZero() && (d.due.IsZero() || next.due.Before(d.due)) {
		d.due = next.due
		wake(d.rejudge)
	}
	if old.verdict == next.verdict && old.cause == next.cause {
		return
	}
	wake(d.changes)
	if old.verdict != next.verdict {
		d.tell(m, old.verdict, j)
	}
}

// rejudges tells whether evidence on a matter may change the opinion on it. What
// repeats that a healthy instance or member works changes no vote; that it lasts
// longer then is noticed when the opinion is due.
func (d *Detector) rejudges(m matter, ev Evidence, before *Evidence) bool {
	return before == nil || d.verdicts[m].verdict != topology.Healthy || !ev.repeats(*before, d.w.Freshness)
}

func (d *Detector) tell(m matter, before topology.Verdict, j Judgement) {
	what := "instance"
	if m.member {
		what = "member"
	}
	log := d.log.Info
	if j.Verdict == topology.Failed {
		log = d.log.Warn
	}
	log("verdict", zap.String(what, string(m.name)), zap.Stringer("verdict", j.Verdict),
		zap.Stringer("before", before), zap.String("cause", string(j.Cause)), zap.String("explanation", explain(j)))
}

func (d *Detector) judgeAll() {
	now := time.Now()
	for name := range d.subjects {
		d.judge(matter{name: name}, now)
	}
	for _, name := range d.registered {
		if name != d.cfg.Self {
			d.judge(matter{name: name, member: true}, now)
		}
	}
}

// watchTime renews opinions that time alone may have changed: evidence ages
// and settles without any event.
func (d *Detector) watchTime(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			d.judgeDue()
		case <-d.rejudge:
		}
		d.mu.Lock()
		due := d.due
		d.mu.Unlock()
		if due.IsZero() {
			timer.Stop()
			continue
		}
		timer.Reset(time.Until(due))
	}
}

func (d *Detector) judgeDue() {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	d.due = time.Time{}
	for m, o := range d.verdicts {
		if o.due.IsZero() {
			continue
		}
		if !o.due.After(now) {
			d.judge(m, now)
			continue
		}
		if d.due.IsZero() || o.due.Before(d.due) {
			d.due = o.due
		}
	}
}
