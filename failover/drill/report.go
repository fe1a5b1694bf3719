package drill

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/topology"
)

// Report is a drill: what was done, what clients and cluster say of it, and
// whether the objectives were met.
type Report struct {
	Drill      Kind       `json:"drill"`
	Cluster    string     `json:"cluster"`
	StartedAt  time.Time  `json:"started_at"`
	EndedAt    time.Time  `json:"ended_at"`
	Routes     []string   `json:"routes"` // the prober wrote through
	Objectives Objectives `json:"objectives"`
	Met        bool       `json:"met"`
	// RTO is of all rounds as clients saw them.
	RTO    Spread  `json:"rto_ms"`
	Rounds []Round `json:"rounds"`
}

// Objectives are the cluster's, as its members are configured.
type Objectives struct {
	RTOMillis float64 `json:"rto_ms"` // 0: none
	RPO       uint64  `json:"rpo_lost_rows"`
}

// Spread is the median and the worst of some rounds, in milliseconds.
type Spread struct {
	Median float64 `json:"median"`
	Worst  float64 `json:"worst"`
}

// Round is one fault and what came of it.
type Round struct {
	Number     int               `json:"number"`
	Node       topology.NodeName `json:"node"` // that was hit
	NewPrimary topology.NodeName `json:"new_primary"`
	FaultAt    time.Time         `json:"fault_at"`
	// RestoredAt is when writes were seen to go on to the new primary, or the
	// agent to be back; what clients waited after that is not the fault's.
	RestoredAt time.Time `json:"restored_at"`
	Clients    Clients   `json:"clients"`
	// Ledger is the cluster's own report; null if there was no operation.
	Ledger   *api.Report `json:"cluster"`
	Timeline []Event     `json:"timeline"`
	Met      bool        `json:"met"`
	// Missed says what was not as it should be.
	Missed []string `json:"missed"`
}

// Clients is what the writers saw.
type Clients struct {
	// RTOMillis is the longest time in which no writer was told of a commit,
	// from the fault until writes were restored.
	RTOMillis  float64   `json:"rto_ms"`
	OutageFrom time.Time `json:"outage_from"`
	OutageTo   time.Time `json:"outage_to"`
	// AfterMillis is the same from there until the cluster was healthy again,
	// QuietMillis before the fault: what is noise here.
	AfterMillis  float64 `json:"after_ms"`
	QuietMillis  float64 `json:"quiet_ms"`
	Acknowledged int     `json:"acknowledged"`
	Refused      int     `json:"refused"` // told that nothing was written
	Unknown      int     `json:"unknown"` // told nothing
	Settled      int     `json:"settled"` // unknown, and there
	// Lost are acknowledged rows that are missing, Ghosts refused ones that
	// are there; null while the rows were not read back.
	Lost   []string     `json:"lost"`
	Ghosts []string     `json:"ghosts"`
	Errors []ErrorCount `json:"errors"`
}

// ErrorCount is how often writers got an error.
type ErrorCount struct {
	Text  string `json:"text"`
	Count int    `json:"count"`
}

// Event is something that happened.
type Event struct {
	AtMillis float64 `json:"at_ms"` // since the fault
	What     string  `json:"what"`
}

func errorCounts(by map[string]int) []ErrorCount {
	out := make([]ErrorCount, 0, len(by))
	for _, text := range slices.Sorted(maps.Keys(by)) {
		out = append(out, ErrorCount{text, by[text]})
	}
	slices.SortStableFunc(out, func(a, b ErrorCount) int { return cmp.Compare(b.Count, a.Count) })
	return out
}

// Noise is what a fault that should not be noticed may cost: machines stall.
const (
	noiseFloorMillis = 250
	noiseFactor      = 3
)

// judge says what of a round was not as it should be. It is pure.
func judge(kind Kind, o Objectives, r Round) []string {
	missed := []string{}
	miss := func(format string, args ...any) { missed = append(missed, fmt.Sprintf(format, args...)) }
	c := r.Clients
	if o.RTOMillis > 0 && c.RTOMillis > o.RTOMillis {
		miss("writes were out for %.0f ms; the objective is %.0f ms", c.RTOMillis, o.RTOMillis)
	}
	if o.RTOMillis > 0 && c.AfterMillis > o.RTOMillis {
		miss("writes were out for %.0f ms while the cluster got healthy again; the objective is %.0f ms", c.AfterMillis, o.RTOMillis)
	}
	if n := uint64(len(c.Lost)); n > o.RPO {
		miss("%d acknowledged rows are missing (%s); the objective is %d", n, some(c.Lost), o.RPO)
	}
	if len(c.Ghosts) > 0 {
		miss("%d rows that were refused are there (%s)", len(c.Ghosts), some(c.Ghosts))
	}
	if kind == StopAgent {
		if limit := noiseFloorMillis + noiseFactor*c.QuietMillis; c.RTOMillis > limit {
			miss("writes were out for %.0f ms although only an agent was stopped (before that %.0f ms at most)", c.RTOMillis, c.QuietMillis)
		}
		if r.Ledger != nil {
			miss("a %s of epoch %d ran although only an agent was stopped", r.Ledger.Kind, r.Ledger.Epoch)
		}
		return missed
	}
	switch {
	case r.Ledger == nil:
		miss("the cluster's ledger has no operation from %s", r.Node)
	case r.Ledger.Outcome != failover.Completed:
		miss("the ledger says of epoch %d: %s %s", r.Ledger.Epoch, r.Ledger.Outcome, r.Ledger.Reason)
	}
	return missed
}

// some names the first few of a list.
func some(list []string) string {
	const few = 5
	if len(list) <= few {
		return strings.Join(list, ", ")
	}
	return strings.Join(list[:few], ", ") + ", …"
}

// conclude fills in what follows from the rounds.
func (r *Report) conclude() {
	r.Met = len(r.Rounds) > 0
	var rtos []float64
	for _, round := range r.Rounds {
		r.Met = r.Met && round.Met
		rtos = append(rtos, round.Clients.RTOMillis)
	}
	if len(rtos) > 0 {
		slices.Sort(rtos)
		r.RTO = Spread{Median: rtos[(len(rtos)-1)/2], Worst: rtos[len(rtos)-1]}
	}
}
