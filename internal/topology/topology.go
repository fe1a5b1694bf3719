package topology

import "time"

// Epoch is the fencing number of interrex. Every operation that may move the
// primary is issued a new, larger one by etcd, and every member refuses a
// command of an epoch lower than the highest it has seen (I5). Zero means that
// no operation has ever run.
type Epoch uint64

// NodeName names a member and, where it has one, its instance.
type NodeName string

// Member is one agent as the cluster knows it. It is registered in etcd when
// the agent starts; it describes where the member can be reached, never what
// role it has: roles are in the cluster record alone.
type Member struct {
	Name   NodeName `json:"name"`
	API    string   `json:"api"`             // host:port of the member's HTTP listener
	Gossip string   `json:"gossip"`          // host:port of memberlist
	RW     string   `json:"rw,omitempty"`    // host:port of the proxy's read-write port
	RO     string   `json:"ro,omitempty"`    // host:port of the proxy's read-only port
	MySQL  string   `json:"mysql,omitempty"` // host:port of the instance; empty for an arbiter or router
	// MySQLAdmin is host:port of its administrative interface; empty if it has
	// none.
	MySQLAdmin string `json:"mysql_admin,omitempty"`
	// EtcdClient and EtcdPeer are host:port of the member of the embedded etcd
	// that it runs; empty if it runs none.
	EtcdClient string `json:"etcd_client,omitempty"`
	EtcdPeer   string `json:"etcd_peer,omitempty"`
	Version    string `json:"version"` // agent build
	// Priority breaks ties between equally good candidates; larger is
	// preferred. Negative means the instance is never promoted.
	Priority int    `json:"priority"`
	Site     string `json:"site,omitempty"`
	// ReplicationUser is the account with which the instance receives.
	ReplicationUser string `json:"replication_user,omitempty"`
}

// HasInstance tells whether a mysqld belongs to the member.
func (m Member) HasInstance() bool { return m.MySQL != "" }

// Marker is the row a new primary writes first in its epoch. It is
// acknowledged before writes open to clients, so a history that contains it
// descends from that epoch's promotion.
type Marker struct {
	Epoch Epoch     `json:"epoch"`
	Node  NodeName  `json:"node"`
	At    time.Time `json:"at"`
}

// Verdict is what the detector thinks of an instance or a member.
type Verdict int

// The verdicts. The zero value is Unknown: too little fresh evidence to say.
const (
	Unknown Verdict = iota
	Healthy
	Suspect
	Failed
)

// String names the verdict in lower case, as logs, metrics and the API do.
func (v Verdict) String() string {
	switch v {
	case Healthy:
		return "healthy"
	case Suspect:
		return "suspect"
	case Failed:
		return "failed"
	default:
		return "unknown"
	}
}

// MarshalText prints the verdict's name.
func (v Verdict) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads a verdict's name; an unknown name is Unknown.
func (v *Verdict) UnmarshalText(b []byte) error {
	switch string(b) {
	case "healthy":
		*v = Healthy
	case "suspect":
		*v = Suspect
	case "failed":
		*v = Failed
	default:
		*v = Unknown
	}
	return nil
}
