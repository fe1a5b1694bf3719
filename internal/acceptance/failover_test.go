package acceptance

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/workload"
)

// TestAlternatingKillsAndSwitchovers: after each of many kills and switchovers
// under load, no acknowledged row is missing on any server, one server takes
// writes, the others follow it, and the ledger tells of every epoch.
func TestAlternatingKillsAndSwitchovers(t *testing.T) {
	c := borrow(t)
	var all []*workload.Result
	for round := range *rounds {
		before := c.healthy(t)
		old := string(before.Primary.Node)
		w := c.load(t, c.names()[round%3])
		await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })
		began := time.Now()
		if round%2 == 0 {
			c.order(t, "kill", old)
		} else {
			status, report, problem := c.switchover(t, c.names()[(round+1)%3], "")
			require.Equal(t, http.StatusOK, status, "%+v", problem)
			require.Equal(t, old, string(report.From))
		}
		c.moved(t, before, c.names(old)[0])
		acked := w.Acknowledged()
		await(t, patience, "writes after the operation", func() (bool, string) { return w.Acknowledged() > acked+enough, "too few rows" })
		if round%2 == 0 {
			c.order(t, "start", old)
		}
		c.healthy(t)
		back := time.Since(began)
		c.following(t)
		r := w.Stop()
		all = append(all, r)
		c.verify(t, r)
		c.lostNothing(t)
		t.Logf("round %d: clients' longest outage %d ms; whole again after %.1f s; %d rows acknowledged, %d refused, %d without answer; epoch %s",
			round+1, r.LongestOutage(began, began.Add(patience)).Length().Milliseconds(), back.Seconds(),
			r.Acknowledged(), r.Refused(), r.Unknown(), c.story(t, before.Epoch))
	}
	for _, r := range all { // still there, after all that followed
		c.verify(t, r)
	}
}
