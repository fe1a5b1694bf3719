package election

import (
	"context"
	"crypto/tls"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"interrex/election/embedded"
	"interrex/election/embedded/etcdtest"
	"interrex/internal/topology"
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

// TestMembersAlone: a certificate of the members' authority is not enough to
// write the record; that of a member is, also of one that is added, with a
// vote or without, while etcd runs.
func TestMembersAlone(t *testing.T) {
	t.Parallel()
	ca := etcdtest.NewAuthority(t)
	etcd := etcdtest.New(t, 2, zap.NewNop())
	start := func(m *etcdtest.Member) {
		m.Config.Cluster = "shop"
		m.Config.TLS, m.TLS = ca.Issue(t, topology.MemberHost(topology.NodeName(m.Config.Name), "shop"))
		m.Config.TLS.MembersAlone = true
		m.Start()
	}
	for _, m := range etcd.Members {
		start(m)
	}
	etcd.WaitReady(t)
	a := testConfig("a", etcd.Endpoints())
	a.TLS = etcd.Members[0].TLS
	agent := run(t, a)
	eventually(t, "a leads", func() (any, bool) { l := agent.Leadership(); return l, l.Mine })

	_, anybody := ca.Issue(t)
	_, reader := ca.Issue(t, "prometheus.example.org", "shop.interrex")
	_, pattern := ca.Issue(t, "*.shop.interrex")
	_, other := ca.Issue(t, topology.MemberHost("e1", "stock"))
	_, stranger := etcdtest.NewAuthority(t).Issue(t, topology.MemberHost("e1", "shop"))
	stranger.RootCAs = anybody.RootCAs
	_, added := ca.Issue(t, "db9.example.org", "DB9.shop.interrex")
	for name, c := range map[string]struct {
		secure *tls.Config
		want   string
	}{
		"no name":                     {anybody, "tls: bad certificate"},
		"a client's name":             {reader, "tls: bad certificate"},
		"a pattern":                   {pattern, "tls: bad certificate"},
		"member of another cluster":   {other, "tls: bad certificate"},
		"another authority":           {stranger, "tls: unknown certificate authority"},
		"one that etcd knows":         {etcd.Members[1].TLS, ""},
		"one that it was not told of": {added, ""},
	} {
		err := greeted(t, etcd.Members[0].Config.ClientURL, c.secure)
		if c.want == "" {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorContains(t, err, c.want, name)
	}

	client, err := clientv3.New(clientv3.Config{Endpoints: etcd.Endpoints(), TLS: etcd.Members[0].TLS, Logger: zap.NewNop()})
	require.NoError(t, err)
	defer client.Close() //nolint:errcheck // a client of this test
	eventually(t, "the list", func() (any, bool) {
		_, err := client.Put(t.Context(), etcdtest.ListKey, "e1 e2 e3")
		return err, err == nil
	})
	third := etcd.Joiner(t, "e3")
	start(third)
	third.WaitReady(t)
}

// greeted tells whether etcd speaks to who has that certificate, as it does first.
func greeted(t *testing.T, address string, secure *tls.Config) error {
	secure = secure.Clone()
	secure.NextProtos = []string{"h2"}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := (&tls.Dialer{Config: secure}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err = conn.Read(make([]byte, 1))
	return err
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
