package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// TLS names the files for both of etcd's ports. With them, every client and
// every peer must show a certificate of the CA. Certificate and key are read
// again at each handshake, the CA when etcd starts.
type TLS struct {
	CAFile   string `json:"ca_file"`
	CertFile string `json:"cert_file"`
	KeyFile  string `json:"key_file"`
	// MembersAlone has the client port refuse every certificate that does not name
	// a member of the cluster (topology.MemberHost). Between peers, etcd asks that a
	// certificate which names hosts names the one it comes from, and no more.
	MembersAlone bool `json:"members_alone,omitempty"`
}

// Config describes one etcd member and how to run it.
type Config struct {
	// Exe is the binary that has the etcd command, normally the agent's own
	// (os.Executable). It is run as: Exe etcd --config FILE.
	Exe string `json:"-"`
	// LogFile receives etcd's log, as JSON lines; it is rotated at 10 MiB and
	// two old ones are kept.
	LogFile string `json:"log_file"`

	// Cluster separates etcd clusters: members of another one are refused.
	Cluster string `json:"cluster"`
	// Name is this member's name; Peers must have it.
	Name string `json:"name"`
	// DataDir is etcd's folder, made with mode 0700 when missing. Losing it
	// costs the member its vote until the others, who must be a quorum without
	// it, have taken it in again and it has caught up.
	DataDir string `json:"data_dir"`
	// ClientURL is the host:port that clients, and a member whose folder was
	// lost, connect to.
	ClientURL string `json:"client_url"`
	// ListenClient and ListenPeer are the host:port to listen on, where they
	// are others than ClientURL and the own address in Peers.
	ListenClient string `json:"listen_client,omitempty"`
	ListenPeer   string `json:"listen_peer,omitempty"`
	// Peers maps the name of each member to the host:port where the others
	// reach it. All founders must be given the same. Later on etcd's own list
	// counts, and a member that joins needs the address of one that answers.
	Peers map[string]string `json:"peers"`
	// Heartbeat and Election time etcd's raft; Election must be at least five
	// times Heartbeat, and all members need the same. Default 50 ms and
	// 500 ms. Less finds a new etcd leader sooner; more tolerates slower disks
	// and networks.
	Heartbeat time.Duration `json:"heartbeat_ns"`
	Election  time.Duration `json:"election_ns"`
	// QuotaBytes bounds etcd's database. Default 64 MiB; interrex needs a few.
	QuotaBytes int64 `json:"quota_bytes"`
	// KeepRevisions is how many old revisions compaction leaves. Default 1000.
	KeepRevisions int64 `json:"keep_revisions"`
	// TLS secures both ports; nil means plain text, which is for loopback only.
	TLS *TLS `json:"tls,omitempty"`
}

// ChildConfig is what the child process reads from its configuration file.
type ChildConfig = Config

// DefaultConfig returns the defaults; everything without one is missing.
func DefaultConfig() Config {
	return Config{
		Heartbeat:     50 * time.Millisecond,
		Election:      500 * time.Millisecond,
		QuotaBytes:    64 << 20,
		KeepRevisions: 1000,
	}
}

// Validate reports every fault of the configuration, joined.
func (c Config) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, required := range []struct{ name, value string }{
		{"cluster", c.Cluster}, {"name", c.Name}, {"data_dir", c.DataDir}, {"log_file", c.LogFile},
	} {
		if required.value == "" {
			fault("%s: must not be empty", required.name)
		}
	}
	if _, _, err := net.SplitHostPort(c.ClientURL); err != nil {
		fault("client_url: %q must be host:port: %w", c.ClientURL, err)
	}
	for _, listener := range []struct{ name, address string }{{"listen_client", c.ListenClient}, {"listen_peer", c.ListenPeer}} {
		if _, _, err := net.SplitHostPort(listener.address); err != nil && listener.address != "" {
			fault("%s: %q must be host:port: %w", listener.name, listener.address, err)
		}
	}
	if _, listed := c.Peers[c.Name]; !listed {
		fault("peers: %q itself is missing", c.Name)
	}
	for name, address := range c.Peers {
		if strings.ContainsAny(name, "=, ") {
			fault("peers: name %q must not contain '=', ',' or a space", name)
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			fault("peers: %s: %q must be host:port: %w", name, address, err)
		}
	}
	if c.Heartbeat < time.Millisecond {
		fault("heartbeat: %v must be at least 1ms", c.Heartbeat)
	}
	if c.Election < 5*c.Heartbeat {
		fault("election: %v must be at least five times heartbeat %v", c.Election, c.Heartbeat)
	}
	if c.QuotaBytes < 16<<20 {
		fault("quota_bytes: %d must be at least 16 MiB", c.QuotaBytes)
	}
	if c.KeepRevisions < 1 {
		fault("keep_revisions: %d must be at least 1", c.KeepRevisions)
	}
	if c.TLS != nil && (c.TLS.CAFile == "" || c.TLS.CertFile == "" || c.TLS.KeyFile == "") {
		fault("tls: ca_file, cert_file and key_file are all needed")
	}
	return errors.Join(errs...)
}

// etcdDir is where etcd itself keeps its files.
func (c Config) etcdDir() string { return filepath.Join(c.DataDir, "data") }

func (c Config) file() string { return filepath.Join(c.DataDir, "config.json") }

// founded tells whether the member has joined its cluster before.
func (c Config) founded() bool {
	_, err := os.Stat(filepath.Join(c.etcdDir(), "member", "wal"))
	return err == nil
}

// write saves the configuration for the child.
func (c Config) write() error {
	if err := os.MkdirAll(c.etcdDir(), 0o700); err != nil {
		return fmt.Errorf("make etcd's folder: %w", err)
	}
	// An existing folder may have been made with a laxer mode.
	for _, dir := range []string{c.DataDir, c.etcdDir()} {
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("protect etcd's folder: %w", err)
		}
	}
	content, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("encode etcd's configuration: %w", err)
	}
	if err := os.WriteFile(c.file(), content, 0o600); err != nil {
		return fmt.Errorf("write etcd's configuration: %w", err)
	}
	return nil
}

// ReadChildConfig reads the file that Supervise wrote for the child.
func ReadChildConfig(file string) (ChildConfig, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return ChildConfig{}, fmt.Errorf("read etcd's configuration: %w", err)
	}
	var c ChildConfig
	if err := json.Unmarshal(content, &c); err != nil {
		return ChildConfig{}, fmt.Errorf("decode etcd's configuration %s: %w", file, err)
	}
	return c, nil
}
