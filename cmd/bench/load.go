package main

import (
	"context"
	"fmt"
	"time"

	"interrex/internal/sandbox"
	"interrex/internal/workload"
)

const (
	// writers is how many clients write at the same time.
	writers = 8
	// steadyTime is how long they have written when something is done to the
	// primary, and afterTime how long they go on when that is over.
	steadyTime = time.Second
	afterTime  = 500 * time.Millisecond
	// quietTime is how long writes are counted for a rate.
	quietTime = 4 * time.Second
	// before is how much of the time before an event belongs to the outage:
	// the last acknowledgement may be older than the event.
	before = 100 * time.Millisecond
	// patience is how long anything may take on a slow machine. What takes
	// longer is an error, with what was seen last.
	patience = 5 * time.Minute
	// look is how often a state is asked for.
	look = 50 * time.Millisecond
)

// load makes clients of the application's account. Each run has a table of its
// own, so that looking for its rows takes the same time in every round.
type load struct {
	app  sandbox.MySQLInfo
	runs int
}

func (l *load) start(ctx context.Context, address string) (*workload.Workload, error) {
	l.runs++
	return workload.Start(ctx, workload.Config{
		Address: address, User: l.app.AppUser, Password: l.app.AppPassword, Database: l.app.AppDatabase,
		Table: fmt.Sprintf("bench_%03d", l.runs), Writers: writers,
	})
}

// during has clients write at address while strike is done to their primary,
// until some time after it has returned and they are acknowledged again. It
// returns what they saw, and the outage in which strike was called.
func (l *load) during(ctx context.Context, address string, strike func(context.Context) error) (*workload.Result, workload.Outage, error) {
	w, err := l.start(ctx, address)
	if err != nil {
		return nil, workload.Outage{}, err
	}
	at, err := l.strike(ctx, w, strike)
	result := w.Stop()
	if err != nil {
		return nil, workload.Outage{}, err
	}
	return result, result.LongestOutage(at.Add(-before), time.Time{}), nil
}

func (l *load) strike(ctx context.Context, w *workload.Workload, strike func(context.Context) error) (at time.Time, err error) {
	if err := awaitWrites(ctx, w); err != nil {
		return at, fmt.Errorf("wait for clients to write: %w", err)
	}
	if err := pause(ctx, steadyTime); err != nil {
		return at, err
	}
	at = time.Now()
	if err := strike(ctx); err != nil {
		return at, err
	}
	if err := awaitWrites(ctx, w); err != nil {
		return at, fmt.Errorf("wait for clients to write again: %w", err)
	}
	return at, pause(ctx, afterTime)
}

// awaitWrites returns when every client may have been acknowledged anew.
func awaitWrites(ctx context.Context, w *workload.Workload) error {
	had := w.Acknowledged()
	return await(ctx, func() (bool, error) {
		now := w.Acknowledged()
		if now < had+2*writers {
			return false, fmt.Errorf("%d rows acknowledged since", now-had)
		}
		return true, nil
	})
}

// rate counts commits per second in quiet times.
func (l *load) rate(ctx context.Context, address string) (float64, error) {
	w, err := l.start(ctx, address)
	if err != nil {
		return 0, err
	}
	defer w.Stop()
	if err := awaitWrites(ctx, w); err != nil {
		return 0, fmt.Errorf("wait for clients to write: %w", err)
	}
	if err := pause(ctx, steadyTime); err != nil {
		return 0, err
	}
	had, began := w.Acknowledged(), time.Now()
	if err := pause(ctx, quietTime); err != nil {
		return 0, err
	}
	return float64(w.Acknowledged()-had) / time.Since(began).Seconds(), nil
}

// await asks until the answer is yes, at most for patience. What ask returns
// with a no is why, for the error in the end.
func await(ctx context.Context, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("not within %s", patience))
	defer cancel()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		yes, why := ask()
		if yes {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last seen: %w", context.Cause(ctx), why)
		case <-ticker.C:
		}
	}
}

// pause lets time pass, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
