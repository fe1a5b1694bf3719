package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
	"interrex/detector"
	"interrex/election"
	"interrex/internal/topology"
)

// A burst is no overload, nor are commits that wait for an acknowledgement.
func TestRunAwayThreads(t *testing.T) {
	look := func(p *instanceProber, times int, g dbrepl.Glance, processors int) (said string) {
		for range times {
			said = p.saturated(g, processors)
		}
		return said
	}
	p := &instanceProber{}
	require.Empty(t, look(p, runAwayAnswers-1, dbrepl.Glance{Running: 128}, 2))
	require.Empty(t, look(p, 1, dbrepl.Glance{Running: 127}, 2))
	require.Empty(t, look(p, runAwayAnswers-1, dbrepl.Glance{Running: 128}, 2))
	require.Equal(t, "128 sessions or more execute statements at once, on 2 processors", look(p, 1, dbrepl.Glance{Running: 128}, 2))
	require.Empty(t, look(p, runAwayAnswers, dbrepl.Glance{Running: 300, Waiting: 173}, 2), "starved")
	require.Empty(t, look(p, runAwayAnswers, dbrepl.Glance{Running: 511}, 16))
	require.NotEmpty(t, look(p, runAwayAnswers, dbrepl.Glance{Running: 512}, 16))
	require.NotEmpty(t, look(p, 1, dbrepl.Glance{Saturated: true}, 2))
}

func TestSameServer(t *testing.T) {
	for _, c := range []struct {
		name    string
		member  topology.NodeName
		uuid    string
		primary *election.Primary
		same    bool
	}{
		{"no primary is recorded yet", "db1", "u1", nil, true},
		{"the recorded one", "db1", "u1", &election.Primary{Node: "db1", ServerUUID: "u1"}, true},
		{"another one in its place", "db1", "u9", &election.Primary{Node: "db1", ServerUUID: "u1"}, false},
		{"a replica, made anew", "db2", "u9", &election.Primary{Node: "db1", ServerUUID: "u1"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := sameServer(c.member, c.uuid, c.primary)
			if c.same {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, "its server_uuid is u9, the recorded primary's is u1")
			require.Equal(t, detector.AnotherServer, classify(err))
		})
	}
}
