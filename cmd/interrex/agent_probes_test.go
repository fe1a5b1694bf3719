package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
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
