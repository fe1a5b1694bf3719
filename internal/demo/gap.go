package demo

import (
	"context"
	"time"
)

// Gap is a time in which a count did not rise.
type Gap struct{ From, To time.Time }

// Length is how long it was.
func (g Gap) Length() time.Duration { return g.To.Sub(g.From) }

// gapTick is how often a count is looked at, and so the precision.
const gapTick = 2 * time.Millisecond

// LongestGap looks at a count until ctx ends and returns the longest time it
// did not rise.
func LongestGap(ctx context.Context, count func() int) Gap {
	ticker := time.NewTicker(gapTick)
	defer ticker.Stop()
	last, rose := count(), time.Now()
	var longest Gap
	for {
		select {
		case <-ctx.Done():
			return longest
		case <-ticker.C:
		}
		now := time.Now()
		if n := count(); n != last {
			if now.Sub(rose) > longest.Length() {
				longest = Gap{rose, now}
			}
			last, rose = n, now
		}
	}
}
