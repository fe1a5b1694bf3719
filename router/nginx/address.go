package nginx

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Address is a place a server line may name. Only ParseAddress makes one, so
// that whatever is written into a configuration is one of: IPv4:port,
// [IPv6]:port, name:port, unix:/path.
type Address struct{ text string }

// String is the address as nginx reads it.
func (a Address) String() string { return a.text }

const (
	maxHost     = 253 // of a DNS name, in bytes
	maxUnixPath = 107 // of a socket, in bytes (sockaddr_un)
)

// ParseAddress checks and normalises an address. A unix path is absolute and of
// letters, digits and / . _ - only; a name is of letters, digits and . _ - .
// Anything else is an ErrAddress.
func ParseAddress(s string) (Address, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if len(path) > maxUnixPath || !strings.HasPrefix(path, "/") || strings.HasSuffix(path, "/") || !isPlainText(path, "/._-") {
			return Address{}, fmt.Errorf("%w: %q: want unix: and an absolute path of letters, digits and /._-", ErrAddress, s)
		}
		return Address{text: s}, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Address{}, fmt.Errorf("%w: %q: want host:port", ErrAddress, s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return Address{}, fmt.Errorf("%w: %q: port must be 1 to 65535", ErrAddress, s)
	}
	port = strconv.FormatUint(n, 10)
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.Zone() != "" {
			return Address{}, fmt.Errorf("%w: %q: IPv6 zones are not supported", ErrAddress, s)
		}
		return Address{text: net.JoinHostPort(ip.String(), port)}, nil
	}
	if host == "" || len(host) > maxHost || strings.ContainsAny(host[:1], ".-") || !isPlainText(host, "._-") {
		return Address{}, fmt.Errorf("%w: %q: not a host name", ErrAddress, s)
	}
	return Address{text: strings.ToLower(host) + ":" + port}, nil
}

// lineAddress is the address a server line names, in the same form as
// ParseAddress gives; in http a missing port is 80. For what ParseAddress would
// refuse it is the text itself, which then equals no Address.
func lineAddress(text string, context Context) string {
	if a, err := ParseAddress(text); err == nil {
		return a.text
	}
	if context == HTTP {
		if a, err := ParseAddress(text + ":80"); err == nil {
			return a.text
		}
	}
	return text
}

// isPlainText tells whether s is made of ASCII letters, digits and the other
// bytes given.
func isPlainText(s, others string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (c < '0' || c > '9') && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return true
}
