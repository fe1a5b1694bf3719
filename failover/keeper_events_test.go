package failover

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/topology"
)

// M10: the primary's events are looked at soon after its promotion and from time
// to time, on no other server, and not while nothing could be recorded.
func TestEventsOfThePrimaryAreTended(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		tended := func(node topology.NodeName) (n int) {
			c.fleet.change(func() { n = c.fleet.servers[node].eventsTended })
			return n
		}
		c.eventually("the primary's to be tended", func() bool { return tended("n1") > 0 })
		began := tended("n1")
		time.Sleep(time.Minute)
		require.InDelta(t, time.Minute/eventsEvery, tended("n1")-began, 2)
		require.Zero(t, tended("n2"))
		require.Zero(t, tended("n3"))

		c.server("n1").kill()
		c.eventually("another primary", func() bool { return c.state().Primary.Node != "n1" })
		next := c.state().Primary.Node
		c.eventually("its to be tended", func() bool { return tended(next) > 0 })
		last := tended("n1")
		time.Sleep(time.Minute)
		require.Equal(t, last, tended("n1"))
	})
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.server("n2").kill()
		c.server("n3").kill()
		time.Sleep(time.Second)
		c.fleet.change(func() { c.fleet.servers["n1"].eventsTended = 0 })
		time.Sleep(time.Minute)
		c.fleet.change(func() { require.Zero(t, c.fleet.servers["n1"].eventsTended, "nobody is connected") })
	})
}
