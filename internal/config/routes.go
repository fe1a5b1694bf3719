package config

import "time"

// ReadFallback says where reads go when no replica may serve them.
type ReadFallback string

// The fallbacks.
const (
	FallbackPrimary ReadFallback = "primary"
	FallbackNone    ReadFallback = "none"
)

// IsolatedReads says what becomes of reads on a node that is cut off.
type IsolatedReads string

// The policies.
const (
	RefuseReads IsolatedReads = "refuse"
	ServeReads  IsolatedReads = "serve"
)

// Routes is how clients reach the primary and the replicas.
type Routes struct {
	// How long the read-write proxy holds a new connection while there is no
	// primary, before it answers with an error. At least
	// failover.switchover_limit. Longer spares clients an error; shorter lets
	// them know sooner.
	HoldTime time.Duration `yaml:"hold_time" default:"10s" min:"0s" max:"10m"`
	// How many connections it holds at most; the next gets an error at once.
	HoldConnections int `yaml:"hold_connections" default:"1024" min:"0" max:"1000000"`
	// How many connections each proxy port serves at most, held ones
	// included. Each takes up to six file descriptors.
	MaxConnections int `yaml:"max_connections" default:"4096" min:"1" max:"1000000"`
	// A replica further behind than this gets no reads. Less gives fresher
	// reads from fewer replicas; a source that falls silent is noticed after
	// two of its heartbeats (1 s with lan, 6 s with wan). While there is no
	// primary to follow, one that lacks nothing of what others have goes on.
	MaxReplicaLag time.Duration `yaml:"max_replica_lag" default:"5s" min:"10ms" max:"24h"`
	// Where reads go when no replica may serve them: to the primary, or none
	// (an error).
	ReadFallback ReadFallback `yaml:"read_fallback" default:"primary" oneof:"primary|none"`
	// What becomes of reads by the routes of a node that sees neither a majority
	// of the members nor etcd's quorum: its server goes on answering, but others
	// may have a newer history. refuse: they are refused after
	// isolated_read_limit. serve: they go on. Its read-write route is closed in
	// either case.
	IsolatedReads IsolatedReads `yaml:"isolated_reads" default:"refuse" oneof:"refuse|serve"`
	// How long such a node goes on serving reads, from when it last saw the
	// others. Longer bears longer cuts, shorter gives fresher reads: as
	// fresh as elsewhere where it is no longer than max_replica_lag.
	IsolatedReadLimit time.Duration `yaml:"isolated_read_limit" only:"isolated_reads=refuse" default:"5s" min:"0s" max:"24h"`
	// nginx configurations in which this agent owns upstream blocks.
	Nginx []Nginx `yaml:"nginx" shown:"commented"`
}

// Nginx is one nginx whose upstream blocks the agent owns.
type Nginx struct {
	// The configuration file that holds the upstream blocks. Only the server
	// lines of the blocks named below are changed; the former file is kept.
	ConfigFile string `yaml:"config_file" need:"true" form:"path"`
	// Checks the configuration; must exit with 0. No shell. An argument that
	// equals config_file is replaced by the new text's name, so that [nginx,
	// -t, -c, /etc/nginx/nginx.conf] checks it before it is put in place.
	TestCommand []string `yaml:"test_command" default:"[nginx, -t]" need:"true"`
	// Makes nginx read it again. No shell. Empty ([]): SIGHUP to the process
	// of pid_file, which spares starting a program.
	ReloadCommand []string `yaml:"reload_command" default:"[nginx, -s, reload]"`
	// nginx's pid file: tells that the reload took effect.
	PIDFile string `yaml:"pid_file" default:"/run/nginx.pid" need:"true" form:"path"`
	// The blocks the agent owns.
	Upstreams []Upstream `yaml:"upstreams" need:"true"`
}

// Upstream is one owned upstream block.
type Upstream struct {
	// The nginx context the block is in: http or stream.
	Context string `yaml:"context" need:"true" oneof:"http|stream"`
	// The block's name. The same name may exist once in http and once in
	// stream.
	Name string `yaml:"name" need:"true" form:"upstream"`
	// Who is in it. rw: the primary. ro: the replicas that may serve reads
	// (both in stream only). http: the healthy ones of members (in http only).
	Role string `yaml:"role" need:"true" oneof:"rw|ro|http"`
	// For rw and ro. direct: the instances themselves. proxy: the agents'
	// proxy ports, which hold new connections while the primary moves.
	Via string `yaml:"via" default:"proxy" oneof:"direct|proxy"`
	// For http: the services behind it, checked for health by the agent.
	Members []UpstreamMember `yaml:"members"`
}

// UpstreamMember is one HTTP service behind an upstream block.
type UpstreamMember struct {
	// host:port of the service.
	Address string `yaml:"address" need:"true" form:"hostport"`
	// Path asked with GET; any 2xx answer is healthy.
	HealthPath string `yaml:"health_path" default:"/health" need:"true" form:"urlpath"`
	// How often it is asked.
	Interval time.Duration `yaml:"interval" default:"500ms" min:"10ms" max:"1h"`
	// How long the answer may take; at most interval.
	Timeout time.Duration `yaml:"timeout" default:"500ms" min:"10ms" max:"1h"`
	// How many answers in a row must fail before it is taken out.
	MaxFails int `yaml:"max_fails" default:"2" min:"1" max:"100"`
	// How many in a row must be healthy before it is put back.
	Rise int `yaml:"rise" default:"2" min:"1" max:"100"`
}
