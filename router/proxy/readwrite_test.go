package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/topology"
	"interrex/router"
)

func TestFollowsThePrimary(t *testing.T) {
	red, r := startOpen(t)
	green := startInstance(t, "green")
	g := r.dial(ReadWrite)
	require.EqualValues(t, "red", g.greetedBy())
	g.works()
	require.Equal(t, 1, r.proxy.Sessions("red"))

	r.open(2, green.Backend)
	g.isCut()
	g = r.dial(ReadWrite)
	require.EqualValues(t, "green", g.greetedBy())

	_, err := r.table.Apply(router.Route{Epoch: 1, Phase: router.Open, Primary: &red.Backend})
	require.ErrorIs(t, err, router.ErrStaleRoute)
	g.works()
	require.EqualValues(t, "green", r.dial(ReadWrite).greetedBy())
	require.Zero(t, r.brokenCalls("red"), "the proxy's own cut is not the instance's fault")
}

func TestCutResetsBothSides(t *testing.T) {
	_, r := startOpen(t)
	g := r.dial(ReadWrite)
	g.greetedBy()
	r.closed(2)
	_, err := g.in.ReadByte()
	require.ErrorIs(t, err, syscall.ECONNRESET)
	r.until(ReadWrite, "forgotten", func(s PortStats) bool { return len(s.Sessions) == 0 && s.Cut == 1 })
}

func TestDrainKeepsSessionsAndHoldsNewOnes(t *testing.T) {
	red, r := startOpen(t)
	green := startInstance(t, "green")
	old := r.dial(ReadWrite)
	old.greetedBy()

	r.drain(2, red.Backend)
	held := r.dial(ReadWrite)
	r.until(ReadWrite, "held", func(s PortStats) bool { return s.Held == 1 })
	old.works()

	r.open(2, green.Backend)
	old.isCut()
	require.EqualValues(t, "green", held.greetedBy())
	held.works()
}

func TestUndoneSwitchoverKeepsSessions(t *testing.T) {
	red, r := startOpen(t)
	old := r.dial(ReadWrite)
	old.greetedBy()
	r.drain(2, red.Backend)
	held := r.dial(ReadWrite)
	r.until(ReadWrite, "held", func(s PortStats) bool { return s.Held == 1 })
	r.open(3, red.Backend)
	require.EqualValues(t, "red", held.greetedBy())
	old.works()
}

func TestHeldWithNoRouteYet(t *testing.T) {
	red := startInstance(t, "red")
	r := startRig(t, nil)
	g := r.dial(ReadWrite)
	r.until(ReadWrite, "held", func(s PortStats) bool { return s.Held == 1 })
	r.open(1, red.Backend)
	require.EqualValues(t, "red", g.greetedBy())
	r.until(ReadWrite, "released", func(s PortStats) bool { return s.Held == 0 && s.HeldTotal == 1 })
}

// A primary that has just died, in each of the ways it may be met, costs its
// new clients latency only.
func TestDeadPrimaryCostsOnlyLatency(t *testing.T) {
	for name, die := range map[string]func(*instance){
		"refuses":         func(i *instance) { i.kill() },
		"never greets":    func(i *instance) { i.behave(true, false) },
		"closes at once":  func(i *instance) { i.behave(false, true) },
		"and comes again": func(i *instance) { i.kill(); time.AfterFunc(50*time.Millisecond, i.start) },
	} {
		t.Run(name, func(t *testing.T) {
			red, r := startOpen(t)
			green := startInstance(t, "green")
			die(red)
			g := r.dial(ReadWrite)
			r.until(ReadWrite, "held", func(s PortStats) bool { return s.HeldTotal == 1 })
			if name == "and comes again" {
				require.EqualValues(t, "red", g.greetedBy())
				return
			}
			r.closed(2)
			r.open(2, green.Backend)
			require.EqualValues(t, "green", g.greetedBy())
			g.works()
			if name != "never greets" {
				require.NotZero(t, r.brokenCalls("red"))
			}
		})
	}
}

func TestBrokenSessionIsToldAtOnce(t *testing.T) {
	red, r := startOpen(t)
	g := r.dial(ReadWrite)
	g.greetedBy()
	red.kill()
	g.isCut()
	require.Eventually(t, func() bool { return r.brokenCalls("red") > 0 }, deadline, time.Millisecond)
}

func TestClientThatClosesBreaksNothing(t *testing.T) {
	_, r := startOpen(t)
	for range 50 {
		g := r.dial(ReadWrite)
		g.greetedBy()
		require.NoError(t, g.Close())
	}
	r.until(ReadWrite, "empty", func(s PortStats) bool { return s.Connections == 0 })
	require.Zero(t, r.brokenCalls("red"))
}

func TestHalfClose(t *testing.T) {
	_, r := startOpen(t)
	g := r.dial(ReadWrite)
	g.greetedBy()
	_, err := io.WriteString(g, "last words")
	require.NoError(t, err)
	require.NoError(t, g.CloseWrite())
	b, err := io.ReadAll(g.in)
	require.NoError(t, err)
	require.Equal(t, "last words", string(b))
}

func TestHoldTimeIsBounded(t *testing.T) {
	r := startRig(t, func(c *Config) { c.HoldTime = 100 * time.Millisecond })
	r.closed(7)
	began := time.Now()
	code, message := r.dial(ReadWrite).refusedWith()
	require.GreaterOrEqual(t, time.Since(began), 95*time.Millisecond)
	require.Equal(t, 3168, code)
	for _, part := range []string{"rome", "epoch 7", "failover", "closed"} {
		require.Contains(t, message, part)
	}
	r.until(ReadWrite, "empty", func(s PortStats) bool { return s.Held == 0 && s.Connections == 0 && s.Refused == 1 })
}

func TestHoldTimeIsBoundedWhileThePrimaryIsDead(t *testing.T) {
	for want, die := range map[string]func(*instance){
		"connection refused":       func(i *instance) { i.kill() },
		"closed before it greeted": func(i *instance) { i.behave(false, true) },
		"as long as is allowed":    func(i *instance) { i.behave(true, false) },
	} {
		t.Run(want, func(t *testing.T) {
			red := startInstance(t, "red")
			r := startRig(t, func(c *Config) { c.HoldTime = 100 * time.Millisecond })
			r.open(3, red.Backend)
			die(red)
			code, message := r.dial(ReadWrite).refusedWith()
			require.Equal(t, 3168, code)
			require.Contains(t, message, want)
			require.Contains(t, message, "epoch 3")
			r.until(ReadWrite, "empty", func(s PortStats) bool { return s.Held == 0 && s.Connections == 0 })
		})
	}
}

func TestHoldNumberIsBounded(t *testing.T) {
	red := startInstance(t, "red")
	r := startRig(t, func(c *Config) { c.HoldConnections = 3 })
	r.closed(1)
	held := []*guest{r.dial(ReadWrite), r.dial(ReadWrite), r.dial(ReadWrite)}
	r.until(ReadWrite, "full", func(s PortStats) bool { return s.Held == 3 })
	code, message := r.dial(ReadWrite).refusedWith()
	require.Equal(t, 3168, code)
	require.Contains(t, message, "as many connections are held as are allowed")

	require.NoError(t, held[0].Close())
	r.until(ReadWrite, "freed", func(s PortStats) bool { return s.Held == 2 && s.ClientsLeft == 1 })
	held[0] = r.dial(ReadWrite)
	r.until(ReadWrite, "full again", func(s PortStats) bool { return s.Held == 3 })
	require.NoError(t, held[1].SetLinger(0))
	require.NoError(t, held[1].Close(), "a client may leave by a reset, too")
	r.until(ReadWrite, "freed", func(s PortStats) bool { return s.Held == 2 && s.ClientsLeft == 2 })

	r.open(1, red.Backend)
	require.EqualValues(t, "red", held[0].greetedBy())
	require.EqualValues(t, "red", held[2].greetedBy())
	r.until(ReadWrite, "released", func(s PortStats) bool { return s.Held == 0 })
}

func TestNothingIsHeldWithoutHoldTime(t *testing.T) {
	r := startRig(t, func(c *Config) { c.HoldTime = 0 })
	code, _ := r.dial(ReadWrite).refusedWith()
	require.Equal(t, 3168, code)
}

func TestHeldClientThatTalksLosesNothing(t *testing.T) {
	red := startInstance(t, "red")
	r := startRig(t, nil)
	g := r.dial(ReadWrite)
	_, err := fmt.Fprintln(g, "too early")
	require.NoError(t, err)
	r.until(ReadWrite, "held", func(s PortStats) bool { return s.Held == 1 })
	r.open(1, red.Backend)
	require.EqualValues(t, "red", g.greetedBy())
	line, err := g.in.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "too early\n", line)
}

func TestConnectionsAreBounded(t *testing.T) {
	red := startInstance(t, "red")
	r := startRig(t, func(c *Config) { c.MaxConnections = 2 })
	r.open(1, red.Backend)
	a, b := r.dial(ReadWrite), r.dial(ReadWrite)
	a.greetedBy()
	b.greetedBy()
	code, message := r.dial(ReadWrite).refusedWith()
	require.Equal(t, 1040, code)
	require.Equal(t, "Too many connections", message)
	require.NoError(t, a.Close())
	r.until(ReadWrite, "freed", func(s PortStats) bool { return s.Connections == 1 })
	require.EqualValues(t, "red", r.dial(ReadWrite).greetedBy())
}

func TestStopTellsHeldClientsAndCutsSessions(t *testing.T) {
	red, r := startOpen(t)
	session := r.dial(ReadWrite)
	session.greetedBy()
	r.drain(2, red.Backend)
	held := r.dial(ReadWrite)
	r.until(ReadWrite, "held", func(s PortStats) bool { return s.Held == 1 })
	r.stop()
	code, _ := held.refusedWith()
	require.Equal(t, 1053, code)
	session.isCut()
	_, err := net.Dial("tcp", r.proxy.Address(ReadWrite))
	require.Error(t, err)
}

// A client that pauses over a large result is slow, not gone.
func TestSlowReaderIsNotCut(t *testing.T) {
	red := startInstance(t, "red")
	r := startRig(t, func(c *Config) { c.PeerTimeout = time.Second })
	r.open(1, red.Backend)
	g := r.dial(ReadWrite)
	g.greetedBy()
	const size = 32 << 20
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := g.Write(make([]byte, size)); err != nil {
			t.Errorf("write: %v", err)
		}
	})
	time.Sleep(4 * time.Second) // the pause under test
	n, err := io.CopyN(io.Discard, g.in, size)
	require.NoErrorf(t, err, "after %d bytes", n)
	wg.Wait()
}

// While the route moves to and fro under 2,000 connections, none is greeted by
// an instance that was not primary at the time, none is answered with an error,
// and everything is gone in the end.
func TestChurn(t *testing.T) {
	red, r := startOpen(t)
	green := startInstance(t, "green")
	primaries := []router.Backend{green.Backend, red.Backend} // of even and of odd epochs
	var began, done atomic.Uint64                             // epochs whose route is being, or has been, applied
	began.Store(1)
	done.Store(1)
	stop := make(chan struct{})
	var mover, clients sync.WaitGroup
	mover.Go(func() {
		for e := uint64(2); ; e++ {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			began.Store(e)
			r.closed(topology.Epoch(e))
			r.open(topology.Epoch(e), primaries[e%2])
			done.Store(e)
		}
	})
	var judged atomic.Int64
	visit := func() error {
		before := done.Load()
		c, err := net.Dial("tcp", r.proxy.Address(ReadWrite))
		switch {
		case errors.Is(err, syscall.ECONNRESET): // joined, then cut before it knew
			return nil
		case err != nil:
			return err
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(deadline))
		buf := make([]byte, 16)
		n, err := c.Read(buf)
		switch after := began.Load(); {
		case errors.Is(err, syscall.ECONNRESET): // joined, then cut before it read
		case err != nil:
			return err
		case before == after: // nothing moved meanwhile
			judged.Add(1)
			if want := string(primaries[before%2].Node) + "\n"; string(buf[:n]) != want {
				return fmt.Errorf("greeted with %q in epoch %d", buf[:n], before)
			}
		}
		return nil
	}
	const workers, each = 40, 50
	for range workers {
		clients.Go(func() {
			for range each {
				if err := visit(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	clients.Wait()
	close(stop)
	mover.Wait()
	s := r.stats(ReadWrite)
	require.EqualValues(t, workers*each, s.Accepted)
	require.Zero(t, s.Refused, "%+v", s)
	require.NotZero(t, judged.Load())
	r.until(ReadWrite, "empty", func(s PortStats) bool { return s.Connections == 0 && s.Held == 0 && len(s.Sessions) == 0 })
}
