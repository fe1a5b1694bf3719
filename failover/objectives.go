package failover

import (
	"cmp"
	"math"
	"slices"
	"time"

	"interrex/election"
	"interrex/internal/topology"
)

// Objectives are what the operator promised for the cluster.
type Objectives struct {
	// RTO is how long writes may be out in one operation; 0 sets no objective.
	RTO time.Duration
	// RPO is how many acknowledged commits one operation may lose.
	RPO uint64
}

// Attainment is the ledger measured against the objectives.
type Attainment struct {
	At    time.Time `json:"at"`
	Since time.Time `json:"since"` // since when the ledger is complete; nothing before it counts
	// RTOObjectiveMS is 0 when no objective is set.
	RTOObjectiveMS float64 `json:"rto_objective_ms"`
	RPOObjective   uint64  `json:"rpo_objective_lost_commits"`
	// Last is the newest operation that ended with a primary; nil before any.
	Last    *Outage            `json:"last,omitempty"`
	Windows []WindowAttainment `json:"windows"`
}

// Outage is one operation as writers saw it.
type Outage struct {
	Epoch       topology.Epoch `json:"epoch"`
	Kind        election.Kind  `json:"kind"`
	EndedAt     time.Time      `json:"ended_at"`
	RTOMillis   float64        `json:"rto_ms"`
	RTOMet      bool           `json:"rto_met"`
	LostCommits *uint64        `json:"lost_commits"` // nil: not known
}

// WindowAttainment is how the objectives were met in the time up to now.
type WindowAttainment struct {
	Window string `json:"window"` // 1d, 30d, 365d
	// ObservedSeconds is how much of the window the ledger covers.
	ObservedSeconds float64 `json:"observed_seconds"`
	Operations      int     `json:"operations"`
	// WorstRTOMillis counts an outage that has not ended with its length so
	// far; nil when nothing happened.
	WorstRTOMillis *float64       `json:"worst_rto_ms"`
	WorstEpoch     topology.Epoch `json:"worst_epoch,omitempty"`
	RTOMissed      int            `json:"rto_missed"` // operations over the objective
	RTOMet         bool           `json:"rto_met"`
	LostCommits    uint64         `json:"lost_commits"` // of the operations whose loss is known
	LossUnknown    int            `json:"loss_unknown"` // operations whose loss is not known
	// RPOMet is nil while it depends on a loss that is not known.
	RPOMet *bool `json:"rpo_met"`
	// DowntimeSeconds is an upper bound: every outage with its RTO's upper
	// bound, overlapping ones once.
	DowntimeSeconds float64 `json:"downtime_seconds"`
	Availability    float64 `json:"availability"` // 1 is always; of the observed time
	// Nines is −log10(1 − availability); nil when there was no downtime.
	Nines  *float64 `json:"nines"`
	Budget []Budget `json:"budget"`
}

// Budget is the downtime a target availability leaves in the whole window.
type Budget struct {
	Target  string  `json:"target"` // percent, "99.99"
	Allowed float64 `json:"allowed_seconds"`
	Left    float64 `json:"left_seconds"` // negative: overspent
}

type span struct{ from, to time.Time }

// measured is a report with the time it kept writes out.
type measured struct {
	report *Report
	span   span
	rto    time.Duration
	ended  bool // a primary served afterwards
}

// ComputeObjectives measures the reports, in any order, against o. since is
// when the cluster began to keep the ledger. It is pure.
func ComputeObjectives(now time.Time, o Objectives, reports []Report, since time.Time) Attainment {
	if since.After(now) {
		since = now
	}
	all := measureReports(now, reports)
	a := Attainment{At: now, Since: since, RTOObjectiveMS: millis(o.RTO), RPOObjective: o.RPO}
	for _, m := range slices.Backward(all) {
		if m.ended {
			a.Last = &Outage{
				Epoch: m.report.Epoch, Kind: m.report.Kind, EndedAt: m.report.EndedAt,
				RTOMillis: millis(m.rto), RTOMet: o.meets(m), LostCommits: m.report.RPO.LostCommits,
			}
			break
		}
	}
	for _, w := range []struct {
		name string
		days time.Duration
	}{{"1d", 1}, {"30d", 30}, {"365d", 365}} {
		a.Windows = append(a.Windows, o.window(w.name, w.days*24*time.Hour, now, since, all))
	}
	return a
}

func (o Objectives) meets(m measured) bool {
	return m.ended && (o.RTO <= 0 || m.rto <= o.RTO)
}

// measureReports orders the operations that kept writes out by epoch. One that
// ended without a primary lasts until the next that has one, or until now.
// Bootstrap is left out: before it there was nothing to be down.
func measureReports(now time.Time, reports []Report) []measured {
	sorted := slices.Clone(reports)
	slices.SortFunc(sorted, func(a, b Report) int { return cmp.Compare(a.Epoch, b.Epoch) })
	var out []measured
	restored := now // when the next operation that ended with a primary did
	for i := range slices.Backward(sorted) {
		r := &sorted[i]
		ended := r.Outcome == Completed || r.Outcome == Undone
		m := measured{report: r, ended: ended}
		if ended {
			restored = r.EndedAt
			m.rto = time.Duration(r.RTOMillis * float64(time.Millisecond))
			m.span = span{r.EndedAt.Add(-m.rto), r.EndedAt}
		} else {
			m.span = span{r.StartedAt, restored}
			m.rto = max(0, restored.Sub(r.StartedAt))
		}
		if r.Kind != election.Bootstrap {
			out = append(out, m)
		}
	}
	slices.Reverse(out)
	return out
}

func (o Objectives) window(name string, length time.Duration, now, since time.Time, all []measured) WindowAttainment {
	from := now.Add(-length)
	if since.After(from) {
		from = since
	}
	w := WindowAttainment{Window: name, ObservedSeconds: now.Sub(from).Seconds(), RTOMet: true}
	over := false
	var spans []span
	for _, m := range all {
		if m.span.to.Before(from) {
			continue
		}
		w.Operations++
		spans = append(spans, span{later(m.span.from, from), m.span.to})
		if ms := millis(m.rto); w.WorstRTOMillis == nil || ms > *w.WorstRTOMillis {
			w.WorstRTOMillis, w.WorstEpoch = &ms, m.report.Epoch
		}
		if !o.meets(m) {
			w.RTOMissed++
			w.RTOMet = false
		}
		switch lost := m.report.RPO.LostCommits; {
		case lost != nil:
			w.LostCommits += *lost
			over = over || *lost > o.RPO
		default:
			w.LossUnknown++
		}
	}
	if over || w.LossUnknown == 0 {
		met := !over
		w.RPOMet = &met
	}
	w.spend(length, downtime(spans))
	return w
}

// spend fills in what follows from the downtime.
func (w *WindowAttainment) spend(length, down time.Duration) {
	w.DowntimeSeconds = down.Seconds()
	w.Availability = 1
	if down > 0 && w.ObservedSeconds > 0 {
		out := min(1, w.DowntimeSeconds/w.ObservedSeconds)
		w.Availability = 1 - out
		nines := -math.Log10(out)
		if nines == 0 {
			nines = 0 // −0 would print as such
		}
		w.Nines = &nines
	}
	for _, t := range []struct {
		name string
		out  float64 // share of the time that may be down
	}{{"99.9", 1e-3}, {"99.95", 5e-4}, {"99.99", 1e-4}, {"99.999", 1e-5}} {
		allowed := length.Seconds() * t.out
		w.Budget = append(w.Budget, Budget{Target: t.name, Allowed: allowed, Left: allowed - w.DowntimeSeconds})
	}
}

// downtime is the length of the union of the spans.
func downtime(spans []span) time.Duration {
	slices.SortFunc(spans, func(a, b span) int { return a.from.Compare(b.from) })
	var sum time.Duration
	var covered time.Time
	for _, s := range spans {
		begin := later(s.from, covered)
		if s.to.After(begin) {
			sum += s.to.Sub(begin)
			covered = s.to
		}
	}
	return sum
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
