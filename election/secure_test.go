package election

import (
	"crypto/tls"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"interrex/election/embedded"
	"interrex/election/embedded/etcdtest"
)

func TestMutualTLS(t *testing.T) {
	t.Parallel()
	files, client := etcdtest.NewTLS(t)
	etcd := etcdtest.New(t, 2, zap.NewNop())
	for _, m := range etcd.Members {
		m.Config.TLS, m.TLS = files, client
		m.Start()
	}
	etcd.WaitReady(t)

	cfg := testConfig("a", etcd.Endpoints())
	cfg.TLS = client
	a := run(t, cfg)
	eventually(t, "a leads", func() (any, bool) { l := a.Leadership(); return l, l.Mine })
	_, err := a.Update(t.Context(), a.Snapshot(), raise)
	require.NoError(t, err)

	anonymous := client.Clone()
	anonymous.Certificates = nil
	for name, other := range map[string]*tls.Config{"no certificate": anonymous, "plain text": nil} {
		cfg := testConfig("b", etcd.Endpoints())
		cfg.TLS = other
		b := run(t, cfg)
		require.ErrorIs(t, b.Healthy(t.Context()), ErrUnreachable, name)
	}

	former := etcd.Leader(t).Config.Name
	require.NoError(t, embedded.MoveLeaderAway(t.Context(), etcd.Endpoints(), client, former))
	require.NotEqual(t, former, etcd.Leader(t).Config.Name)
}

func TestPassword(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t, 1, zap.NewNop())
	etcd.AskForPasswords(t, "agent", "pass", "/interrex/")
	ctx := t.Context()

	cfg := testConfig("a", etcd.Endpoints())
	cfg.Username, cfg.Password = "agent", "pass"
	a := run(t, cfg)
	eventually(t, "a leads", func() (any, bool) { l := a.Leadership(); return l, l.Mine })
	_, err := a.Update(ctx, a.Snapshot(), raise)
	require.NoError(t, err)

	cfg = testConfig("b", etcd.Endpoints())
	cfg.Username, cfg.Password = "agent", "wrong"
	b := run(t, cfg)
	require.Error(t, b.Healthy(ctx)) // "authentication failed", or too slow on a busy machine
	c := run(t, testConfig("c", etcd.Endpoints()))
	require.Error(t, c.Healthy(ctx))
}
