package failover

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/internal/topology"
)

const day = 24 * time.Hour

var ledgerNow = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// outage builds a report that ended ago before now after rtoMS of outage.
func outage(epoch topology.Epoch, kind election.Kind, outcome Outcome, ago time.Duration, rtoMS float64, lost *uint64) Report {
	end := ledgerNow.Add(-ago)
	return Report{
		Epoch: epoch, Kind: kind, Outcome: outcome, RTOMillis: rtoMS, RPO: RPO{LostCommits: lost},
		StartedAt: end.Add(-time.Duration(rtoMS) * time.Millisecond), EndedAt: end,
	}
}

func commits(n uint64) *uint64 { return &n }

func TestComputeObjectives(t *testing.T) {
	yes, no := true, false
	old := ledgerNow.Add(-1000 * day)
	for _, c := range []struct {
		name    string
		reports []Report
		since   time.Time
		// of the 30-day window
		operations, missed, unknown int
		down                        float64
		worst                       *float64
		lost                        uint64
		rpoMet                      *bool
		last                        topology.Epoch
	}{
		{name: "empty ledger is all met", since: old, rpoMet: &yes},
		{
			name:  "within both objectives",
			since: old, reports: []Report{outage(2, election.Failover, Completed, 2*day, 400, commits(0))},
			operations: 1, down: 0.4, worst: value(400.0), rpoMet: &yes, last: 2,
		},
		{
			name:  "too slow, order of the ledger does not matter",
			since: old, reports: []Report{
				outage(3, election.Switchover, Completed, day/2, 100, commits(0)),
				outage(2, election.Failover, Completed, 2*day, 1500, commits(0)),
			},
			operations: 2, missed: 1, down: 1.6, worst: value(1500.0), rpoMet: &yes, last: 3,
		},
		{
			name:  "a loss is over the objective even if another is unknown",
			since: old, reports: []Report{
				outage(2, election.Failover, Completed, 2*day, 400, nil),
				outage(3, election.Failover, Completed, day, 400, commits(2)),
			},
			operations: 2, unknown: 1, down: 0.8, worst: value(400.0), lost: 2, rpoMet: &no, last: 3,
		},
		{
			name:  "an unknown loss leaves it open",
			since: old, reports: []Report{outage(2, election.Failover, Completed, 2*day, 400, nil)},
			operations: 1, unknown: 1, down: 0.4, worst: value(400.0), last: 2,
		},
		{
			name:  "a failed operation lasts until the next primary and is counted once",
			since: old, reports: []Report{
				outage(2, election.Failover, Failure, 10*time.Minute, 1000, commits(0)),
				outage(3, election.Failover, Completed, 9*time.Minute, 61000, commits(0)),
			},
			operations: 2, missed: 2, down: 61, worst: value(61000.0), rpoMet: &yes, last: 3,
		},
		{
			name:  "an operation in flight lasts until now",
			since: old, reports: []Report{{Epoch: 4, Kind: election.Failover, Outcome: Unfinished, StartedAt: ledgerNow.Add(-5 * time.Second)}},
			operations: 1, missed: 1, unknown: 1, down: 5, worst: value(5000.0),
		},
		{
			name:  "an outage that began before the window counts with what is in it",
			since: old, reports: []Report{{Epoch: 4, Kind: election.Failover, Outcome: Failure, StartedAt: ledgerNow.Add(-31 * day), RPO: RPO{LostCommits: commits(0)}}},
			operations: 1, missed: 1, down: (30 * day).Seconds(), worst: value(millis(31 * day)), rpoMet: &yes,
		},
		{
			name:  "older than the window",
			since: old, reports: []Report{outage(2, election.Failover, Completed, 40*day, 9000, commits(5))},
			rpoMet: &yes, last: 2,
		},
		{
			name:  "bootstrap is no outage",
			since: ledgerNow.Add(-day), reports: []Report{outage(1, election.Bootstrap, Completed, day, 9000, commits(0))},
			rpoMet: &yes,
		},
		{
			name:  "an undone switchover was a pause",
			since: old, reports: []Report{outage(2, election.Switchover, Undone, day, 900, commits(0))},
			operations: 1, down: 0.9, worst: value(900.0), rpoMet: &yes, last: 2,
		},
		{name: "a ledger from the future observes nothing", since: ledgerNow.Add(day), rpoMet: &yes},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := ComputeObjectives(ledgerNow, Objectives{RTO: time.Second}, c.reports, c.since)
			require.Len(t, a.Windows, 3)
			w := a.Windows[1]
			require.Equal(t, "30d", w.Window)
			require.Equal(t, c.operations, w.Operations, "operations")
			require.Equal(t, c.missed, w.RTOMissed, "missed")
			require.Equal(t, c.missed == 0, w.RTOMet)
			require.Equal(t, c.unknown, w.LossUnknown)
			require.Equal(t, c.lost, w.LostCommits)
			require.InDelta(t, c.down, w.DowntimeSeconds, 1e-6)
			require.Equal(t, c.worst, w.WorstRTOMillis)
			require.Equal(t, c.rpoMet, w.RPOMet)
			if c.last == 0 {
				require.Nil(t, a.Last)
			} else {
				require.Equal(t, c.last, a.Last.Epoch)
			}
		})
	}
}

func TestAvailabilityInNines(t *testing.T) {
	reports := []Report{outage(2, election.Failover, Completed, time.Hour, 8640, commits(0))}
	w := ComputeObjectives(ledgerNow, Objectives{}, reports, ledgerNow.Add(-2*day)).Windows
	require.InDelta(t, 86400, w[0].ObservedSeconds, 1e-9)
	require.InDelta(t, 4, *w[0].Nines, 1e-9, "8.64 s of a day is four nines")
	require.InDelta(t, 0.9999, w[0].Availability, 1e-12)
	require.InDelta(t, 2*86400, w[2].ObservedSeconds, 1e-9, "the ledger is two days old")

	left := map[string]float64{}
	for _, b := range w[0].Budget {
		left[b.Target] = b.Left
	}
	require.InDelta(t, 86.4-8.64, left["99.9"], 1e-6)
	require.InDelta(t, 43.2-8.64, left["99.95"], 1e-6)
	require.InDelta(t, 0, left["99.99"], 1e-6)
	require.InDelta(t, 0.864-8.64, left["99.999"], 1e-6, "overspent is negative")

	require.True(t, w[0].RTOMet, "no objective is met by anything that ended")
	require.Nil(t, ComputeObjectives(ledgerNow, Objectives{}, nil, ledgerNow).Windows[0].Nines)
}

func value[T any](v T) *T { return &v }
