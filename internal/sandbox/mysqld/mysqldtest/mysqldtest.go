package mysqldtest

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/porttest"
	"interrex/internal/sandbox/fetch"
	"interrex/internal/sandbox/mysqld"
)

// Start starts a server on free ports in a folder of its own, from a template
// in which initSQL was executed. It is killed when the test ends.
func Start(t testing.TB, initSQL []string, serverID uint32, args ...string) *mysqld.Server {
	t.Helper()
	spec := NewSpec(t, initSQL, serverID, args...)
	server := Run(t, spec)
	return server
}

// NewSpec prepares a server's folder, data directory and ports.
func NewSpec(t testing.TB, initSQL []string, serverID uint32, args ...string) mysqld.Spec {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	template, err := mysqld.Template(ctx, Distribution(t), initSQL)
	require.NoError(t, err)
	// Not t.TempDir: its path is too long for a socket.
	dir, err := os.MkdirTemp("", "interrex-test-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, mysqld.NewDatadir(template, dir))
	return mysqld.Spec{
		Dir: dir, Port: porttest.Port(t), AdminPort: porttest.Port(t), ServerID: serverID, Args: args, DieWithParent: true,
	}
}

// Run starts the server of a spec, for the first time or again, and kills it
// when the test ends.
func Run(t testing.TB, spec mysqld.Spec) *mysqld.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	server, err := mysqld.Start(ctx, Distribution(t), spec)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, server.Kill()) })
	return server
}

// Distribution is the MySQL the tests run with, fetched on the first call.
func Distribution(t testing.TB) mysqld.Distribution {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	dist, err := mysqld.Find(ctx, "", fetch.NewProgress(os.Stderr))
	require.NoError(t, err)
	return dist
}
