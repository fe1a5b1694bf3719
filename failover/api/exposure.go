package api

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// tokenBytes is how long a token must at least be off loopback.
const tokenBytes = 16

// CheckExposure tells whether a listener may be opened on addr (host:port): on
// loopback always, elsewhere only with every guard. The error names each
// missing one. A host name counts as exposed unless it is localhost.
func CheckExposure(addr string, s Security) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("check listener %q: %w", addr, err)
	}
	if ip, err := netip.ParseAddr(host); (err == nil && ip.IsLoopback()) || strings.EqualFold(host, "localhost") {
		return nil
	}
	var missing []string
	if !s.MutualTLS {
		missing = append(missing, "mutual TLS (CA, certificate and key)")
	}
	for _, t := range []struct{ name, token string }{
		{"operator token", s.OperatorToken}, {"member token", s.MemberToken},
	} {
		switch {
		case t.token == "":
			missing = append(missing, t.name)
		case len(t.token) < tokenBytes:
			missing = append(missing, fmt.Sprintf("%s of at least %d characters", t.name, tokenBytes))
		}
	}
	if s.GossipKey == "" {
		missing = append(missing, "gossip key")
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("open listener on %s, which is not loopback: missing %s", addr, strings.Join(missing, ", "))
}
