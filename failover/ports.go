package failover

import (
	"context"
	"time"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
	"interrex/router"
)

// Registry is etcd as operations see it. election.Client implements it.
type Registry interface {
	// Snapshot is the cluster record as last seen, without asking etcd.
	Snapshot() election.Snapshot
	// Read asks etcd for the record. Decisions are made by Update, not by
	// what Read returned.
	Read(ctx context.Context) (election.Snapshot, error)
	// Update changes the record if it is still what base says and this
	// member still leads; otherwise it returns election.ErrConflict or
	// election.ErrNotLeader and nothing changed. An outcome that stays
	// unknown is election.ErrOutcomeUnknown.
	Update(ctx context.Context, base election.Snapshot, change func(*election.State) error) (election.Snapshot, error)
	// Leadership is who leads, as last seen.
	Leadership() election.Leadership
	// Members are the registered members, as last seen.
	Members() []topology.Member
	// SaveReport writes the ledger entry of an epoch; a later call for the
	// same epoch replaces it (reports are completed when the old primary
	// returns).
	SaveReport(ctx context.Context, epoch topology.Epoch, report []byte) error
	// Report reads one ledger entry; election.ErrNotFound if there is none.
	Report(ctx context.Context, epoch topology.Epoch) ([]byte, error)
	// Reports reads the newest n ledger entries, newest first.
	Reports(ctx context.Context, n int) ([][]byte, error)
}

// Node is one member as operations command it: over HTTP for others, directly
// for the own one. Every command carries its epoch, and a node that has seen a
// higher one refuses with ErrStaleEpoch (I5).
type Node interface {
	Status(ctx context.Context) (NodeStatus, error)
	Freeze(ctx context.Context, req FreezeRequest) (Frozen, error)
	CatchUp(ctx context.Context, req CatchUpRequest) (CaughtUp, error)
	Promote(ctx context.Context, req PromoteRequest) (Promoted, error)
	Follow(ctx context.Context, req FollowRequest) error
	Close(ctx context.Context, req CloseRequest) (Closed, error)
	Obey(ctx context.Context, req ObeyRequest) (Obeyed, error)
	Rebuild(ctx context.Context, req RebuildRequest) error
	Route(ctx context.Context, route router.Route) error
}

// Nodes finds the nodes by name.
type Nodes interface {
	Node(name topology.NodeName) (Node, error)
}

// NodeStatus is what a member says of itself.
type NodeStatus struct {
	Member   topology.Member `json:"member"`
	Promised topology.Epoch  `json:"promised"` // highest epoch it has seen in a command
	// Instance is nil for a member without one, or when the probe failed.
	Instance      *dbrepl.Status `json:"instance,omitempty"`
	InstanceError string         `json:"instance_error,omitempty"`
	// Certified is false for an instance that restarted and has not caught up
	// since: what it acknowledged before may be missing (I1, amnesia).
	Certified bool `json:"certified"`
	// Drift is what the record does not know yet of how the primary answered commits.
	Drift *Drift `json:"drift,omitempty"`
	// Rebuild is set while the instance is being rebuilt.
	Rebuild *RebuildProgress `json:"rebuild,omitempty"`
	// Errant is set when the instance holds transactions the primary lacks,
	// and is left closed for it.
	Errant *gtid.Set    `json:"errant,omitempty"`
	Route  router.Route `json:"route"` // the route this member obeys now
	// Etcd is how the member of the embedded etcd is that it runs; empty if it
	// runs none.
	Etcd EtcdStanding `json:"etcd,omitempty"`
	// EtcdUsed is which part of its database's quota etcd has taken, by the member
	// that this one runs or, of an external etcd, the fullest; 0 if not known.
	EtcdUsed float64 `json:"etcd_used,omitempty"`
	// Nginx are the nginx configurations that this member keeps in step.
	Nginx []NginxFile `json:"nginx,omitempty"`
	// CertificateUntil is when the member's certificate, or the one of the authority
	// that signed it, ends; zero without one.
	CertificateUntil time.Time `json:"certificate_until,omitzero"`
}

// FreezeRequest orders a replica's receiver to stop.
type FreezeRequest struct {
	Epoch topology.Epoch `json:"epoch"`
}

// Frozen is a replica whose receiver is stopped and stays so until a command
// of this or a higher epoch.
type Frozen struct {
	Node       topology.NodeName `json:"node"`
	ServerUUID string            `json:"server_uuid"`
	Version    string            `json:"version"`
	Executed   gtid.Set          `json:"executed"`
	Committing gtid.Set          `json:"committing"` // see dbrepl.Status
	Received   gtid.Set          `json:"received"`
	Unapplied  uint64            `json:"unapplied"`
	Marker     topology.Marker   `json:"marker"`
	// Amnesiac: the server restarted and has not caught up since; it counts
	// as not revoked.
	Amnesiac bool `json:"amnesiac"`
	// Closed tells whether the instance refuses writes. Freeze does not close:
	// an instance that is no replica only promises the epoch.
	Closed bool `json:"closed"`
	// ReadOnly tells whether it refuses clients' writes: also one that is not
	// closed, amid a promotion. Agents before this field do not tell.
	ReadOnly     bool   `json:"read_only,omitempty"`
	ApplierError string `json:"applier_error,omitempty"`
	Inadmissible string `json:"inadmissible,omitempty"` // see dbrepl.Status
	Priority     int    `json:"priority"`
	// Site is as the leader knows it.
	Site string `json:"-"`
}

// refuses tells whether the instance refuses clients' writes.
func (f Frozen) refuses() bool { return f.Closed || f.ReadOnly }

// under is the epoch of its marker; the newest of all, if that may be among what it
// has received and not executed.
func (f Frozen) under(newest topology.Epoch) topology.Epoch {
	if f.Unapplied > 0 {
		return newest
	}
	return f.Marker.Epoch
}

// CatchUpRequest orders a frozen replica to execute all of Set.
type CatchUpRequest struct {
	Epoch topology.Epoch `json:"epoch"`
	Set   gtid.Set       `json:"set"`
	Limit time.Duration  `json:"limit_ns"`
}

// CaughtUp is a replica that has executed what it was asked to.
type CaughtUp struct {
	Executed gtid.Set `json:"executed"`
}

// PromoteRequest orders the recorded primary of Epoch to arm semi-sync, write
// the marker row, see it acknowledged, and open for writes.
type PromoteRequest struct {
	Epoch topology.Epoch `json:"epoch"`
	K     int            `json:"k"`
	Limit time.Duration  `json:"limit_ns"` // for the marker's acknowledgement
}

// Promoted is an open primary, with how long each part took.
type Promoted struct {
	Executed gtid.Set      `json:"executed"`
	Armed    time.Duration `json:"armed_ns"`
	Marked   time.Duration `json:"marked_ns"`
	Opened   time.Duration `json:"opened_ns"`
}

// FollowRequest orders an instance to replicate from Source. It is refused
// with ErrErrant if the instance holds anything that SourceHas lacks.
type FollowRequest struct {
	Epoch      topology.Epoch    `json:"epoch"`
	Source     topology.NodeName `json:"source"`
	SourceUUID string            `json:"source_uuid"`
	Address    string            `json:"address"`
	SourceHas  gtid.Set          `json:"source_has"`
	// Acker: its acknowledgements count. Only ever true for an instance that
	// is in the register already (I3).
	Acker bool `json:"acker"`
	// By is the open primary, where Source is a replica that is yet to receive
	// what the instance has: it is asked instead of Source. Empty otherwise.
	By     topology.NodeName `json:"by,omitempty"`
	ByUUID string            `json:"by_uuid,omitempty"`
}

// CloseRequest orders an instance to stop taking writes.
type CloseRequest struct {
	Epoch topology.Epoch `json:"epoch"`
	// Drain is how long running transactions may take to end by themselves
	// before they are ended.
	Drain time.Duration `json:"drain_ns"`
	// Limit bounds the whole; when it passes, the instance is left as it was
	// (open) and the error says so.
	Limit time.Duration `json:"limit_ns"`
	// Isolate closes a primary that was judged Failed: its sessions are ended
	// at once and it is never opened again at this epoch, also when closing
	// cannot be proven within Limit.
	Isolate bool `json:"isolate"`
}

// Closed is an instance that can commit nothing more, with its final set.
type Closed struct {
	Executed gtid.Set `json:"executed"`
	Killed   int      `json:"killed"` // sessions ended
}

// ObeyRequest orders the recorded primary to be what its register asks for, as
// etcd says when the order is carried out.
type ObeyRequest struct {
	Epoch topology.Epoch `json:"epoch"`
}

// Obeyed is a primary that is what the register of Revision asks for. Has
// contains every commit that was acknowledged before it was.
type Obeyed struct {
	Revision int64    `json:"revision"`
	Acks     int      `json:"acks"` // it waits for so many
	Has      gtid.Set `json:"has"`
}

// RebuildRequest orders an instance with errant transactions to save them and
// be cloned from Donor.
type RebuildRequest struct {
	Epoch   topology.Epoch    `json:"epoch"`
	Donor   topology.NodeName `json:"donor"`
	Address string            `json:"address"`
	Errant  gtid.Set          `json:"errant"`
}

// RebuildProgress tells how far a rebuild has come.
type RebuildProgress struct {
	Stage     string    `json:"stage"`
	SavedFile string    `json:"saved_file,omitempty"`
	Errant    gtid.Set  `json:"errant"`
	Since     time.Time `json:"since"`
	Error     string    `json:"error,omitempty"`
}

// Underway tells whether the rebuild is still going on; false for nil.
func (p *RebuildProgress) Underway() bool {
	return p != nil && p.Stage != stageDone && p.Stage != stageFailed
}

// View is all that deciding needs, gathered by the member that decides or
// shows it.
type View struct {
	Self       topology.NodeName
	State      election.State
	Leadership election.Leadership
	// EtcdReachable is false when the last linearizable read failed.
	EtcdReachable bool
	Members       []topology.Member
	Nodes         map[topology.NodeName]NodeStatus
	// Unreachable holds the error of each member that could not be asked.
	Unreachable map[topology.NodeName]string
	Primary     Judgement // of the recorded primary's instance
	// AgentGone: the agent beside the recorded primary is judged Failed, and with
	// it whoever could open or close that instance.
	AgentGone bool
	// Isolated is set while this member is cut off from the others: what it knows
	// of them, and of the record, may be past.
	Isolated *Isolation
	// Calm is for how long this member has seen nothing added to State.Unrest;
	// since it began to look, at most.
	Calm time.Duration
	// Crashed is how long ago the primary's own agent saw its server process end,
	// if it has not been healthy since; 0 if it did not.
	Crashed time.Duration
	// Sighted is what each instance has told of itself, also of those that do
	// not answer any more.
	Sighted map[topology.NodeName]Sighting

	// base is the snapshot that State is of: what is decided on this view is
	// claimed against it.
	base election.Snapshot
}

// Verifier proves that a write goes through a route of this member.
type Verifier interface {
	// VerifyWrite writes through the member's own read-write port until a
	// write is acknowledged by the primary of epoch, or ctx ends.
	VerifyWrite(ctx context.Context, epoch topology.Epoch) error
}

// Gate is one condition an operation depends on, readable at all times (I10).
type Gate struct {
	Name      string        `json:"name"`
	Operation election.Kind `json:"operation"` // which operation it guards
	Open      bool          `json:"open"`
	Reason    string        `json:"reason"`
}
