package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/config"
	"interrex/internal/topology"
)

// Certificates that are etcd's alone need not name members; those of the agents
// do.
func TestEtcdTakesMembersAlone(t *testing.T) {
	agents := config.TLS{CAFile: "ca.pem", CertFile: "cert.pem", KeyFile: "key.pem"}
	own := config.TLS{CAFile: "etcd-ca.pem", CertFile: "etcd.pem", KeyFile: "etcd.key"}
	for _, c := range []struct {
		etcd config.TLS
		want bool
	}{{config.TLS{}, true}, {agents, true}, {own, false}} {
		var cfg config.Config
		cfg.Node.Name, cfg.Cluster.Members = "db1", []config.Member{{Name: "db1"}}
		cfg.Security.TLS, cfg.Etcd.TLS = agents, c.etcd
		got, err := embeddedConfig(cfg)
		require.NoError(t, err)
		require.Equal(t, c.want, got.TLS.MembersAlone)
	}
}

// The route check dials the route's own address, and reaches a server whose
// certificate names that server.
func TestRouteTLS(t *testing.T) {
	file, server := certificateFor(t, "10.0.0.1")
	members := []topology.Member{{Name: "db1", MySQL: "10.0.0.1:3306"}, {Name: "r1"}}
	others := []topology.Member{{Name: "db2", MySQL: "10.0.0.2:3306"}}
	strange, _ := certificateFor(t, "10.0.0.1")
	for _, c := range []struct {
		name    string
		mode    config.TLSMode
		ca      string
		members []topology.Member
		refused string
	}{
		{name: "names a member's server", mode: config.TLSVerifyIdentity, ca: file, members: members},
		{name: "names none", mode: config.TLSVerifyIdentity, ca: file, members: others, refused: "names no member's server"},
		{name: "signed by somebody else", mode: config.TLSVerifyIdentity, ca: strange, members: members, refused: "certificate signed by unknown authority"},
		{name: "verify_ca: whatever its name", mode: config.TLSVerifyCA, ca: file, members: others},
		{name: "verify_ca: signed by somebody else", mode: config.TLSVerifyCA, ca: strange, refused: "certificate signed by unknown authority"},
		{name: "required: encrypted, whoever it is", mode: config.TLSRequired, ca: strange},
	} {
		t.Run(c.name, func(t *testing.T) {
			near, far := net.Pipe()
			defer near.Close()
			answered := make(chan error, 1)
			go func() {
				defer far.Close()
				answered <- tls.Server(far, &tls.Config{Certificates: []tls.Certificate{server}, MinVersion: tls.VersionTLS12}).HandshakeContext(t.Context())
			}()
			cfg := routeTLS(config.MySQLTLS{Mode: c.mode, CAFile: c.ca}, func() []topology.Member { return c.members })
			if cfg.ServerName == "" {
				cfg.ServerName = "127.0.0.1" // as the driver sets it, from the address dialled
			}
			err := tls.Client(near, cfg).HandshakeContext(t.Context())
			if c.refused == "" {
				require.NoError(t, err)
				require.NoError(t, <-answered)
				return
			}
			require.ErrorContains(t, err, c.refused)
		})
	}
	require.Nil(t, routeTLS(config.MySQLTLS{Mode: config.TLSDisabled}, func() []topology.Member { return members }))
}

// certificateFor makes an authority of its own, in a file, and a certificate
// signed by it that names an address.
func certificateFor(t *testing.T, address string) (caFile string, leaf tls.Certificate) {
	t.Helper()
	sign := func(template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
		require.NoError(t, err)
		return der
	}
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		return key
	}
	from, until := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	caKey, key := newKey(), newKey()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: until, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: sign(ca, ca, caKey, caKey)}), 0o600))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: until, IPAddresses: []net.IP{net.ParseIP(address)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	return caFile, tls.Certificate{Certificate: [][]byte{sign(template, ca, key, caKey)}, PrivateKey: key}
}
