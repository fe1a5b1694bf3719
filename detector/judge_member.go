package detector

import (
	"time"

	"interrex/internal/topology"
)

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
	j.Votes = make([]Vote, 0, len(registered))
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

// memberGone tells whether a strict majority see a member gone: for the verdict
// on its instance.
func memberGone(now time.Time, w Windows, registered []topology.NodeName, member topology.NodeName, t table) bool {
	gone := 0
	for _, observer := range registered {
		ev, ok := t.find(now, observer, groupMember)
		if ok && observer != member && ev.Age <= w.Freshness && ev.Kind.Bad() && !ev.Slow {
			gone++
		}
	}
	return gone >= majority(registered)
}
