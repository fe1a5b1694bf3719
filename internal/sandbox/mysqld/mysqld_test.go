package mysqld_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/sandbox/fetch"
	"interrex/internal/sandbox/mysqld"
	"interrex/internal/sandbox/mysqld/mysqldtest"
)

func TestSocketPathIsNeverTooLong(t *testing.T) {
	for _, length := range []int{20, 96, 97, 98, 300} {
		dir := "/" + strings.Repeat("d", length-1)
		path, err := mysqld.SocketPath(dir, "mysql.sock") // 11 bytes more
		require.NoError(t, err)
		require.LessOrEqual(t, len(path), 107)
		require.Equal(t, length <= 96, path == filepath.Join(dir, "mysql.sock"), "%d: %s", length, path)
		again, err := mysqld.SocketPath(dir, "mysql.sock")
		require.NoError(t, err)
		require.Equal(t, path, again)
		other, err := mysqld.SocketPath(dir, "other.sock")
		require.NoError(t, err)
		require.NotEqual(t, path, other)
	}
}

func TestServerInADeepFolder(t *testing.T) {
	spec := mysqldtest.NewSpec(t, initSQL(), 7)
	deep := filepath.Join(spec.Dir, strings.Repeat("deep", 20))
	require.NoError(t, os.Mkdir(deep, 0o700))
	require.NoError(t, os.Rename(filepath.Join(spec.Dir, "data"), filepath.Join(deep, "data")))
	spec.Dir = deep
	server := mysqldtest.Run(t, spec)
	require.NotEqual(t, deep, filepath.Dir(server.Socket))
}

func TestServerThatCannotStartSaysWhy(t *testing.T) {
	spec := mysqldtest.NewSpec(t, initSQL(), 7, "--no-such-option")
	_, err := mysqld.Start(t.Context(), mysqldtest.Distribution(t), spec)
	require.ErrorIs(t, err, mysqld.ErrExited)
	require.ErrorContains(t, err, "no-such-option")
}

func TestStartGivesUpWithItsContext(t *testing.T) {
	spec := mysqldtest.NewSpec(t, initSQL(), 7)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := mysqld.Start(ctx, mysqldtest.Distribution(t), spec)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	// Nothing of it is left: the folder can be used at once.
	mysqldtest.Run(t, spec)
}

func TestServerIsKilledAndComesBack(t *testing.T) {
	spec := mysqldtest.NewSpec(t, initSQL(), 7)
	server := mysqldtest.Run(t, spec)
	require.NoError(t, server.Kill())
	require.Equal(t, -1, server.ExitCode())
	require.NoError(t, server.Kill(), "a second time")
	require.FileExists(t, server.Socket, "left by the killed server")
	again := mysqldtest.Run(t, spec)
	require.NotEqual(t, server.PID(), again.PID())
}

func TestCopiesAreDifferentServers(t *testing.T) {
	template, err := mysqld.Template(t.Context(), mysqldtest.Distribution(t), initSQL())
	require.NoError(t, err)
	require.NoFileExists(t, filepath.Join(template, "auto.cnf"))
	dir := t.TempDir()
	require.NoError(t, mysqld.NewDatadir(template, dir))
	require.ErrorIs(t, mysqld.NewDatadir(template, dir), os.ErrExist)
	_, err = mysqld.Template(t.Context(), mysqldtest.Distribution(t), []string{"SELECT nonsense"})
	require.ErrorContains(t, err, "execute initial statement 1")
}

func TestFindNeverTakesMariaDBForMySQL(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "mysqld")
	script := "#!/bin/sh\necho 'mysqld  Ver 10.11.6-MariaDB-0+deb12u1 for debian-linux-gnu on x86_64 (Debian 12)'\n"
	require.NoError(t, os.WriteFile(program, []byte(script), 0o700))
	_, err := mysqld.Find(t.Context(), program, fetch.Quiet{})
	require.ErrorIs(t, err, mysqld.ErrNotMySQL)
	t.Setenv("INTERREX_MYSQLD", program)
	_, err = mysqld.Find(t.Context(), "", fetch.Quiet{})
	require.ErrorIs(t, err, mysqld.ErrNotMySQL)
	t.Setenv("INTERREX_MYSQLD", "")
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	dist, err := mysqld.Find(t.Context(), "", fetch.Quiet{})
	require.NoError(t, err)
	require.NotEqual(t, program, dist.Mysqld)
}
