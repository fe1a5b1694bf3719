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
		"idle before it was cut off":             {on(SourceStatus{last: time.Hour, level: 3 * time.Second}), 3 * time.Second, false},
		"what it had missed is new":              {on(SourceStatus{last: 3 * time.Second, level: time.Hour}), 3 * time.Second, false},
		"connected again, nothing has come":      {on(SourceStatus{told: true, HeartbeatAge: 4 * time.Second}), 4 * time.Second, false},
		"waits for its disk":                     {on(SourceStatus{told: true, HeartbeatAge: 6 * time.Second}), 6 * time.Second, true},
		"its times are of another profile":       {on(SourceStatus{told: true, HeartbeatAge: 6 * time.Second, Unfit: "x"}), 6 * time.Second, false},
		"not connected: a failover reads on":     {SourceStatus{told: true, HeartbeatAge: time.Minute}, 0, false},
		"not connected, and was fed what is old": {SourceStatus{late: true, HeartbeatAge: time.Second, last: 13 * time.Second, level: 14 * time.Second}, 13 * time.Second, false},
		"not connected, with something to apply": {SourceStatus{Unapplied: 1, last: time.Minute}, time.Minute, false},
	} {
		require.Equal(t, c.lag, c.s.lag(silence), name)
		require.Equal(t, c.deaf, c.s.deaf(silence), name)
	}
}

// After a silence the first heartbeat says nothing: the source sends one before
// what is missing, too.
func TestToldAfterASilence(t *testing.T) {
	const period = 500 * time.Millisecond
	type look struct {
		silent            bool
		heartbeat, queued time.Duration
		want              bool
	}
	ms := time.Millisecond
	for name, looks := range map[string][]look{
		"nothing was ever heard":       {{false, 0, 0, true}},
		"a heartbeat after the last":   {{false, 10 * ms, 5 * ms, true}, {false, 10 * ms, 11 * ms, false}, {false, 12 * ms, 11 * ms, true}},
		"heard again, nothing came":    {{true, 10 * ms, 5 * ms, true}, {false, 10 * ms, 5 * ms, false}},
		"the first says nothing":       {{true, 10 * ms, 5 * ms, true}, {false, 9000 * ms, 5 * ms, false}, {false, 9200 * ms, 5 * ms, false}, {false, 9500 * ms, 5 * ms, true}, {false, 9500 * ms, 5 * ms, true}},
		"what was missing comes":       {{true, 10 * ms, 5 * ms, true}, {false, 9000 * ms, 5 * ms, false}, {false, 9000 * ms, 9001 * ms, false}, {false, 9501 * ms, 9001 * ms, true}},
		"it came between two looks":    {{true, 10 * ms, 5 * ms, true}, {false, 9501 * ms, 9001 * ms, true}},
		"silent again before it is":    {{true, 10 * ms, 5 * ms, true}, {false, 9000 * ms, 5 * ms, false}, {true, 9000 * ms, 5 * ms, false}, {false, 9500 * ms, 5 * ms, false}, {false, 10000 * ms, 5 * ms, true}, {true, 10000 * ms, 5 * ms, true}},
		"what a dead source had sent":  {{true, 10 * ms, 5 * ms, true}, {true, 10 * ms, 5 * ms, true}, {true, 13001 * ms, 13000 * ms, false}, {true, 13001 * ms, 13000 * ms, false}, {false, 14000 * ms, 13000 * ms, false}, {false, 14500 * ms, 14400 * ms, true}},
		"the server was started again": {{true, 0, 0, true}, {false, 0, 0, false}, {false, 700 * ms, 0, false}, {false, 1200 * ms, 0, true}},
	} {
		var h hearing
		for i, l := range looks {
			told, _ := h.told(l.silent, l.heartbeat, l.queued, period)
			require.Equal(t, l.want, told, "%s: look %d", name, i)
		}
	}
}

// What a source had sent that is dead since is late, until the next one has told.
func TestLate(t *testing.T) {
	const period, second = 500 * time.Millisecond, time.Second
	var h hearing
	for i, l := range []struct {
		silent            bool
		heartbeat, queued time.Duration
		late              bool
	}{{true, second, 0, false}, {true, second, 0, false}, {true, second, 13 * second, true}, {true, second, 13 * second, true}, {false, 14 * second, 13 * second, true}, {false, 15 * second, 13 * second, false}} {
		_, late := h.told(l.silent, l.heartbeat, l.queued, period)
		require.Equal(t, l.late, late, "look %d", i)
	}
}

// The server's clock may be set while its receiver hears its source, or does not.
func TestSignsOfTheSource(t *testing.T) {
	var s signs
	now := time.Now()
	after := func(d time.Duration, seen string, want time.Duration) {
		t.Helper()
		now = now.Add(d)
		require.Equal(t, want, s.age(now, seen))
	}
	const second = time.Second
	after(0, "", -1)
	after(second, "0.000000 0.000000 0.000000", -1)
	after(second, "1800000000.500000 0.000000 0.000000", 0)
	after(second, "1800000001.500000 0.000000 0.000000", 0)
	after(second, "1799996401.500000 0.000000 0.000000", 0)          // an hour back, and heard
	after(second, "1799996401.500000 1800000001.000000 0.000000", 0) // what it queued before is later
	after(second, "1799996402.500000 1800000001.000000 0.000000", 0)
	after(second, "1799996402.500000 1800000001.000000 0.000000", second) // silent, whatever its clock says
	after(2*second, "1799996402.500000 1800000001.000000 0.000000", 3*second)
	after(second, "0.000000 0.000000 0.000000", -1) // connected anew
	after(second, "1799996406.500000 0.000000 0.000000", 0)
}
