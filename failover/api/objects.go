package api

import (
	"slices"
	"time"

	"interrex/election"
	"interrex/failover"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// Status is the state of a cluster in one word.
type Status string

// The statuses, the worse the later. FailingOver is any operation in flight
// that moves the primary; Starved means that the primary is well and commits
// wait for acknowledgements that do not come; NoPrimary that, as far as this
// member knows, nobody serves writes.
const (
	StatusHealthy     Status = "healthy"
	StatusDegraded    Status = "degraded"
	StatusFailingOver Status = "failing_over"
	StatusStarved     Status = "starved"
	StatusNoPrimary   Status = "no_primary"
)

// Statuses are all of them.
func Statuses() []Status {
	return []Status{StatusHealthy, StatusDegraded, StatusFailingOver, StatusStarved, StatusNoPrimary}
}

// Writes says in a few words what becomes of writes now.
func (s Status) Writes() string {
	switch s {
	case StatusFailingOver:
		return "writes wait for the operation in flight"
	case StatusStarved, StatusNoPrimary:
		return "no writes"
	}
	return "writes go on"
}

// Role is what a member is now.
type Role string

// The roles. Joining: it was added and has not been started yet. Unreachable:
// its agent or its instance does not answer. Closed:
// the instance refuses writes and follows nobody. Stray: it would take writes
// although the record does not name it.
const (
	RolePrimary     Role = "primary"
	RoleReplica     Role = "replica"
	RoleArbiter     Role = "arbiter"
	RoleClosed      Role = "closed"
	RoleRebuilding  Role = "rebuilding"
	RoleUnreachable Role = "unreachable"
	RoleStray       Role = "stray"
	RoleJoining     Role = "joining"
)

// Cluster is the cluster at a glance.
type Cluster struct {
	Name    string            `json:"name"`
	Self    topology.NodeName `json:"self"` // the member that answers
	Status  Status            `json:"status"`
	Reasons []string          `json:"reasons"` // why it is not healthy
	Epoch   topology.Epoch    `json:"epoch"`
	Primary *Primary          `json:"primary"` // null before there ever was one
	// Durability is what an acknowledged commit is worth now.
	Durability    Durability        `json:"durability"`
	Leader        topology.NodeName `json:"leader"` // empty when nobody leads
	EtcdReachable bool              `json:"etcd_reachable"`
	Paused        *election.Pause   `json:"paused"`
	Operation     *Operation        `json:"operation"` // in flight
	Members       []Member          `json:"members"`
	// GatesClosed are the conditions that would refuse an operation now.
	GatesClosed []failover.Gate `json:"gates_closed"`
}

// Primary is the recorded primary.
type Primary struct {
	Node        topology.NodeName `json:"node"`
	Address     string            `json:"address"`
	Epoch       topology.Epoch    `json:"epoch"`
	Phase       election.Phase    `json:"phase"`
	Since       time.Time         `json:"since"`
	Verdict     topology.Verdict  `json:"verdict"`
	Cause       string            `json:"cause,omitempty"`
	Explanation string            `json:"explanation,omitempty"`
	// Forced is set while this instance is primary by a promotion that was
	// forced without proof that it lacks nothing acknowledged.
	Forced *election.Forced `json:"forced,omitempty"`
}

// Durability is the register and what its ackers do.
type Durability struct {
	// Lossless: every commit that was acknowledged is on K ackers too.
	Lossless bool                `json:"lossless"`
	Ackers   []topology.NodeName `json:"ackers"`
	K        int                 `json:"k"`      // acknowledgements a commit waits for
	Needed   int                 `json:"needed"` // ackers a failover must freeze
	// Acknowledging are the ackers seen to acknowledge now. One whose agent is
	// silent is not seen, and may acknowledge all the same.
	Acknowledging []topology.NodeName `json:"acknowledging"`
	// Unacknowledged counts commits of the primary that did not wait; 0 while
	// lossless.
	Unacknowledged uint64 `json:"unacknowledged"`
	// Shut are the members that the primary keeps from receiving: they were
	// gone for too long, and have not been seen since.
	Shut []topology.NodeName `json:"shut,omitempty"`
	// DegradedSince is set while commits are answered that no other instance
	// has (durability.when_no_acker).
	DegradedSince *time.Time `json:"degraded_since,omitempty"`
	// Lossy is a time in this epoch in which somebody had the primary answer
	// commits without acknowledgement.
	Lossy *election.Lossy `json:"lossy,omitempty"`
}

// Operation is the operation in flight.
type Operation struct {
	Kind      election.Kind     `json:"kind"`
	Epoch     topology.Epoch    `json:"epoch"`
	Step      string            `json:"step"`
	From      topology.NodeName `json:"from,omitempty"`
	To        topology.NodeName `json:"to,omitempty"`
	Leader    topology.NodeName `json:"leader"`
	Cause     string            `json:"cause"`
	StartedAt time.Time         `json:"started_at"`
	ElapsedMS float64           `json:"elapsed_ms"`
}

// Member is one member.
type Member struct {
	Name    topology.NodeName `json:"name"`
	Role    Role              `json:"role"`
	Verdict topology.Verdict  `json:"verdict"`
	Leader  bool              `json:"leader"`
	// Error is why it does not answer, or what is wrong with its replication.
	Error         string         `json:"error,omitempty"`
	API           string         `json:"api"`
	MySQL         string         `json:"mysql,omitempty"`
	RW            string         `json:"rw,omitempty"`
	RO            string         `json:"ro,omitempty"`
	AgentVersion  string         `json:"agent_version"`
	ServerVersion string         `json:"server_version,omitempty"`
	Priority      int            `json:"priority"`
	Site          string         `json:"site,omitempty"`
	Promised      topology.Epoch `json:"promised_epoch"` // highest it has seen in a command
	Writable      bool           `json:"writable"`
	Acker         bool           `json:"acker"`
	Acknowledging bool           `json:"acknowledging"`
	// Certified is false for an instance that restarted and has not caught up.
	Certified bool `json:"certified"`
	// LagMS and Missing (transactions of the primary it has not executed) are
	// null when not known.
	LagMS   *float64 `json:"lag_ms"`
	Missing *uint64  `json:"missing"`
	Source  string   `json:"source,omitempty"` // host:port it replicates from
	// Executed is its GTID set; empty when not known.
	Executed string     `json:"executed,omitempty"`
	Errant   string     `json:"errant,omitempty"` // GTID set
	Rebuild  *Rebuild   `json:"rebuild,omitempty"`
	Route    MemberPath `json:"route"`
	// Etcd is how the member of the embedded etcd is that it runs: voter,
	// learner (no vote yet) or silent; empty if it runs none.
	Etcd string `json:"etcd,omitempty"`
	// EtcdUsed is which part of its database's quota etcd has taken (0 to 1), as
	// this member knows; absent if it does not.
	EtcdUsed float64 `json:"etcd_used,omitempty"`
	// CertificateUntil is when its certificate ends, after which members refuse one
	// another; absent without TLS.
	CertificateUntil *time.Time `json:"certificate_until,omitempty"`
	// Nginx are the nginx configurations that it keeps in step with its route.
	Nginx []Nginx `json:"nginx,omitempty"`
	// Leaving: its removal was asked for and goes on.
	Leaving bool `json:"leaving"`
}

// Rebuild tells how far the rebuild of an instance is.
type Rebuild struct {
	Stage     string    `json:"stage"`
	Since     time.Time `json:"since"`
	Errant    string    `json:"errant,omitempty"`
	SavedFile string    `json:"saved_file,omitempty"`
	Error     string    `json:"error,omitempty"`
}

// MemberPath is the route that a member's proxies obey.
type MemberPath struct {
	Epoch   topology.Epoch    `json:"epoch"`
	Phase   string            `json:"phase"`
	Primary topology.NodeName `json:"primary,omitempty"`
	Reason  string            `json:"reason,omitempty"`
}

// Report is an entry of the ledger.
type Report struct {
	Epoch     topology.Epoch    `json:"epoch"`
	Kind      election.Kind     `json:"kind"`
	Outcome   failover.Outcome  `json:"outcome"`
	Leader    topology.NodeName `json:"leader"`
	From      topology.NodeName `json:"from,omitempty"`
	To        topology.NodeName `json:"to,omitempty"`
	Cause     string            `json:"cause"`
	Reason    string            `json:"reason,omitempty"`
	StartedAt time.Time         `json:"started_at"`
	EndedAt   *time.Time        `json:"ended_at,omitempty"` // absent while it runs
	Steps     []failover.Step   `json:"steps"`
	Evidence  Judgement         `json:"evidence"`
	Gates     []failover.Gate   `json:"gates"`
	RTOMillis float64           `json:"rto_ms"`
	RTOBounds [2]float64        `json:"rto_bounds_ms"`
	RPO       RPO               `json:"rpo"`
	// Forced is set where an operator ordered it and accepted loss.
	Forced *failover.Forced `json:"forced,omitempty"`
}

// RPO is what was lost and why one may believe it.
type RPO struct {
	LostCommits *uint64 `json:"lost_commits"` // null: not known
	InDoubt     *uint64 `json:"in_doubt"`     // null: the old primary was not compared yet
	Proof       Proof   `json:"proof"`
}

// Proof is what an RPO of 0 rests on. Sets are GTID sets.
type Proof struct {
	Statement string              `json:"statement"`
	Ackers    []topology.NodeName `json:"ackers"`
	K         int                 `json:"k"`
	Needed    int                 `json:"needed"`
	Frozen    []topology.NodeName `json:"frozen"`
	Union     gtid.Set            `json:"union"`
	Promoted  gtid.Set            `json:"promoted_executed"`
	Errant    *gtid.Set           `json:"errant,omitempty"`
	SavedFile string              `json:"saved_file,omitempty"`
}

func newReport(r failover.Report) Report {
	p := r.RPO.Proof
	// It was decided on the gates of its own kind.
	gates := slices.DeleteFunc(slices.Clone(r.Gates), func(g failover.Gate) bool { return g.Operation != r.Kind })
	return Report{
		Epoch: r.Epoch, Kind: r.Kind, Outcome: r.Outcome, Leader: r.Leader, From: r.From, To: r.To,
		Cause: r.Cause, Reason: r.Reason, StartedAt: r.StartedAt, EndedAt: moment(r.EndedAt),
		Steps: list(r.Steps), Evidence: newJudgement(r.Evidence), Gates: list(gates),
		RTOMillis: r.RTOMillis, RTOBounds: r.RTOBounds, Forced: r.Forced,
		RPO: RPO{LostCommits: r.RPO.LostCommits, InDoubt: r.RPO.InDoubt, Proof: Proof{
			Statement: p.Statement, Ackers: list(p.Ackers), K: p.K, Needed: p.Needed, Frozen: list(p.Frozen),
			Union: p.Union, Promoted: p.Promoted, Errant: p.Errant, SavedFile: p.SavedFile,
		}},
	}
}

// list makes a nil slice an empty one: an API's list is never null.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}

// moment is nil for the zero time.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
