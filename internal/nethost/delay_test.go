package nethost_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/nethost"
)

// arrived sends that many numbered datagrams from a host and returns those that
// come, in the order they come in, until none comes for a while.
func (s server) arrived(t *testing.T, from *nethost.Host, count int) []int {
	t.Helper()
	host, port, err := net.SplitHostPort(s.address)
	require.NoError(t, err)
	command := append(from.Enter(), "bash", "-c",
		fmt.Sprintf("exec 3> /dev/udp/%s/%s; for i in $(seq %d); do printf $i >&3; ((i %% 20)) || sleep 0.005; done", host, port, count))
	sent := make(chan error, 1)
	go func() { sent <- exec.Command(command[0], command[1:]...).Run() }()
	var got []int
	for {
		select {
		case text := <-s.heard:
			number, err := strconv.Atoi(strings.TrimSpace(text))
			require.NoError(t, err)
			got = append(got, number)
		case <-time.After(500 * time.Millisecond):
			require.NoError(t, <-sent)
			return got
		}
	}
}

// acquaint has two hosts find each other's addresses: the first datagrams wait
// for that, and are overtaken by later ones.
func acquaint(t *testing.T, atA server, b *nethost.Host, atB server, a *nethost.Host) {
	t.Helper()
	require.True(t, atA.hears(t, b, patience))
	require.True(t, atB.hears(t, a, patience))
}

// TestLoss measures how many datagrams are lost, each way.
func TestLoss(t *testing.T) {
	network, err := nethost.NewNetwork(t.Context(), "a", "b")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, network.Close(context.Background())) })
	a, b := network.Hosts()[0], network.Hosts()[1]
	atA, atB := startServer(t, a, port), startServer(t, b, port)
	acquaint(t, atA, b, atB, a)
	const count = 2000
	lost := func(s server, from *nethost.Host) float64 {
		return 100 * (1 - float64(len(s.arrived(t, from, count)))/count)
	}
	for _, test := range []struct {
		name    string
		drop    nethost.Drop
		in, out float64 // percent
	}{
		{"none", nethost.Drop{At: a}, 0, 0},
		{"both ways", nethost.Drop{At: a, In: true, Out: true, Percent: 20}, 20, 20},
		{"one way, of a pair", nethost.Drop{At: a, In: true, Peer: b.Address, Percent: 5}, 5, 0},
		{"the other way, of a port", nethost.Drop{At: a, Out: true, Ports: []int{port}, Percent: 50}, 0, 50},
	} {
		cut, err := network.Cut(t.Context(), test.drop)
		require.NoError(t, err)
		in, out := lost(atA, b), lost(atB, a)
		t.Logf("%s: %.1f %% of what comes in is lost, %.1f %% of what goes out", test.name, in, out)
		// Six standard deviations of so many tries are 1 to 6 percent.
		require.InDelta(t, test.in, in, test.in/10+2, test.name)
		require.InDelta(t, test.out, out, test.out/10+2, test.name)
		require.NoError(t, cut.Heal(t.Context()))
	}
}

// greeted is how long it takes to connect and to be greeted: two round trips.
func (s server) greeted(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	conn, err := net.DialTimeout("tcp", s.address, patience)
	require.NoError(t, err)
	defer conn.Close()
	_ = conn.SetDeadline(began.Add(patience))
	_, err = conn.Read(make([]byte, 10))
	require.NoError(t, err)
	return time.Since(began)
}

// TestDelay measures how late packets are, switched on and off again.
func TestDelay(t *testing.T) {
	network, err := nethost.NewNetwork(t.Context(), "a", "b")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, network.Close(context.Background())) })
	a, b := network.Hosts()[0], network.Hosts()[1]
	atA, atB := startServer(t, a, port), startServer(t, b, port)
	acquaint(t, atA, b, atB, a)
	measure := func(name string, s server, least, most time.Duration) {
		t.Helper()
		var all []time.Duration
		for range 15 {
			all = append(all, s.greeted(t))
		}
		slices.Sort(all)
		t.Logf("%s: greeted after %v to %v, half of them within %v", name, all[0], all[len(all)-1], all[len(all)/2])
		require.GreaterOrEqual(t, all[0], least, name)
		require.Less(t, all[len(all)/2], most, name)
	}
	slow := func(delays ...nethost.Delay) *nethost.Slow {
		made, err := network.Delay(t.Context(), delays...)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, made.Heal(context.Background())) })
		return made
	}
	measure("as it is", atA, 0, 20*time.Millisecond)
	made := slow(nethost.Delay{At: a, Mean: 50 * time.Millisecond, Jitter: 20 * time.Millisecond})
	// There and back, there and back: the greeting comes right behind the
	// second half of the handshake.
	measure("50 ms each way", atA, 60*time.Millisecond, 300*time.Millisecond)
	measure("50 ms each way, at the other host", atB, 0, 20*time.Millisecond)
	require.IsIncreasing(t, atA.arrived(t, b, 500), "no datagram overtakes another")
	require.IsIncreasing(t, atB.arrived(t, a, 500), "no datagram overtakes another")

	t.Run("cuts hold", func(t *testing.T) {
		for _, drop := range []nethost.Drop{{At: a, In: true}, {At: a, Out: true}} {
			cut, err := network.Cut(t.Context(), drop)
			require.NoError(t, err)
			require.Equal(t, drop.Out, atA.hears(t, b, time.Second))
			require.Equal(t, drop.In, atB.hears(t, a, time.Second))
			require.NoError(t, cut.Heal(t.Context()))
		}
	})
	t.Run("large transfers", func(t *testing.T) { transfer(t, a) })

	require.NoError(t, made.Heal(t.Context()))
	measure("as it was", atA, 0, 20*time.Millisecond)
	slow(nethost.Delay{At: a, Mean: 50 * time.Millisecond, Jitter: 40 * time.Millisecond, Reorder: true})
	got := atA.arrived(t, b, 500)
	require.Greater(t, len(got), 450)
	require.False(t, slices.IsSorted(got), "datagrams overtake each other")
}

// transfer sends the test's own program to a host and back, and compares.
func transfer(t *testing.T, h *nethost.Host) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	want, err := os.ReadFile(exe)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", net.JoinHostPort(nethost.Address, "0"))
	require.NoError(t, err)
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	peer := "/dev/tcp/" + nethost.Address + "/" + port
	command := append(h.Enter(), "bash", "-c", fmt.Sprintf("cat < %s > %s", peer, peer))
	cmd := exec.Command(command[0], command[1:]...)
	require.NoError(t, cmd.Start())
	defer func() { require.NoError(t, cmd.Wait()) }()
	to, err := listener.Accept()
	require.NoError(t, err)
	from, err := listener.Accept()
	require.NoError(t, err)
	go func() {
		_, _ = to.Write(want)
		_ = to.Close()
	}()
	_ = from.SetDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(from)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "%d bytes came back of %d", len(got), len(want))
}
