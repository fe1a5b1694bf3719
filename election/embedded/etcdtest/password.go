package etcdtest

import (
	"testing"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// AskForPasswords turns authentication on. The account user may read and write
// the keys that begin with prefix, and nothing else.
func (c *Cluster) AskForPasswords(t testing.TB, user, password, prefix string) {
	t.Helper()
	root, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), TLS: c.Members[0].TLS, Logger: zap.NewNop()})
	require.NoError(t, err)
	defer root.Close() //nolint:errcheck // a client of this test
	ctx := t.Context()
	_, err = root.UserAdd(ctx, "root", "secret")
	require.NoError(t, err)
	_, err = root.UserGrantRole(ctx, "root", "root")
	require.NoError(t, err)
	_, err = root.UserAdd(ctx, user, password)
	require.NoError(t, err)
	_, err = root.RoleAdd(ctx, user)
	require.NoError(t, err)
	_, err = root.RoleGrantPermission(ctx, user, prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite))
	require.NoError(t, err)
	_, err = root.UserGrantRole(ctx, user, user)
	require.NoError(t, err)
	_, err = root.AuthEnable(ctx)
	require.NoError(t, err)
}
