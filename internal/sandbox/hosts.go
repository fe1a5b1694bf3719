package sandbox

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// Host is where a node's server and agent run, if not beside this process.
type Host struct {
	// Address is what they listen on: an IP address.
	Address string
	// Enter is put before their commands, to run them there (nethost).
	Enter []string
}

// Plan makes a folder the sandbox of nodes on hosts of their own, one on each,
// for Up to bring up. There agents talk to each other over TLS, so they get
// certificates. A folder that is a sandbox already is ErrExists.
func Plan(ctx context.Context, dir string, hosts []Host) (Cluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Cluster{}, fmt.Errorf("find sandbox folder: %w", err)
	}
	if _, err := Load(dir); !errors.Is(err, ErrNoSandbox) {
		return Cluster{}, errors.Join(fmt.Errorf("plan sandbox in %s: %w", dir, ErrExists), err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Cluster{}, fmt.Errorf("create sandbox folder: %w", err)
	}
	c, release, err := newPlan(ctx, dir, Options{Nodes: len(hosts)})
	if err != nil {
		return Cluster{}, err
	}
	defer release()
	for i, h := range hosts {
		c.Nodes[i].Host, c.Nodes[i].Enter = h.Address, h.Enter
	}
	if err := c.writeCertificates(); err != nil {
		return Cluster{}, err
	}
	return c, c.save()
}

// CAFile is the certificate of the authority that signed those of nodes that
// have a host of their own.
func (c Cluster) CAFile() string { return filepath.Join(c.dir, "ca.pem") }

// CertFile is the agent's certificate, on a host of its own.
func (n Node) CertFile() string { return filepath.Join(n.Dir, "cert.pem") }

// KeyFile is the certificate's key.
func (n Node) KeyFile() string { return filepath.Join(n.Dir, "key.pem") }

// APIBase is the URL of the agent's API, without a path.
func (n Node) APIBase() string {
	if n.Host == "" {
		return "http://" + n.Addr(n.Ports.API)
	}
	return "https://" + n.Addr(n.Ports.API)
}

// HTTPClient returns a client that trusts the agents' certificates, if they
// have any.
func (c Cluster) HTTPClient() (*http.Client, error) {
	transport := &http.Transport{}
	if c.Nodes[0].Host != "" {
		text, err := os.ReadFile(c.CAFile())
		if err != nil {
			return nil, fmt.Errorf("read authority of sandbox: %w", err)
		}
		trusted := x509.NewCertPool()
		trusted.AppendCertsFromPEM(text)
		transport.TLSClientConfig = &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS13}
	}
	return &http.Client{Transport: transport}, nil
}

// certificateLife is for how long before and after now certificates are good:
// agents whose clocks are wrong are part of what is tested.
const certificateLife = 30 * 24 * time.Hour

// writeCertificates makes an authority, which is forgotten at once, and a
// certificate for each node.
func (c Cluster) writeCertificates() error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key of authority: %w", err)
	}
	ca := certificate(c.Name + " authority")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	signed, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	if err != nil {
		return fmt.Errorf("make certificate of authority: %w", err)
	}
	if err := writePEM(c.CAFile(), "CERTIFICATE", signed); err != nil {
		return err
	}
	for _, n := range c.Nodes {
		if err := os.MkdirAll(n.Dir, 0o700); err != nil {
			return fmt.Errorf("create folder of node: %w", err)
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return fmt.Errorf("make key of %s: %w", n.Name, err)
		}
		// Members know each other by that name (docs/quick-start.md).
		t := certificate(n.Name)
		t.DNSNames, t.IPAddresses = []string{n.Name + "." + c.Name + ".interrex"}, []net.IP{net.ParseIP(n.Host)}
		t.KeyUsage = x509.KeyUsageDigitalSignature
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		signed, err := x509.CreateCertificate(rand.Reader, t, ca, &key.PublicKey, caKey)
		if err != nil {
			return fmt.Errorf("make certificate of %s: %w", n.Name, err)
		}
		secret, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return fmt.Errorf("write key of %s: %w", n.Name, err)
		}
		if err := errors.Join(writePEM(n.CertFile(), "CERTIFICATE", signed), writePEM(n.KeyFile(), "PRIVATE KEY", secret)); err != nil {
			return err
		}
	}
	return nil
}

func certificate(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-certificateLife), NotAfter: now.Add(certificateLife),
	}
}

func writePEM(path, kind string, content []byte) error {
	return writePrivate(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}))
}
