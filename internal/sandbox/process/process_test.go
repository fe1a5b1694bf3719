package process

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFreezeWaits: once Freeze has returned the process does nothing, however
// busy the machine is.
func TestFreezeWaits(t *testing.T) {
	var all []*Process
	for range 8 {
		p, err := Start(Spec{
			Command: []string{"sh", "-c", "while :; do :; done"}, LogFile: filepath.Join(t.TempDir(), "log"), DieWithParent: true,
		})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, p.Kill()) })
		all = append(all, p)
	}
	for round := range 40 {
		p := all[round%len(all)]
		require.NoError(t, p.Freeze())
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
		require.NoError(t, err)
		require.Equal(t, "T", string(state(text)), "round %d", round)
		require.True(t, p.Alive())
		require.NoError(t, p.Thaw())
	}
	require.NoError(t, all[0].Kill())
	require.False(t, all[0].Alive())
	require.NoError(t, all[0].Freeze(), "one that is gone runs no more")
}
