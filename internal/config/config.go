package config

import (
	"strings"
	"time"
)

// Config is the whole configuration file of one agent.
type Config struct {
	// The cluster and its members: the same on every node.
	Cluster Cluster `yaml:"cluster"`
	// What is this node's own.
	Node Node `yaml:"node"`
	// Addresses the agent listens on. All are on loopback unless they are
	// set; api, gossip and etcd on any other address need security.tls and
	// security.operator_token_file besides the member token and the gossip
	// key. An empty ro address turns that proxy off, an empty rw address both.
	Listeners Listeners `yaml:"listeners"`
	// The instance on this node. Leave the section out on an arbiter or a
	// router.
	MySQL *MySQL `yaml:"mysql"`
	// Where the members agree: etcd, embedded in the agents of the voters, or
	// a cluster of your own.
	Etcd Etcd `yaml:"etcd"`
	// Heartbeats and hints between the agents.
	Gossip Gossip `yaml:"gossip"`
	// What an acknowledged commit is worth.
	Durability Durability `yaml:"durability"`
	// When an instance is taken for dead.
	Detection Detection `yaml:"detection"`
	// How clients reach the primary and the replicas.
	Routes Routes `yaml:"routes"`
	// What an operation may take, and what it may do by itself.
	Failover Failover `yaml:"failover"`
	// What you promise your users; every failover is measured against it.
	Objectives Objectives `yaml:"objectives"`
	// Whether `interrex drill` may break parts of this cluster on purpose.
	Drills DrillMode `yaml:"drills" default:"disabled" oneof:"enabled|disabled"`
	// Who may talk to the agent.
	Security Security `yaml:"security"`
	// Where the agent logs to.
	Log Log `yaml:"log"`
}

// DrillMode says whether faults may be injected on purpose.
type DrillMode string

// The drill modes.
const (
	DrillsEnabled  DrillMode = "enabled"
	DrillsDisabled DrillMode = "disabled"
)

// Cluster names the members.
type Cluster struct {
	// The cluster's name: part of every key in etcd and of the gossip label,
	// so that two clusters on one network stay apart. It cannot be changed
	// later. Lower-case letters, digits and dashes.
	Name string `yaml:"name" need:"true" form:"name"`
	// Every member, in the same order on every node.
	Members []Member `yaml:"members" need:"true"`
}

// Member is one agent as the others reach it.
type Member struct {
	// Unique in the cluster. Lower-case letters, digits and dashes.
	Name string `yaml:"name" need:"true" form:"name"`
	// IP address or DNS name at which the other members reach this one.
	Host string `yaml:"host" need:"true" form:"host"`
	// Ports at which the other members reach this one. Change them where
	// several agents share a host, together with the listeners.
	Ports Ports `yaml:"ports"`
	// host:port of the member's instance, as clients, replicas and the other
	// members' probes reach it. Empty: an arbiter (voter) or a router.
	MySQL string `yaml:"mysql" form:"hostport" sample:"db1.example.com:3306"`
	// host:port of the instance's administrative interface (admin_address).
	// The other members' probes use it, so that "too many connections" is
	// never taken for "dead". Empty: probes use mysql.
	MySQLAdmin string `yaml:"mysql_admin" form:"hostport" sample:"db1.example.com:33062"`
	// Whether the member votes: it runs one of the embedded etcd members. Use
	// three or five voters; every further member should be false, as each
	// voter adds a disk sync to every decision.
	Voter bool `yaml:"voter" default:"true"`
	// Larger is preferred among equally good candidates. Negative: never
	// promoted.
	Priority int `yaml:"priority" default:"0" min:"-1000" max:"1000"`
	// Data centre or zone: shown in status, and counted by durability.sites,
	// which needs it. Empty: not told.
	Site string `yaml:"site" form:"name" sample:"ams"`
}

// Ports are the ports of one member.
type Ports struct {
	// HTTP API.
	API int `yaml:"api" default:"8460" min:"1" max:"65535"`
	// Gossip, TCP and UDP.
	Gossip int `yaml:"gossip" default:"8461" min:"1" max:"65535"`
	// Embedded etcd, for the members' clients.
	EtcdClient int `yaml:"etcd_client" default:"8462" min:"1" max:"65535"`
	// Embedded etcd, between its members.
	EtcdPeer int `yaml:"etcd_peer" default:"8463" min:"1" max:"65535"`
	// Read-write proxy, for nginx upstreams with via: proxy and for status.
	// 0: the member has none.
	RW int `yaml:"rw" default:"6446" min:"0" max:"65535"`
	// Read-only proxy, as above.
	RO int `yaml:"ro" default:"6447" min:"0" max:"65535"`
}

// Node is what differs from node to node.
type Node struct {
	// Which of cluster.members this agent is.
	Name string `yaml:"name" need:"true" form:"name"`
	// Folder for what the agent must remember: the highest epoch it has seen,
	// saved transactions, the embedded etcd's data. Must survive a reboot.
	DataDir string `yaml:"data_dir" default:"/var/lib/interrex" need:"true" form:"path"`
}

// Listeners are the addresses the agent listens on.
type Listeners struct {
	// HTTP API: status, commands, metrics, health answers for balancers.
	API string `yaml:"api" default:"127.0.0.1:8460" need:"true" form:"hostport"`
	// Gossip, TCP and UDP.
	Gossip string `yaml:"gossip" default:"127.0.0.1:8461" need:"true" form:"hostport"`
	// Read-write proxy: always leads to the primary. Empty: none.
	RW string `yaml:"rw" default:"127.0.0.1:6446" form:"hostport"`
	// Read-only proxy: spread over the healthy replicas. Empty: none.
	RO string `yaml:"ro" default:"127.0.0.1:6447" form:"hostport"`
	// Embedded etcd, for the members' clients, who come to the member's host
	// at ports.etcd_client.
	EtcdClient string `yaml:"etcd_client" default:"127.0.0.1:8462" need:"true" form:"hostport"`
	// Embedded etcd, between its members, who come to the member's host at
	// ports.etcd_peer.
	EtcdPeer string `yaml:"etcd_peer" default:"127.0.0.1:8463" need:"true" form:"hostport"`
}

// MySQL is the instance on this node and how the agent reaches it.
type MySQL struct {
	// host:port the agent itself uses. Empty: the own member's mysql.
	Address string `yaml:"address" form:"hostport" sample:"127.0.0.1:3306"`
	// Unix socket; preferred to address where it is set, as it needs no
	// network and no TLS.
	Socket string `yaml:"socket" form:"path" sample:"/run/mysqld/mysqld.sock"`
	// host:port of the administrative interface the agent itself uses. Empty:
	// the own member's mysql_admin.
	AdminAddress string `yaml:"admin_address" form:"hostport" sample:"127.0.0.1:33062"`
	// The agent's account, on every instance of the cluster;
	// `interrex mysql grants` prints how to create it.
	User string `yaml:"user" default:"interrex" need:"true"`
	// File that holds its password, readable by the agent's user alone.
	PasswordFile string `yaml:"password_file" need:"true" form:"secret"`
	// The account with which this member's instance receives from its source.
	// {node} in it stands for the member's name; keep it there: a replica that
	// has an account of its own can be shut out of the primary when it is dead,
	// so that the next failover does not have to wait for it.
	ReplicationUser string `yaml:"replication_user" default:"interrex_{node}" need:"true"`
	// File that holds its password, readable by the agent's user alone.
	ReplicationPasswordFile string `yaml:"replication_password_file" need:"true" form:"secret"`
	// Encryption of connections to instances: the agent's and the other
	// members' probes. Replication and cloning are encrypted in every mode but
	// disabled, and take any certificate.
	TLS MySQLTLS `yaml:"tls"`
	// The server's pid file, where the agent sees it under another path than
	// the server says. Through it the agent watches the process itself and
	// sees its death within a millisecond. Empty: what the server says.
	PIDFile string `yaml:"pid_file" form:"path" sample:"/run/mysqld/mysqld.pid"`
	// The server's data folder, likewise; its binary logs are read where a
	// returning primary holds transactions that nobody else has. Empty: what
	// the server says.
	Datadir string `yaml:"datadir" form:"path" sample:"/var/lib/mysql"`
	// The mysqlbinlog of the server's own version: it saves transactions that
	// only a returning primary holds, before that is rebuilt.
	Mysqlbinlog []string `yaml:"mysqlbinlog" default:"[mysqlbinlog]" need:"true"`
	// Starts the server again after it exited or was killed, and after it
	// was rebuilt, and returns then. One that runs by then must be left alone
	// (start, not restart). No shell: program and arguments. Empty: the
	// server's own supervisor does that.
	StartCommand []string `yaml:"start_command" sample:"[systemctl, start, mysql]"`
	// For opening one connection to an instance. Shorter gives up on a busy
	// host; longer delays operations that meet a silent one.
	ConnectTimeout time.Duration `yaml:"connect_timeout" default:"1s" min:"10ms" max:"1m"`
	// For each question of the agent that is not a probe of the detection, and
	// for a statement that is given up on to be gone. What may take longer
	// (catching up, cloning) has limits of its own.
	QueryTimeout time.Duration `yaml:"query_timeout" default:"1s" min:"10ms" max:"10m"`
}

// TLSMode says how connections to instances are encrypted.
type TLSMode string

// The modes. There is none that falls back to plain text by itself.
const (
	TLSDisabled       TLSMode = "disabled"
	TLSRequired       TLSMode = "required"
	TLSVerifyCA       TLSMode = "verify_ca"
	TLSVerifyIdentity TLSMode = "verify_identity"
)

// MySQLTLS is the encryption of connections to instances.
type MySQLTLS struct {
	// disabled: plain text. required: encrypted, any certificate. verify_ca:
	// signed by ca_file. verify_identity: also naming the host connected to.
	Mode TLSMode `yaml:"mode" default:"disabled" oneof:"disabled|required|verify_ca|verify_identity"`
	// PEM file of the authority that signed the servers' certificates.
	CAFile string `yaml:"ca_file" form:"file" sample:"/etc/interrex/mysql-ca.pem"`
	// PEM file of the agent's certificate, for accounts that require one.
	CertFile string `yaml:"cert_file" form:"file" sample:"/etc/interrex/mysql-cert.pem"`
	// PEM file of its key, readable by the agent's user alone.
	KeyFile string `yaml:"key_file" form:"secret" sample:"/etc/interrex/mysql-key.pem"`
}

// EtcdMode says whose etcd it is.
type EtcdMode string

// The etcd modes.
const (
	Embedded EtcdMode = "embedded"
	External EtcdMode = "external"
)

// Etcd is where the members agree.
type Etcd struct {
	// embedded: the agents of the voters run it, nothing else to install.
	// external: a cluster of your own, at endpoints.
	Mode EtcdMode `yaml:"mode" default:"embedded" oneof:"embedded|external"`
	// URLs of the external etcd's members.
	Endpoints []string `yaml:"endpoints" only:"mode=external" form:"url" sample:"[https://etcd1.example.com:2379]"`
	// Certificates for etcd. Empty: security.tls for the embedded one, the
	// system's authorities for an external one. Whoever has a certificate of this
	// authority can write the cluster's record, so for the embedded one it must be
	// the cluster's own (see security.tls).
	TLS TLS `yaml:"tls"`
	// Account for an external etcd with authentication. Empty: none.
	Username string `yaml:"username" only:"mode=external" sample:"interrex"`
	// File that holds its password, readable by the agent's user alone.
	PasswordFile string `yaml:"password_file" only:"mode=external" form:"secret" sample:"/etc/interrex/etcd.password"`
	// How often etcd's leader tells that it lives (250ms with detection.profile:
	// wan, unless this or election is set). Less finds a dead one sooner and costs
	// CPU (about 2.6 % of a core at 20ms).
	Heartbeat time.Duration `yaml:"heartbeat" only:"mode=embedded" default:"50ms" min:"10ms" max:"5s"`
	// After how much silence its members elect another (wan: 2500ms); at least 5
	// times the heartbeat, and above two round trips between the members. Less
	// replaces a dead one sooner; too little makes slow disks cause elections.
	Election time.Duration `yaml:"election" only:"mode=embedded" default:"500ms" min:"50ms" max:"50s"`
	// Largest size of its database. The agents keep 2,000 entries of the
	// ledger, some kilobytes each, and compact it by themselves.
	Quota Bytes `yaml:"quota" only:"mode=embedded" default:"128MiB" min:"16MiB" max:"8GiB"`
	// Its data folder: about 130 MB. Empty: the folder etcd in node.data_dir.
	// A disk of its own keeps the servers' flushes from delaying heartbeats.
	DataDir string `yaml:"data_dir" only:"mode=embedded" form:"path" sample:"/var/lib/interrex/etcd"`
}

// TLS is a certificate with its key and the authority of those it meets.
type TLS struct {
	// PEM file of the authority whose certificates are trusted.
	CAFile string `yaml:"ca_file" form:"file" sample:"/etc/interrex/ca.pem"`
	// PEM file of the own certificate, good for serving and for connecting.
	CertFile string `yaml:"cert_file" form:"file" sample:"/etc/interrex/cert.pem"`
	// PEM file of its key, readable by the agent's user alone.
	KeyFile string `yaml:"key_file" form:"secret" sample:"/etc/interrex/key.pem"`
}

// IsZero tells whether no file is named.
func (t TLS) IsZero() bool { return t == TLS{} }

// Gossip is heartbeats and hints between the agents.
type Gossip struct {
	// File that holds the key all members encrypt gossip with: 32 random
	// bytes in base64 (`openssl rand -base64 32`), readable by the agent's
	// user alone. The same on every node.
	KeyFile string `yaml:"key_file" need:"true" form:"secret"`
}

// ReplicationAccount is the user with which a member's instance receives.
func (m MySQL) ReplicationAccount(node string) string {
	return strings.ReplaceAll(m.ReplicationUser, "{node}", node)
}
