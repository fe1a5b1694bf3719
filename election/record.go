package election

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// State is the cluster record: one document in etcd, under one key, so that
// every change of it is one compare-and-swap and nobody can see half of one.
// Only the member that holds the leader key may change it.
type State struct {
	// Format and Minor are the version of this record. A build neither acts on
	// nor changes a record of a higher Format (ErrNewerFormat). What a higher
	// Minor has added it does not know, and Update keeps.
	Format  int    `json:"format"`
	Minor   int    `json:"minor,omitempty"`
	Cluster string `json:"cluster"`
	// Epoch is the highest epoch ever issued (I5). It may be above
	// Primary.Epoch: then an operation was claimed and has not (or not yet)
	// established a primary.
	Epoch topology.Epoch `json:"epoch"`
	// Past says why nothing below can be believed: an operator has ordered a new
	// epoch after etcd was put back to an older state, and it has not come to
	// another primary yet. Empty: it can.
	Past     string   `json:"past,omitempty"`
	Primary  *Primary `json:"primary,omitempty"` // nil before bootstrap
	Register Register `json:"register"`
	// Sources says for each instance on whom it was last ordered to hold an
	// acknowledging receiver. It is written before the order is given. An
	// instance that could not be reached since may still acknowledge commits
	// of that one, so it must be registered when that one becomes primary
	// again (I1).
	// An empty name means that an order to change is on its way: it may
	// acknowledge either until it is seen at the new one.
	Sources map[topology.NodeName]topology.NodeName `json:"sources,omitempty"`
	// Degraded is set while the primary answers commits that no other instance
	// has (I4): K is 0 then.
	Degraded  *Degraded  `json:"degraded,omitempty"`
	Operation *Operation `json:"operation,omitempty"` // nil when none is in flight
	Paused    *Pause     `json:"paused,omitempty"`
	// Unrest counts what has kept happening to the primaries; nil while nothing has.
	Unrest *Unrest `json:"unrest,omitempty"`
	// Members are who belongs to the cluster. Nil before a leader has written
	// them down for the first time: then everybody does who has registered.
	Members map[topology.NodeName]Seat `json:"members,omitempty"`
	// Removed are those who were members, with when they were removed. One that
	// died as a member, and might acknowledge a former primary still, is in
	// Sources all the same.
	Removed map[topology.NodeName]time.Time `json:"removed,omitempty"`
}

// Belongs tells whether node is a member.
func (s State) Belongs(node topology.NodeName) bool {
	_, listed := s.Members[node]
	return listed || s.Members == nil
}

// WasRemoved tells whether node was a member and is none any more.
func (s State) WasRemoved(node topology.NodeName) bool {
	_, removed := s.Removed[node]
	return removed && !s.Belongs(node)
}

// Leaving tells whether node is a member that is being removed.
func (s State) Leaving(node topology.NodeName) bool { return s.Members[node].Leaving != nil }

// StopLeaving takes back every removal that has not come to its end.
func (s State) StopLeaving() {
	for name, seat := range s.Members {
		seat.Leaving = nil
		s.Members[name] = seat
	}
}

// Seat is a member's place in the cluster.
type Seat struct {
	// Voter: it runs one of the members of the embedded etcd.
	Voter bool      `json:"voter"`
	Since time.Time `json:"since"`
	// Leaving is when its removal was asked for. It counts as a member until it
	// has stopped acknowledging, and is not told to acknowledge again.
	Leaving *time.Time `json:"leaving,omitempty"`
}

// Phase says how far the recorded primary has come in its epoch.
type Phase string

// The phases of a primary. Promoting is the point of no return: another
// primary can only be made by a new epoch that revokes this one's ackers.
const (
	Promoting Phase = "promoting"
	Open      Phase = "open"
)

// Primary is the instance that may acknowledge writes in Epoch.
type Primary struct {
	Node       topology.NodeName `json:"node"`
	ServerUUID string            `json:"server_uuid"`
	Address    string            `json:"address"`
	Epoch      topology.Epoch    `json:"epoch"`
	Phase      Phase             `json:"phase"`
	Since      time.Time         `json:"since"`
	// Base is the set the primary held when it was recorded, or when its register
	// was last made stricter. It contains every commit that was answered in
	// another way than the register says, in earlier epochs as in this one: an
	// acker whose received set does not contain it proves nothing.
	Base gtid.Set `json:"base"`
	// Forced is set while this instance is primary by a promotion that an
	// operator forced without the proof that it lacks nothing acknowledged.
	Forced *Forced `json:"forced,omitempty"`
	// Lossy is set from when commits of this epoch were answered without the
	// acknowledgements that the register asks for.
	Lossy *Lossy `json:"lossy,omitempty"`
}

// Lossy is a time in which the primary did not wait as its register says.
type Lossy struct {
	Since time.Time `json:"since"`
	// Until is when it waited again; all that it had by then is in Base. Zero: it
	// is not known to, and until then no acker's word proves anything.
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason"`
	// Commits is how many there were at most.
	Commits uint64 `json:"commits"`
	// Seq rises with each beginning and each end.
	Seq uint64 `json:"seq"`
}

// Ongoing tells whether the primary is not known to wait again.
func (l *Lossy) Ongoing() bool { return l != nil && l.Until.IsZero() }

// Forced is a promotion without proof (I1), and who accepted what of it.
type Forced struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
	// Accepted is what was confirmed: how many commits were known to be
	// missing, or that nothing bounds the loss.
	Accepted string `json:"accepted"`
	// Epoch is that of the promotion; a resumed primary has a higher one.
	Epoch topology.Epoch `json:"epoch"`
}

// Register is the acker register of the primary's epoch (I3). Ackers and K are
// what proofs count on: nobody else can acknowledge a commit of the primary,
// and it waits for at least K. The primary's server is at all times at least
// as strict; Shut and NextK say in what it is to become stricter, before
// Ackers and K may say so, too.
type Register struct {
	Ackers []topology.NodeName `json:"ackers"`
	K      int                 `json:"k"`
	// Shut are the members that the primary is to keep from receiving: ackers
	// that are to be dropped, and those that were and have not been seen since.
	Shut []topology.NodeName `json:"shut,omitempty"`
	// NextK, if not 0, is above K: the primary is to wait for as many.
	NextK int `json:"next_k,omitempty"`
	// Accounts are the replication users with which each node of Ackers, Shut
	// and State.Sources may be receiving: all it was ordered to use since it
	// was last seen not to acknowledge.
	Accounts map[topology.NodeName][]string `json:"accounts,omitempty"`
}

// Acks is how many acknowledgements the primary is to wait for now.
func (r Register) Acks() int { return max(r.K, r.NextK) }

// IsShut tells whether the primary is to keep node from receiving.
func (r Register) IsShut(node topology.NodeName) bool { return slices.Contains(r.Shut, node) }

// Equal tells whether two registers ask the same of the primary.
func (r Register) Equal(o Register) bool {
	return r.K == o.K && r.NextK == o.NextK && slices.Equal(r.Ackers, o.Ackers) &&
		slices.Equal(r.Shut, o.Shut) && maps.EqualFunc(r.Accounts, o.Accounts, slices.Equal[[]string])
}

// Has tells whether node is a registered acker.
func (r Register) Has(node topology.NodeName) bool {
	return slices.Contains(r.Ackers, node)
}

// Needed is the number of registered ackers that must be frozen before no
// further commit can be acknowledged: |A| − k + 1 (I1).
func (r Register) Needed() int { return len(r.Ackers) - r.K + 1 }

// Kind is what an operation is for.
type Kind string

// The kinds of operations. Resume establishes the recorded primary once more
// under a new epoch: after a cold start, and when an operation is undone.
const (
	Bootstrap  Kind = "bootstrap"
	Failover   Kind = "failover"
	Switchover Kind = "switchover"
	Resume     Kind = "resume"
)

// Operation is the record of the operation in flight (I7).
type Operation struct {
	Kind      Kind              `json:"kind"`
	Epoch     topology.Epoch    `json:"epoch"`
	Leader    topology.NodeName `json:"leader"`
	Step      string            `json:"step"` // the step that was begun last
	From      topology.NodeName `json:"from,omitempty"`
	To        topology.NodeName `json:"to,omitempty"`
	Cause     string            `json:"cause"`
	StartedAt time.Time         `json:"started_at"`
	// Facts is what the step was begun with, for the next leader and the
	// reader of the ledger.
	Facts json.RawMessage `json:"facts,omitempty"`
}

// Degraded says since when, and why, commits are not lossless.
type Degraded struct {
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
}

// Pause stops automatic operations until it is lifted.
type Pause struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

// Unrest is what automation is to slow down for. It is counted, not dated: for
// how long nothing was added each member knows by its own clock, which nobody
// can set (T1).
type Unrest struct {
	// Failovers counts those away from a primary that was not proven dead, each
	// soon after the one before.
	Failovers int `json:"failovers,omitempty"`
	// Restarts counts how often the recorded primary was opened again after its
	// server had restarted in place, likewise.
	Restarts int `json:"restarts,omitempty"`
	// Epoch is that of the operation which added the last one.
	Epoch topology.Epoch `json:"epoch"`
}

// Snapshot is the cluster record as it was read, with what a later
// compare-and-swap compares.
type Snapshot struct {
	State State
	// Revision is the etcd modification revision of the record; 0 when it
	// does not exist yet.
	Revision int64
	// ReadAt is when the answer arrived, by this process's monotonic clock.
	ReadAt time.Time

	raw []byte // the record as stored, for the fields this build does not know
}

// Leadership is who leads now, as the leader key says.
type Leadership struct {
	Holder topology.NodeName `json:"holder"` // empty when nobody leads
	// Revision is the modification revision of the leader key: it changes
	// with every new holder and fences the former one's writes.
	Revision int64 `json:"revision"`
	// Offered: it was handed over to Holder, who has not taken it yet.
	Offered bool `json:"offered,omitempty"`
	// Mine tells whether this member holds it by its own, unexpired account.
	Mine bool `json:"mine"`
}
