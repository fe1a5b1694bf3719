package cutoff

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// etcd is a client of the etcd members of the nodes.
func (c *cluster) etcd(t *testing.T) *clientv3.Client {
	t.Helper()
	authority, err := os.ReadFile(c.CAFile())
	require.NoError(t, err)
	pair, err := tls.LoadX509KeyPair(c.Nodes[0].CertFile(), c.Nodes[0].KeyFile())
	require.NoError(t, err)
	trusted := x509.NewCertPool()
	require.True(t, trusted.AppendCertsFromPEM(authority))
	var endpoints []string
	for _, n := range c.Nodes {
		endpoints = append(endpoints, n.Addr(n.Ports.EtcdClient))
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, TLS: &tls.Config{RootCAs: trusted, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13},
		Logger: zap.NewNop(),
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// etcdWhole says what is missing for every member of etcd to follow one leader;
// empty: nothing. After a cut that is some seconds later than etcd has a quorum,
// and until then the loss of one more node leaves it without.
func (c *cluster) etcdWhole(t *testing.T, client *clientv3.Client) string {
	t.Helper()
	var first *clientv3.StatusResponse
	for _, n := range c.Nodes {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		status, err := client.Status(ctx, n.Addr(n.Ports.EtcdClient))
		cancel()
		switch {
		case err != nil:
			return fmt.Sprintf("etcd of %s: %v", n.Name, err)
		case status.Leader == 0:
			return "etcd of " + n.Name + " has no leader"
		case first == nil:
			first = status
		case status.Leader != first.Leader || status.RaftTerm != first.RaftTerm:
			return "etcd of " + n.Name + " follows another leader"
		}
	}
	return ""
}

// leadEtcd makes a node's member the leader of etcd. The agents move it off the
// primary's node within seconds.
func (c *cluster) leadEtcd(t *testing.T, name string) {
	t.Helper()
	client := c.etcd(t)
	await(t, "etcd to be led by "+name, func() (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		n := c.Nodes[c.index(name)]
		own, err := client.Status(ctx, n.Addr(n.Ports.EtcdClient))
		if err != nil || own.Leader == own.Header.MemberId {
			return err == nil, fmt.Sprint(err)
		}
		for _, o := range c.others(name) {
			n := c.Nodes[c.index(o)]
			client.SetEndpoints(n.Addr(n.Ports.EtcdClient))
			if _, err = client.MoveLeader(ctx, own.Header.MemberId); err == nil {
				break
			}
		}
		return false, fmt.Sprint(err)
	})
}
