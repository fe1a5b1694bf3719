package election

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"interrex/election/embedded"
	"interrex/election/embedded/etcdtest"
)

// newTLS makes a CA and one certificate of it, as files for etcd and as a
// client's configuration.
func newTLS(t *testing.T) (*embedded.TLS, *tls.Config) {
	t.Helper()
	dir := t.TempDir()
	file := func(name, kind string, der []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return path
	}
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		return key
	}
	caKey, leafKey := newKey(), newKey()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	require.NoError(t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test member"},
		NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, leafKey.Public(), caKey)
	require.NoError(t, err)
	keyDER, err := x509.MarshalECPrivateKey(leafKey)
	require.NoError(t, err)

	parsed, err := x509.ParseCertificate(caDER)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return &embedded.TLS{
			CAFile:   file("ca.pem", "CERTIFICATE", caDER),
			CertFile: file("cert.pem", "CERTIFICATE", leafDER),
			KeyFile:  file("key.pem", "EC PRIVATE KEY", keyDER),
		}, &tls.Config{
			RootCAs:      roots,
			Certificates: []tls.Certificate{{Certificate: [][]byte{leafDER}, PrivateKey: leafKey}},
			MinVersion:   tls.VersionTLS13,
		}
}

func TestMutualTLS(t *testing.T) {
	files, client := newTLS(t)
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
	etcd := etcdtest.Start(t, 1, zap.NewNop())
	root := rawClient(t, etcd.Endpoints()...)
	ctx := t.Context()
	_, err := root.UserAdd(ctx, "root", "secret")
	require.NoError(t, err)
	_, err = root.UserGrantRole(ctx, "root", "root")
	require.NoError(t, err)
	_, err = root.UserAdd(ctx, "agent", "pass")
	require.NoError(t, err)
	_, err = root.RoleAdd(ctx, "interrex")
	require.NoError(t, err)
	prefix := "/interrex/"
	_, err = root.RoleGrantPermission(ctx, "interrex", prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite))
	require.NoError(t, err)
	_, err = root.UserGrantRole(ctx, "agent", "interrex")
	require.NoError(t, err)
	_, err = root.AuthEnable(ctx)
	require.NoError(t, err)

	cfg := testConfig("a", etcd.Endpoints())
	cfg.Username, cfg.Password = "agent", "pass"
	a := run(t, cfg)
	eventually(t, "a leads", func() (any, bool) { l := a.Leadership(); return l, l.Mine })
	_, err = a.Update(ctx, a.Snapshot(), raise)
	require.NoError(t, err)

	cfg = testConfig("b", etcd.Endpoints())
	cfg.Username, cfg.Password = "agent", "wrong"
	b := run(t, cfg)
	require.Error(t, b.Healthy(ctx)) // "authentication failed", or too slow on a busy machine
	c := run(t, testConfig("c", etcd.Endpoints()))
	require.Error(t, c.Healthy(ctx))
}
