package detector

import (
	"maps"
	"slices"
	"time"

	"interrex/internal/topology"
)

// slot is where one evidence stands until its like replaces it.
type slot struct {
	observer, subject topology.NodeName
	group             group
}

// peer is what is known of a member as a sender.
type peer struct {
	boot    uint64
	retired []uint64 // earlier boots, not believed again
	delay   delayMeter
	heard   time.Time // when its newest message was sent, by our clock
}

const maxRetired = 16

// store holds the evidence. It has no lock and no clock of its own.
type store struct {
	start time.Time                           // our clock's zero
	slots map[topology.NodeName]map[slot]seen // by subject
	peers map[topology.NodeName]*peer
}

func newStore(start time.Time) *store {
	return &store{start: start, slots: map[topology.NodeName]map[slot]seen{}, peers: map[topology.NodeName]*peer{}}
}

// put keeps own evidence. It returns what stood there before.
func (s *store) put(ev Evidence, now time.Time) (before seen, had bool) {
	k := slot{ev.Observer, ev.Subject, ev.Kind.group()}
	before, had = s.slots[ev.Subject][k]
	s.set(k, seen{ev, now})
	return before, had
}

func (s *store) set(k slot, v seen) {
	of := s.slots[k.subject]
	if of == nil {
		of = map[slot]seen{}
		s.slots[k.subject] = of
	}
	of[k] = v
}

// change is what an accepted item did.
type change struct {
	evidence Evidence
	// turned: the observer's view of the subject is another than before.
	turned bool
	before *Evidence // what stood there, as it was at the time; nil: nothing
}

// accept keeps what a datagram says. A message of an earlier boot of its
// sender, or older than what stands, changes nothing: a replay is no news.
func (s *store) accept(env envelope, now time.Time) []change {
	p := s.peers[env.From]
	if p == nil {
		p = &peer{boot: env.Boot}
		s.peers[env.From] = p
	}
	if p.boot != env.Boot {
		if slices.Contains(p.retired, env.Boot) {
			return nil
		}
		p.retired = append(p.retired, p.boot)
		if len(p.retired) > maxRetired {
			p.retired = p.retired[1:]
		}
		p.boot, p.delay = env.Boot, delayMeter{}
		s.forget(func(k slot) bool { return k.observer == env.From })
	}
	extra := p.delay.extra(s.start, now, time.Duration(env.Clock)*time.Microsecond)
	if sent := now.Add(-extra); sent.After(p.heard) {
		p.heard = sent
	}
	var out []change
	for _, it := range env.Items {
		ev, ok := fromWire(env, it)
		if !ok {
			continue
		}
		ev.Age += extra
		ev.Since += extra
		if ev.LastGood >= 0 {
			ev.LastGood += extra
		}
		k := slot{ev.Observer, ev.Subject, ev.Kind.group()}
		old, had := s.slots[k.subject][k]
		if had && old.Seq >= ev.Seq {
			continue
		}
		s.set(k, seen{ev, now})
		c := change{evidence: ev, turned: !had || old.Kind != ev.Kind}
		if had {
			before := old.later(now)
			c.before = &before
		}
		out = append(out, c)
	}
	return out
}

// drop empties one slot and tells whether there was anything in it.
func (s *store) drop(k slot) bool {
	_, had := s.slots[k.subject][k]
	delete(s.slots[k.subject], k)
	return had
}

// forget drops slots.
func (s *store) forget(which func(slot) bool) {
	for subject, of := range s.slots {
		maps.DeleteFunc(of, func(k slot, _ seen) bool { return which(k) })
		if len(of) == 0 {
			delete(s.slots, subject)
		}
	}
}

// about returns the evidence on a subject as an instance, or as a member.
func (s *store) about(subject topology.NodeName, member bool) table {
	t := make(table, 0, len(s.slots[subject]))
	for k, ev := range s.slots[subject] {
		if of := k.group == groupMember; of == member {
			t = append(t, ev)
		}
	}
	return t
}

// all returns the evidence on a subject as an instance and as a member.
func (s *store) all(subject topology.NodeName) table {
	return append(s.about(subject, false), s.about(subject, true)...)
}

// heard is how long ago a member sent the newest message we have; negative:
// never.
func (s *store) heard(member topology.NodeName, now time.Time) time.Duration {
	p := s.peers[member]
	if p == nil {
		return -1
	}
	return now.Sub(p.heard)
}

// own returns what one observer stands by, oldest subject name first.
func (s *store) own(self topology.NodeName) []seen {
	var out []seen
	for _, of := range s.slots {
		for k, ev := range of {
			if k.observer == self {
				out = append(out, ev)
			}
		}
	}
	slices.SortFunc(out, func(a, b seen) int {
		if a.Subject != b.Subject {
			if a.Subject < b.Subject {
				return -1
			}
			return 1
		}
		return int(a.Kind.group()) - int(b.Kind.group())
	})
	return out
}
