package workload

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"
)

const ms = time.Millisecond

// seen is a result of acknowledgements at those milliseconds, of a run of
// length, to as many writers as there are lists.
func seen(length int, writers ...[]int) *Result {
	r := &Result{began: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), length: time.Duration(length) * ms}
	for w, ends := range writers {
		for n, end := range ends {
			r.rows = append(r.rows, row{writer: w, number: n, ended: time.Duration(end) * ms})
		}
	}
	return r
}

func TestLongestOutage(t *testing.T) {
	// Two writers, of whom the second answers in between, until both wait from
	// 140 to 640.
	r := seen(1000, []int{100, 130, 640, 700, 990}, []int{50, 120, 140, 645, 800})
	r.rows = append(r.rows, row{outcome: refused, ended: 400 * ms}, row{outcome: unknown, ended: 500 * ms})
	for name, c := range map[string]struct {
		r        *Result
		from, to int // -1: not given
		want     [2]int
	}{
		"whole run":                        {r, -1, -1, [2]int{140, 640}},
		"from inside it: counts whole":     {r, 300, -1, [2]int{140, 640}},
		"to inside it: counts whole":       {r, -1, 200, [2]int{140, 640}},
		"window within it":                 {r, 300, 400, [2]int{140, 640}},
		"before it":                        {r, 0, 140, [2]int{0, 50}},
		"after it":                         {r, 640, -1, [2]int{800, 990}},
		"window that ends on an answer":    {r, 50, 130, [2]int{50, 100}},
		"no answer at all":                 {seen(700), -1, -1, [2]int{0, 700}},
		"never ended":                      {seen(900, []int{10, 20}), 15, 30, [2]int{20, 900}},
		"one writer waits, the other goes": {seen(100, []int{10, 90}, []int{20, 30, 40, 50, 60, 70, 80}), -1, -1, [2]int{0, 10}},
	} {
		t.Run(name, func(t *testing.T) {
			at := func(n int) time.Time {
				if n < 0 {
					return time.Time{}
				}
				return c.r.began.Add(time.Duration(n) * ms)
			}
			got := c.r.LongestOutage(at(c.from), at(c.to))
			require.Equal(t, c.want, [2]int{int(got.From.Sub(c.r.began) / ms), int(got.To.Sub(c.r.began) / ms)})
			require.Equal(t, got.Length(), time.Duration(c.want[1]-c.want[0])*ms)
		})
	}
}

func TestCountsByOutcome(t *testing.T) {
	r := seen(10, []int{1, 2, 3})
	r.rows = append(r.rows, row{outcome: refused}, row{outcome: unknown}, row{outcome: unknown})
	require.Equal(t, []int{3, 1, 2}, []int{r.Acknowledged(), r.Refused(), r.Unknown()})
}

func TestOutcomeOfErrors(t *testing.T) {
	for _, c := range []struct {
		err  error
		want outcome
	}{
		{nil, acknowledged},
		{&mysql.MySQLError{Number: 1290}, refused},
		{fmt.Errorf("insert: %w", &mysql.MySQLError{Number: 1836}), refused},
		{&net.OpError{Op: "dial", Err: errors.New("connection refused")}, refused},
		{&net.OpError{Op: "read", Err: io.EOF}, unknown},
		{&mysql.MySQLError{Number: 1317}, unknown}, // killed while it may be committing
		{mysql.ErrInvalidConn, unknown},
	} {
		require.Equal(t, c.want, outcomeOf(c.err), "%v", c.err)
	}
}
