package failover

import (
	"slices"
	"time"

	"interrex/internal/topology"
)

// Judgement is the detector's verdict on an instance, as operations need it.
type Judgement struct {
	Subject topology.NodeName `json:"subject"`
	Verdict topology.Verdict  `json:"verdict"`
	Cause   string            `json:"cause"`
	// Explanation is one sentence a person can act on.
	Explanation string `json:"explanation"`
	// LastGood is how long ago, at the moment of the judgement, the instance
	// was last known to work; FirstBad how long ago the first evidence
	// against it was seen.
	LastGood time.Duration `json:"last_good_ns"`
	FirstBad time.Duration `json:"first_bad_ns"`
	At       time.Time     `json:"at"`
	// Votes holds one per registered member.
	Votes []Vote `json:"votes"`
	// Needed is how many votes against make it Failed.
	Needed int `json:"needed,omitempty"`
}

// against counts the votes that speak for a failover.
func (j Judgement) against() int {
	n := 0
	for _, v := range j.Votes {
		if v.Against {
			n++
		}
	}
	return n
}

// provenDead tells whether the instance's own agent saw its server process end:
// the one evidence that no cut and no slowness can fake.
func (j Judgement) provenDead() bool {
	return slices.ContainsFunc(j.Votes, func(v Vote) bool {
		return v.Observer == j.Subject && v.Kind == causeProcessExited && v.Against
	})
}

// ownAgainst tells whether the instance's own agent speaks against it: its
// process has ended, or its disk takes no writes.
func (j Judgement) ownAgainst() bool {
	return slices.ContainsFunc(j.Votes, func(v Vote) bool { return v.Observer == j.Subject && v.Against })
}

// Vote is one member's evidence on the judged instance. One that is neither
// against nor for does not count.
type Vote struct {
	Observer topology.NodeName `json:"observer"`
	Kind     string            `json:"kind"` // empty: the member is silent
	Age      time.Duration     `json:"age_ns"`
	Against  bool              `json:"against"`
	For      bool              `json:"for,omitempty"`
	// Why says why a vote does not count.
	Why    string `json:"why,omitempty"`
	Detail string `json:"detail,omitempty"`
}
