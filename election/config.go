package election

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"interrex/internal/topology"
)

// Config says how to reach etcd and how leadership is timed.
type Config struct {
	// Cluster names the cluster; its keys are under /interrex/<Cluster>/.
	Cluster string
	// Self is this member's name, unique in the cluster.
	Self topology.NodeName
	// Endpoints are etcd's client addresses, host:port, the one on the own
	// node first: it is preferred as long as it answers.
	Endpoints []string
	// Dial returns a client for one endpoint; nil: etcd's own, over the network.
	Dial func(endpoint string) (Etcd, error)
	// TLS is used on every connection; nil means plain text, which is for
	// loopback only.
	TLS *tls.Config
	// Username and Password are for an etcd that has authentication turned on;
	// both empty otherwise.
	Username, Password string
	// LeaderTTL is how long the leader key outlives a holder that died without
	// a word; whole seconds, at least 1. Default 2 s. More tolerates longer
	// pauses of the leader, less frees the key sooner; a leader judged Failed
	// is replaced by TakeOver without waiting for it.
	LeaderTTL time.Duration
	// CallTimeout bounds one call to etcd over all endpoints. Default 500 ms.
	// More rides out slow disks and etcd elections, less reports a lost quorum
	// sooner.
	CallTimeout time.Duration
	// HedgeAfter is how long a call waits for one endpoint before it asks the
	// next one as well. Default 80 ms. Less hides a frozen etcd member better,
	// more asks twice less often on slow disks.
	HedgeAfter time.Duration
	// SettleTimeout bounds how long a change goes on asking for its outcome
	// when the caller's context allows more. Default 5 s, which covers an etcd
	// election and a restart of a member.
	SettleTimeout time.Duration
	// ResyncEvery is how often everything is read again although the watch
	// seems to work. Default 3 s.
	ResyncEvery time.Duration
	// ProbeEvery is how often each endpoint is asked whether it can reach the
	// quorum. Default 1 s. Less finds a frozen member sooner, for one cheap
	// read per endpoint each time.
	ProbeEvery time.Duration
}

// DefaultConfig returns the defaults; Cluster, Self and Endpoints are missing.
func DefaultConfig() Config {
	return Config{
		LeaderTTL:     2 * time.Second,
		CallTimeout:   500 * time.Millisecond,
		HedgeAfter:    80 * time.Millisecond,
		SettleTimeout: 5 * time.Second,
		ResyncEvery:   3 * time.Second,
		ProbeEvery:    time.Second,
	}
}

// ForRegions returns the configuration with the limits for members, or an etcd,
// in different regions. A call that comes to another member than etcd's leader
// takes three round trips: there, on to the leader, and from it to a majority.
// These are for round trips of up to 300 ms.
func (c Config) ForRegions() Config {
	c.LeaderTTL, c.CallTimeout, c.HedgeAfter = 4*time.Second, 1500*time.Millisecond, 400*time.Millisecond
	c.SettleTimeout, c.ProbeEvery = 10*time.Second, 2*time.Second
	return c
}

// Validate reports every fault of the configuration, joined.
func (c Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !nameFits(c.Cluster) {
		fault("cluster: %q must not be empty or contain '/' or white space", c.Cluster)
	}
	if !nameFits(string(c.Self)) {
		fault("self: %q must not be empty or contain '/' or white space", c.Self)
	}
	if len(c.Endpoints) == 0 {
		fault("endpoints: at least one is needed")
	}
	for _, e := range c.Endpoints {
		if err := checkEndpoint(e); err != nil {
			fault("endpoints: %w", err)
		}
	}
	if (c.Username == "") != (c.Password == "") {
		fault("username, password: give both or neither")
	}
	if c.LeaderTTL < time.Second || c.LeaderTTL%time.Second != 0 {
		fault("leader_ttl: %v must be whole seconds, at least 1s", c.LeaderTTL)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"call_timeout", c.CallTimeout}, {"hedge_after", c.HedgeAfter}, {"settle_timeout", c.SettleTimeout},
		{"resync_every", c.ResyncEvery}, {"probe_every", c.ProbeEvery},
	} {
		if d.value <= 0 {
			fault("%s: %v must be more than 0", d.name, d.value)
		}
	}
	if c.HedgeAfter >= c.CallTimeout {
		fault("hedge_after: %v must be less than call_timeout %v", c.HedgeAfter, c.CallTimeout)
	}
	if c.CallTimeout > c.LeaderTTL/2 {
		fault("call_timeout: %v must be at most half of leader_ttl %v, or one lost call loses leadership", c.CallTimeout, c.LeaderTTL)
	}
	if c.SettleTimeout < c.CallTimeout {
		fault("settle_timeout: %v must be at least call_timeout %v", c.SettleTimeout, c.CallTimeout)
	}
	return errors.Join(errs...)
}

func nameFits(name string) bool {
	return name != "" && !strings.ContainsAny(name, "/ \t\r\n")
}

func checkEndpoint(endpoint string) error {
	host := endpoint
	if strings.Contains(endpoint, "://") {
		u, err := url.Parse(endpoint)
		if err != nil {
			return fmt.Errorf("parse %q: %w", endpoint, err)
		}
		if u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("%q: scheme must be http or https", endpoint)
		}
		host = u.Host
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		return fmt.Errorf("%q must be host:port: %w", endpoint, err)
	}
	return nil
}

// renewEvery is the pace of the lease: five tries per TTL.
func (c Config) renewEvery() time.Duration { return c.LeaderTTL / 5 }

// margin is how much sooner than etcd this member believes its lease to be
// over, for clocks that run at different speeds and for the way of an answer.
func (c Config) margin() time.Duration { return c.LeaderTTL / 8 }
