package detector

import (
	"strings"
	"time"

	"interrex/internal/topology"
)

const (
	maxName   = 63
	maxDetail = 120
	maxAge    = 30 * 24 * time.Hour // older is sent as this
)

// validName tells whether a node name is one that travels: 1 to 63 of
// letters, digits, dot, dash and underscore.
func validName(n topology.NodeName) bool {
	if len(n) == 0 || len(n) > maxName {
		return false
	}
	for _, c := range []byte(n) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// clean makes a detail fit for a datagram: printable ASCII that JSON does not
// escape, at most maxDetail bytes.
func clean(detail string) string {
	var b strings.Builder
	for _, r := range detail {
		if b.Len() == maxDetail {
			break
		}
		switch {
		case r == '"':
			r = '\''
		case r < ' ', r > '~', r == '\\', r == '<', r == '>', r == '&':
			r = '.'
		}
		b.WriteByte(byte(r))
	}
	return b.String()
}
