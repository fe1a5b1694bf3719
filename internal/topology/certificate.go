package topology

import "strings"

// memberDomain ends the DNS name by which certificates name a member.
const memberDomain = ".interrex"

// MemberHost is the DNS name that the certificate of a member bears beside its
// host names: <node>.<cluster>.interrex. It proves which member of which cluster
// one speaks to, whatever address it was reached at.
func MemberHost(node NodeName, cluster string) string {
	return strings.ToLower(string(node) + "." + cluster + memberDomain)
}

// NamesMember tells whether one of a certificate's DNS names is that of a member
// of the cluster, whichever it is. That its authority is trusted has to be known
// already.
func NamesMember(names []string, cluster string) bool {
	suffix := "." + strings.ToLower(cluster) + memberDomain
	for _, name := range names {
		node, ok := strings.CutSuffix(strings.ToLower(name), suffix)
		if ok && node != "" && node != "*" {
			return true
		}
	}
	return false
}
