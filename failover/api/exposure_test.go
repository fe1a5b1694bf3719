package api

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheckExposure(t *testing.T) {
	full := Security{OperatorToken: operatorToken, MemberToken: memberToken, GossipKey: "key", MutualTLS: true}
	without := func(change func(*Security)) Security {
		s := full
		change(&s)
		return s
	}
	for _, addr := range []string{"127.0.0.1:8080", "127.9.9.9:1", "[::1]:8080", "localhost:8080"} {
		require.NoError(t, CheckExposure(addr, Security{}), addr)
	}
	for _, c := range []struct {
		name    string
		s       Security
		missing []string
	}{
		{"nothing", Security{}, []string{"mutual TLS", "operator token", "member token", "gossip key"}},
		{"no TLS", without(func(s *Security) { s.MutualTLS = false }), []string{"mutual TLS"}},
		{"no operator token", without(func(s *Security) { s.OperatorToken = "" }), []string{"operator token"}},
		{"no member token", without(func(s *Security) { s.MemberToken = "" }), []string{"member token"}},
		{"short tokens", without(func(s *Security) { s.MemberToken, s.OperatorToken = "short", "short" }), []string{"member token of at least 16", "operator token of at least 16"}},
		{"no gossip key", without(func(s *Security) { s.GossipKey = "" }), []string{"gossip key"}},
	} {
		for _, addr := range []string{"0.0.0.0:8080", ":8080", "[::]:8080", "10.0.0.1:8080", "db1.example.org:8080"} {
			require.NoError(t, CheckExposure(addr, full), addr)
			err := CheckExposure(addr, c.s)
			require.Error(t, err, "%s on %s", c.name, addr)
			for _, m := range c.missing {
				require.ErrorContains(t, err, m, c.name)
			}
			for _, all := range []string{"mutual TLS", "operator token", "member token", "gossip key"} {
				if !mentions(c.missing, all) {
					require.NotContains(t, err.Error(), all, c.name)
				}
			}
			require.NotContains(t, err.Error(), operatorToken)
		}
	}
	require.Error(t, CheckExposure("8080", full), "no address at all")
}

func mentions(list []string, what string) bool {
	for _, m := range list {
		if len(m) >= len(what) && m[:len(what)] == what {
			return true
		}
	}
	return false
}
