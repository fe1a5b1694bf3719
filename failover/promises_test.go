package failover

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"interrex/internal/topology"
)

func TestPromisesSurviveARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "promises.json")
	s, err := openPromises(file)
	require.NoError(t, err)
	require.True(t, s.forgotten(), "nothing is known yet")
	require.NoError(t, s.promise(7))
	require.NoError(t, s.promise(5), "a lower one is no error, and changes nothing")
	require.NoError(t, s.certify("boot-1"))
	require.EqualValues(t, 7, s.epoch())

	s, err = openPromises(file)
	require.NoError(t, err)
	require.False(t, s.forgotten())
	require.EqualValues(t, 7, s.epoch())
	require.True(t, s.certified("boot-1"))
	require.False(t, s.certified("boot-2"), "another boot")
	require.False(t, s.certified(""))

	left, err := os.ReadDir(filepath.Dir(file))
	require.NoError(t, err)
	require.Len(t, left, 1, "no temporary file stays behind")
}

func TestPromisesOfATornFileAreForgotten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "promises.json")
	for _, torn := range []string{"", `{"epoch":7,"cert`, "\x00\x00\x00"} {
		require.NoError(t, os.WriteFile(file, []byte(torn), 0o600))
		s, err := openPromises(file)
		require.NoError(t, err)
		require.True(t, s.forgotten(), "%q", torn)
		require.Zero(t, s.epoch())
		require.False(t, s.certified("boot-1"))
		require.NoError(t, s.promise(1))
		require.False(t, s.forgotten())
	}
}

func TestPromiseThatCannotBeWrittenIsNotMade(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gone", "promises.json")
	s, err := openPromises(file)
	require.NoError(t, err)
	require.Error(t, s.promise(7))
	require.Zero(t, s.epoch())
	require.Error(t, s.certify("boot-1"))
	require.False(t, s.certified("boot-1"))

	_, err = openPromises(t.TempDir())
	require.Error(t, err, "a file that cannot be read is not taken for none")
}

func TestPromiseReplacesTheFileWhole(t *testing.T) {
	file := filepath.Join(t.TempDir(), "promises.json")
	s, err := openPromises(file)
	require.NoError(t, err)
	require.NoError(t, s.promise(1))
	before, err := os.Open(file)
	require.NoError(t, err)
	defer before.Close()
	for epoch := topology.Epoch(2); epoch < 20; epoch++ {
		require.NoError(t, s.promise(epoch))
		again, err := openPromises(file)
		require.NoError(t, err)
		require.Equal(t, epoch, again.epoch())
	}
	was, err := before.Stat()
	require.NoError(t, err)
	is, err := os.Stat(file)
	require.NoError(t, err)
	require.False(t, os.SameFile(was, is), "a reader of the old file never sees half of the new one")
}

func TestSplitAddress(t *testing.T) {
	host, port, err := splitAddress("[::1]:3306")
	require.NoError(t, err)
	require.Equal(t, "::1", host)
	require.Equal(t, 3306, port)
	for _, bad := range []string{"", "db1", "db1:", "db1:x", "db1:70000"} {
		_, _, err := splitAddress(bad)
		require.Error(t, err, bad)
	}
}
