package config

import (
	"strconv"
	"time"
)

// DurabilityMode says what an acknowledged commit is worth.
type DurabilityMode string

// Lossless is the only mode so far: a commit is acknowledged only once registered replicas hold it.
const Lossless DurabilityMode = "lossless"

// NoAckerPolicy says what the primary does when no replica can acknowledge.
type NoAckerPolicy string

// The policies.
const (
	Block   NoAckerPolicy = "block"
	Degrade NoAckerPolicy = "degrade"
)

// Acks is how many replicas must hold a commit: a number, or AutoAcks.
type Acks string

// AutoAcks is half of the instances, and fewer where fewer are left.
const AutoAcks Acks = "auto"

// Count is the number; 0 for AutoAcks.
func (a Acks) Count() int {
	n, err := strconv.Atoi(string(a))
	if err != nil {
		return 0
	}
	return n
}

// Durability is what an acknowledged commit is worth.
type Durability struct {
	// lossless: a commit is acknowledged to the client only once `acks`
	// registered replicas hold it; no failover loses it.
	Mode DurabilityMode `yaml:"mode" default:"lossless" oneof:"lossless"`
	// How many replicas must hold a commit before it is acknowledged. More
	// survives more nodes dying at the same moment, waits for the slower
	// replica, and blocks writes when fewer are left. auto: half of the
	// instances (one of three, two of five), and fewer, but at least one, when
	// fewer are left.
	Acks Acks `yaml:"acks" default:"auto" oneof:"auto|1|2|3|4|5|6|7|8"`
	// In how many sites (cluster.members[].site) beside the primary's a commit
	// must be before it is acknowledged; 0 asks for none. Then only replicas of
	// other sites acknowledge, and as many are waited for as make it certain,
	// if that is more than acks. More survives the loss of more sites, and
	// waits for the network between them at every commit.
	Sites int `yaml:"sites" default:"0" min:"0" max:"8"`
	// block: with too few replicas left to acknowledge, writes wait. degrade:
	// they go on with those that are left, and without any when none is left;
	// the cluster then says "not lossless" until one is back, and no failover
	// follows when the primary dies meanwhile.
	WhenNoAcker NoAckerPolicy `yaml:"when_no_acker" default:"block" oneof:"block|degrade"`
	// How long a replica may be gone before it is dropped from those whose
	// acknowledgement counts: until then a failover needs it. The primary
	// keeps it out from then on, until it is told what it may do.
	DropAfter time.Duration `yaml:"drop_after" default:"10s" min:"2s" max:"1h"`
}

// Profile is a set of detection windows that fit together.
type Profile string

// The profiles.
const (
	LAN    Profile = "lan"
	WAN    Profile = "wan"
	Custom Profile = "custom"
)

// Detection is when an instance is taken for dead. A verdict always needs a
// majority of the members with fresh evidence; these are its windows.
type Detection struct {
	// lan: members within a few milliseconds of each other. wan: members in
	// different regions, with round trips of up to 300 ms, or where packets are
	// lost. custom: the keys below, which start out as lan. The same on all
	// members.
	Profile Profile `yaml:"profile" default:"lan" oneof:"lan|wan|custom"`
	// How often each member asks every instance (wan: 500ms). Less notices a
	// silent server sooner and costs one cheap query each time.
	ProbeInterval time.Duration `yaml:"probe_interval" only:"profile=custom" default:"100ms" min:"10ms" max:"1m"`
	// How long an instance may take to answer one probe (wan: 1500ms); at
	// least half of probe_interval. Less notices a frozen server sooner; too
	// little mistakes a busy one for it.
	QueryTimeout time.Duration `yaml:"query_timeout" only:"profile=custom" default:"250ms" min:"10ms" max:"1m"`
	// How many probes in a row must go unanswered to count as evidence (wan:
	// 3). More tolerates more lost packets and takes longer.
	Misses int `yaml:"misses" only:"profile=custom" default:"2" min:"1" max:"20"`
	// How long a probe may go unanswered before that confirms an exit of the
	// server's process that its own agent has seen (wan: 250ms); less than
	// query_timeout.
	Hint time.Duration `yaml:"hint" only:"profile=custom" default:"30ms" min:"1ms" max:"1m"`
	// How long refused or broken connections must last before they count
	// (wan: 1s); at most half of freshness. Less lets the blip of a switch
	// count.
	Settle time.Duration `yaml:"settle" only:"profile=custom" default:"100ms" min:"0s" max:"1m"`
	// For how long evidence counts (wan: 6s); at least twice probe_interval
	// plus query_timeout, and twice query_timeout. Less makes observers silent
	// when packets are lost; more lets votes of silent ones live on.
	Freshness time.Duration `yaml:"freshness" only:"profile=custom" default:"1s" min:"50ms" max:"5m"`
	// How often a primary's own agent tries in quiet times whether the server
	// and its disk take a small write (wan: 2s); with query_timeout at most
	// freshness. Less notices a disk that stalls sooner and costs two flushes
	// each time.
	CanaryInterval time.Duration `yaml:"canary_interval" only:"profile=custom" default:"500ms" min:"50ms" max:"1m"`
	// How long such a write may take, by any member (wan: 2s); with twice
	// probe_interval at most freshness. Less notices sooner; too little mistakes the hiccup of a
	// disk for its end.
	WriteTimeout time.Duration `yaml:"write_timeout" only:"profile=custom" default:"600ms" min:"10ms" max:"1m"`
	// How long the writes of a majority must hang while the disk is well,
	// before they count (wan: 15s); at least twice write_timeout. Less fails
	// over sooner from a server that answers and does not write; too little
	// mistakes a large transaction for that.
	WriteStall time.Duration `yaml:"write_stall" only:"profile=custom" default:"5s" min:"100ms" max:"10m"`
	// After what time without a single acknowledgement a primary whose commits
	// wait counts as starved (wan: 4s); at least twice query_timeout. Less notices
	// sooner; too little takes the pause of a replica for that. (After what time
	// replicas give a silent source up follows freshness: twice as long, in whole
	// seconds.)
	StarvedAfter time.Duration `yaml:"starved_after" only:"profile=custom" default:"1s" min:"10ms" max:"5m"`
	// How often gossip asks a member whether it lives (wan: 1500ms). Less
	// notices a silent member sooner and costs CPU.
	GossipProbeInterval time.Duration `yaml:"gossip_probe_interval" only:"profile=custom" default:"200ms" min:"20ms" max:"1m"`
	// How long the answer may take (wan: 600ms); gossip_probe_interval must be
	// 2.2 times as long at least.
	GossipProbeTimeout time.Duration `yaml:"gossip_probe_timeout" only:"profile=custom" default:"80ms" min:"5ms" max:"1m"`
}

// The times of the embedded etcd under the wan profile, unless either is set:
// its members need two round trips to elect a leader.
const (
	wanHeartbeat = 250 * time.Millisecond
	wanElection  = 2500 * time.Millisecond
)

// wanWindows are the windows of the wan profile.
func wanWindows() Detection {
	return Detection{
		Profile:             WAN,
		ProbeInterval:       500 * time.Millisecond,
		QueryTimeout:        1500 * time.Millisecond,
		Misses:              3,
		Hint:                250 * time.Millisecond,
		Settle:              time.Second,
		Freshness:           6 * time.Second,
		CanaryInterval:      2 * time.Second,
		WriteTimeout:        2 * time.Second,
		WriteStall:          15 * time.Second,
		StarvedAfter:        4 * time.Second,
		GossipProbeInterval: 1500 * time.Millisecond,
		GossipProbeTimeout:  600 * time.Millisecond,
	}
}

// SilentHost is the longest the windows may take until a host that answers
// nothing any more counts as failed at one observer.
func (d Detection) SilentHost() time.Duration {
	return d.ProbeInterval + max(time.Duration(d.Misses)*d.QueryTimeout, d.Settle)
}

// RejoinPolicy says what becomes of an instance whose history has diverged.
type RejoinPolicy string

// The policies.
const (
	Rebuild RejoinPolicy = "rebuild"
	Leave   RejoinPolicy = "leave"
)

// Failover is what an operation may take, and what it may do by itself.
type Failover struct {
	// Whether a failover starts by itself on a verdict of failed. false: only
	// the operator moves the primary.
	Automatic bool `yaml:"automatic" default:"true"`
	// How long a failover waits until enough replicas have stopped receiving
	// that the old primary can acknowledge nothing more. Longer helps slow
	// replicas; shorter says sooner that this cannot be made sure of.
	RevokeLimit time.Duration `yaml:"revoke_limit" default:"3s" min:"100ms" max:"10m"`
	// How long a candidate may take to execute what it has received. Longer
	// accepts a longer outage for a larger backlog; when it passes, the
	// failover stops and says so.
	CatchUpLimit time.Duration `yaml:"catch_up_limit" default:"30s" min:"1s" max:"24h"`
	// How long a new primary may take until its first write is acknowledged.
	PromoteLimit time.Duration `yaml:"promote_limit" default:"10s" min:"1s" max:"10m"`
	// How long the write through the routes may take that ends a failover.
	VerifyLimit time.Duration `yaml:"verify_limit" default:"5s" min:"100ms" max:"10m"`
	// The longest write pause of a switchover: one that cannot finish within
	// it is undone. Longer lets longer transactions end by themselves.
	SwitchoverLimit time.Duration `yaml:"switchover_limit" default:"2s" min:"100ms" max:"10m"`
	// What becomes of an old primary that holds transactions the new one
	// lacks, and of a replica that needs binary logs which the primary has
	// purged. rebuild: those transactions are saved to a file, then it is cloned
	// from a replica. leave: it is left closed and reported.
	Rejoin RejoinPolicy `yaml:"rejoin" default:"rebuild" oneof:"rebuild|leave"`
	// What follows when the primary's server process has ended, as its own agent
	// sees it. failover: another server takes over at once. restart_first: the
	// server's supervisor is given restart_grace to bring it back in place, where
	// it is opened again; writes are out meanwhile.
	OnCrash CrashPolicy `yaml:"on_crash" default:"failover" oneof:"failover|restart_first"`
	// How long a crashed server may take to answer again. Longer spares the move
	// to another server, shorter the outage.
	RestartGrace time.Duration `yaml:"restart_grace" only:"on_crash=restart_first" default:"10s" min:"1s" max:"10m"`
	// Which restart of the primary in place, each within flap_window of the one
	// before, makes another server take over instead. 0: none does.
	RestartLimit int `yaml:"restart_limit" default:"3" min:"0" max:"100"`
	// After how many failovers, each within flap_window of the one before, no
	// further one starts by itself until an operator has looked and given
	// `interrex resume`, or flap_window has passed. Those away from a server
	// whose process was seen to end count for nothing and are never held up.
	// Higher tolerates more moves to and fro; lower leaves writes out sooner.
	// 0: there is no limit.
	FlapLimit int `yaml:"flap_limit" default:"3" min:"0" max:"100"`
	// How long the second of them waits after the first; each further one twice
	// as long as the one before.
	FlapCooldown time.Duration `yaml:"flap_cooldown" default:"10s" min:"0s" max:"1h"`
	// How long after a failover, or a restart in place, the next one counts as a
	// repetition.
	FlapWindow time.Duration `yaml:"flap_window" default:"1h" min:"1m" max:"168h"`
}

// CrashPolicy says what becomes of a primary whose server process has ended.
type CrashPolicy string

// The policies.
const (
	FailoverFirst CrashPolicy = "failover"
	RestartFirst  CrashPolicy = "restart_first"
)

// Objectives are what you promise your users.
type Objectives struct {
	// Longest time writes may be out in a failover.
	RTO time.Duration `yaml:"rto" default:"1s" min:"1ms" max:"24h"`
	// Most acknowledged commits that may be lost in a failover.
	RPO int `yaml:"rpo" default:"0" min:"0" max:"1000000000"`
}

// Security is who may talk to the agent.
type Security struct {
	// File that holds the token operators send to change anything (at least
	// 16 characters), readable by the agent's user alone. The same on every
	// node. Empty: every change is refused.
	OperatorTokenFile string `yaml:"operator_token_file" form:"secret" sample:"/etc/interrex/operator.token"`
	// File that holds the token members send each other with every command,
	// as above.
	MemberTokenFile string `yaml:"member_token_file" need:"true" form:"secret"`
	// Who may read status, metrics and ledger. open: whoever reaches the
	// listener. token: who shows the operator's token, or a client certificate
	// of security.tls.ca_file. Health checks are open in any case.
	Reads Reads `yaml:"reads" default:"open" oneof:"open|token"`
	// Certificates of the API and of the embedded etcd, for both ends of a
	// connection between members. Files are read again when they change. Members'
	// certificates name `<node>.<cluster>.interrex`; others of the same authority may
	// read the API, and get nowhere with etcd's client port. Its peer port can ask
	// for no such name: take an authority of the cluster's own, or keep others than
	// the voters away from that port.
	TLS TLS `yaml:"tls"`
}

// Reads says who may read.
type Reads string

// Who may read.
const (
	ReadsOpen  Reads = "open"
	ReadsToken Reads = "token"
)

// Log is where the agent logs to.
type Log struct {
	// What is logged: this level and above.
	Level string `yaml:"level" default:"info" oneof:"debug|info|warn|error"`
	// File to append JSON lines to. Empty: standard error.
	File string `yaml:"file" form:"path" sample:"/var/log/interrex/agent.log"`
}
