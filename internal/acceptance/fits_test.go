package acceptance

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/sandbox"
)

// TestSandboxFits: a sandbox is up quickly, and its servers and agents, with
// the etcd children, leave a small machine room for others.
func TestSandboxFits(t *testing.T) {
	c := borrow(t)
	c.healthy(t)
	require.Less(t, c.upTook, 20*time.Second)
	processes, total := c.memory(t)
	t.Logf("up after %.1f s; %d processes take %d MiB", c.upTook.Seconds(), processes, total>>20)
	require.GreaterOrEqual(t, processes, 10) // a supervisor; 3 servers, agents, etcd members
	require.Less(t, total, 5<<29)            // 2.5 GiB
}

// memory counts the sandbox's processes and the bytes that they take; what
// several share is counted once.
func (c *cluster) memory(t *testing.T) (processes, total int) {
	t.Helper()
	plan, err := sandbox.Load(c.dir)
	require.NoError(t, err)
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	require.NoError(t, err)
	for _, environ := range environs {
		text, err := os.ReadFile(environ)
		if err != nil || !bytes.Contains(text, []byte(plan.Mark())) {
			continue // gone, or none of ours
		}
		rollup, err := os.ReadFile(filepath.Join(filepath.Dir(environ), "smaps_rollup"))
		if err != nil {
			continue
		}
		processes++
		for line := range strings.Lines(string(rollup)) {
			var kib int
			if n, _ := fmt.Sscanf(line, "Pss: %d kB", &kib); n == 1 {
				total += kib << 10
			}
		}
	}
	return processes, total
}
