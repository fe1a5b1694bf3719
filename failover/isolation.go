package failover

import (
	"fmt"
	"time"

	"interrex/internal/topology"
)

// Sight is how a member finds out that it is cut off from the others.
type Sight struct {
	// Heard is how long ago another member was last heard by gossip; negative if
	// never.
	Heard func(topology.NodeName) time.Duration
	// Within is for how long that counts.
	Within time.Duration
	// After is how long neither a majority of the members nor etcd's quorum must
	// have been seen before a member takes itself for isolated. 0: it never does.
	After time.Duration
	// ReadLimit is how long it goes on serving reads then, counted from when the
	// others were last seen; negative: for as long as it lasts.
	ReadLimit time.Duration
}

// Isolation is the state of a member that sees neither etcd's quorum nor a
// majority of the members.
type Isolation struct {
	For     time.Duration // since the others were last seen, by the own clock
	Seen    int           // of Members, itself included
	Members int
	// Reads tells whether reads are still served.
	Reads bool
}

// String says it as clients and operators are told.
func (i Isolation) String() string {
	s := fmt.Sprintf("isolated: this node has seen %d of %d members, and no quorum of etcd, for %s", i.Seen, i.Members, i.For.Round(time.Second))
	if i.Reads {
		return s + "; its routes are closed but for reads"
	}
	return s + "; its routes are closed"
}

// sighted is what is seen of the others at one moment.
type sighted struct {
	etcd          bool // its quorum answered the last question
	seen, members int
	// last is when the quorum or a majority gave its last sign, however long it
	// counts; zero if they never did.
	last time.Time
	// told is how many of the members have said that they know of our primary's
	// epoch, itself included: who is heard by gossip alone has not, nor has an agent
	// that was started since and has read nothing yet. newer tells whether one of
	// them knows of a higher epoch than we do.
	told  int
	newer bool
}

func (s sighted) majority() bool { return s.seen > s.members/2 }

// current tells whether a majority says that our record is the newest.
func (s sighted) current() bool { return s.told > s.members/2 && !s.newer }

// outlook follows what is seen. It is pure: it depends on what it is shown alone.
type outlook struct {
	last     time.Time // when it was shown something
	blind    time.Time // since when neither is seen; zero while one is
	seen     time.Time // when one gave its last sign before
	isolated bool
}

// heldUp is how late a look may come before what was seen meanwhile is void: this
// process did not run, and heard nobody for that reason.
const heldUp = time.Second

// look takes in what is seen now and tells whether the member is isolated. It
// needs both to be out of sight: a primary whose etcd is gone and whose members
// are not goes on as it is (I9). Back in sight of etcd, what is known of the
// record is true again; in sight of a majority alone only when it has said that
// it knows of no higher epoch.
func (o *outlook) look(now time.Time, s sighted, after time.Duration) bool {
	late := !o.last.IsZero() && now.Sub(o.last) > heldUp
	o.last = now
	if o.blind.IsZero() {
		o.seen = s.last
	}
	switch {
	case s.etcd, s.majority() && (!o.isolated || s.current()):
		o.isolated, o.blind = false, time.Time{}
	case o.isolated:
	case o.blind.IsZero() || late:
		o.blind = now
	case after > 0 && s.members > 0 && now.Sub(o.blind) >= after:
		o.isolated = true
	}
	return o.isolated
}

// sightOf is what v shows of the others, with what gossip has heard.
func sightOf(v View, look Sight) sighted {
	s := sighted{etcd: v.EtcdReachable, members: len(v.Members)}
	known := max(v.State.Epoch, v.Nodes[v.Self].Route.Epoch)
	var primary topology.Epoch
	if p := v.State.Primary; p != nil {
		primary = p.Epoch
	}
	for _, m := range v.Members {
		n, answers := v.Nodes[m.Name]
		knows := max(n.Promised, n.Route.Epoch)
		heard := time.Duration(-1)
		if look.Heard != nil && m.Name != v.Self {
			heard = look.Heard(m.Name)
		}
		if m.Name == v.Self || answers || heard >= 0 && heard <= look.Within {
			s.seen++
		}
		if m.Name == v.Self || answers && knows >= primary {
			s.told++
		}
		if m.Name != v.Self && answers && knows > known {
			s.newer = true
		}
	}
	return s
}

// isolationOf is what an isolated member shows.
func isolationOf(now time.Time, o outlook, s sighted, look Sight) *Isolation {
	i := &Isolation{For: now.Sub(o.seen), Seen: s.seen, Members: s.members}
	if o.seen.IsZero() {
		i.For = now.Sub(o.blind)
	}
	i.Reads = look.ReadLimit < 0 || i.For < look.ReadLimit
	return i
}
