package acceptance

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/failover/api"
	"interrex/internal/topology"
)

// reaches waits for a state of the cluster and returns it.
func (c *cluster) reaches(t *testing.T, what string, ok func(api.Cluster) bool) (v api.Cluster) {
	t.Helper()
	await(t, patience, what, func() (bool, string) {
		v = c.see(t)
		return ok(v), words(v)
	})
	return v
}

// TestDeadAckerIsDropped: a replica that is gone for long enough is shut out of
// the primary and of the register, so that the loss of the primary is provable
// with the other one alone; come back, it only has to follow.
func TestDeadAckerIsDropped(t *testing.T) {
	c := borrow(t)
	before := c.healthy(t)
	primary := string(before.Primary.Node)
	replicas := c.names(primary)
	w := c.load(t, replicas[0])

	c.order(t, "kill", replicas[1])
	killed := time.Now()
	v := c.reaches(t, "the dead acker is dropped", func(v api.Cluster) bool {
		return !slices.Contains(v.Durability.Ackers, topology.NodeName(replicas[1]))
	})
	t.Logf("%s was dropped %.1f s after its death", replicas[1], time.Since(killed).Seconds())
	require.Equal(t, before.Epoch, v.Epoch)
	require.True(t, v.Durability.Lossless)
	require.Equal(t, 1, v.Durability.Needed)
	require.Equal(t, []topology.NodeName{topology.NodeName(replicas[1])}, v.Durability.Shut)
	c.goesOn(t, w, replicas[0], 3*time.Second)

	// The primary dies: the proof is there, but nobody to acknowledge.
	c.order(t, "kill", primary)
	rest(2 * time.Second)
	require.Equal(t, before.Epoch, c.see(t).Epoch)
	c.order(t, "start", replicas[1])
	c.reaches(t, "the one with everything is promoted", func(v api.Cluster) bool {
		return v.Epoch > before.Epoch && v.Operation == nil && string(v.Primary.Node) == replicas[0]
	})
	c.goesOn(t, w, replicas[0], 5*time.Second)
	c.order(t, "start", primary)
	c.healthy(t)

	c.verify(t, w.Stop())

	// A primary once more that still shuts one out: it lets it in.
	c.following(t)
	status, report, problem := c.switchover(t, replicas[0], primary)
	require.Equal(t, 200, status, "%+v %+v", report, problem)
	v = c.healthy(t)
	require.Len(t, v.Durability.Ackers, 2)
	require.Empty(t, v.Durability.Shut)
}
