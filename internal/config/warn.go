package config

import (
	"fmt"
	"net"
	"strconv"
)

// Warnings are what the configuration is allowed to say but hardly means, one
// sentence each.
func (c Config) Warnings() []string {
	var w []string
	w = append(w, c.warnVoters()...)
	w = append(w, c.warnNoFailover()...)
	w = append(w, c.warnSites()...)
	w = append(w, c.warnReach()...)
	if c.MySQL != nil && c.MySQL.TLS.Mode == TLSDisabled {
		for _, m := range c.Cluster.Members {
			if m.MySQL != "" && !isLoopback(m.MySQL) {
				w = append(w, fmt.Sprintf("mysql.tls.mode is disabled, so connections to %s cross the network in plain text", m.MySQL))
				break
			}
		}
	}
	if silent := c.Detection.SilentHost(); silent > c.Objectives.RTO {
		w = append(w, fmt.Sprintf("objectives.rto is %s, but the detection windows alone may take %s to notice a silent host", durationText(c.Objectives.RTO), durationText(silent)))
	}
	if f := c.Failover; f.OnCrash == RestartFirst && f.RestartGrace > c.Objectives.RTO {
		w = append(w, fmt.Sprintf("objectives.rto is %s, but failover.on_crash: restart_first lets a crashed server be out for %s before another takes over", durationText(c.Objectives.RTO), durationText(f.RestartGrace)))
	}
	if c.Security.OperatorTokenFile == "" {
		w = append(w, "security.operator_token_file is not set, so every change by API or command line is refused")
	}
	return w
}

// warnVoters: what too few or an even number of voters costs.
func (c Config) warnVoters() []string {
	if c.Etcd.Mode != Embedded {
		return nil
	}
	n := len(c.Voters())
	switch {
	case n < 3:
		return []string{fmt.Sprintf("cluster.members has %d voting, so no failover is possible after one of them is gone: use three", n)}
	case n%2 == 0:
		return []string{fmt.Sprintf("cluster.members has %d voting, which survives no more losses than %d: add one, or set voter: false on one", n, n-1)}
	case n > 7:
		return []string{fmt.Sprintf("cluster.members has %d voting, which slows every decision: set voter: false on all but five", n)}
	}
	return nil
}

// warnNoFailover: what keeps the members, as they are listed, from ever failing
// over by themselves. The arithmetic is that of docs/how-it-works.md.
func (c Config) warnNoFailover() []string {
	instances, promotable := 0, 0
	for _, m := range c.Cluster.Members {
		if m.MySQL != "" {
			instances++
			if m.Priority >= 0 {
				promotable++
			}
		}
	}
	var w []string
	// The primary gone, one of the others is promoted, and the rest must
	// still be enough to acknowledge its commits.
	if acks := max(c.Durability.Acks.Count(), 1); instances-2 < acks {
		fix := fmt.Sprintf("list %d members with an instance", acks+2)
		if instances > 2 {
			fix += fmt.Sprintf(", or lower durability.acks to %d", instances-2)
		}
		w = append(w, fmt.Sprintf("durability.acks is %s and %d members have an instance, so no failover is ever possible: without the primary, too few are left to acknowledge the next one's commits: %s",
			c.Durability.Acks, instances, fix))
	}
	if promotable < 2 {
		w = append(w, fmt.Sprintf("cluster.members has %d with an instance whose priority allows promotion, so no failover is ever possible: give at least two a priority of 0 or more", promotable))
	}
	// A dead host's own agent is silent, and a member without an instance has
	// no account to look at the others' with.
	if members, needed := len(c.Cluster.Members), len(c.Cluster.Members)/2+1; instances-1 < needed {
		w = append(w, fmt.Sprintf("cluster.members has %d, so %d must see a primary gone before it counts as failed, but when its host is dead only %d with an instance are left to look: no failover follows the loss of a host; list fewer members without an instance, or more with one",
			members, needed, instances-1))
	}
	return w
}

// warnSites: with no site to spare, each of them is needed.
func (c Config) warnSites() []string {
	sites := map[string]bool{}
	for _, m := range c.Cluster.Members {
		if m.MySQL != "" {
			sites[m.Site] = true
		}
	}
	if c.Durability.Sites == 0 || len(sites) > c.Durability.Sites+1 {
		return nil
	}
	return []string{fmt.Sprintf("durability.sites is %d and the members with an instance are in %d, so writes wait after the loss of any one of them (with when_no_acker: degrade, they go on in fewer), and no failover follows it: use %d",
		c.Durability.Sites, len(sites), c.Durability.Sites+2)}
}

// warnReach: whether the others can reach what this member listens on.
func (c Config) warnReach() []string {
	var w []string
	own := c.OwnMember()
	for _, l := range listeners(&c) {
		_, port, err := net.SplitHostPort(l.address)
		if err != nil || l.port == 0 {
			continue
		}
		if port != strconv.Itoa(l.port) {
			w = append(w, fmt.Sprintf("%s listens on port %s, but the other members are told port %d (ports.%s of member %s)", l.key, port, l.port, l.portPath, own.Name))
		}
		if l.guarded && isLoopback(l.address) && !isLoopbackHost(own.Host) && len(c.Cluster.Members) > 1 {
			w = append(w, fmt.Sprintf("%s is on loopback, but the other members are told to come to %s", l.key, own.Host))
		}
	}
	return w
}
