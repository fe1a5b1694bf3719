package dbrepl

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLagAndDeafness(t *testing.T) {
	const silence = 2 * time.Second
	on := func(s SourceStatus) SourceStatus { s.ReceiverOn = true; return s }
	for name, c := range map[string]struct {
		s    SourceStatus
		lag  time.Duration
		deaf bool
	}{
		"level and told so":                      {on(SourceStatus{told: true, HeartbeatAge: 400 * time.Millisecond, last: time.Hour}), 0, false},
		"has heard nothing since it connected":   {on(SourceStatus{told: true, HeartbeatAge: -1}), 0, false},
		"applies":                                {on(SourceStatus{Unapplied: 1, last: time.Second}), time.Second, false},
		"busy, the last is new":                  {on(SourceStatus{last: time.Second}), 0, false},
		"between two of what it had missed":      {on(SourceStatus{last: 17 * time.Second}), 17 * time.Second, false},
		"connected again, nothing has come":      {on(SourceStatus{told: true, HeartbeatAge: 4 * time.Second}), 4 * time.Second, false},
		"waits for its disk":                     {on(SourceStatus{told: true, HeartbeatAge: 6 * time.Second}), 6 * time.Second, true},
		"its times are of another profile":       {on(SourceStatus{told: true, HeartbeatAge: 6 * time.Second, Unfit: "x"}), 6 * time.Second, false},
		"not connected: a failover reads on":     {SourceStatus{told: true, HeartbeatAge: time.Minute}, 0, false},
		"not connected, with something to apply": {SourceStatus{Unapplied: 1, last: time.Minute}, time.Minute, false},
	} {
		require.Equal(t, c.lag, c.s.lag(silence), name)
		require.Equal(t, c.deaf, c.s.deaf(silence), name)
	}
}
