package detector

import (
	"context"
	"fmt"
	"sync"
	"time"

	"interrex/internal/topology"
)

// assign keeps one probe loop per subject, and waits for all of them at the
// end.
func (d *Detector) assign(ctx context.Context) {
	type running struct {
		address string
		stop    context.CancelFunc
		done    chan struct{}
	}
	loops := map[topology.NodeName]running{}
	var all sync.WaitGroup
	defer all.Wait()
	for {
		d.mu.Lock()
		wanted := make(map[topology.NodeName]Subject, len(d.subjects))
		for name, s := range d.subjects {
			wanted[name] = s
		}
		d.mu.Unlock()
		for name, l := range loops {
			if s, ok := wanted[name]; !ok || s.Address != l.address {
				l.stop()
				<-l.done // a prober is used by one loop at a time
				delete(loops, name)
				d.dropNudge(name)
			}
		}
		for name, s := range wanted {
			if _, ok := loops[name]; ok {
				continue
			}
			lctx, stop := context.WithCancel(ctx)
			l := running{s.Address, stop, make(chan struct{})}
			loops[name] = l
			p, suspicion := d.probeLoop(s)
			all.Go(func() {
				defer close(l.done)
				defer stop()
				var writes sync.WaitGroup
				if s.Writer != nil {
					writes.Go(func() { d.tryWrites(lctx, s, suspicion) })
				}
				p.run(lctx)
				writes.Wait()
			})
		}
		select {
		case <-ctx.Done():
			return
		case <-d.reassign:
		}
	}
}

func (d *Detector) probeLoop(s Subject) (p *probeLoop, suspicion <-chan struct{}) {
	p = &probeLoop{
		subject: s, w: d.w, classify: d.deps.Classify, nudge: make(chan struct{}, 1),
		tell: d.answered, stalled: d.heldUp,
	}
	suspected := make(chan struct{}, 1)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nudges[s.Name], d.suspicions[s.Name] = p.nudge, suspected
	return p, suspected
}

func (d *Detector) dropNudge(name topology.NodeName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.nudges, name)
	delete(d.suspicions, name)
	delete(d.open, name)
}

// heldUp notes that this process did not run for a while.
func (d *Detector) heldUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stalledAt = time.Now()
}

// answered turns an answer to a probe into evidence.
func (d *Detector) answered(s Subject, a answer) {
	if !d.isSubject(s.Name) {
		return
	}
	d.noteOpen(s.Name, a)
	asked := time.Since(a.began)
	ev := Evidence{Subject: s.Name, Kind: a.kind, Misses: a.misses, Round: a.round, Detail: a.detail}
	switch {
	case a.kind.Good(), a.kind == Erring:
		ev.Age, ev.Since = asked, asked
	case a.kind.timeout():
		ev.Since = asked
	}
	d.record(ev)
	if !s.Local || a.reading == nil {
		return
	}
	d.noteAcks(s.Name, a.reading.Acks)
	source := topology.NodeName("")
	if r := a.reading.Receiver; r != nil && d.isSubject(r.Source) {
		source = r.Source
		kind := ReceiverOn
		if r.Lost {
			kind = ReceiverLost
		}
		d.record(Evidence{Subject: source, Kind: kind, Age: asked, Since: asked, Detail: r.Detail})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.store.forget(func(k slot) bool {
		return k.observer == d.cfg.Self && k.group == groupReceiver && k.subject != source
	})
}

func (d *Detector) isSubject(n topology.NodeName) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.subjects[n]
	return ok
}

// noteAcks turns the waiting commits of the own instance into evidence.
func (d *Detector) noteAcks(self topology.NodeName, acks *Acks) {
	now := time.Now()
	d.mu.Lock()
	since := d.starving.look(now, acks)
	d.mu.Unlock()
	if since.IsZero() || now.Sub(since) < d.w.Starved {
		d.retract(self, groupAcks)
		return
	}
	d.record(Evidence{Subject: self, Kind: Starved, Since: now.Sub(since)})
}

// noteIsolation tells, of the own instance, whether this member hears a
// majority of the registered ones, itself included.
func (d *Detector) noteIsolation(now time.Time) {
	d.mu.Lock()
	heard := 0
	for _, m := range d.registered {
		if last := d.store.heard(m, now); m == d.cfg.Self || last >= 0 && last <= d.w.Freshness {
			heard++
		}
	}
	needed, total := majority(d.registered), len(d.registered)
	_, subject := d.subjects[d.cfg.Self]
	d.mu.Unlock()
	switch {
	case !subject:
	case heard < needed:
		d.record(Evidence{Subject: d.cfg.Self, Kind: Isolated, Detail: fmt.Sprintf("hears %d of %d", heard, total)})
	default:
		d.retract(d.cfg.Self, groupIsolation)
	}
}
