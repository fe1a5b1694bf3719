package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// check compares keys with each other. It changes nothing but d.faults.
func check(cfg *Config, d *decoder) {
	checkMembers(cfg, d)
	checkOwnMember(cfg, d)
	checkListeners(cfg, d)
	checkExposure(cfg, d)
	checkMySQL(cfg, d)
	checkEtcd(cfg, d)
	checkWindows(cfg, d)
	checkDurability(cfg, d)
	checkRoutes(cfg, d)
	checkFlapping(cfg.Failover, d)
	for i := range cfg.Routes.Nginx {
		checkNginx(fmt.Sprintf("routes.nginx[%d]", i), &cfg.Routes.Nginx[i], d)
	}
	checkTLS("security.tls", cfg.Security.TLS, d)
	checkTLS("etcd.tls", cfg.Etcd.TLS, d)
}

// checkMembers: names and addresses are each member's own.
func checkMembers(cfg *Config, d *decoder) {
	names := map[string]int{}
	addresses := map[string]string{}
	for i, m := range cfg.Cluster.Members {
		path := fmt.Sprintf("cluster.members[%d]", i)
		if first, twice := names[m.Name]; twice && m.Name != "" {
			d.fault(path+".name", fmt.Sprintf("%q is cluster.members[%d] already", m.Name, first), "give each member a name of its own")
		} else {
			names[m.Name] = i
		}
		if m.Host == "" {
			continue
		}
		own := []struct{ key, address string }{
			{"ports.api", m.at(m.Ports.API)}, {"ports.gossip", m.at(m.Ports.Gossip)},
		}
		if m.Voter && cfg.Etcd.Mode == Embedded {
			own = append(own, []struct{ key, address string }{
				{"ports.etcd_client", m.EtcdClientAddress()}, {"ports.etcd_peer", m.EtcdPeerAddress()},
			}...)
		}
		if m.MySQL != "" {
			own = append(own, struct{ key, address string }{"mysql", m.MySQL})
		}
		if m.MySQLAdmin != "" {
			own = append(own, struct{ key, address string }{"mysql_admin", m.MySQLAdmin})
		}
		for _, a := range own {
			if other, taken := addresses[a.address]; taken {
				d.fault(path+"."+a.key, fmt.Sprintf("%s is %s already", a.address, other), "give each its own port where members share a host")
				continue
			}
			addresses[a.address] = path + "." + a.key
		}
		if m.MySQLAdmin != "" && m.MySQL == "" {
			d.fault(path+".mysql_admin", "is set on a member without instance", "set mysql too, or remove the line")
		}
	}
}

// checkOwnMember: this node is one of the members, and both agree on whether
// it has an instance.
func checkOwnMember(cfg *Config, d *decoder) {
	if cfg.Node.Name == "" || len(cfg.Cluster.Members) == 0 {
		return
	}
	names := make([]string, len(cfg.Cluster.Members))
	for i, m := range cfg.Cluster.Members {
		names[i] = m.Name
	}
	own := slices.Index(names, cfg.Node.Name)
	if own < 0 {
		fix := "add it there, or name one of " + strings.Join(names, ", ")
		if near := nearestWord(cfg.Node.Name, names); near != "" {
			fix = "did you mean " + near + "?"
		}
		d.fault("node.name", fmt.Sprintf("%q is not in cluster.members", cfg.Node.Name), fix)
		return
	}
	path := fmt.Sprintf("cluster.members[%d]", own)
	_, section := d.places["mysql"]
	has := cfg.Cluster.Members[own].MySQL != ""
	switch {
	case has && !section:
		d.fault(path+".mysql", "says this node has an instance, but there is no mysql section", "add the section mysql, or remove this line for an arbiter")
	case !has && cfg.MySQL != nil:
		d.fault("mysql", fmt.Sprintf("is set, but %s has no mysql address", path), "add mysql: host:port to that member, so that the others can probe it")
	}
}

// checkListeners: no two share an address.
func checkListeners(cfg *Config, d *decoder) {
	list := listeners(cfg)
	for i, l := range list {
		for _, other := range list[:i] {
			if collide(l.address, other.address) {
				d.fault(l.key, fmt.Sprintf("%s is taken by %s (%s)", l.address, other.key, other.address), "give each listener its own port")
				break
			}
		}
	}
}

// collide tells whether two listeners cannot both be: the same port on the
// same host, or on every address of it.
func collide(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB {
		return false
	}
	every := func(host string) bool { return host == "" || host == "0.0.0.0" || host == "::" }
	return hostA == hostB || every(hostA) || every(hostB) || isLoopbackHost(hostA) && hostB == "localhost" || hostA == "localhost" && isLoopbackHost(hostB)
}

// listener is one address the agent listens on.
type listener struct {
	key      string
	address  string
	guarded  bool   // by TLS, tokens and gossip key
	port     int    // at which the others expect it; 0 where they don't
	portPath string // of that
}

// listeners are those the configuration asks for.
func listeners(cfg *Config) []listener {
	own := cfg.OwnMember()
	list := []listener{
		{"listeners.api", cfg.Listeners.API, true, own.Ports.API, "api"},
		{"listeners.gossip", cfg.Listeners.Gossip, true, own.Ports.Gossip, "gossip"},
	}
	if cfg.Etcd.Mode == Embedded && own.Voter {
		list = append(list,
			listener{"listeners.etcd_client", cfg.Listeners.EtcdClient, true, own.Ports.EtcdClient, "etcd_client"},
			listener{"listeners.etcd_peer", cfg.Listeners.EtcdPeer, true, own.Ports.EtcdPeer, "etcd_peer"})
	}
	if cfg.Listeners.RW != "" {
		list = append(list, listener{key: "listeners.rw", address: cfg.Listeners.RW, port: own.Ports.RW, portPath: "rw"})
	}
	if cfg.Listeners.RO != "" {
		list = append(list, listener{key: "listeners.ro", address: cfg.Listeners.RO, port: own.Ports.RO, portPath: "ro"})
	}
	return list
}

// checkExposure: whoever reaches the API, gossip or etcd can move the primary,
// so these leave loopback only with every guard in place.
func checkExposure(cfg *Config, d *decoder) {
	var missing []string
	for _, guard := range []struct{ key, value string }{
		{"security.tls.ca_file", cfg.Security.TLS.CAFile},
		{"security.tls.cert_file", cfg.Security.TLS.CertFile},
		{"security.tls.key_file", cfg.Security.TLS.KeyFile},
		{"security.operator_token_file", cfg.Security.OperatorTokenFile},
		{"security.member_token_file", cfg.Security.MemberTokenFile},
		{"gossip.key_file", cfg.Gossip.KeyFile},
	} {
		if guard.value == "" {
			missing = append(missing, guard.key)
		}
	}
	if len(missing) == 0 {
		return
	}
	for _, l := range listeners(cfg) {
		if _, _, err := net.SplitHostPort(l.address); err != nil || !l.guarded || isLoopback(l.address) {
			continue
		}
		d.fault(l.key, fmt.Sprintf("%s can be reached from other hosts, and whoever reaches it unguarded could move the primary", l.address),
			"set "+strings.Join(missing, ", ")+", or listen on 127.0.0.1")
	}
}

// maxUser is the longest user name of a MySQL account.
const maxUser = 32

func checkMySQL(cfg *Config, d *decoder) {
	if cfg.MySQL == nil {
		return
	}
	t := cfg.MySQL.TLS
	if (t.Mode == TLSVerifyCA || t.Mode == TLSVerifyIdentity) && t.CAFile == "" {
		d.fault("mysql.tls.ca_file", fmt.Sprintf("is missing for mode %s", t.Mode), "name the PEM file of the authority that signed the servers' certificates")
	}
	if t.Mode == TLSDisabled && (t.CAFile != "" || t.CertFile != "" || t.KeyFile != "") {
		d.fault("mysql.tls.mode", "is disabled, but certificates are named", "set it to verify_identity, verify_ca or required")
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		d.fault("mysql.tls", "names only one of cert_file and key_file", "name both or neither")
	}
	for _, m := range cfg.Cluster.Members {
		user := cfg.MySQL.ReplicationAccount(m.Name)
		switch {
		case user == cfg.MySQL.User && user != "":
			d.fault("mysql.replication_user", fmt.Sprintf("%q is the agent's account too", user), "use two accounts: replicas store theirs")
			return
		case len(user) > maxUser:
			d.fault("mysql.replication_user", fmt.Sprintf("%q is longer than the %d characters that MySQL allows", user, maxUser), "shorten what surrounds {node}")
			return
		}
	}
}

func checkEtcd(cfg *Config, d *decoder) {
	e := cfg.Etcd
	if e.Mode == External {
		checkExternalEtcd(e, d)
		return
	}
	if e.Election < 5*e.Heartbeat {
		d.fault("etcd.election", fmt.Sprintf("%s is less than 5 times etcd.heartbeat (%s)", durationText(e.Election), durationText(e.Heartbeat)),
			fmt.Sprintf("set it to %s or more", durationText(5*e.Heartbeat)))
	}
	if len(cfg.Cluster.Members) > 0 && len(cfg.Voters()) == 0 {
		d.fault("cluster.members", "has no voter", "let three of them vote, or use an external etcd")
	}
}

func checkExternalEtcd(e Etcd, d *decoder) {
	if len(e.Endpoints) == 0 {
		d.fault("etcd.endpoints", "is missing for mode external", "list the URLs of its members")
	}
	for i, endpoint := range e.Endpoints {
		u, err := url.Parse(endpoint)
		if err == nil && u.Scheme == "http" && !isLoopbackHost(u.Hostname()) {
			d.fault(fmt.Sprintf("etcd.endpoints[%d]", i), fmt.Sprintf("%s is not encrypted, and whoever can change what etcd says could move the primary", endpoint),
				"use https, with etcd.tls")
		}
	}
	if (e.Username == "") != (e.PasswordFile == "") {
		d.fault("etcd.username", "and etcd.password_file belong together", "set both or neither")
	}
}

// checkWindows: the detection windows fit together. The detector checks its own
// again, without knowing the file's lines.
func checkWindows(cfg *Config, d *decoder) {
	w := cfg.Detection
	atLeast := func(key string, value, least time.Duration, why string) {
		if value < least {
			d.fault("detection."+key, fmt.Sprintf("%s is %s", durationText(value), why), fmt.Sprintf("set it to %s or more", durationText(least)))
		}
	}
	atLeast("query_timeout", w.QueryTimeout, w.ProbeInterval/2, "less than half of probe_interval: answers would not be waited for")
	atLeast("freshness", w.Freshness, max(2*w.ProbeInterval, w.QueryTimeout)+w.QueryTimeout,
		"less than twice probe_interval plus query_timeout, or twice query_timeout: evidence would lapse when a packet is lost")
	atLeast("freshness", w.Freshness, max(w.WriteTimeout+2*w.ProbeInterval, w.CanaryInterval+w.QueryTimeout),
		"less than write_timeout plus twice probe_interval, or than canary_interval plus query_timeout: what is known of writes would lapse between two of them")
	atLeast("write_stall", w.WriteStall, 2*w.WriteTimeout, "less than twice write_timeout: a late write would be a hanging one")
	atLeast("starved_after", w.StarvedAfter, 2*w.QueryTimeout, "less than twice query_timeout: the pause of a replica would starve the primary")
	atLeast("gossip_probe_interval", w.GossipProbeInterval, w.GossipProbeTimeout*22/10, "less than 2.2 times gossip_probe_timeout: members would take themselves for slow")
	if w.Hint >= w.QueryTimeout {
		d.fault("detection.hint", fmt.Sprintf("%s is not less than query_timeout (%s)", durationText(w.Hint), durationText(w.QueryTimeout)), "set it to a tenth of query_timeout")
	}
	if w.Settle > w.Freshness/2 {
		d.fault("detection.settle", fmt.Sprintf("%s is more than half of freshness (%s): it would age out first", durationText(w.Settle), durationText(w.Freshness)),
			fmt.Sprintf("set it to %s or less", durationText(w.Freshness/2)))
	}
}

// checkDurability: there are enough instances for the acknowledgements asked
// for.
func checkDurability(cfg *Config, d *decoder) {
	instances := 0
	for _, m := range cfg.Cluster.Members {
		if m.MySQL != "" {
			instances++
		}
	}
	if len(cfg.Cluster.Members) == 0 {
		return
	}
	if instances == 0 {
		d.fault("cluster.members", "has no member with an instance", "give the members that have one their mysql: host:port")
		return
	}
	if acks := max(cfg.Durability.Acks.Count(), 1); acks >= instances {
		d.fault("durability.acks", fmt.Sprintf("%s needs %d instances, the cluster has %d: every write would wait for ever", cfg.Durability.Acks, acks+1, instances),
			fmt.Sprintf("list %d or more members with mysql: host:port", acks+1))
	}
	checkSites(cfg, d)
}

// checkSites: wherever the primary is, there are enough other sites.
func checkSites(cfg *Config, d *decoder) {
	need := cfg.Durability.Sites
	if need == 0 {
		return
	}
	sites := map[string]bool{}
	for i, m := range cfg.Cluster.Members {
		switch {
		case m.MySQL == "":
		case m.Site == "":
			d.fault(fmt.Sprintf("cluster.members[%d].site", i), "is missing, and durability.sites counts them", "name the site of each member with an instance")
		default:
			sites[m.Site] = true
		}
	}
	if len(sites) <= need {
		d.fault("durability.sites", fmt.Sprintf("%d needs %d sites, the members with an instance are in %d: every write would wait for ever", need, need+1, len(sites)),
			fmt.Sprintf("list members in %d sites, or set it to %d or less", need+1, max(len(sites)-1, 0)))
	}
}

func checkRoutes(cfg *Config, d *decoder) {
	r := cfg.Routes
	if r.HoldTime < cfg.Failover.SwitchoverLimit {
		d.fault("routes.hold_time", fmt.Sprintf("%s is less than failover.switchover_limit (%s): a switchover would turn new connections away", durationText(r.HoldTime), durationText(cfg.Failover.SwitchoverLimit)),
			fmt.Sprintf("set it to %s or more", durationText(cfg.Failover.SwitchoverLimit)))
	}
	if r.HoldConnections > r.MaxConnections {
		d.fault("routes.hold_connections", fmt.Sprintf("%d is more than routes.max_connections (%d)", r.HoldConnections, r.MaxConnections),
			"set it to "+strconv.Itoa(r.MaxConnections)+" or less")
	}
}

// checkFlapping: what is waited for between failovers comes to an end before they
// stop to count as repetitions.
func checkFlapping(f Failover, d *decoder) {
	if f.FlapLimit > 1 {
		longest := f.FlapCooldown
		for range f.FlapLimit - 2 {
			if longest *= 2; longest >= f.FlapWindow {
				break
			}
		}
		if longest >= f.FlapWindow {
			d.fault("failover.flap_cooldown", fmt.Sprintf("%s, doubled for each of the failovers up to flap_limit (%d), is not less than flap_window (%s): the last would never wait for it",
				durationText(f.FlapCooldown), f.FlapLimit, durationText(f.FlapWindow)), "lower it or flap_limit, or raise flap_window")
		}
	}
	if f.OnCrash == RestartFirst && f.RestartGrace >= f.FlapWindow {
		d.fault("failover.restart_grace", fmt.Sprintf("%s is not less than flap_window (%s)", durationText(f.RestartGrace), durationText(f.FlapWindow)),
			"lower it, or raise flap_window")
	}
}

// checkNginx: each owned block is named once and has a role its context can
// serve.
func checkNginx(path string, n *Nginx, d *decoder) {
	seen := map[string]int{}
	for i, u := range n.Upstreams {
		at := fmt.Sprintf("%s.upstreams[%d]", path, i)
		block := u.Context + " " + u.Name
		if first, twice := seen[block]; twice {
			d.fault(at+".name", fmt.Sprintf("%s upstream %s is upstreams[%d] already", u.Context, u.Name, first), "name each block once")
		} else {
			seen[block] = i
		}
		switch {
		case u.Role == "http" && u.Context == "stream":
			d.fault(at+".role", "http cannot be in context stream", "set context: http, or role: rw or ro")
		case (u.Role == "rw" || u.Role == "ro") && u.Context == "http":
			d.fault(at+".role", u.Role+" cannot be in context http: MySQL is not HTTP", "set context: stream, or role: http")
		case u.Role == "http" && len(u.Members) == 0:
			d.fault(at+".members", "is missing for role http", "list the services behind it")
		case u.Role != "http" && len(u.Members) > 0:
			d.fault(at+".members", "has no effect with role "+u.Role, "remove it: the agent knows the instances")
		}
		checkUpstreamMembers(at, u.Members, d)
	}
}

func checkUpstreamMembers(path string, members []UpstreamMember, d *decoder) {
	seen := map[string]int{}
	for i, m := range members {
		at := fmt.Sprintf("%s.members[%d]", path, i)
		if first, twice := seen[m.Address]; twice && m.Address != "" {
			d.fault(at+".address", fmt.Sprintf("%s is members[%d] already", m.Address, first), "list each service once")
		} else {
			seen[m.Address] = i
		}
		if m.Timeout > m.Interval {
			d.fault(at+".timeout", fmt.Sprintf("%s is more than interval (%s)", durationText(m.Timeout), durationText(m.Interval)),
				fmt.Sprintf("set it to %s or less, or raise interval", durationText(m.Interval)))
		}
	}
}

// checkTLS: certificate, key and authority come together.
func checkTLS(path string, t TLS, d *decoder) {
	if t.IsZero() {
		return
	}
	onlyCA := path == "etcd.tls" && t.CertFile == "" && t.KeyFile == ""
	for _, f := range []struct{ key, value string }{{"ca_file", t.CAFile}, {"cert_file", t.CertFile}, {"key_file", t.KeyFile}} {
		if f.value == "" && !onlyCA {
			d.fault(path+"."+f.key, "is missing", "set ca_file, cert_file and key_file, or none of them")
		}
	}
}
