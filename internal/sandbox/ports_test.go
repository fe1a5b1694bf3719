package sandbox

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

func listen(t *testing.T, port int) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", Addr(port))
	require.NoError(t, err)
	return listener
}

func TestPortsAreDistinct(t *testing.T) {
	seen := map[int]bool{}
	for i := range 9 {
		for _, p := range portsOf(20000, i).named() {
			require.False(t, seen[p.port], "port %d", p.port)
			require.Less(t, p.port, 20000+9*portStride)
			seen[p.port] = true
		}
	}
}

func TestPortsOfOthersAreClaimed(t *testing.T) {
	for _, n := range []int{1, 5, 7, 8, 20} {
		ports, release, err := ClaimPorts(n)
		require.NoError(t, err)
		require.Len(t, ports, n)
		seen := map[int]bool{}
		for _, p := range ports {
			require.False(t, seen[p], "port %d of %v", p, ports)
			seen[p] = true
			require.GreaterOrEqual(t, p, lowestBase)
			require.Less(t, p, highestBase)
			listen(t, p).Close()
		}
		_, err = claimPorts(ports[0], 1)
		require.ErrorIs(t, err, ErrPortTaken, "a sandbox takes them meanwhile")
		release()
		free, err := claimPorts(ports[0], 1)
		require.NoError(t, err)
		free()
	}
}

func TestClaimPorts(t *testing.T) {
	base, release, err := chooseBase(3)
	require.NoError(t, err)
	taken := func(base int, texts ...string) {
		t.Helper()
		_, err := claimPorts(base, 3)
		for _, text := range texts {
			require.ErrorContains(t, err, text)
		}
	}
	taken(base, "db1, while the sandbox comes up)", "db3, while the sandbox comes up)")
	taken(base+2*portStride, "db1, while the sandbox comes up)")
	release()
	release, err = claimPorts(base, 3)
	require.NoError(t, err)
	release()
	tests := map[string]int{"too low": 80, "too high": 65510}
	for name, base := range tests {
		t.Run(name, func(*testing.T) { taken(base, "1024 to 65535") })
	}
	t.Run("gossip needs UDP as well", func(t *testing.T) {
		conn, err := net.ListenPacket("udp", Addr(portsOf(base, 0).Gossip))
		require.NoError(t, err)
		defer conn.Close()
		taken(base, "db1, gossip")
	})
	t.Run("all that are taken are named", func(t *testing.T) {
		defer listen(t, portsOf(base, 0).MySQL).Close()
		defer listen(t, portsOf(base, 2).EtcdPeer).Close()
		taken(base, "db1, mysql)", "db3, etcd peer)")
	})
}
