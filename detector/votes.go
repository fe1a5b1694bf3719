package detector

import (
	"slices"
	"time"

	"interrex/internal/topology"
)

// castVote is what the evidence of one observer comes to.
func castVote(now time.Time, w Windows, observer, subject topology.NodeName, t table, own own) Vote {
	if observer == subject && own.exited != nil {
		v := voteFrom(*own.exited)
		v.Against = true
		return v
	}
	recent := func(g group) (Evidence, bool) {
		ev, ok := t.find(now, observer, g)
		return ev, ok && ev.Age <= w.Freshness
	}
	exited := own.exited != nil
	probe, answered := recent(groupProbe)
	waiting, waits := recent(groupPending)
	// A probe that waits speaks only beside an exit, and only until it ends.
	waits = waits && exited && (!answered || waiting.Round > probe.Round)
	if answered && !probe.Kind.Bad() {
		if waits {
			return accuse(w, waiting, own)
		}
		if v, accuses := writeVote(w, observer == subject, own, recent); accuses {
			return v
		}
		v := voteFrom(probe)
		v.For = probe.Kind.Good()
		return v
	}
	var votes []Vote
	if answered {
		votes = append(votes, accuse(w, probe, own))
	}
	if waits {
		votes = append(votes, accuse(w, waiting, own))
	}
	if receiver, ok := recent(groupReceiver); ok && receiver.Kind.Bad() {
		votes = append(votes, accuse(w, receiver, own))
	}
	if v, accuses := writeVote(w, observer == subject, own, recent); accuses {
		votes = append(votes, v)
	}
	if i := slices.IndexFunc(votes, func(v Vote) bool { return v.Against }); i >= 0 {
		return votes[i]
	}
	if len(votes) > 0 {
		return votes[0]
	}
	return silent(observer, probe)
}

// writeVote is the vote of an observer that finds that the instance cannot
// write; false if it finds no such thing. Its own agent's word on the disk goes
// before that on its writes.
func writeVote(w Windows, isOwn bool, own own, recent func(group) (Evidence, bool)) (Vote, bool) {
	if isOwn && own.disk != nil {
		v := voteFrom(*own.disk)
		v.Against = true
		return v, true
	}
	ev, ok := recent(groupWrite)
	if !ok || !ev.Kind.Bad() && (ev.Kind != LogBusy || own.disk == nil) {
		return Vote{}, false
	}
	return accuse(w, ev, own), true
}

// standingExit returns the own agent's fresh word that the process exited,
// unless the same agent's probe was answered after that.
func standingExit(now time.Time, w Windows, subject topology.NodeName, t table) (Evidence, bool) {
	ev, ok := t.find(now, subject, groupProcess)
	if !ok || ev.Kind != ProcessExited || ev.Age > w.Freshness {
		return Evidence{}, false
	}
	probe, ok := t.find(now, subject, groupProbe)
	if ok && !probe.Kind.Bad() && probe.Age < ev.Since {
		return Evidence{}, false
	}
	return ev, true
}

// loadPatience is by how much longer writes must hang on a server that has more to
// do than it gets done, on a disk that is well: moving the primary would move the
// load. One that hangs for that long is stuck in something else.
const loadPatience = 12

// accuse weighs one accusation. Of writes and the disk: only Settle or
// WriteStall is waited for, no number of misses.
func accuse(w Windows, ev Evidence, own own) Vote {
	v := voteFrom(ev)
	settle, exited := w.Settle, own.exited != nil
	switch {
	case (ev.Kind == WriteStalled || ev.Kind == LogBusy) && (own.disk != nil || exited):
		settle = 0
	case ev.Kind == WriteStalled && own.loaded:
		settle = loadPatience * w.WriteStall
	case ev.Kind == WriteStalled:
		settle = w.WriteStall
	}
	switch {
	case exited && ev.Slow && ev.Kind.timeout():
		v.Why = "says of itself that it is slow"
	case exited:
		v.Against = true
	case ev.Slow:
		v.Why = "says of itself that it is slow"
	case ev.Kind == WriteStalled && own.writes:
		v.Why = "is contradicted by its own agent, whose writes are done"
	case ev.Kind.timeout() && ev.Misses < w.Misses:
		v.Why = "missed too few answers yet"
	case ev.Since < settle:
		v.Why, v.ripens = "has not lasted long enough yet", settle-ev.Since
	default:
		v.Against = true
	}
	return v
}

func voteFrom(ev Evidence) Vote {
	return Vote{Observer: ev.Observer, Kind: ev.Kind, Age: ev.Age, Detail: ev.Detail, standing: ev.Since, lastGood: ev.LastGood}
}

// silent keeps of stale evidence only how old it is: silence is not a vote.
func silent(observer topology.NodeName, stale Evidence) Vote {
	return Vote{Observer: observer, Age: stale.Age}
}

// lastGood is how long ago a probe was last answered. That the process runs, or
// that a receiver is connected, is no answer: both are true of a server that
// was frozen.
func lastGood(now time.Time, t table) time.Duration {
	last := time.Duration(-1)
	for _, s := range t {
		ev := s.later(now)
		if g := ev.Kind.group(); g != groupProbe && g != groupPending {
			continue
		}
		if ev.LastGood >= 0 && (last < 0 || ev.LastGood < last) {
			last = ev.LastGood
		}
	}
	return last
}

// dominant is the kind that most of the chosen votes have; the own agent's
// process_exited always. Of equals, what says most about the instance.
func dominant(votes []Vote, chosen func(Vote) bool) Kind {
	count := map[Kind]int{}
	for _, v := range votes {
		if chosen(v) {
			count[v.Kind]++
		}
	}
	if count[ProcessExited] > 0 {
		return ProcessExited
	}
	var best Kind
	for _, k := range []Kind{DiskFull, DiskReadOnly, DiskStalled, WriteRefused, AnotherServer, Refused, ConnectionBroken, WriteStalled,
		Frozen, SilentHost, Unanswered, LogBusy, ReceiverLost, MemberGone, MemberLeft, Saturated, Alive, Closed} {
		if count[k] > count[best] {
			best = k
		}
	}
	return best
}

// nextChange is when the first evidence ages out or settles.
func nextChange(now time.Time, w Windows, votes []Vote, t table) time.Duration {
	var next time.Duration
	for _, s := range t {
		if age := s.later(now).Age; age <= w.Freshness {
			next = soonest(next, w.Freshness-age+time.Microsecond)
		}
	}
	for _, v := range votes {
		next = soonest(next, v.ripens)
	}
	return next
}

// soonest is the smaller of two waits, where 0 means none.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}
