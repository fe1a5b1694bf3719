package sandbox

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// That such a sandbox works is for TestAgentsOverTLS of internal/acceptance and
// for `make chaos` to show.
func TestPlanOnHosts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sandbox")
	hosts := []Host{{Address: "10.1.2.3", Enter: []string{"env"}}, {Address: "10.1.2.4", Enter: []string{"env"}}}
	planned, err := Plan(t.Context(), dir, hosts)
	require.NoError(t, err)
	c, err := Load(dir)
	require.NoError(t, err)
	require.Equal(t, planned, c)
	_, err = Plan(t.Context(), dir, hosts)
	require.ErrorIs(t, err, ErrExists)

	authority, err := os.ReadFile(c.CAFile())
	require.NoError(t, err)
	trusted := x509.NewCertPool()
	require.True(t, trusted.AppendCertsFromPEM(authority))
	for i, n := range c.Nodes {
		require.Equal(t, hosts[i], Host{Address: n.Host, Enter: n.Enter})
		require.Regexp(t, `^https://10\.1\.2\.\d:\d+$`, n.APIBase())
		pair, err := tls.LoadX509KeyPair(n.CertFile(), n.KeyFile())
		require.NoError(t, err)
		for _, name := range []string{n.Host, n.Name + "." + c.Name + ".interrex"} {
			for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
				_, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: trusted, KeyUsages: []x509.ExtKeyUsage{usage}})
				require.NoError(t, err, name)
			}
		}
		_, err = pair.Leaf.Verify(x509.VerifyOptions{DNSName: "10.1.2.9", Roots: trusted})
		require.Error(t, err)
	}
}
