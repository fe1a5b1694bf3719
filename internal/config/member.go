package config

import (
	"net"
	"slices"
	"strconv"

	"interrex/internal/topology"
)

// OwnMember is the entry of cluster.members that node.name names; an empty one
// if there is none, which Load does not let pass.
func (c Config) OwnMember() Member {
	for _, m := range c.Cluster.Members {
		if m.Name == c.Node.Name {
			return m
		}
	}
	return Member{}
}

// Self is the own member as the others are told of it. The build's version is
// left to the caller.
func (c Config) Self() topology.Member {
	own := c.OwnMember()
	self := c.topology(own)
	if own.Voter && c.Etcd.Mode == Embedded {
		self.EtcdClient, self.EtcdPeer = own.EtcdClientAddress(), own.EtcdPeerAddress()
	}
	if c.Listeners.RW == "" {
		self.RW = ""
	}
	if c.Listeners.RO == "" {
		self.RO = ""
	}
	return self
}

// Members are all members as the file tells of them, without their builds'
// versions.
func (c Config) Members() []topology.Member {
	members := make([]topology.Member, len(c.Cluster.Members))
	for i, m := range c.Cluster.Members {
		members[i] = c.topology(m)
	}
	return members
}

// Voters are the members that run the embedded etcd.
func (c Config) Voters() []Member {
	return slices.DeleteFunc(slices.Clone(c.Cluster.Members), func(m Member) bool { return !m.Voter })
}

// topology is a member in the words the parts share.
func (c Config) topology(m Member) topology.Member {
	var user string
	if c.MySQL != nil && m.MySQL != "" {
		user = c.MySQL.ReplicationAccount(m.Name)
	}
	return topology.Member{
		ReplicationUser: user,
		Name:            topology.NodeName(m.Name),
		API:             m.at(m.Ports.API),
		Gossip:          m.at(m.Ports.Gossip),
		RW:              m.proxyAt(m.Ports.RW),
		RO:              m.proxyAt(m.Ports.RO),
		MySQL:           m.MySQL,
		MySQLAdmin:      m.MySQLAdmin,
		Priority:        m.Priority,
		Site:            m.Site,
	}
}

// EtcdClientAddress is host:port of the member's embedded etcd for clients.
func (m Member) EtcdClientAddress() string { return m.at(m.Ports.EtcdClient) }

// EtcdPeerAddress is host:port of the member's embedded etcd for its peers.
func (m Member) EtcdPeerAddress() string { return m.at(m.Ports.EtcdPeer) }

func (m Member) at(port int) string { return net.JoinHostPort(m.Host, strconv.Itoa(port)) }

// proxyAt is a proxy's address; empty for port 0, which means none.
func (m Member) proxyAt(port int) string {
	if port == 0 {
		return ""
	}
	return m.at(port)
}
