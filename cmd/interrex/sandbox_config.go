package main

import (
	"cmp"
	"fmt"

	"github.com/goccy/go-yaml"

	"interrex/internal/config"
	"interrex/internal/sandbox"
)

// section is a part of a configuration file, in the order it is written.
type section = yaml.MapSlice

// sandboxAgentConfig is the configuration of one agent of a sandbox: what
// differs from the defaults, and nothing else. Routes is the routes section;
// empty for the default.
func sandboxAgentConfig(s sandbox.AgentSettings, routes section) ([]byte, error) {
	c, n := s.Cluster, s.Node
	file := section{
		{Key: "cluster", Value: section{{Key: "name", Value: c.Name}, {Key: "members", Value: sandboxMembers(c)}}},
		{Key: "node", Value: section{{Key: "name", Value: n.Name}, {Key: "data_dir", Value: n.AgentDataDir()}}},
		{Key: "listeners", Value: section{
			{Key: "api", Value: n.Addr(n.Ports.API)},
			{Key: "gossip", Value: n.Addr(n.Ports.Gossip)},
			{Key: "rw", Value: n.Addr(n.Ports.RW)},
			{Key: "ro", Value: n.Addr(n.Ports.RO)},
			{Key: "etcd_client", Value: n.Addr(n.Ports.EtcdClient)},
			{Key: "etcd_peer", Value: n.Addr(n.Ports.EtcdPeer)},
		}},
		{Key: "mysql", Value: section{
			{Key: "socket", Value: n.Socket},
			{Key: "admin_address", Value: n.Addr(n.Ports.MySQLAdmin)},
			{Key: "pid_file", Value: n.MySQLPIDFile()},
			{Key: "password_file", Value: c.ControllerPasswordFile()},
			{Key: "replication_password_file", Value: c.ReplicationPasswordFile()},
			{Key: "mysqlbinlog", Value: s.Mysqlbinlog},
			{Key: "start_command", Value: s.Start},
		}},
		{Key: "gossip", Value: section{{Key: "key_file", Value: c.GossipKeyFile()}}},
		{Key: "security", Value: sandboxSecurity(c, n)},
		{Key: "drills", Value: string(config.DrillsEnabled)},
		// Things are broken in it on purpose, again and again.
		{Key: "failover", Value: section{{Key: "flap_limit", Value: 0}, {Key: "restart_limit", Value: 0}}},
	}
	if len(routes) > 0 {
		file = append(file, yaml.MapItem{Key: "routes", Value: routes})
	}
	text, err := yaml.Marshal(file)
	if err != nil {
		return nil, fmt.Errorf("write agent configuration: %w", err)
	}
	if _, err := config.Parse(n.AgentConfigFile(), text); err != nil {
		return nil, fmt.Errorf("check agent configuration: %w", err)
	}
	return text, nil
}

// sandboxSecurity is the security section. Nodes on hosts of their own talk TLS.
func sandboxSecurity(c sandbox.Cluster, n sandbox.Node) section {
	s := section{
		{Key: "operator_token_file", Value: c.OperatorTokenFile()},
		{Key: "member_token_file", Value: c.MemberTokenFile()},
	}
	if n.Host != "" {
		s = append(s, yaml.MapItem{Key: "tls", Value: section{
			{Key: "ca_file", Value: c.CAFile()},
			{Key: "cert_file", Value: n.CertFile()},
			{Key: "key_file", Value: n.KeyFile()},
		}})
	}
	return s
}

// sandboxMembers are the members as every agent is told of them.
func sandboxMembers(c sandbox.Cluster) []section {
	var members []section
	founders := 0
	for _, n := range c.Nodes {
		if !n.Added {
			founders++
		}
	}
	for i, n := range c.Nodes {
		members = append(members, section{
			{Key: "name", Value: n.Name},
			{Key: "host", Value: cmp.Or(n.Host, "127.0.0.1")},
			{Key: "ports", Value: section{
				{Key: "api", Value: n.Ports.API},
				{Key: "gossip", Value: n.Ports.Gossip},
				{Key: "etcd_client", Value: n.Ports.EtcdClient},
				{Key: "etcd_peer", Value: n.Ports.EtcdPeer},
				{Key: "rw", Value: n.Ports.RW},
				{Key: "ro", Value: n.Ports.RO},
			}},
			{Key: "mysql", Value: n.Addr(n.Ports.MySQL)},
			{Key: "mysql_admin", Value: n.Addr(n.Ports.MySQLAdmin)},
			{Key: "voter", Value: n.Voter || i < sandboxVoters(founders)},
		})
	}
	return members
}

// sandboxVoters is how many of n members vote: an odd number, at most five.
func sandboxVoters(n int) int {
	voters := min(n, 5)
	return voters - (1 - voters%2)
}
