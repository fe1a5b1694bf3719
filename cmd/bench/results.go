package main

import (
	"math"
	"slices"
	"strconv"
	"time"
)

// The rows of the tables. The steps' names are the ledger's.
const (
	rowDetect    = "detect"
	rowClaim     = "claim"
	rowPrepare   = "prepare"
	rowRevoke    = "revoke"
	rowChoose    = "choose"
	rowCatchUp   = "catch_up"
	rowPromote   = "promote"
	rowRoute     = "route"
	rowVerify    = "verify"
	rowOperation = "claim to verify"
	rowOutage    = "outage seen by clients"
	rowRTO       = "RTO in the ledger"
	rowRTOLow    = "its lower bound"
)

// rows are all rows, in the order they are shown.
func rows() []string {
	return []string{
		rowDetect, rowClaim, rowPrepare, rowRevoke, rowChoose, rowCatchUp, rowPromote, rowRoute, rowVerify,
		rowOperation, rowOutage, rowRTO, rowRTOLow,
	}
}

// round is what one round gave.
type round struct {
	// values are milliseconds by row; a row that has no meaning is missing.
	values map[string]float64
	// What clients were told of their rows, and how many acknowledged ones are
	// missing.
	acknowledged, refused, unanswered, lost int
}

// series is the rounds of one kind.
type series []round

// of collects one row.
func (s series) of(row string) []float64 {
	var values []float64
	for _, r := range s {
		if v, ok := r.values[row]; ok {
			values = append(values, v)
		}
	}
	return values
}

// total adds up a count over the rounds.
func (s series) total(count func(round) int) int {
	n := 0
	for _, r := range s {
		n += count(r)
	}
	return n
}

// results is all that was measured.
type results struct {
	machine                               machine
	direct, routed                        []float64 // commits per second
	kills, freezes, switchovers, scripted series
	unasked                               int // operations that no round caused
}

// lost counts the acknowledged rows that are missing.
func (r results) lost() int {
	n := 0
	for _, s := range []series{r.kills, r.freezes, r.switchovers, r.scripted} {
		n += s.total(func(one round) int { return one.lost })
	}
	return n
}

// percentile is the smallest of the values that p percent of them do not
// exceed (nearest rank): a value that was measured, never one in between. With
// 20 values the 99th is the largest. NaN for no values.
func percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}

// mean is NaN for no values.
func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// none stands for what does not exist.
const none = "–"

// millisText prints milliseconds with as many digits as mean something.
func millisText(ms float64) string {
	switch {
	case math.IsNaN(ms):
		return none
	case math.Abs(ms) < 1:
		return strconv.FormatFloat(ms, 'f', 2, 64)
	case math.Abs(ms) < 100:
		return strconv.FormatFloat(ms, 'f', 1, 64)
	default:
		return strconv.FormatFloat(ms, 'f', 0, 64)
	}
}

// ratioText prints a over b; none where there is nothing to divide by.
func ratioText(a, b float64) string {
	if math.IsNaN(a) || math.IsNaN(b) || b == 0 {
		return none
	}
	return strconv.FormatFloat(a/b, 'f', 2, 64)
}
