package fetch

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMySQLIsFetchedOnce(t *testing.T) {
	tree, err := MySQL(t.Context(), NewProgress(os.Stdout))
	require.NoError(t, err)
	require.FileExists(t, tree.Root+"/usr/sbin/mysqld")
	require.FileExists(t, tree.Root+"/usr/bin/mysqlbinlog")
	require.FileExists(t, tree.Root+"/usr/bin/mysql")
	again, err := MySQL(t.Context(), Quiet{})
	require.NoError(t, err)
	require.Equal(t, tree, again)
}
