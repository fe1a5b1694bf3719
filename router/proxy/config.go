package proxy

import (
	"errors"
	"fmt"
	"net"
	"time"

	"interrex/internal/topology"
)

// ReadFallback says where reads go when no replica may serve them.
type ReadFallback string

// The fallbacks: to the primary, or nowhere (an error).
const (
	FallbackPrimary ReadFallback = "primary"
	FallbackNone    ReadFallback = "none"
)

// Config is what a Proxy is told. Limits are for each port.
type Config struct {
	// Cluster is named in the errors clients are shown.
	Cluster string
	// ReadWrite is the host:port to listen on for the primary; port 0 takes a
	// free one.
	ReadWrite string
	// ReadOnly is the host:port to listen on for the replicas; empty for no
	// such port.
	ReadOnly string
	// HoldTime is how long a new connection is held while there is nothing to
	// connect it to; default 10 s, 0 holds none. More spares clients an error
	// in a long failover, less lets them know sooner.
	HoldTime time.Duration
	// HoldConnections is how many are held at a time, the next is refused;
	// default 1024. More lets more clients wait, at one file descriptor and
	// two goroutines each.
	HoldConnections int
	// MaxConnections is how many are served at a time, held ones included;
	// default 4096. Each takes up to six file descriptors: two sockets, and
	// a pipe for each direction.
	MaxConnections int
	// ConnectTimeout bounds one attempt to connect to an instance; default
	// 1 s. More than a round trip and a lost packet is of no use, less makes
	// false alarms.
	ConnectTimeout time.Duration
	// PeerTimeout is how long the host at either end of a session may
	// acknowledge nothing of what was sent to it before the session is cut;
	// default 5 s. More lets sessions to dead hosts linger, less cuts them in
	// short network trouble. A peer that is there and merely reads slowly is
	// never cut.
	PeerTimeout time.Duration
	// ReplicaGrace is how long sessions on a replica that left the route go
	// on; default 1 s. More lets short queries end, less gets clients off a
	// stale replica sooner.
	ReplicaGrace time.Duration
	// ReadFallback is where reads go when no replica may serve them; default
	// primary.
	ReadFallback ReadFallback
	// OnBackendBroken, if set, is called when an instance refuses a
	// connection or ends a session that its client had not ended, so that it
	// is looked at at once. It is called on the path of clients, from many
	// goroutines and once for each connection that breaks: it must neither
	// block nor be slow.
	OnBackendBroken func(topology.NodeName)
}

// DefaultConfig returns the defaults; ports and cluster are to be filled in.
func DefaultConfig() Config {
	return Config{
		HoldTime:        10 * time.Second,
		HoldConnections: 1024,
		MaxConnections:  4096,
		ConnectTimeout:  time.Second,
		PeerTimeout:     5 * time.Second,
		ReplicaGrace:    time.Second,
		ReadFallback:    FallbackPrimary,
	}
}

// Validate reports every fault of the configuration, joined, and changes
// nothing.
func (c Config) Validate() error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	check(c.Cluster != "", "cluster is empty")
	check(isHostPort(c.ReadWrite), "read-write address %q is not host:port", c.ReadWrite)
	check(c.ReadOnly == "" || isHostPort(c.ReadOnly), "read-only address %q is not host:port", c.ReadOnly)
	check(c.ReadOnly != c.ReadWrite || isAnyPort(c.ReadOnly), "both ports listen on %q", c.ReadOnly)
	check(c.HoldTime >= 0, "hold time %s is negative", c.HoldTime)
	check(c.HoldConnections >= 0, "number of held connections %d is negative", c.HoldConnections)
	check(c.MaxConnections > 0, "number of connections %d is not positive", c.MaxConnections)
	check(c.ConnectTimeout > 0, "connect timeout %s is not positive", c.ConnectTimeout)
	check(c.PeerTimeout >= time.Second, "peer timeout %s is under 1s, a few lost packets in a row", c.PeerTimeout)
	check(c.ReplicaGrace >= 0, "replica grace %s is negative", c.ReplicaGrace)
	check(c.ReadFallback == FallbackPrimary || c.ReadFallback == FallbackNone,
		"read fallback %q is neither %q nor %q", c.ReadFallback, FallbackPrimary, FallbackNone)
	return errors.Join(faults...)
}

func isHostPort(address string) bool {
	_, port, err := net.SplitHostPort(address)
	return err == nil && port != ""
}

func isAnyPort(address string) bool {
	_, port, err := net.SplitHostPort(address)
	return err == nil && port == "0"
}
