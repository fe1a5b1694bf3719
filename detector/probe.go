package detector

import (
	"context"
	"time"

	"interrex/internal/topology"
)

// Prober asks one instance how it is. It is called by one goroutine at a time
// and keeps its connection between calls; after an error it connects anew at
// the next one.
type Prober interface {
	// Probe returns within ctx; its deadline (Windows.Timeout) covers
	// connecting too. The error is read by Deps.Classify.
	Probe(ctx context.Context) (Reading, error)
}

// Reading is the answer to a probe.
type Reading struct {
	// Closed: the instance is super_read_only.
	Closed bool
	// Saturated: its connections are used up and the reserved one got through, or
	// it executes more at once than it can get done. Detail says which.
	Saturated bool
	// Receiver is the state of its receiver; nil when no replication is
	// configured. Used of the local instance only.
	Receiver *Receiver
	// Acks is how the commits of an open primary fare; nil where none wait for
	// acknowledgements. Used of the local instance only.
	Acks *Acks
	// Detail is shown to people, if it says anything.
	Detail string
}

// Acks are the commits of a primary that waits for acknowledgements.
type Acks struct {
	Waiting      int    // commits that wait now
	Acknowledged uint64 // commits that have been acknowledged, ever
}

// Receiver is a replica's own view of its source.
type Receiver struct {
	Source topology.NodeName
	// Lost: the receiver should be connected to Source and is not. It is not
	// lost while it is stopped by our own order. One whose source's heartbeats
	// stopped is lost, whatever it takes itself for.
	Lost   bool
	Detail string
}

// Subject is an instance to be judged.
type Subject struct {
	Name topology.NodeName
	// Address tells a moved instance: a subject whose address changes is
	// probed with its new Prober.
	Address string
	Prober  Prober
	// Writer tries its writes; nil: nobody does from here.
	Writer Writer
	// Local: it is this member's own instance.
	Local bool
}

// answer is what came of one probe, or of waiting for it.
type answer struct {
	kind    Kind
	began   time.Time // when the probe was sent
	misses  int
	round   uint64
	detail  string
	reading *Reading // nil unless answered
}

// probeLoop probes one subject until its context ends.
type probeLoop struct {
	subject  Subject
	w        Windows
	classify func(error) Kind
	// nudge asks for a probe now.
	nudge chan struct{}
	// tell takes each answer; stalled tells that this process itself was
	// held up, so that what it thought it saw is void.
	tell    func(Subject, answer)
	stalled func()

	misses int
	round  uint64
	bad    bool // the last answer was bad
}

type outcome struct {
	reading Reading
	err     error
	at      time.Time
}

// run owns the goroutine of each probe: it ends when the last one has.
func (p *probeLoop) run(ctx context.Context) {
	for ctx.Err() == nil {
		select { // whoever asked for a probe so far gets this one
		case <-p.nudge:
		default:
		}
		began := time.Now()
		p.round++
		again := p.once(ctx, began)
		p.pause(ctx, began, again)
	}
}

// pause waits for the next tick, a nudge, or only for the least distance
// between two probes (a tenth of the interval) if again.
func (p *probeLoop) pause(ctx context.Context, began time.Time, again bool) {
	least := time.NewTimer(time.Until(began.Add(p.w.Interval / 10)))
	defer least.Stop()
	select {
	case <-ctx.Done():
		return
	case <-least.C:
	}
	if again {
		return
	}
	tick := time.NewTimer(time.Until(began.Add(p.w.Interval)))
	defer tick.Stop()
	select {
	case <-ctx.Done():
	case <-tick.C:
	case <-p.nudge:
	}
}

// once probes, tells what came of it, and returns whether to look again at
// once: after a time-out (it took long enough) and when a run of bad answers
// begins with a broken connection.
func (p *probeLoop) once(ctx context.Context, began time.Time) (again bool) {
	pctx, cancel := context.WithDeadline(ctx, began.Add(p.w.Timeout))
	defer cancel()
	done := make(chan outcome, 1)
	go func() {
		r, err := p.subject.Prober.Probe(pctx)
		done <- outcome{r, err, time.Now()}
	}()
	hint := time.NewTimer(p.w.Hint)
	defer hint.Stop()
	// A prober that overstays its deadline is a time-out each time it does.
	limit := p.w.Timeout + p.w.Timeout/2
	over := time.NewTimer(limit)
	defer over.Stop()
	due, overstayed := began.Add(limit), false
	for {
		select {
		case <-hint.C:
			p.tell(p.subject, answer{kind: Unanswered, began: began, round: p.round})
		case <-over.C:
			if ctx.Err() != nil {
				continue // only waiting for the prober to return
			}
			if late := time.Since(due); late > p.w.Timeout/2 {
				p.misses = 0
				p.stalled()
			} else {
				p.miss(Frozen, began, "the probe does not return")
				overstayed = true
			}
			due = time.Now().Add(p.w.Timeout)
			over.Reset(p.w.Timeout)
		case o := <-done:
			if ctx.Err() != nil {
				return false
			}
			if overstayed && o.err != nil {
				return true
			}
			return p.settle(o, began)
		}
	}
}

// settle tells a finished probe's outcome.
func (p *probeLoop) settle(o outcome, began time.Time) (again bool) {
	if o.err == nil {
		kind := Alive
		switch {
		case o.reading.Saturated:
			kind = Saturated
		case o.reading.Closed:
			kind = Closed
		}
		p.misses, p.bad = 0, false
		p.tell(p.subject, answer{kind: kind, began: began, round: p.round, detail: o.reading.Detail, reading: &o.reading})
		return false
	}
	kind := p.classify(o.err)
	switch {
	case kind.timeout():
		// Check the deadline after the wait: if this process did not run
		// when it passed, the time-out is its own.
		if o.at.Sub(began) > p.w.Timeout+p.w.Timeout/2 {
			p.misses = 0
			p.stalled()
			return true
		}
		p.miss(kind, began, o.err.Error())
		return true
	case kind.group() != groupProbe || kind.Good() && kind != Saturated:
		kind = Erring
	}
	first := !p.bad
	p.bad = kind.Bad()
	if !kind.Bad() { // it answered: with an error, or that it is full
		p.misses = 0
	}
	p.tell(p.subject, answer{kind: kind, began: began, misses: p.misses, round: p.round, detail: o.err.Error()})
	return first && kind == ConnectionBroken
}

func (p *probeLoop) miss(kind Kind, began time.Time, detail string) {
	p.misses++
	p.bad = true
	p.tell(p.subject, answer{kind: kind, began: began, misses: p.misses, round: p.round, detail: detail})
}
