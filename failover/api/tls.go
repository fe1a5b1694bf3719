package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"interrex/internal/topology"
)

// MemberName is the DNS name that the certificate of a member must bear beside
// its host names: <node>.<cluster>.interrex. It proves which member of which
// cluster one speaks to, whatever address it was reached at.
func MemberName(node topology.NodeName, cluster string) string {
	return topology.MemberHost(node, cluster)
}

// TLSFiles are PEM files. The certificate is used as a server's and as a
// client's, so its extended key usage must allow both.
type TLSFiles struct {
	CA   string // one or more CAs of the members and of clients that read
	Cert string // own certificate, with its chain
	Key  string
}

// TLS holds the member's certificate and CA and follows the files. TLS 1.3
// only; members prove themselves to one another by MemberName.
type TLS struct {
	files   TLSFiles
	node    topology.NodeName
	cluster string
	log     *zap.Logger
	current atomic.Pointer[credentials]
}

type credentials struct {
	pem  [3][]byte
	cert tls.Certificate
	ca   *x509.CertPool
	// until is when the certificate or what it rests on ends.
	until time.Time
}

// LoadTLS reads the files; it fails if they do not fit one another, or the
// certificate does not name node of cluster.
func LoadTLS(files TLSFiles, node topology.NodeName, cluster string, log *zap.Logger) (*TLS, error) {
	t := &TLS{files: files, node: node, cluster: cluster, log: log}
	if _, err := t.Reload(); err != nil {
		return nil, err
	}
	return t, nil
}

// Reload reads the files again and tells whether they had changed. With files
// that are not good it keeps the former ones and says why. New connections use
// the new ones; open connections stay.
func (t *TLS) Reload() (changed bool, err error) {
	next := &credentials{}
	for i, name := range []string{t.files.CA, t.files.Cert, t.files.Key} {
		if next.pem[i], err = os.ReadFile(name); err != nil {
			return false, fmt.Errorf("read TLS file: %w", err)
		}
	}
	if now := t.current.Load(); now != nil && bytes.Equal(now.pem[0], next.pem[0]) &&
		bytes.Equal(now.pem[1], next.pem[1]) && bytes.Equal(now.pem[2], next.pem[2]) {
		return false, nil
	}
	if err := t.parse(next); err != nil {
		return false, err
	}
	t.current.Store(next)
	return true, nil
}

func (t *TLS) parse(c *credentials) error {
	c.ca = x509.NewCertPool()
	if !c.ca.AppendCertsFromPEM(c.pem[0]) {
		return fmt.Errorf("read CA %s: no certificate in it", t.files.CA)
	}
	var err error
	if c.cert, err = tls.X509KeyPair(c.pem[1], c.pem[2]); err != nil {
		return fmt.Errorf("read certificate %s and key %s: %w", t.files.Cert, t.files.Key, err)
	}
	rest := x509.NewCertPool()
	for _, der := range c.cert.Certificate[1:] {
		if cert, err := x509.ParseCertificate(der); err == nil {
			rest.AddCert(cert)
		}
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		chains, err := c.cert.Leaf.Verify(x509.VerifyOptions{
			Roots: c.ca, Intermediates: rest, DNSName: MemberName(t.node, t.cluster), KeyUsages: []x509.ExtKeyUsage{usage},
		})
		if err != nil {
			return fmt.Errorf("verify certificate %s: %w", t.files.Cert, err)
		}
		c.until = lastUntil(chains)
	}
	return nil
}

// lastUntil is when the last of the chains has one that ended.
func lastUntil(chains [][]*x509.Certificate) (last time.Time) {
	for _, chain := range chains {
		until := chain[0].NotAfter
		for _, cert := range chain {
			if cert.NotAfter.Before(until) {
				until = cert.NotAfter
			}
		}
		if until.After(last) {
			last = until
		}
	}
	return last
}

// Until is when the certificate in use ends, or that of its authority.
func (t *TLS) Until() time.Time { return t.current.Load().until }

// reminders are how long before a certificate's end that is said once more.
var reminders = []time.Duration{30 * 24 * time.Hour, 7 * 24 * time.Hour, 24 * time.Hour}

// remind says that the certificate ends soon, once for each of reminders that has
// come since the given ones, and returns how many have.
func (t *TLS) remind(now time.Time, given int) int {
	left := t.Until().Sub(now)
	come := 0
	for _, before := range reminders {
		if left < before {
			come++
		}
	}
	if come > given {
		say := t.log.Warn
		if come == len(reminders) {
			say = t.log.Error
		}
		say("the certificate, or its authority's, ends soon: then members refuse each other; renew the files of security.tls",
			zap.Time("valid_until", t.Until()), zap.String("file", t.files.Cert))
	}
	return come
}

// Run follows the files until ctx ends, looking every so often.
func (t *TLS) Run(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	said := ""
	reminded := t.remind(time.Now(), 0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		changed, err := t.Reload()
		switch {
		case err != nil && err.Error() != said:
			said = err.Error()
			t.log.Error("TLS files are not good, the former ones stay in use", zap.Error(err))
		case err == nil:
			said = ""
		}
		if changed {
			t.log.Info("TLS files reloaded", zap.Time("valid_until", t.Until()))
		}
		reminded = t.remind(time.Now(), reminded)
	}
}

// ServerConfig is for listeners. Whoever shows a certificate must show one of
// the CA; which routes need one is decided by route.
func (t *TLS) ServerConfig() *tls.Config {
	config := func() *tls.Config {
		now := t.current.Load()
		return &tls.Config{
			MinVersion:   tls.VersionTLS13,
			Certificates: []tls.Certificate{now.cert},
			ClientCAs:    now.ca,
			ClientAuth:   tls.VerifyClientCertIfGiven,
			NextProtos:   []string{"http/1.1"},
			// A resumed session would skip the look at the certificate.
			SessionTicketsDisabled: true,
		}
	}
	c := config()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return config(), nil }
	return c
}

// ClientConfig is for one connection to the member node.
func (t *TLS) ClientConfig(node topology.NodeName) *tls.Config {
	now := t.current.Load()
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: MemberName(node, t.cluster),
		RootCAs:    now.ca,
		// Shown whatever CAs the server names, so that the server's refusal
		// says what is wrong instead of "no certificate".
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &now.cert, nil },
	}
}

// names tells whether the own certificate names the host. A client that asked
// for that name has verified it, and a web page cannot have borrowed it.
func (t *TLS) names(host string) bool { return t.current.Load().cert.Leaf.VerifyHostname(host) == nil }

// isMember tells whether the connection's client is a member of the cluster.
// The chain was verified by the handshake.
func (t *TLS) isMember(state *tls.ConnectionState) bool {
	if state == nil || len(state.VerifiedChains) == 0 {
		return false
	}
	return topology.NamesMember(state.PeerCertificates[0].DNSNames, t.cluster)
}
