package workload

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Result is what the clients saw.
type Result struct {
	cfg    Config
	first  int // the number of its first writer
	began  time.Time
	length time.Duration
	rows   []row
	// Errors counts the failed attempts by their text.
	Errors map[string]int
}

// Acknowledged counts attempts of which the client was told that they are
// committed.
func (r *Result) Acknowledged() int { return r.count(acknowledged) }

// Refused counts attempts of which the client was told that nothing changed.
func (r *Result) Refused() int { return r.count(refused) }

// Unknown counts attempts without an answer.
func (r *Result) Unknown() int { return r.count(unknown) }

func (r *Result) count(o outcome) int {
	n := 0
	for _, row := range r.rows {
		if row.outcome == o {
			n++
		}
	}
	return n
}

// Began is when the first writer started.
func (r *Result) Began() time.Time { return r.began }

// Outage is a time in which no client was told of a commit.
type Outage struct {
	From, To time.Time
}

// Length is how long it lasted.
func (o Outage) Length() time.Duration { return o.To.Sub(o.From) }

// LongestOutage is the longest time between two successive acknowledgements to
// any of the clients that overlaps the time between from and to (zero times:
// the whole run). It counts whole, also where it began before or ended after:
// a client that waited all that while has waited for all of it. The beginning
// and the end of the run count as acknowledgements.
func (r *Result) LongestOutage(from, to time.Time) Outage {
	ends := []time.Duration{0, r.length}
	for _, row := range r.rows {
		if row.outcome == acknowledged {
			ends = append(ends, row.ended)
		}
	}
	slices.Sort(ends)
	low, high := time.Duration(0), r.length
	if !from.IsZero() {
		low = from.Sub(r.began)
	}
	if !to.IsZero() {
		high = to.Sub(r.began)
	}
	var longest Outage
	for i, end := range ends[1:] {
		begin := ends[i]
		if end > low && begin < high && end-begin > longest.Length() {
			longest = Outage{From: r.began.Add(begin), To: r.began.Add(end)}
		}
	}
	return longest
}

// Check is the comparison of what clients were told with what is there.
type Check struct {
	Present int // rows in the table that this workload wrote
	// Lost are acknowledged rows that are missing: any is a broken promise.
	Lost []string
	// Ghosts are rows that were refused and are there all the same.
	Ghosts []string
	// Settled counts attempts without an answer that turned out to be there.
	Settled int
}

// Drop removes the table, through address.
func (r *Result) Drop(ctx context.Context, address string) error {
	db, err := open(r.cfg, address, 1)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "DROP TABLE IF EXISTS `"+r.cfg.Table+"`"); err != nil {
		return fmt.Errorf("drop table %s: %w", r.cfg.Table, err)
	}
	return nil
}

// Verify reads its writers' rows of the table at address and compares. Of others,
// who may have written for hours, it reads none.
func (r *Result) Verify(ctx context.Context, address string) (Check, error) {
	var c Check
	db, err := open(r.cfg, address, 1)
	if err != nil {
		return c, err
	}
	defer db.Close() //nolint:errcheck // only read from
	rows, err := db.QueryContext(ctx, "SELECT writer, number FROM `"+r.cfg.Table+"` WHERE writer >= ? AND writer < ?", r.first, r.first+r.cfg.Writers)
	if err != nil {
		return c, fmt.Errorf("read back %s: %w", r.cfg.Table, err)
	}
	defer rows.Close() //nolint:errcheck // its error is rows.Err
	type key struct{ writer, number int }
	there := map[key]bool{}
	for rows.Next() {
		var k key
		if err := rows.Scan(&k.writer, &k.number); err != nil {
			return c, fmt.Errorf("read back %s: %w", r.cfg.Table, err)
		}
		there[k] = true
	}
	if err := rows.Err(); err != nil {
		return c, fmt.Errorf("read back %s: %w", r.cfg.Table, err)
	}
	for _, row := range r.rows {
		present := there[key{row.writer, row.number}]
		name := fmt.Sprintf("writer %d row %d", row.writer, row.number)
		switch {
		case row.outcome == acknowledged && !present:
			c.Lost = append(c.Lost, name)
		case row.outcome == refused && present:
			c.Ghosts = append(c.Ghosts, name)
		case row.outcome == unknown && present:
			c.Settled++
		}
		if present {
			c.Present++
		}
	}
	return c, nil
}
