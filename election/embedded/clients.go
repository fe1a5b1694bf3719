package embedded

import (
	"crypto/tls"
	"fmt"

	"go.etcd.io/etcd/client/v3/credentials"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"interrex/internal/topology"
)

// membersAlone lets no client speak to etcd whose certificate does not name a
// member of the cluster: others may have a certificate of the same authority, to
// read the API say, and whoever writes the record moves the primary. Any member,
// whichever there are: one may be added while etcd runs, which is what etcd's own
// lists of names cannot tell.
func membersAlone(ec *embed.Config, cluster string, log *zap.Logger) error {
	secure, err := ec.ClientTLSInfo.ServerConfig()
	if err != nil {
		return fmt.Errorf("read TLS files: %w", err)
	}
	secure.MinVersion = tls.VersionTLS13
	// Also of a session that is resumed.
	secure.VerifyConnection = func(s tls.ConnectionState) error {
		var names []string
		if len(s.PeerCertificates) > 0 { // verified by now
			names = s.PeerCertificates[0].DNSNames
		}
		if topology.NamesMember(names, cluster) {
			return nil
		}
		err := fmt.Errorf("certificate names no member of cluster %s (like %s), but %q", cluster, topology.MemberHost("db1", cluster), names)
		log.Warn("client refused", zap.Error(err))
		return err
	}
	// The port speaks gRPC only, so that its handshakes are those of gRPC; of two
	// such options the later one holds.
	ec.GRPCAdditionalServerOptions = append(ec.GRPCAdditionalServerOptions, grpc.Creds(credentials.NewTransportCredential(secure)))
	return nil
}
