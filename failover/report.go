package failover

import (
	"time"

	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// Outcome is how an operation ended.
type Outcome string

// The outcomes. Unfinished is an operation in flight: it is in the cluster
// record, and in the ledger only when it has ended. If its leader dies, its
// successor writes the entry as Superseded.
const (
	Unfinished Outcome = "unfinished"
	Completed  Outcome = "completed"
	Undone     Outcome = "undone"     // nothing changed: the former primary serves again
	Failure    Outcome = "failed"     // ended without a primary; the reason says what is missing
	Superseded Outcome = "superseded" // another leader went on under a higher epoch
)

// Report is the ledger entry of one operation.
type Report struct {
	Epoch     topology.Epoch    `json:"epoch"`
	Kind      election.Kind     `json:"kind"`
	Outcome   Outcome           `json:"outcome"`
	Leader    topology.NodeName `json:"leader"`
	From      topology.NodeName `json:"from,omitempty"`
	To        topology.NodeName `json:"to,omitempty"`
	Cause     string            `json:"cause"`
	Reason    string            `json:"reason,omitempty"` // why it was undone or failed
	StartedAt time.Time         `json:"started_at"`
	EndedAt   time.Time         `json:"ended_at"`
	Steps     []Step            `json:"steps"`
	Evidence  Judgement         `json:"evidence"`
	Gates     []Gate            `json:"gates"`
	// RTOMillis is from the last moment the old primary was known to serve
	// writes until a write through a route was acknowledged: the upper bound.
	RTOMillis float64    `json:"rto_ms"`
	RTOBounds [2]float64 `json:"rto_bounds_ms"`
	RPO       RPO        `json:"rpo"`
	// Forced is set where an operator ordered the failover and accepted loss.
	Forced *Forced `json:"forced,omitempty"`
}

// Forced is who accepted what when a failover was forced.
type Forced struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
	// Accepted is what was confirmed: a number of commits, or "unbounded".
	Accepted string `json:"accepted"`
	// Lossy: it was promoted without the proof that nothing acknowledged is
	// missing. False where the proof could be had after all.
	Lossy bool      `json:"lossy"`
	Bound LossBound `json:"bound"`
}

// Step is one step of an operation as it ran.
type Step struct {
	Name    string  `json:"name"`
	BeganMS float64 `json:"began_ms"` // since the operation began; detection is before 0
	TookMS  float64 `json:"took_ms"`
	Detail  string  `json:"detail,omitempty"`
	Error   string  `json:"error,omitempty"`
}

// RPO says what was lost and why one may believe it.
type RPO struct {
	LostCommits *uint64 `json:"lost_commits"` // nil: not known
	// InDoubt counts commits that were never acknowledged and are on the old
	// primary only; nil until the old primary has come back and was compared.
	InDoubt *uint64 `json:"in_doubt"`
	Proof   Proof   `json:"proof"`
}

// Proof is what RPO 0 rests on (I1): the register of the old epoch, who was
// frozen, and that the promoted instance contained the union of what they
// had received.
type Proof struct {
	Statement string              `json:"statement"`
	Ackers    []topology.NodeName `json:"ackers"`
	K         int                 `json:"k"`
	Needed    int                 `json:"needed"`
	Frozen    []topology.NodeName `json:"frozen"`
	Union     gtid.Set            `json:"union"`
	Promoted  gtid.Set            `json:"promoted_executed"`
	Errant    *gtid.Set           `json:"errant,omitempty"` // found on the old primary later
	SavedFile string              `json:"saved_file,omitempty"`
}
