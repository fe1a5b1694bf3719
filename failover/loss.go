package failover

import (
	"fmt"
	"strconv"
	"time"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// Sighting is what an instance has told of itself since the primary of Epoch
// was recorded.
type Sighting struct {
	Epoch      topology.Epoch
	ServerUUID string
	// Has is everything it ever told of, executed, received or about to be
	// committed: a server that restarts may have forgotten some of it.
	Has gtid.Set
	At  time.Time // of the last answer
	// Drift is the last that it told of.
	Drift *Drift
}

func (s Sighting) with(st dbrepl.Status, epoch topology.Epoch, now time.Time) Sighting {
	if s.Epoch != epoch || s.ServerUUID != st.ServerUUID {
		s = Sighting{Epoch: epoch, ServerUUID: st.ServerUUID, Drift: s.Drift}
	}
	s.Has = s.Has.Union(st.Executed).Union(st.Committing).Union(st.Received)
	s.At = now
	return s
}

// Unbounded confirms a loss that nothing bounds.
const Unbounded = "unbounded"

// LossBound is what can be known of the acknowledged commits that a failover
// without proof would lose.
type LossBound struct {
	// Proven: nothing acknowledged can be missing.
	Proven bool `json:"proven"`
	// Confirm is the word that accepts it: Count, or Unbounded.
	Confirm string `json:"confirm"`
	// Candidate is who would be promoted; empty if nobody can be.
	Candidate topology.NodeName `json:"candidate,omitempty"`
	// Missing are the commits that some member told of and the candidate
	// lacks, Count their number.
	Missing gtid.Set `json:"missing"`
	Count   uint64   `json:"count"`
	// LastTold is when the old primary last told what it had; nil: nobody
	// remembers. What it acknowledged after that, nobody has counted.
	LastTold *time.Time `json:"last_told,omitempty"`
	// Ended: its own agent saw its process end. Otherwise it may run on behind
	// a broken network, and acknowledge as long as an acker is with it.
	Ended bool `json:"ended"`
	// Needs says whose return would make the proof.
	Needs     string `json:"needs,omitempty"`
	Statement string `json:"statement"`
}

// reportedCommits are all commits of the recorded primary's history that some
// member has told of.
func reportedCommits(v View) gtid.Set {
	p := v.State.Primary
	all := p.Base
	past := outdated(v) != ""
	for node, s := range v.Sighted {
		switch {
		case past: // whose history it is, nobody knows
			all = all.Union(s.Has)
		case s.Epoch != p.Epoch:
		case node == p.Node && s.ServerUUID == p.ServerUUID:
			all = all.Union(s.Has)
		default:
			// What else another one holds is its own affair: errant, or a copy.
			all = all.Union(s.Has.Of(p.ServerUUID))
		}
	}
	return all
}

// boundLoss says what a failover would lose now, if it were forced. It is pure.
func boundLoss(v View) LossBound {
	p := *v.State.Primary
	past := outdated(v)
	sv := expectedSurvey(v)
	from := p.Node
	if past == "" {
		sv = withoutOld(sv, p)
	} else {
		sv, from = unbelieved(sv), ""
	}
	c, _, err := chooseCandidate(sv, choosePolicy{kind: election.Failover, from: from, forced: true, past: past != ""})
	b := LossBound{Proven: sv.proven(), Candidate: c.Node, Ended: v.Primary.provenDead()}
	if seen := v.Sighted[p.Node]; seen.Epoch == p.Epoch && seen.ServerUUID == p.ServerUUID {
		b.LastTold = &seen.At
	}
	if !b.Proven {
		b.Needs = missingFor(sv, v.State.Register, p.Node)
		b.Missing = reportedCommits(v).Minus(c.Received)
		b.Count = b.Missing.Count()
	}
	b.Confirm = strconv.FormatUint(b.Count, 10)
	if !b.Proven && (b.LastTold == nil || !b.Ended) {
		b.Confirm = Unbounded
	}
	if past != "" {
		b.LastTold, b.Ended, b.Needs, b.Confirm = nil, false, "an etcd that has the newest record", Unbounded
		if err == nil {
			b.Statement = fmt.Sprintf("%s: not known. %d commits that members told of are not on %s; %s", Unbounded, b.Count, b.Candidate, past)
			return b
		}
	}
	b.Statement = b.state(p.Node, err)
	return b
}

// state puts the bound into words. Times are not in it: as long as nothing
// becomes known it stays the same.
func (b LossBound) state(old topology.NodeName, nobody error) string {
	if nobody != nil {
		return nobody.Error()
	}
	if b.Proven {
		return fmt.Sprintf("nothing acknowledged is lost: %s holds all of it", b.Candidate)
	}
	known := fmt.Sprintf("%d commits that members told of are not on %s", b.Count, b.Candidate)
	switch {
	case b.LastTold == nil:
		return fmt.Sprintf("%s: not known. %s, and nobody remembers what %s had", Unbounded, known, old)
	case !b.Ended:
		return fmt.Sprintf("%s: not known. %s, and all that %s has acknowledged since it was last heard, and may still acknowledge: nobody saw its process end", Unbounded, known, old)
	default:
		return fmt.Sprintf("%s, and what %s acknowledged between its last answer and its end", known, old)
	}
}
