package detector

import (
	"slices"
	"time"

	"interrex/internal/topology"
)

// Judgement is a verdict with all it rests on.
type Judgement struct {
	Subject topology.NodeName `json:"subject"`
	Verdict topology.Verdict  `json:"verdict"`
	// Cause is the kind that decided; empty while Unknown.
	Cause Kind `json:"cause"`
	// Explanation is one sentence: who saw what how long ago, and what is
	// missing.
	Explanation string `json:"explanation"`
	// LastGood is how long ago any observer last knew it to work; negative if
	// none ever did.
	LastGood time.Duration `json:"last_good_ns"`
	// FirstBad is how long ago the oldest standing accusation began; 0 if
	// there is none.
	FirstBad time.Duration `json:"first_bad_ns"`
	At       time.Time     `json:"at"`
	// Votes holds one per registered member, in the order of registration.
	Votes []Vote `json:"votes"`
	// Needed is how many votes against make it Failed.
	Needed int `json:"needed"`

	// next is when time alone may change the verdict; 0: never.
	next time.Duration
}

// Vote is what one registered member's evidence comes to.
type Vote struct {
	Observer topology.NodeName `json:"observer"`
	Kind     Kind              `json:"kind"` // empty: silent
	Age      time.Duration     `json:"age_ns"`
	Against  bool              `json:"against"`
	For      bool              `json:"for"`
	// Why says why an accusation does not count.
	Why    string `json:"why,omitempty"`
	Detail string `json:"detail,omitempty"`

	standing time.Duration
}

// table is the evidence on one subject.
type table []seen

func (t table) find(now time.Time, observer topology.NodeName, g group) (Evidence, bool) {
	for _, s := range t {
		if s.Observer == observer && s.Kind.group() == g {
			return s.later(now), true
		}
	}
	return Evidence{}, false
}

// majority is the least number that is more than half.
func majority(registered []topology.NodeName) int { return len(registered)/2 + 1 }

// judge is the verdict on an instance. It is Failed only if a strict majority
// of the registered members have fresh evidence against it.
//
// When its own agent says that the server process exited, the waiting is
// waived: whatever another member has seen against it counts at once, an
// unanswered probe included. The majority is not waived.
func judge(now time.Time, w Windows, registered []topology.NodeName, subject topology.NodeName, t table) Judgement {
	return weigh(now, w, registered, subject, t).explained()
}

// weigh is judge without the words, for the many times nobody reads them.
func weigh(now time.Time, w Windows, registered []topology.NodeName, subject topology.NodeName, t table) Judgement {
	j := Judgement{Subject: subject, At: now, LastGood: lastGood(now, t), Needed: majority(registered)}
	exited := false
	if slices.Contains(registered, subject) {
		_, exited = standingExit(now, w, subject, t)
	}
	for _, observer := range registered {
		j.Votes = append(j.Votes, castVote(now, w, observer, subject, t, exited))
	}
	j.decide()
	j.next = nextChange(now, w, j.Votes, t)
	j.heedOwnAgent(w)
	return j
}

// heedOwnAgent keeps time-outs of others from failing an instance that answers
// its own agent, which we hear: then the hosts or the network between are
// slow, not the instance. The answer must be younger than two of its time-outs,
// so that a host that fell silent is not spared for longer than it takes the
// others to notice. Broken and refused connections are no matter of time.
func (j *Judgement) heedOwnAgent(w Windows) {
	limit := 2 * w.Timeout
	if j.Verdict != topology.Failed {
		return
	}
	own := slices.IndexFunc(j.Votes, func(v Vote) bool { return v.Observer == j.Subject && v.For && v.Age <= limit })
	timed := !slices.ContainsFunc(j.Votes, func(v Vote) bool {
		return v.Against && v.Kind != QueryTimedOut && v.Kind != ConnectTimedOut
	})
	if own >= 0 && timed {
		j.Verdict = topology.Suspect
		j.next = soonest(j.next, limit-j.Votes[own].Age+time.Microsecond)
	}
}

// judgeMember is the verdict on a member itself (its agent, that is). It is
// Failed only if a strict majority of the registered members see it gone by
// gossip and we have not heard of it ourselves within the freshness window.
// heard is how long ago that was; negative: never.
func judgeMember(now time.Time, w Windows, registered []topology.NodeName, member topology.NodeName, t table, heard time.Duration) Judgement {
	j := weighMember(now, w, registered, member, t, heard).explained()
	if j.Verdict == topology.Suspect && heard >= 0 && heard <= w.Freshness {
		j.Explanation += "; it was heard " + ago(heard) + " ago"
	}
	return j
}

// weighMember is judgeMember without the words.
func weighMember(now time.Time, w Windows, registered []topology.NodeName, member topology.NodeName, t table, heard time.Duration) Judgement {
	j := Judgement{Subject: member, At: now, LastGood: heard, Needed: majority(registered)}
	for _, observer := range registered {
		v := Vote{Observer: observer}
		if ev, ok := t.find(now, observer, groupMember); ok && observer != member {
			v = voteFrom(ev)
			switch {
			case ev.Age > w.Freshness:
				v = silent(observer, ev)
			case ev.Kind.Good():
				v.For = true
			case ev.Slow:
				v.Why = "says of itself that it is slow"
			default:
				v.Against = true
			}
		}
		j.Votes = append(j.Votes, v)
	}
	j.decide()
	heardOf := heard >= 0 && heard <= w.Freshness
	switch {
	case heardOf && j.Verdict == topology.Failed:
		j.Verdict = topology.Suspect
	case heardOf && j.Verdict == topology.Unknown:
		j.Verdict, j.Cause = topology.Healthy, MemberPresent
	}
	j.next = nextChange(now, w, j.Votes, t)
	if heardOf {
		j.next = soonest(j.next, w.Freshness-heard+time.Microsecond)
	}
	return j
}

// decide counts the votes.
func (j *Judgement) decide() {
	against, accused, pro := 0, false, 0
	for _, v := range j.Votes {
		switch {
		case v.Against:
			against++
		case v.For:
			pro++
		}
		if v.Kind.Bad() {
			accused = true
			j.FirstBad = max(j.FirstBad, v.standing)
		}
	}
	switch {
	case against >= j.Needed:
		j.Verdict = topology.Failed
		j.Cause = dominant(j.Votes, func(v Vote) bool { return v.Against })
	case accused:
		j.Verdict = topology.Suspect
		j.Cause = dominant(j.Votes, func(v Vote) bool { return v.Kind.Bad() })
	case pro > 0:
		j.Verdict = topology.Healthy
		j.Cause = dominant(j.Votes, func(v Vote) bool { return v.For })
	}
}

// castVote is what the evidence of one observer comes to.
func castVote(now time.Time, w Windows, observer, subject topology.NodeName, t table, exited bool) Vote {
	if observer == subject && exited {
		ev, _ := standingExit(now, w, subject, t)
		v := voteFrom(ev)
		v.Against = true
		return v
	}
	recent := func(g group) (Evidence, bool) {
		ev, ok := t.find(now, observer, g)
		return ev, ok && ev.Age <= w.Freshness
	}
	probe, answered := recent(groupProbe)
	waiting, waits := recent(groupPending)
	// A probe that waits speaks only beside an exit, and only until it ends.
	waits = waits && exited && (!answered || waiting.Round > probe.Round)
	if answered && !probe.Kind.Bad() {
		if waits {
			return accuse(w, waiting, exited)
		}
		v := voteFrom(probe)
		v.For = probe.Kind.Good()
		return v
	}
	var votes []Vote
	if answered {
		votes = append(votes, accuse(w, probe, exited))
	}
	if waits {
		votes = append(votes, accuse(w, waiting, exited))
	}
	if receiver, ok := recent(groupReceiver); ok && receiver.Kind.Bad() {
		votes = append(votes, accuse(w, receiver, exited))
	}
	if i := slices.IndexFunc(votes, func(v Vote) bool { return v.Against }); i >= 0 {
		return votes[i]
	}
	if len(votes) > 0 {
		return votes[0]
	}
	return silent(observer, probe)
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

// accuse weighs one accusation. exited: the own agent saw the process exit.
func accuse(w Windows, ev Evidence, exited bool) Vote {
	v := voteFrom(ev)
	switch {
	case exited && ev.Slow && ev.Kind.timeout():
		v.Why = "says of itself that it is slow"
	case exited:
		v.Against = true
	case ev.Slow:
		v.Why = "says of itself that it is slow"
	case ev.Kind.timeout() && ev.Misses < w.Misses:
		v.Why = "missed too few answers yet"
	case ev.Since < w.Settle:
		v.Why = "has not lasted long enough yet"
	default:
		v.Against = true
	}
	return v
}

func voteFrom(ev Evidence) Vote {
	return Vote{Observer: ev.Observer, Kind: ev.Kind, Age: ev.Age, Detail: ev.Detail, standing: ev.Since}
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
	for _, k := range []Kind{Refused, ConnectionBroken, QueryTimedOut, ConnectTimedOut, Unanswered,
		ReceiverLost, MemberGone, MemberLeft, Saturated, Alive, Closed} {
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
		if v.Kind.Bad() && !v.Against && v.standing < w.Settle {
			next = soonest(next, w.Settle-v.standing)
		}
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
