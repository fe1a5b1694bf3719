package acceptance

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/topology"
)

// configure changes a part of every agent's file, and starts the agents anew.
func (c *cluster) configure(t *testing.T, from, to string) {
	t.Helper()
	c.reconfigure(t, func(text string) string { return strings.Replace(text, from, to, 1) })
}

// explained waits until interrex explain says all of it.
func (c *cluster) explained(t *testing.T, args []string, words ...string) {
	t.Helper()
	await(t, patience, "interrex explain to say "+strings.Join(words, " … "), func() (bool, string) {
		out, err := c.run(append([]string{"explain", "--dir", c.dir}, args...)...)
		if err != nil {
			return false, err.Error()
		}
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(out, w) }), out
	})
}

func stopped(v api.Cluster) bool {
	return slices.ContainsFunc(v.GatesClosed, func(g failover.Gate) bool { return g.Name == failover.GateFlapping })
}

// TestFlappingStopsAndAsks: with a limit of one failover, the primary's server
// is frozen, and then the next one's. The second failover waits for an operator
// and says why; a primary that is seen to die is failed over all the same.
func TestFlappingStopsAndAsks(t *testing.T) {
	c := own(t)
	c.configure(t, "flap_limit: 0", "flap_limit: 1")
	whole := func(v api.Cluster) bool {
		return stopped(v) && v.Operation == nil && len(v.Durability.Acknowledging) == 2 && len(v.Reasons) == 1
	}
	before := c.healthy(t)
	first := string(before.Primary.Node)
	c.order(t, "freeze", first)
	c.moved(t, before, c.names(first)[0])
	c.order(t, "thaw", first)
	before = c.reaches(t, "all are back, and automation has stopped", whole)
	require.Contains(t, before.Reasons[0], "automatic failover has stopped: 1 failovers")

	second := string(before.Primary.Node)
	c.order(t, "freeze", second)
	c.explained(t, nil, second+" has failed, and the failover is held back by a gate", "gate not_flapping is closed: 1 failovers")
	rest(3 * time.Second)
	require.Equal(t, second, c.primary(t), "it does not run by itself")
	_, err := c.run("resume", "--dir", c.dir)
	require.NoError(t, err)
	c.moved(t, before, c.names(second)[0])
	c.order(t, "thaw", second)
	c.explained(t, []string{"--member", second}, "failed_over", second+" was failed for")

	before = c.reaches(t, "all are back, and automation has stopped again", whole)
	third := string(before.Primary.Node)
	c.order(t, "kill", third)
	v := c.moved(t, before, c.names(third)[0])
	c.order(t, "start", third)
	c.explained(t, []string{"--epoch", fmt.Sprint(v.Epoch)}, third+" was judged failed: the server's process has ended", "0 acknowledged commits were lost")
}

// TestRestartFirst is row N2 on real servers: a crashed primary that comes back
// within its grace is opened again in place.
func TestRestartFirst(t *testing.T) {
	c := own(t)
	c.configure(t, "flap_limit: 0", "on_crash: restart_first\n  restart_grace: 1m\n  flap_limit: 0")
	before := c.healthy(t)
	old := string(before.Primary.Node)
	w := c.load(t, c.names(old)[0])
	await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })
	c.order(t, "kill", old)
	c.explained(t, nil, "gate restart_grace_over is closed: the server's process ended")
	require.Equal(t, before.Epoch, c.see(t).Epoch, "nothing was begun")
	c.order(t, "start", old)
	v := c.reaches(t, "the same primary under another epoch", func(v api.Cluster) bool {
		return v.Epoch > before.Epoch && v.Operation == nil && v.Primary.Epoch == v.Epoch && v.Primary.Phase == election.Open
	})
	require.Equal(t, topology.NodeName(old), v.Primary.Node)
	r := c.ledger(t)[uint64(v.Epoch)]
	require.Equal(t, election.Resume, r.Kind)
	require.Contains(t, r.Cause, "it restarted")
	acked := w.Acknowledged()
	await(t, patience, "writes that go on", func() (bool, string) { return w.Acknowledged() > acked+enough, "too few rows" })
	c.healthy(t)
	c.following(t)
	c.verify(t, w.Stop())
	c.lostNothing(t)
}
