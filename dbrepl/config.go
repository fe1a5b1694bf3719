package dbrepl

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"regexp"
	"time"
	"unicode/utf8"
)

// Config says how to reach and command one instance.
type Config struct {
	// Address is host:port of the instance for clients. Either it or Socket
	// is needed.
	Address string
	// Socket is the path of the instance's unix socket; it is preferred to
	// Address, as it costs less and survives a cut network.
	Socket string
	// AdminAddress is host:port of the administrative listener
	// (admin_address, admin_port, create_admin_listener_thread). Where it is
	// set all connections go there, so that a server whose max_connections
	// are used up still answers.
	AdminAddress string

	// User and Password are the controller's account, as made by Grants.
	User, Password string
	// ReplUser and ReplPassword are what replicas log in to a source with.
	ReplUser, ReplPassword string
	// TLS is used for TCP connections, and makes replication use TLS; nil is
	// plain text. It has no effect on a unix socket.
	TLS *tls.Config

	// Schema is where the marker table is. Default interrex.
	Schema string

	// ConnectTimeout bounds dialling and logging in. Default 1 s. Longer
	// means that a host that is gone is noticed later; shorter that a loaded
	// one is taken for gone.
	ConnectTimeout time.Duration
	// QueryTimeout bounds each question of a probe, and how long a statement
	// that is given up on may take to be seen gone. Default 1 s.
	QueryTimeout time.Duration
	// HeartbeatPeriod is how often an idle source tells its replicas that it
	// is there (SOURCE_HEARTBEAT_PERIOD). Default 500 ms; see FitTo. Shorter notices a
	// silent source sooner and costs a packet per replica and period.
	HeartbeatPeriod time.Duration
	// NetTimeout is after how long without a heartbeat a replica's receiver
	// reconnects (replica_net_timeout, whole seconds). Default 2 s. It must
	// be longer than HeartbeatPeriod.
	NetTimeout time.Duration

	// PIDFile overrides the server's pid_file where the agent sees it under
	// another path.
	PIDFile string
	// Datadir overrides the server's datadir in the same way. Binary logs
	// that the server keeps below its datadir are looked for here.
	Datadir string
	// MysqlBinlog is the argument list that runs mysqlbinlog of the server's
	// version. Default mysqlbinlog, looked up on PATH.
	MysqlBinlog []string
}

// DefaultConfig has every default and neither address nor account.
func DefaultConfig() Config {
	return Config{
		Schema:          "interrex",
		ConnectTimeout:  time.Second,
		QueryTimeout:    time.Second,
		HeartbeatPeriod: 500 * time.Millisecond,
		NetTimeout:      2 * time.Second,
		MysqlBinlog:     []string{"mysqlbinlog"},
	}
}

// ConnectRetry is how often a receiver that lost its source tries it again
// (SOURCE_CONNECT_RETRY): the shortest there is.
const ConnectRetry = time.Second

// The limits of what FitTo sets: a heartbeat is a packet to each replica.
const (
	shortestHeartbeat = 100 * time.Millisecond
	longestHeartbeat  = 30 * time.Second
)

// FitTo returns the configuration with the receiver's times made for evidence
// that counts for freshness: a heartbeat comes at least twice in that time, so
// that one that is missing says something, and the receiver gives a silent source
// up after four of them.
func (c Config) FitTo(freshness time.Duration) Config {
	c.HeartbeatPeriod = min(max(freshness/2, shortestHeartbeat), longestHeartbeat).Round(heartbeatUnit)
	c.NetTimeout = (4*c.HeartbeatPeriod + time.Second - 1).Truncate(time.Second)
	return c
}

// withDefaults fills in what was left zero.
func (c Config) withDefaults() Config {
	d := DefaultConfig()
	if c.Schema == "" {
		c.Schema = d.Schema
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = d.ConnectTimeout
	}
	if c.QueryTimeout == 0 {
		c.QueryTimeout = d.QueryTimeout
	}
	if c.HeartbeatPeriod == 0 {
		c.HeartbeatPeriod = d.HeartbeatPeriod
	}
	if c.NetTimeout == 0 {
		c.NetTimeout = d.NetTimeout
	}
	if len(c.MysqlBinlog) == 0 {
		c.MysqlBinlog = d.MysqlBinlog
	}
	return c
}

// longestUser is MySQL's limit of an account's name, in characters.
const longestUser = 32

// Identifiers of our own are plain words: nothing that would need more than
// backquotes.
var schemaPattern = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,63}$`)

// Validate reports every fault of the configuration, joined.
func (c Config) Validate() error {
	c = c.withDefaults()
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Address == "" && c.Socket == "" && c.AdminAddress == "" {
		fault("no address, socket or administrative address")
	}
	for name, address := range map[string]string{"address": c.Address, "administrative address": c.AdminAddress} {
		if address == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			fault("%s %q is not host:port: %w", name, address, err)
		}
	}
	if c.User == "" {
		fault("no user of the controller")
	}
	if utf8.RuneCountInString(killerOf(c.User)) > longestUser {
		fault("user %q of the controller is too long: MySQL takes %d characters, also of %s, which `interrex mysql grants` makes beside it",
			c.User, longestUser, killerOf(c.User))
	}
	if c.ReplUser == "" {
		fault("no replication user")
	}
	if !schemaPattern.MatchString(c.Schema) {
		fault("schema %q is not a plain name (letters, digits, underscores, 64 at most)", c.Schema)
	}
	for name, d := range map[string]time.Duration{
		"connect timeout": c.ConnectTimeout, "query timeout": c.QueryTimeout, "heartbeat period": c.HeartbeatPeriod,
	} {
		if d < time.Millisecond {
			fault("%s %v is below 1ms", name, d)
		}
	}
	if c.NetTimeout < time.Second || c.NetTimeout%time.Second != 0 {
		fault("net timeout %v is not a whole number of seconds", c.NetTimeout)
	}
	if c.NetTimeout <= c.HeartbeatPeriod {
		fault("net timeout %v is not longer than the heartbeat period %v", c.NetTimeout, c.HeartbeatPeriod)
	}
	return errors.Join(faults...)
}

// endpoint is where connections go: the administrative listener where there
// is one, else the socket, else the address.
func (c Config) endpoint() (network, address string) {
	switch {
	case c.AdminAddress != "":
		return "tcp", c.AdminAddress
	case c.Socket != "":
		return "unix", c.Socket
	default:
		return "tcp", c.Address
	}
}
