package dbrepl

import (
	"fmt"
	"time"

	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// Status is what one probe saw of an instance. All of it was read within one
// probe; sets are read executed first, received second, so Received always
// contains what Executed did.
type Status struct {
	ServerUUID string `json:"server_uuid"`
	Version    string `json:"version"`
	// BootID changes whenever the server process is another one
	// (pid and start time of the process, or the server's start time where
	// the process is not local).
	BootID   string   `json:"boot_id"`
	Executed gtid.Set `json:"executed"`
	// Committing holds what is in the binary log and not yet in Executed
	// (gtid_owned): read before Executed, so that a commit acknowledged before
	// the probe began is in one of the two.
	Committing gtid.Set `json:"committing"`
	Received   gtid.Set `json:"received"` // executed ∪ retrieved
	// Purged is what is in none of its binary logs any more (gtid_purged): who
	// lacks any of it cannot replicate from here.
	Purged        gtid.Set `json:"purged"`
	ReadOnly      bool     `json:"read_only"`
	SuperReadOnly bool     `json:"super_read_only"`
	// Inadmissible says why the instance must neither acknowledge nor be promoted,
	// however well it replicates: it does not keep or hand on all that it receives,
	// or not for a while. Empty if nothing speaks against it.
	Inadmissible string `json:"inadmissible,omitempty"`
	// Marker is the newest epoch marker row that is executed; zero if none.
	Marker   topology.Marker `json:"marker"`
	Source   *SourceStatus   `json:"source,omitempty"` // nil when no replication is configured
	SemiSync SemiSync        `json:"semi_sync"`
}

// Writable tells whether clients could commit.
func (s Status) Writable() bool { return !s.ReadOnly && !s.SuperReadOnly }

// SourceStatus is the state of an instance's replication from its source.
type SourceStatus struct {
	Host       string `json:"host"`
	Port       int    `json:"port"`
	ServerUUID string `json:"server_uuid"`
	// ReceiverOn is true only while the receiver is connected.
	ReceiverOn    bool   `json:"receiver_on"`
	ReceiverState string `json:"receiver_state"` // ON, OFF, CONNECTING
	ReceiverError string `json:"receiver_error,omitempty"`
	ApplierOn     bool   `json:"applier_on"`
	ApplierError  string `json:"applier_error,omitempty"`
	// HeartbeatAge is the time since the source's last heartbeat or event, by
	// the server's own clock; negative when there was none yet.
	HeartbeatAge time.Duration `json:"heartbeat_age_ns"`
	// Deaf: the receiver is connected, and HeartbeatAge is more than twice
	// NetTimeout, after which it would have left a source that is silent. It
	// waits for its own disk (a full one is looked at again once a minute), or
	// receives a large transaction.
	Deaf bool `json:"deaf,omitempty"`
	// Unfit says in what the receiver's times are not as they are configured;
	// empty if they are.
	Unfit string `json:"unfit,omitempty"`
	// Filters names the replication filters by which the applier leaves out a part
	// of what it receives; empty if there are none.
	Filters string `json:"filters,omitempty"`
	// Unapplied is the number of transactions received and not executed.
	Unapplied uint64 `json:"unapplied"`
	// Lag is how long ago, on the primary, that was committed which is being
	// applied. Where nothing is unapplied it is 0, unless a connected receiver
	// has not yet heard how far the primary is: then it is since when it has
	// heard nothing, or how old the last that came is.
	Lag time.Duration `json:"lag_ns"`

	told  bool          // a heartbeat came after the last transaction
	late  bool          // and what came last may be long sent (hearing)
	last  time.Duration // how old is what is or was last applied; 0 if not asked
	level time.Duration // how long ago, at most, it had executed everything; 0 if not known
}

// SemiSync is the semi-synchronous state of an instance in both its roles.
type SemiSync struct {
	SourceEnabled  bool   `json:"source_enabled"`
	ReplicaEnabled bool   `json:"replica_enabled"` // the variable
	ReplicaActive  bool   `json:"replica_active"`  // the status: the receiver really acknowledges
	WaitFor        int    `json:"wait_for"`        // rpl_semi_sync_source_wait_for_replica_count (k)
	Clients        int    `json:"clients"`         // connected replicas that acknowledge
	WaitSessions   int    `json:"wait_sessions"`   // commits that wait now
	NoTx           uint64 `json:"no_tx"`           // commits that were not acknowledged: must stay 0 while lossless
	TimeoutMillis  uint64 `json:"timeout_ms"`
	WaitNoReplica  bool   `json:"wait_no_replica"`
	WaitPoint      string `json:"wait_point"` // AFTER_SYNC
}

// Lossless tells whether a primary with these settings answers no commit that
// fewer than k replicas have acknowledged, whatever happens to them (I2).
func (s SemiSync) Lossless(k int) bool { return k > 0 && s.Loose(k) == "" }

// Loose names the first setting by which commits may be answered that fewer than
// k replicas have acknowledged; empty if there is none.
func (s SemiSync) Loose(k int) string {
	switch {
	case !s.SourceEnabled:
		return "rpl_semi_sync_source_enabled is OFF"
	case s.WaitFor < k:
		return fmt.Sprintf("rpl_semi_sync_source_wait_for_replica_count is %d, not %d", s.WaitFor, k)
	case !s.WaitNoReplica:
		return "rpl_semi_sync_source_wait_no_replica is OFF"
	case s.WaitPoint != waitPoint:
		return fmt.Sprintf("rpl_semi_sync_source_wait_point is %s, not %s", s.WaitPoint, waitPoint)
	case s.TimeoutMillis != semiSyncTimeout:
		return fmt.Sprintf("rpl_semi_sync_source_timeout is %d ms, not %d", s.TimeoutMillis, uint64(semiSyncTimeout))
	}
	return ""
}
