package startcommand

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// leaving is a command that leaves a process behind, which holds its output,
// and then goes on with what it is told.
func leaving(t *testing.T, then string) []string {
	file := filepath.Join(t.TempDir(), "pid")
	t.Cleanup(func() {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		require.NoError(t, err)
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL), "it is still there")
	})
	return []string{"sh", "-c", `sleep 600 & echo $! > "$0"; ` + then, file}
}

func TestRun(t *testing.T) {
	t.Run("what is left behind is not waited for", func(t *testing.T) {
		require.NoError(t, Run(t.Context(), leaving(t, "echo up"), Limit))
	})
	t.Run("nor where it failed", func(t *testing.T) {
		err := Run(t.Context(), leaving(t, "echo no room >&2; exit 3"), Limit)
		require.ErrorContains(t, err, "exit status 3: no room")
	})
	t.Run("nor where it is late", func(t *testing.T) {
		err := Run(t.Context(), leaving(t, "echo wait; exec sleep 600"), time.Second)
		require.ErrorContains(t, err, "it has not ended after 1s: wait")
	})
	t.Run("its output can be kept nowhere", func(t *testing.T) {
		t.Setenv("TMPDIR", "/nowhere")
		require.NoError(t, Run(t.Context(), []string{"true"}, Limit))
		require.ErrorContains(t, Run(t.Context(), []string{"false"}, Limit), "exit status 1: what it said is not known")
	})
	t.Run("no program", func(t *testing.T) {
		require.ErrorContains(t, Run(t.Context(), []string{"/nowhere/start"}, Limit), "no such file")
	})
}
