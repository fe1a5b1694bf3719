package api

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/failover"
	"interrex/internal/topology"
)

// sampleDecisions are one on n1 that was held back, one on n2 that goes on, and
// an older one on n1.
func sampleDecisions() []failover.Decision {
	return []failover.Decision{
		{ID: "n2-3", By: "n2", Subject: "n2", Outcome: failover.DecisionOpen, BeganAt: began, Times: 1, Worst: sampleReport(3).Evidence},
		{
			ID: "n2-2", By: "n2", Subject: "n1", Primary: true, Led: true, Outcome: failover.DecisionRecovered, BeganAt: began, EndedAt: began.Add(time.Second),
			Lasted: time.Second, Times: 1, Worst: sampleReport(3).Evidence,
			Held: []failover.HeldBack{{Gate: "not_paused", Reason: "paused by kim", For: 1500 * time.Microsecond}},
		},
		{ID: "n2-1", By: "n2", Subject: "n1", Outcome: failover.DecisionRecovered, BeganAt: began, Times: 1},
	}
}

// Each vote says whether it counts, and why if it does not.
func TestVotesSayHowTheyCount(t *testing.T) {
	b := newBench(t, "n2")
	b.backend.view.Primary.Needed = 2
	b.backend.view.Primary.Votes = []failover.Vote{
		{Observer: "n1", Kind: "alive", For: true},
		{Observer: "n2", Kind: "refused", Against: true},
		{Observer: "n3", Why: "it has said nothing"},
	}
	var j Judgement
	require.NoError(t, json.Unmarshal(b.do(ask{method: "GET", path: "/api/v1/members/n1/evidence"}).body, &j))
	require.Equal(t, 2, j.Needed)
	require.Equal(t, []Vote{
		{Observer: "n1", Kind: "alive", Counts: CountsFor},
		{Observer: "n2", Kind: "refused", Against: true, Counts: CountsAgainst},
		{Observer: "n3", Counts: CountsNot, Why: "it has said nothing"},
	}, j.Votes)
}

func TestExplainAndDecisions(t *testing.T) {
	b := newBench(t, "n2")
	b.backend.decisions = sampleDecisions()
	var list DecisionList
	require.NoError(t, json.Unmarshal(b.do(ask{method: "GET", path: "/api/v1/decisions?member=n1&limit=1"}).body, &list))
	require.Len(t, list.Decisions, 1)
	d := list.Decisions[0]
	require.Equal(t, "n2-2", d.ID)
	require.Equal(t, []HeldBack{{"not_paused", "paused by kim", 1.5}}, d.Held)
	require.Contains(t, d.Words.Answer, "held back")
	require.Nil(t, newDecision(sampleDecisions()[0]).EndedAt, "it goes on")

	explained := func(query string) Explained {
		var e Explained
		require.NoError(t, json.Unmarshal(b.do(ask{method: "GET", path: "/api/v1/explain" + query}).body, &e))
		return e
	}
	now := explained("")
	require.Contains(t, now.Answer, "No. n1 is healthy")
	require.Equal(t, topology.NodeName("n2"), now.By)
	require.Equal(t, topology.NodeName("n1"), now.Evidence.Subject)
	require.Equal(t, now, explained("?member=n1"), "the primary is asked for")
	past := explained("?epoch=3")
	require.Contains(t, past.Question, "epoch 3")
	require.Len(t, past.Gates, 1, "those of its own kind")
	require.Equal(t, "n1", string(past.Evidence.Subject))
}
