package detector

import (
	"errors"
	"fmt"
	"net"
	"strconv"

	"interrex/internal/topology"
)

// Config is what a detector is told at start. Who is registered and what is
// probed comes later and may change: SetRegistered, SetSubjects.
type Config struct {
	// Self is this member's name: letters, digits, dot, dash, underscore; at
	// most 63.
	Self topology.NodeName
	// Cluster keeps two clusters on one network apart (memberlist's label,
	// bound into the encryption). At most 63 bytes.
	Cluster string
	// Key encrypts gossip: 16, 24 or 32 bytes (AES-128, -192, -256), the same
	// on all members. Required.
	Key []byte
	// Bind is the host:port (UDP and TCP) that gossip listens on.
	Bind string
	// Advertise is the host:port that others are told; empty: Bind, which
	// then must not be a wildcard.
	Advertise string
	// Peers are host:port of members to join first, self allowed. Once others
	// are known to be registered, these are joined instead.
	Peers []string
	// Profile picks the windows; empty: lan.
	Profile Profile
	// Windows are used if Profile is custom.
	Windows Windows
}

// DefaultConfig returns the defaults; Self, Cluster, Key and Bind have none.
func DefaultConfig() Config {
	w, _ := ProfileWindows(LAN)
	return Config{Profile: LAN, Windows: w}
}

// EffectiveWindows returns the windows that the profile comes to.
func (c Config) EffectiveWindows() (Windows, error) {
	if c.Profile == Custom {
		return c.Windows, nil
	}
	return ProfileWindows(c.Profile)
}

// Validate reports every fault, joined, and changes nothing.
func (c Config) Validate() error {
	var faults []error
	if !validName(c.Self) {
		faults = append(faults, fmt.Errorf("self: %q is not 1 to %d letters, digits, dots, dashes or underscores", c.Self, maxName))
	}
	if c.Cluster == "" || len(c.Cluster) > maxName {
		faults = append(faults, fmt.Errorf("cluster: must have 1 to %d bytes, has %d", maxName, len(c.Cluster)))
	}
	switch len(c.Key) {
	case 16, 24, 32:
	default:
		faults = append(faults, fmt.Errorf("key: must have 16, 24 or 32 bytes, has %d", len(c.Key)))
	}
	host, _, err := splitAddress(c.Bind)
	if err != nil {
		faults = append(faults, fmt.Errorf("bind: %w", err))
	} else if ip := net.ParseIP(host); c.Advertise == "" && ip != nil && ip.IsUnspecified() {
		faults = append(faults, errors.New("advertise: must be set when bind is a wildcard"))
	}
	if c.Advertise != "" {
		if _, _, err := splitAddress(c.Advertise); err != nil {
			faults = append(faults, fmt.Errorf("advertise: %w", err))
		}
	}
	for i, p := range c.Peers {
		if _, _, err := splitAddress(p); err != nil {
			faults = append(faults, fmt.Errorf("peers[%d]: %w", i, err))
		}
	}
	w, err := c.EffectiveWindows()
	if err != nil {
		faults = append(faults, fmt.Errorf("profile: %w", err))
	} else if err := w.Validate(); err != nil {
		faults = append(faults, fmt.Errorf("windows: %w", err))
	}
	return errors.Join(faults...)
}

func splitAddress(addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("read address %q: %w", addr, err)
	}
	port, err = strconv.Atoi(p)
	if err != nil || port < 1 || port > 65535 || host == "" {
		return "", 0, fmt.Errorf("read address %q: want host:port with a port from 1 to 65535", addr)
	}
	return host, port, nil
}
