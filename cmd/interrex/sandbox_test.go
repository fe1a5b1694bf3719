package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVotersOfASandboxAreOdd(t *testing.T) {
	for nodes, want := range map[int]int{2: 1, 3: 3, 4: 3, 5: 5, 6: 5, 9: 5} {
		require.Equal(t, want, sandboxVoters(nodes), "%d nodes", nodes)
	}
}
