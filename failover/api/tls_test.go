package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"interrex/internal/topology"
)

// authority is a CA made for the test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

type leaf struct{ cert, key []byte }

func (a *authority) issue(t *testing.T, change func(*x509.Certificate), names ...string) leaf {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), DNSNames: names,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return leaf{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
}

func write(t *testing.T, name string, parts ...[]byte) {
	t.Helper()
	var all []byte
	for _, p := range parts {
		all = append(all, p...)
	}
	require.NoError(t, os.WriteFile(name, all, 0o600))
}

// install puts the files of a member into a folder of its own.
func install(t *testing.T, l leaf, cas ...[]byte) TLSFiles {
	t.Helper()
	dir := t.TempDir()
	f := TLSFiles{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	write(t, f.CA, cas...)
	write(t, f.Cert, l.cert)
	write(t, f.Key, l.key)
	return f
}

func load(t *testing.T, files TLSFiles, node topology.NodeName) *TLS {
	t.Helper()
	l, err := LoadTLS(files, node, "c", zap.NewNop())
	require.NoError(t, err)
	return l
}

func secured(l *TLS) option {
	return func(c *Config, p *Parts) {
		c.Security.MutualTLS, c.Security.Reads, p.TLS = true, ReadsToken, l
	}
}

func TestMembersProveThemselves(t *testing.T) {
	ca, foreign := newAuthority(t, "ours"), newAuthority(t, "theirs")
	n1 := load(t, install(t, ca.issue(t, nil, MemberName("n1", "c")), ca.pem), "n1")
	b := newBench(t, "n1", secured(n1)).listen(t)

	status := func(node topology.NodeName, token string, by *TLS) error {
		c := NewClient(node, b.addr, token, by)
		t.Cleanup(c.CloseIdle)
		_, err := c.Status(within(t, patience))
		return err
	}
	n2 := load(t, install(t, ca.issue(t, nil, MemberName("n2", "c")), ca.pem), "n2")
	require.NoError(t, status("n1", memberToken, n2))
	require.ErrorContains(t, status("n1", "wrong", n2), "only members", "the certificate alone is not enough where there is a token")
	require.ErrorContains(t, status("n2", memberToken, n2), "n2.c.interrex", "the server is another member")

	other := load(t, install(t, foreign.issue(t, nil, MemberName("n2", "c")), foreign.pem, ca.pem), "n2")
	// The server refuses the certificate after the client's part of the
	// handshake, so the command may have been on its way already.
	require.ErrorContains(t, status("n1", memberToken, other), "unknown certificate authority")
	blind := load(t, install(t, foreign.issue(t, nil, MemberName("n2", "c")), foreign.pem), "n2")
	require.ErrorIs(t, status("n1", memberToken, blind), ErrNotExecuted, "a server of another CA is refused")

	for name, cert := range map[string]leaf{
		"client of the CA that is no member": ca.issue(t, nil, "operator.example.org"),
		"member of another cluster":          ca.issue(t, nil, MemberName("n2", "d")),
		"wildcard":                           ca.issue(t, nil, "*.c.interrex"),
		"name alike":                         ca.issue(t, nil, "n2xc.interrex"),
	} {
		require.Equal(t, http.StatusUnauthorized, askTLS(t, b.addr, ca, &cert, "POST", commandPath+commandStatus), name)
	}
	require.Len(t, b.node.taken(), 1)
}

// askTLS asks with the member token and, unless nil, a client certificate.
func askTLS(t *testing.T, addr string, ca *authority, cert *leaf, method, path string) int {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	config := &tls.Config{RootCAs: pool, ServerName: MemberName("n1", "c"), MinVersion: tls.VersionTLS12}
	if cert != nil {
		pair, err := tls.X509KeyPair(cert.cert, cert.key)
		require.NoError(t, err)
		config.Certificates = []tls.Certificate{pair}
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: patience}
	req, err := http.NewRequest(method, "https://"+addr+path, nil)
	require.NoError(t, err)
	req.Host = "n1"
	if method == http.MethodPost {
		req.Header.Set("Authorization", "Bearer "+memberToken)
		req.Header.Set("Content-Type", contentTypeJSON)
	}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func TestReadsByCertificate(t *testing.T) {
	ca := newAuthority(t, "ours")
	b := newBench(t, "n1", secured(load(t, install(t, ca.issue(t, nil, MemberName("n1", "c")), ca.pem), "n1"))).listen(t)
	reader := ca.issue(t, nil, "grafana.example.org")
	require.Equal(t, 200, askTLS(t, b.addr, ca, &reader, "GET", "/api/v1/cluster"))
	require.Equal(t, 401, askTLS(t, b.addr, ca, nil, "GET", "/api/v1/cluster"))
	require.Equal(t, 200, askTLS(t, b.addr, ca, nil, "GET", "/health"), "balancers have no certificate")
	require.Equal(t, 401, askTLS(t, b.addr, ca, &reader, "POST", "/api/v1/resume"), "a certificate changes nothing")
}

// TestHostsOfTheCertificate: who asks for a name that the certificate bears has
// the right member, whether or not the configuration knows the name.
func TestHostsOfTheCertificate(t *testing.T) {
	ca := newAuthority(t, "ours")
	cert := ca.issue(t, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 7)} }, MemberName("n1", "c"), "db1.example.org", "*.lb.example.org")
	b := newBench(t, "n1", secured(load(t, install(t, cert, ca.pem), "n1"))).listen(t)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	asHost := func(host string) int {
		client := &http.Client{Timeout: patience, Transport: &http.Transport{
			DisableKeepAlives: true,
			TLSClientConfig:   &tls.Config{RootCAs: pool, ServerName: MemberName("n1", "c"), MinVersion: tls.VersionTLS13},
		}}
		req, err := http.NewRequest(http.MethodGet, "https://"+b.addr+"/health", nil)
		require.NoError(t, err)
		req.Host = host
		resp, err := client.Do(req)
		require.NoError(t, err)
		defer func() { _ = resp.Body.Close() }()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	for host, status := range map[string]int{
		"n1.c.interrex": 200, "N1.C.Interrex:8460": 200, "db1.example.org": 200, "any.lb.example.org": 200, "192.0.2.7": 200, "": 200,
		"n2.c.interrex": 403, "n1.d.interrex": 403, "evil.example.org": 403, "192.0.2.8": 403,
	} {
		require.Equal(t, status, asHost(host), host)
	}
	plain := newBench(t, "n1")
	a := ask{method: "GET", path: "/health", host: "n1.c.interrex"}
	require.Equal(t, 403, plain.do(a).status, "without TLS nobody has verified the name")
}

func TestOnlyTLS13(t *testing.T) {
	ca := newAuthority(t, "ours")
	b := newBench(t, "n1", secured(load(t, install(t, ca.issue(t, nil, MemberName("n1", "c")), ca.pem), "n1"))).listen(t)
	_, err := tls.Dial("tcp", b.addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}) //nolint:gosec // a test of the refusal
	require.ErrorContains(t, err, "protocol version")
	conn, err := net.Dial("tcp", b.addr)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	_, err = conn.Write([]byte("GET /health HTTP/1.1\r\nHost: n1\r\n\r\n"))
	require.NoError(t, err)
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	answer, _ := io.ReadAll(conn)
	require.NotContains(t, string(answer), `"ok"`, "no plain HTTP")
}

func TestUnfitFilesAreRefused(t *testing.T) {
	ca, foreign := newAuthority(t, "ours"), newAuthority(t, "theirs")
	good := ca.issue(t, nil, MemberName("n1", "c"))
	for name, files := range map[string]TLSFiles{
		"certificate of another CA":     install(t, foreign.issue(t, nil, MemberName("n1", "c")), ca.pem),
		"certificate of another member": install(t, ca.issue(t, nil, MemberName("n2", "c")), ca.pem),
		"another cluster":               install(t, ca.issue(t, nil, MemberName("n1", "d")), ca.pem),
		"expired":                       install(t, ca.issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, MemberName("n1", "c")), ca.pem),
		"no server":                     install(t, ca.issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }, MemberName("n1", "c")), ca.pem),
		"no client":                     install(t, ca.issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }, MemberName("n1", "c")), ca.pem),
		"key of another certificate":    install(t, leaf{good.cert, ca.issue(t, nil, "x").key}, ca.pem),
		"empty CA":                      install(t, good, nil),
		"no files":                      {CA: "/nowhere/ca", Cert: "/nowhere/cert", Key: "/nowhere/key"},
	} {
		_, err := LoadTLS(files, "n1", "c", zap.NewNop())
		require.Error(t, err, name)
	}
}

// TestCertificateEnds is row E11: that a certificate ends is said 30 days, 7 days
// and one day before, once each, and again of the next one.
func TestCertificateEnds(t *testing.T) {
	ca := newAuthority(t, "ca") // which ends in an hour, before what it signs
	seen, logs := observer.New(zap.WarnLevel)
	held, err := LoadTLS(install(t, ca.issue(t, func(c *x509.Certificate) { c.NotAfter = c.NotAfter.AddDate(1, 0, 0) }, MemberName("n1", "c")), ca.pem), "n1", "c", zap.New(seen))
	require.NoError(t, err)
	require.Equal(t, ca.cert.NotAfter, held.Until(), "the authority's counts")
	given := 0
	for _, step := range []struct {
		left time.Duration
		said int // by now
	}{{40 * 24 * time.Hour, 0}, {29 * 24 * time.Hour, 1}, {8 * 24 * time.Hour, 1}, {6 * 24 * time.Hour, 2}, {25 * time.Hour, 2}, {time.Hour, 3}, {-time.Hour, 3}} {
		given = held.remind(held.Until().Add(-step.left), given)
		require.Equal(t, step.said, logs.Len(), step.left)
	}
	require.Equal(t, zap.ErrorLevel, logs.All()[2].Level)
	given = held.remind(held.Until().Add(-400*24*time.Hour), given) // it was renewed
	held.remind(held.Until().Add(-time.Hour), given)
	require.Equal(t, 4, logs.Len())
}

// TestRotationUnderLoad swaps the leaves and then the CA of both sides while
// commands go on over connections that are opened anew each time.
func TestRotationUnderLoad(t *testing.T) {
	oldCA, newCA := newAuthority(t, "old"), newAuthority(t, "new")
	files := map[topology.NodeName]TLSFiles{}
	held := map[topology.NodeName]*TLS{}
	for _, n := range []topology.NodeName{"n1", "n2"} {
		files[n] = install(t, oldCA.issue(t, nil, MemberName(n, "c")), oldCA.pem)
		held[n] = load(t, files[n], n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	followed := make(chan error, 2)
	for _, n := range held {
		go func() { followed <- n.Run(ctx, 2*time.Millisecond) }()
	}
	b := newBench(t, "n1", secured(held["n1"])).listen(t)
	give := func() {
		t.Helper()
		c := NewClient("n1", b.addr, memberToken, held["n2"])
		_, err := c.Status(within(t, patience))
		require.NoError(t, err)
		c.CloseIdle()
	}
	loaded := func(n topology.NodeName, want []byte, i int) func() (bool, any) {
		return func() (bool, any) {
			give()
			return string(held[n].current.Load().pem[i]) == string(want), string(n)
		}
	}
	steps := []struct {
		name string
		do   func(n topology.NodeName) (want []byte, file int)
	}{
		{"trust both", func(n topology.NodeName) ([]byte, int) {
			both := append(append([]byte{}, oldCA.pem...), newCA.pem...)
			write(t, files[n].CA, both)
			return both, 0
		}},
		{"new leaf", func(n topology.NodeName) ([]byte, int) {
			l := newCA.issue(t, nil, MemberName(n, "c"))
			write(t, files[n].Cert, l.cert) // does not fit the key for a moment: the former pair stays
			give()
			write(t, files[n].Key, l.key)
			return l.cert, 1
		}},
		{"drop the old", func(n topology.NodeName) ([]byte, int) {
			write(t, files[n].CA, newCA.pem)
			return newCA.pem, 0
		}},
	}
	for _, s := range steps {
		for n := range held {
			want, file := s.do(n)
			eventually(t, s.name, loaded(n, want, file))
		}
	}
	former := load(t, install(t, oldCA.issue(t, nil, MemberName("n2", "c")), newCA.pem, oldCA.pem), "n2")
	_, err := NewClient("n1", b.addr, memberToken, former).Status(within(t, patience))
	require.Error(t, err, "the old CA is gone")

	write(t, files["n1"].Cert, []byte("garbage"))
	_, err = held["n1"].Reload()
	require.Error(t, err)
	give()
	cancel()
	for range held {
		require.NoError(t, <-followed)
	}
}
