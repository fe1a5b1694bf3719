package detector

import (
	"context"
	"time"

	"go.uber.org/zap"

	"interrex/internal/topology"
)

// Writer tries whether one instance takes a small durable write, on a
// connection of its own. It is called by one goroutine at a time, and never
// again before what it gave up on is gone.
type Writer interface {
	// TryWrite writes what waits for no acknowledgement and is in no binary
	// log, and asks the writer of the binary log for its place, within ctx
	// (Windows.WriteTimeout). grow: it also has the server make a file, which
	// tells a full disk from a busy one.
	//
	// The kind is Writes, WriteStalled, WriteRefused, LogBusy, or empty where
	// nothing can be said of writes: the instance is closed, does not answer, or
	// somebody's lock is in the way.
	TryWrite(ctx context.Context, grow bool) (Kind, string)
	// KeepReady makes what TryWrite needs, within ctx, and keeps it: when writes
	// hang, the instance may let nobody in any more.
	KeepReady(ctx context.Context) error
}

// writePause is the least time between two tries under suspicion.
func (w Windows) writePause() time.Duration { return w.Interval / 2 }

// keepPause is the time between two looks at what a try needs.
func (w Windows) keepPause() time.Duration { return 10 * w.Canary }

// tryWrites tries one subject's writes until ctx ends: its own agent now and
// then, everybody as often as it can under suspicion.
func (d *Detector) tryWrites(ctx context.Context, s Subject, suspicion <-chan struct{}) {
	tick := time.NewTicker(d.w.Canary)
	defer tick.Stop()
	k := keeper{subject: s}
	for {
		suspected, grow := d.suspectsWrites(s.Name)
		open := d.answersOpen(s.Name)
		if open && !suspected {
			d.keepReady(ctx, &k)
		}
		if open && (suspected || s.Local) {
			d.tryWrite(ctx, s, grow)
		}
		wait := tick.C
		if suspected {
			wait = time.After(d.w.writePause())
		}
		select {
		case <-ctx.Done():
			return
		case <-wait:
		case <-suspicion:
		}
	}
}

// keeper is when what a try needs was last there, and what was said of it.
type keeper struct {
	subject Subject
	kept    time.Time
	told    string
}

// keepReady has the writer keep what it needs, now and then in quiet times.
func (d *Detector) keepReady(ctx context.Context, k *keeper) {
	if time.Since(k.kept) < d.w.keepPause() {
		return
	}
	kctx, cancel := context.WithTimeout(ctx, d.w.Timeout)
	defer cancel()
	told := ""
	if err := k.subject.Writer.KeepReady(kctx); err != nil {
		told = err.Error()
	} else {
		k.kept = time.Now()
	}
	if told != "" && told != k.told && ctx.Err() == nil {
		d.log.Warn("writes cannot be tried from here: should they hang, this member may not notice",
			zap.String("instance", string(k.subject.Name)), zap.String("error", told))
	}
	k.told = told
}

// tryWrite tries once and records what came of it.
func (d *Detector) tryWrite(ctx context.Context, s Subject, grow bool) {
	began := time.Now()
	wctx, cancel := context.WithDeadline(ctx, began.Add(d.w.WriteTimeout))
	kind, detail := s.Writer.TryWrite(wctx, grow)
	cancel()
	if ctx.Err() != nil || !d.isSubject(s.Name) {
		return
	}
	took := time.Since(began)
	if kind.group() != groupWrite {
		d.retract(s.Name, groupWrite)
		return
	}
	ev := Evidence{Subject: s.Name, Kind: kind, Detail: detail}
	switch kind {
	case WriteStalled, LogBusy:
		// Who did not run when the time was up has missed the end of it.
		if took > 2*d.w.WriteTimeout {
			d.heldUp()
			return
		}
		ev.Since = took
	case Writes:
		ev.Age, ev.Since = took, took
	}
	d.record(ev)
}

// suspectsWrites tells whether anybody has a fresh reason to doubt that an
// instance can write, and whether its disk may be full.
func (d *Detector) suspectsWrites(name topology.NodeName) (suspected, grow bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for _, s := range d.store.about(name, false) {
		ev := s.later(now)
		if ev.Age > d.w.Freshness {
			continue
		}
		switch ev.Kind {
		case WriteStalled, DiskStalled:
			suspected = true
		case DiskFull, DiskReadOnly, WriteRefused, LogBusy:
			suspected, grow = true, true
		}
	}
	return suspected, grow
}

// raisesSuspicion tells whether evidence of the kind has everybody try writes.
func (k Kind) raisesSuspicion() bool { return k == LogBusy || writeFault(k) && k.Bad() }

// noteOpen remembers whether an instance is open, by the last answer that told.
// Time-outs and the word that its connections are used up do not tell. What
// ended a connection, or refuses one, may have been another process's end: the
// next one starts closed.
func (d *Detector) noteOpen(name topology.NodeName, a answer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case a.reading != nil:
		d.open[name] = !a.reading.Closed
	case a.kind == ConnectionBroken || a.kind == Refused || a.kind == AnotherServer:
		delete(d.open, name)
	}
}

// answersOpen tells whether an instance answers this member's probes and is open
// for writes: a closed one is not written to. One whose connections are used up
// is: that is what clients do when their writes hang.
func (d *Detector) answersOpen(name topology.NodeName) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	ev, ok := d.store.about(name, false).find(time.Now(), d.cfg.Self, groupProbe)
	return ok && (ev.Kind == Alive || ev.Kind == Saturated) && ev.Age <= d.w.Freshness && d.open[name]
}

// retract takes own evidence back that has no contrary; the others' copies age.
func (d *Detector) retract(subject topology.NodeName, g group) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.store.drop(slot{d.cfg.Self, subject, g}) {
		d.judge(matter{name: subject}, time.Now())
	}
}

// starvation finds out since when no waiting commit has been acknowledged.
type starvation struct {
	acked uint64
	since time.Time // zero: nothing waits
}

// look returns since when commits have waited in vain; zero if they do not.
func (s *starvation) look(now time.Time, a *Acks) time.Time {
	switch {
	case a == nil || a.Waiting == 0:
		s.since = time.Time{}
	case s.since.IsZero() || a.Acknowledged != s.acked:
		s.since = now
	}
	if a != nil {
		s.acked = a.Acknowledged
	}
	return s.since
}
