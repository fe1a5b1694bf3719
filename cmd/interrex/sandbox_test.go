package main

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVotersOfASandboxAreOdd(t *testing.T) {
	for nodes, want := range map[int]int{2: 1, 3: 3, 4: 3, 5: 5, 6: 5, 9: 5} {
		require.Equal(t, want, sandboxVoters(nodes), "%d nodes", nodes)
	}
}

func TestSandboxOfOneServerIsRefused(t *testing.T) {
	for _, nodes := range []string{"0", "1", "-1"} {
		root := newRootCommand()
		root.SetArgs([]string{"sandbox", "up", "--dir", t.TempDir(), "--nodes=" + nodes})
		root.SetOut(io.Discard)
		var errs bytes.Buffer
		require.Equal(t, exitUsage, execute(t.Context(), root, &errs))
		require.Contains(t, errs.String(), "a sandbox has 2 servers at least")
	}
}
