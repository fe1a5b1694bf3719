package nginx

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Context is the part of an nginx configuration an upstream block is in.
type Context string

// The contexts.
const (
	HTTP   Context = "http"
	Stream Context = "stream"
)

// Role says who belongs in an upstream block.
type Role string

// The roles. RW is the primary, RO the replicas that may serve reads, Members
// the healthy ones of a fixed list of HTTP services.
const (
	RW      Role = "rw"
	RO      Role = "ro"
	Members Role = "http"
)

// Via says how an RW or RO upstream reaches the instances.
type Via string

// The ways. Direct names the instances themselves; Proxy names the agents'
// proxies, which follow the route table by themselves, so that nginx need not
// be reloaded when the primary moves.
const (
	Direct Via = "direct"
	Proxy  Via = "proxy"
)

// Config is one nginx configuration file whose upstream blocks the agent owns.
type Config struct {
	// File is the file that holds the upstream blocks: the main configuration
	// or one that it includes. It is followed if it is a symbolic link.
	File string
	// TestCommand makes nginx test its configuration; it must exit with 0. An
	// argument that equals File is replaced by the new text's name, so that
	// with [nginx, -t, -c, FILE] a main configuration is tested before it is
	// put in place. Without one, the new text is put in place, tested, and
	// taken back if it fails. No shell. Default [nginx, -t].
	TestCommand []string
	// ReloadCommand makes nginx read the file again. No shell. Empty: SIGHUP
	// to the master process of PIDFile, which spares starting a program.
	// Default [nginx, -s, reload].
	ReloadCommand []string
	// PIDFile is nginx's pid file, by which a reload is seen to be live.
	// Default /run/nginx.pid.
	PIDFile string
	// Upstreams are the owned blocks.
	Upstreams []Upstream
	// ReadsFallBack: while no replica may serve reads, RO upstreams lead to
	// the primary. Otherwise all their servers are down then, and nginx
	// answers with an error. Default true.
	ReadsFallBack bool
	// CommandLimit is how long testing, and how long reloading, may take.
	// More suits a huge configuration; less notices a hanging nginx sooner.
	// Default 10 s.
	CommandLimit time.Duration
	// LiveLimit is how long the workers may take to be replaced after a
	// reload. Default 10 s.
	LiveLimit time.Duration
	// CloseAfter is how long a route stays closed before the servers of an RW
	// upstream (Via Direct) are marked down. Until then new connections try
	// the old primary, which acknowledges nothing; from then on nginx refuses
	// them at once. Less costs every switchover a second reload. Default 2 s.
	CloseAfter time.Duration
	// Recheck is how often the file is compared with what it should say, and
	// how often a failed change is tried again at least. It corrects a file
	// that was replaced by somebody's deployment. Default 10 s.
	Recheck time.Duration
}

// Upstream is one owned upstream block.
type Upstream struct {
	// Context and Name say which block: the same name may be used once in
	// http and once in stream.
	Context Context
	Name    string
	// Role is RW or RO (in stream only) or Members (in http only).
	Role Role
	// Via is for RW and RO.
	Via Via
	// Proxies are the addresses of the agents' proxy ports, for Via Proxy.
	Proxies []string
	// Members are the services, for Role Members.
	Members []Member
}

// Member is one HTTP service behind an upstream block.
type Member struct {
	// Address is the service's host:port.
	Address string
	// HealthPath is asked with GET; any 2xx answer is healthy.
	HealthPath string
	// Interval is the time between two questions. Less notices a death sooner
	// and costs the service more requests.
	Interval time.Duration
	// Timeout is how long an answer may take; at most Interval.
	Timeout time.Duration
	// MaxFails answers in a row must fail before the member is marked down.
	MaxFails int
	// Rise answers in a row must be healthy before it is up again.
	Rise int
}

// DefaultConfig has every default filled in; File and Upstreams are still to
// be set.
func DefaultConfig() Config {
	return Config{
		TestCommand:   []string{"nginx", "-t"},
		ReloadCommand: []string{"nginx", "-s", "reload"},
		PIDFile:       "/run/nginx.pid",
		ReadsFallBack: true,
		CommandLimit:  10 * time.Second,
		LiveLimit:     10 * time.Second,
		CloseAfter:    2 * time.Second,
		Recheck:       10 * time.Second,
	}
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !filepath.IsAbs(c.File) {
		fault("file: want an absolute path, got %q", c.File)
	}
	if !filepath.IsAbs(c.PIDFile) {
		fault("pid_file: want an absolute path, got %q", c.PIDFile)
	}
	if len(c.TestCommand) == 0 || c.TestCommand[0] == "" {
		fault("test_command: must name a program")
	}
	if len(c.ReloadCommand) > 0 && c.ReloadCommand[0] == "" {
		fault("reload_command: must name a program, or be empty for SIGHUP to the pid file's process")
	}
	if c.CommandLimit <= 0 || c.LiveLimit <= 0 || c.Recheck <= 0 || c.CloseAfter < 0 {
		fault("command_limit, live_limit and recheck must be above 0, close_after not below 0")
	}
	if len(c.Upstreams) == 0 {
		fault("upstreams: none is owned; leave this nginx out instead")
	}
	for i, u := range c.Upstreams {
		for _, f := range u.faults() {
			fault("upstreams[%d] (%s %s): %w", i, u.Context, u.Name, f)
		}
		same := func(o Upstream) bool { return o.Context == u.Context && o.Name == u.Name }
		if slices.ContainsFunc(c.Upstreams[:i], same) {
			fault("upstreams[%d] (%s %s): named twice", i, u.Context, u.Name)
		}
	}
	return errors.Join(faults...)
}

func (u Upstream) faults() []error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if u.Name == "" || !isPlainText(u.Name, "._-") {
		fault("name: want letters, digits and ._-")
	}
	switch {
	case u.Context != HTTP && u.Context != Stream:
		fault("context: want http or stream")
	case u.Role == Members && u.Context != HTTP:
		fault("role http belongs in context http")
	case (u.Role == RW || u.Role == RO) && u.Context != Stream:
		fault("role %s belongs in context stream: MySQL is no HTTP", u.Role)
	}
	switch u.Role {
	case Members:
		faults = append(faults, memberFaults(u.Members)...)
	case RW, RO:
		if u.Via != Direct && u.Via != Proxy {
			fault("via: want direct or proxy")
		}
		if u.Via == Proxy && len(u.Proxies) == 0 {
			fault("proxies: via proxy needs at least one")
		}
		if len(u.Members) > 0 {
			fault("members: only for role http")
		}
		faults = append(faults, addressFaults("proxies", u.Proxies)...)
	default:
		fault("role: want rw, ro or http")
	}
	return faults
}

func memberFaults(members []Member) []error {
	var faults []error
	addresses := make([]string, len(members))
	for i, m := range members {
		addresses[i] = m.Address
		fault := func(format string, args ...any) {
			faults = append(faults, fmt.Errorf("members[%d] (%s): %s", i, m.Address, fmt.Sprintf(format, args...)))
		}
		if !strings.HasPrefix(m.HealthPath, "/") || strings.ContainsFunc(m.HealthPath, func(r rune) bool { return r <= ' ' || r > '~' || r == '#' }) {
			fault("health_path: want a path beginning with /, got %q", m.HealthPath)
		}
		if strings.HasPrefix(m.Address, "unix:") {
			fault("address: a member is checked over TCP, so it needs host:port")
		}
		if m.Timeout <= 0 || m.Interval < m.Timeout {
			fault("timeout must be above 0 and at most interval, got %s and %s", m.Timeout, m.Interval)
		}
		if m.MaxFails < 1 || m.Rise < 1 {
			fault("max_fails and rise must be at least 1, got %d and %d", m.MaxFails, m.Rise)
		}
	}
	if len(members) == 0 {
		faults = append(faults, errors.New("members: role http needs at least one"))
	}
	return append(faults, addressFaults("members", addresses)...)
}

func addressFaults(key string, addresses []string) []error {
	var faults []error
	seen := map[string]bool{}
	for i, s := range addresses {
		a, err := ParseAddress(s)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s[%d]: %w", key, i, err))
		} else if seen[a.text] {
			faults = append(faults, fmt.Errorf("%s[%d]: %s is there twice", key, i, s))
		}
		seen[a.text] = true
	}
	return faults
}
