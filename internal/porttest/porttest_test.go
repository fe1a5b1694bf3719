package porttest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMain is also the other process of the test.
func TestMain(m *testing.M) {
	if os.Getenv("PORTTEST_HOLD") == "" {
		os.Exit(m.Run())
	}
	if !takeBlock() {
		os.Exit(1)
	}
	fmt.Println(taken.holders[0].Addr())
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until the test ends
}

func TestPortsDiffer(t *testing.T) {
	seen := make(map[int]bool)
	for range 3 * blockSize {
		port := Port(t)
		require.False(t, seen[port], "port %d was handed out twice", port)
		seen[port] = true
		require.True(t, bindable(port))
	}
}

// TestBlockOfAnotherProcess: none of its ports is handed out, though nobody
// listens on them.
func TestBlockOfAnotherProcess(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	other := exec.CommandContext(t.Context(), exe)
	other.Env = append(os.Environ(), "PORTTEST_HOLD=1")
	stdin, err := other.StdinPipe()
	require.NoError(t, err)
	stdout, err := other.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, other.Start())
	held, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	base, err := net.ResolveTCPAddr("tcp", strings.TrimSpace(held))
	require.NoError(t, err)
	require.True(t, bindable(base.Port+1), "only the block is held")

	taken.Lock()
	mine := len(taken.holders)
	for takeBlock() { // all there are
	}
	for _, port := range taken.ports {
		require.False(t, base.Port <= port && port < base.Port+blockSize, "port %d is of the other process", port)
	}
	for _, holder := range taken.holders[mine:] {
		require.NoError(t, holder.Close())
	}
	taken.holders, taken.ports = taken.holders[:mine], taken.ports[:mine*(blockSize-1)]
	taken.next = min(taken.next, len(taken.ports))
	taken.Unlock()

	require.NoError(t, stdin.Close())
	require.NoError(t, other.Wait())
}
