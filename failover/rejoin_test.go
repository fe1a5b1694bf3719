package failover

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/topology"
)

// TestRebuildThatIsNotAnswered: the others are brought back all the same.
func TestRebuildThatIsNotAnswered(t *testing.T) {
	var asked atomic.Int64
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		time.Sleep(2 * time.Second)
		c.fleet.change(func() {
			n2 := c.fleet.servers["n2"]
			n2.executed, n2.received = n2.executed.Union(gtids("2:1")), n2.received.Union(gtids("2:1"))
		})
		time.Sleep(5 * time.Second)
		require.Positive(t, asked.Load())
		n3 := c.server("n3")
		_, _, _, err := n3.Freeze(t.Context())
		require.NoError(t, err)
		time.Sleep(20 * time.Second)
		c.fleet.change(func() { require.True(t, n3.receiverOn, "it was told to follow again") })
	}, func(c *cluster) {
		for _, a := range c.agents {
			a.control.rejoin.cfg.Policy.Rebuild = true
			a.control.rejoin.cfg.Nodes = rebuildsNobody{a.control.rejoin.cfg.Nodes, &asked}
		}
	})
}

// rebuildsNobody are members that never answer an order to rebuild.
type rebuildsNobody struct {
	Nodes
	asked *atomic.Int64
}

func (r rebuildsNobody) Node(name topology.NodeName) (Node, error) {
	n, err := r.Nodes.Node(name)
	return mute{n, r.asked}, err
}

type mute struct {
	Node
	asked *atomic.Int64
}

func (m mute) Rebuild(ctx context.Context, _ RebuildRequest) error {
	m.asked.Add(1)
	<-ctx.Done()
	return ctx.Err()
}
