package api

import (
	"time"

	"interrex/failover"
	"interrex/internal/topology"
)

// Judgement is a verdict and what it rests on.
type Judgement struct {
	Subject     topology.NodeName `json:"subject"`
	Verdict     topology.Verdict  `json:"verdict"`
	Cause       string            `json:"cause"`
	Explanation string            `json:"explanation"`
	At          *time.Time        `json:"at,omitempty"`
	LastGoodMS  float64           `json:"last_good_ms"` // before At
	FirstBadMS  float64           `json:"first_bad_ms"` // before At; 0 when nothing speaks against it
	// Needed is how many votes against make it failed; 0 when not known.
	Needed int    `json:"needed"`
	Votes  []Vote `json:"votes"`
}

// Vote is one member's evidence.
type Vote struct {
	Observer topology.NodeName `json:"observer"`
	Kind     string            `json:"kind"` // empty: the member is silent
	AgeMS    float64           `json:"age_ms"`
	Against  bool              `json:"against"`
	// Counts is against, for or no; Why says why it does not count.
	Counts string `json:"counts"`
	Why    string `json:"why,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// How a vote counts.
const (
	CountsAgainst = "against"
	CountsFor     = "for"
	CountsNot     = "no"
)

func newVote(v failover.Vote) Vote {
	out := Vote{Observer: v.Observer, Kind: v.Kind, AgeMS: millis(v.Age), Against: v.Against, Counts: CountsNot, Why: v.Why, Detail: v.Detail}
	switch {
	case v.Against:
		out.Counts = CountsAgainst
	case v.For:
		out.Counts = CountsFor
	}
	return out
}

func newJudgement(j failover.Judgement) Judgement {
	out := Judgement{
		Subject: j.Subject, Verdict: j.Verdict, Cause: j.Cause, Explanation: j.Explanation,
		At: moment(j.At), LastGoodMS: millis(j.LastGood), FirstBadMS: millis(j.FirstBad), Needed: j.Needed, Votes: []Vote{},
	}
	for _, v := range j.Votes {
		out.Votes = append(out.Votes, newVote(v))
	}
	return out
}
