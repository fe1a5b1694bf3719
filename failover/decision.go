package failover

import (
	"maps"
	"slices"
	"time"

	"interrex/election"
	"interrex/internal/topology"
)

// DecisionOutcome is what an episode of evidence against an instance came to.
type DecisionOutcome string

// The outcomes.
const (
	// DecisionOpen: the evidence still stands.
	DecisionOpen DecisionOutcome = "open"
	// DecisionRecovered: it answered again, and nothing was moved.
	DecisionRecovered DecisionOutcome = "recovered"
	// DecisionFailedOver: another instance was made the primary.
	DecisionFailedOver DecisionOutcome = "failed_over"
	// DecisionResumed: the same instance was made the primary once more.
	DecisionResumed DecisionOutcome = "resumed"
	// DecisionLapsed: the instance belongs to no member any more, or the agent
	// ended before it was over.
	DecisionLapsed DecisionOutcome = "lapsed"
)

// Decision is one episode in which an instance was suspect or failed in the
// eyes of one member, and why it did or did not lead to a failover.
type Decision struct {
	// ID is the member that judged, and a number of its own.
	ID      string            `json:"id"`
	By      topology.NodeName `json:"by"`
	Subject topology.NodeName `json:"subject"`
	// Primary tells whether the subject was the recorded primary.
	Primary bool `json:"primary"`
	// Led tells whether By led while the evidence stood: then its gates decided.
	Led     bool            `json:"led"`
	Outcome DecisionOutcome `json:"outcome"`
	// Epoch is that of the operation which ended it; 0 if none did.
	Epoch topology.Epoch `json:"epoch,omitempty"`
	// BeganAt and EndedAt are by the member's wall clock; Lasted is not.
	BeganAt time.Time     `json:"began_at"`
	EndedAt time.Time     `json:"ended_at"`
	Lasted  time.Duration `json:"lasted_ns"`
	// Times is how often the evidence came and went: what begins anew shortly
	// after it ended is one episode.
	Times int `json:"times"`
	// Worst is the judgement in which most spoke against the instance.
	Worst Judgement `json:"worst"`
	// Held are the gates that held a failover back while the verdict was failed.
	Held []HeldBack `json:"held,omitempty"`

	began, healthy time.Time // monotonic
	epoch          topology.Epoch
}

// HeldBack is a gate that was closed while a failover was due.
type HeldBack struct {
	Gate   string        `json:"gate"`
	Reason string        `json:"reason"` // the last one it gave
	For    time.Duration `json:"for_ns"` // from when it was first seen closed

	since time.Time
}

// sameEpisode is how soon evidence has to come back to be the same episode.
const sameEpisode = 10 * time.Second

// episodes follows what is decided about each instance. It is pure: what it
// does depends on what it is shown alone.
type episodes struct {
	self topology.NodeName
	next int
	open map[topology.NodeName]*Decision
}

// observe takes in how things are at now and returns the episodes that are
// over. gates are those of a failover.
func (e *episodes) observe(now time.Time, v View, judged []Judgement, gates []Gate) (over []Decision) {
	for _, j := range judged {
		d := e.open[j.Subject]
		if d != nil && !d.Primary && isPrimary(v, j.Subject) {
			// What was seen of it as a replica is another matter.
			if d.healthy.IsZero() {
				d.healthy = now
			}
			d.end(d.healthy, DecisionRecovered)
			over = append(over, *d)
			delete(e.open, j.Subject)
			d = nil
		}
		accused := j.Verdict == topology.Suspect || j.Verdict == topology.Failed
		if d == nil && accused {
			e.next++
			d = e.begin(now, v, j)
			e.open[j.Subject] = d
		}
		if d == nil {
			continue
		}
		d.Led = d.Led || v.Leadership.Mine
		if accused {
			d.accuse(now, j, gates)
		}
		if d.settle(now, v.State, j) {
			over = append(over, *d)
			delete(e.open, j.Subject)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.open)) {
		if !slices.ContainsFunc(judged, func(j Judgement) bool { return j.Subject == name }) {
			d := e.open[name]
			d.end(now, DecisionLapsed)
			over = append(over, *d)
			delete(e.open, name)
		}
	}
	return over
}

func isPrimary(v View, name topology.NodeName) bool {
	return v.State.Primary != nil && v.State.Primary.Node == name
}

func (e *episodes) begin(now time.Time, v View, j Judgement) *Decision {
	return &Decision{
		ID: decisionID(e.self, e.next), By: e.self, Subject: j.Subject, Primary: isPrimary(v, j.Subject),
		Outcome: DecisionOpen, BeganAt: now.Add(-j.FirstBad).UTC().Round(0), began: now.Add(-j.FirstBad), epoch: v.State.Epoch,
	}
}

// accuse notes a judgement against the instance, and what holds a failover back.
func (d *Decision) accuse(now time.Time, j Judgement, gates []Gate) {
	if d.Times == 0 || !d.healthy.IsZero() {
		d.Times++
	}
	d.healthy = time.Time{}
	worse := j.Verdict == topology.Failed && d.Worst.Verdict != topology.Failed ||
		j.Verdict == d.Worst.Verdict && j.against() > d.Worst.against()
	if d.Worst.Verdict == topology.Unknown || worse {
		d.Worst = j
	}
	d.Lasted = now.Sub(d.began)
	if !d.Primary || j.Verdict != topology.Failed {
		return
	}
	for _, g := range gates {
		if g.Operation == election.Failover && !g.Open && g.Name != gateFailed {
			d.hold(now, g)
		}
	}
}

func (d *Decision) hold(now time.Time, g Gate) {
	for i := range d.Held {
		if h := &d.Held[i]; h.Gate == g.Name {
			h.Reason, h.For = g.Reason, now.Sub(h.since)
			return
		}
	}
	d.Held = append(d.Held, HeldBack{Gate: g.Name, Reason: g.Reason, since: now})
}

// settle tells whether the episode is over.
func (d *Decision) settle(now time.Time, s election.State, j Judgement) bool {
	p := s.Primary
	moved := p != nil && s.Epoch > d.epoch && s.Epoch == p.Epoch && p.Phase == election.Open && s.Operation == nil
	switch {
	case moved && d.Primary && p.Node != d.Subject:
		d.Epoch = p.Epoch
		d.end(now, DecisionFailedOver)
		return true
	case j.Verdict != topology.Healthy:
		return false
	case d.healthy.IsZero():
		d.healthy = now
		d.Lasted = now.Sub(d.began)
	}
	if now.Sub(d.healthy) < sameEpisode {
		return false
	}
	if moved && d.Primary {
		d.Epoch = p.Epoch
		d.end(d.healthy, DecisionResumed)
		return true
	}
	d.end(d.healthy, DecisionRecovered)
	return true
}

func (d *Decision) end(now time.Time, outcome DecisionOutcome) {
	d.Outcome, d.EndedAt, d.Lasted = outcome, now.UTC().Round(0), now.Sub(d.began)
}
