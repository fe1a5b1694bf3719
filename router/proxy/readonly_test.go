package proxy

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/topology"
	"interrex/router"
)

func TestReadsAreSpreadEvenly(t *testing.T) {
	red, green, blue := startInstance(t, "red"), startInstance(t, "green"), startInstance(t, "blue")
	r := startRig(t, nil)
	r.open(1, red.Backend, green.Backend, blue.Backend)
	count := map[topology.NodeName]int{}
	var greens []*guest
	for range 20 {
		g := r.dial(ReadOnly)
		who := g.greetedBy()
		count[who]++
		if who == "green" {
			greens = append(greens, g)
		}
	}
	require.Equal(t, map[topology.NodeName]int{"green": 10, "blue": 10}, count)

	// The one with fewer connections gets the next ones.
	for _, g := range greens[:5] {
		require.NoError(t, g.Close())
	}
	require.Eventually(t, func() bool { return r.proxy.Sessions("green") == 5 }, deadline, time.Millisecond)
	for range 5 {
		require.EqualValues(t, "green", r.dial(ReadOnly).greetedBy())
	}
}

func TestReadsTakeTurnsAmongIdleReplicas(t *testing.T) {
	red, green, blue := startInstance(t, "red"), startInstance(t, "green"), startInstance(t, "blue")
	r := startRig(t, nil)
	r.open(1, red.Backend, green.Backend, blue.Backend)
	count := map[topology.NodeName]int{}
	for range 10 {
		g := r.dial(ReadOnly)
		count[g.greetedBy()]++
		require.NoError(t, g.Close())
		r.until(ReadOnly, "empty", func(s PortStats) bool { return s.Connections == 0 })
	}
	require.Equal(t, map[topology.NodeName]int{"green": 5, "blue": 5}, count)
}

func TestStuckReplicaIsPassedOver(t *testing.T) {
	for name, die := range map[string]func(*instance){
		"refuses":        func(i *instance) { i.kill() },
		"closes at once": func(i *instance) { i.behave(false, true) },
		"never greets":   func(i *instance) { i.behave(true, false) },
	} {
		t.Run(name, func(t *testing.T) {
			red, green, blue := startInstance(t, "red"), startInstance(t, "green"), startInstance(t, "blue")
			r := startRig(t, func(c *Config) { c.ConnectTimeout = 200 * time.Millisecond })
			r.open(1, red.Backend, green.Backend, blue.Backend)
			die(green)
			for range 4 {
				require.EqualValues(t, "blue", r.dial(ReadOnly).greetedBy())
			}
			require.NotZero(t, r.brokenCalls("green"))
			require.EqualValues(t, 1, r.stats(ReadOnly).ConnectFailures, "avoided after the first failure")
		})
	}
}

func TestPassedOverReplicaComesBack(t *testing.T) {
	red, green := startInstance(t, "red"), startInstance(t, "green")
	r := startRig(t, nil)
	r.open(1, red.Backend, green.Backend)
	green.kill()
	require.EqualValues(t, "red", r.dial(ReadOnly).greetedBy(), "falls back to the primary")
	green.start()
	require.Eventually(t, func() bool { return r.dial(ReadOnly).greetedBy() == "green" }, deadline, 50*time.Millisecond)
}

func TestReadsFallBackToThePrimary(t *testing.T) {
	_, r := startOpen(t)
	green := startInstance(t, "green")
	fallen := r.dial(ReadOnly)
	require.EqualValues(t, "red", fallen.greetedBy())
	r.table.SetReplicas([]router.Backend{green.Backend})
	require.Eventually(t, func() bool { return r.dial(ReadOnly).greetedBy() == "green" }, deadline, time.Millisecond)
	fallen.works()

	r.table.SetReplicas(nil)
	r.closed(2)
	fallen.isCut() // it was led to the primary, so it goes with it
	held := r.dial(ReadOnly)
	r.until(ReadOnly, "held", func(s PortStats) bool { return s.Held == 1 })
	r.table.SetReplicas([]router.Backend{green.Backend})
	require.EqualValues(t, "green", held.greetedBy(), "a replica releases it as well as a primary")
}

func TestReadsWithoutFallbackAreRefused(t *testing.T) {
	red, green := startInstance(t, "red"), startInstance(t, "green")
	r := startRig(t, func(c *Config) { c.ReadFallback = FallbackNone })
	r.open(1, red.Backend)
	code, message := r.dial(ReadOnly).refusedWith()
	require.Equal(t, 3168, code)
	require.Contains(t, message, "no replica may serve reads")
	r.table.SetReplicas([]router.Backend{green.Backend})
	require.Eventually(t, func() bool { return r.stats(ReadOnly).Epoch == 1 }, deadline, time.Millisecond)
	require.EqualValues(t, "green", r.dial(ReadOnly).greetedBy())
}

func TestReplicaThatLeavesIsGivenGrace(t *testing.T) {
	red, green, blue := startInstance(t, "red"), startInstance(t, "green"), startInstance(t, "blue")
	const grace = 300 * time.Millisecond
	r := startRig(t, func(c *Config) { c.ReplicaGrace = grace })
	r.open(1, red.Backend, green.Backend, blue.Backend)
	guests := map[topology.NodeName]*guest{}
	for len(guests) < 2 {
		g := r.dial(ReadOnly)
		guests[g.greetedBy()] = g
	}
	left := time.Now()
	r.table.SetReplicas([]router.Backend{blue.Backend})
	guests["green"].works()
	guests["green"].isCut()
	require.GreaterOrEqual(t, time.Since(left), grace)
	guests["blue"].works()

	// One that is back in time keeps its sessions.
	r.table.SetReplicas([]router.Backend{green.Backend})
	r.until(ReadOnly, "adopted", func(PortStats) bool { return r.dial(ReadOnly).greetedBy() == "green" })
	r.table.SetReplicas([]router.Backend{green.Backend, blue.Backend})
	time.Sleep(2 * grace)
	guests["blue"].works()
}

func TestPromotedReplicaKeepsItsReads(t *testing.T) {
	red, green := startInstance(t, "red"), startInstance(t, "green")
	r := startRig(t, func(c *Config) { c.ReplicaGrace = 50 * time.Millisecond })
	r.open(1, red.Backend, green.Backend)
	g := r.dial(ReadOnly)
	require.EqualValues(t, "green", g.greetedBy())
	r.closed(2)
	r.open(2, green.Backend)
	r.table.SetReplicas(nil)
	time.Sleep(200 * time.Millisecond)
	g.works()
}

func TestReplicasDoNotDisturbWrites(t *testing.T) {
	_, r := startOpen(t)
	green := startInstance(t, "green")
	g := r.dial(ReadWrite)
	g.greetedBy()
	for range 20 {
		r.table.SetReplicas([]router.Backend{green.Backend})
		r.table.SetReplicas(nil)
	}
	g.works()
}
