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
	own  own
	// spared: it would be Failed if its own agent were not answered.
	spared bool
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
	lastGood time.Duration // negative: never
	ripens   time.Duration // after which the accusation counts; 0: it does, or waits for something else
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
// unanswered probe included. When it says that the disk takes no writes, a
// write of another member that hangs counts at once. The majority is not
// waived.
func judge(now time.Time, w Windows, registered []topology.NodeName, subject topology.NodeName, t table) Judgement {
	return weigh(now, w, registered, subject, t).explained()
}

// weigh is judge without the words, for the many times nobody reads them.
func weigh(now time.Time, w Windows, registered []topology.NodeName, subject topology.NodeName, t table) Judgement {
	j := Judgement{Subject: subject, At: now, LastGood: lastGood(now, t), Needed: majority(registered)}
	j.Votes = make([]Vote, 0, len(registered))
	if slices.Contains(registered, subject) {
		j.own = ownWord(now, w, subject, t)
	}
	for _, observer := range registered {
		j.Votes = append(j.Votes, castVote(now, w, observer, subject, t, j.own))
	}
	j.decide()
	j.next = nextChange(now, w, j.Votes, t)
	j.heedOwnAgent(now, w, t)
	j.name(now, w, registered, t)
	j.correctLastGood()
	return j
}

// own is what its own agent says of an instance besides its answers to probes.
type own struct {
	exited    *Evidence // the process ended, and its agent got no answer since
	disk      *Evidence // a fault of the disk
	writes    bool      // its agent's own writes are done
	loaded    bool      // it is saturated, and its disk is well
	starved   *Evidence
	isolated  *Evidence
	restarted *Evidence
}

func ownWord(now time.Time, w Windows, subject topology.NodeName, t table) own {
	recent := func(g group) *Evidence {
		ev, ok := t.find(now, subject, g)
		// Slow or not: a process has ended, and a count has not moved. And who
		// hears nobody always takes itself for slow.
		slow := ev.Slow && (g == groupDisk || g == groupWrite)
		if !ok || ev.Age > w.Freshness || slow {
			return nil
		}
		return &ev
	}
	var o own
	if ev, ok := standingExit(now, w, subject, t); ok {
		o.exited = &ev
	} else if ev := recent(groupProcess); ev != nil && ev.Kind == Restarted && ev.Since < restartIsNews {
		o.restarted = ev
	}
	if ev := recent(groupDisk); ev != nil && ev.Kind.Bad() {
		o.disk = ev
	}
	if ev := recent(groupWrite); ev != nil {
		o.writes = ev.Kind == Writes
	}
	if probe, disk := recent(groupProbe), recent(groupDisk); probe != nil && disk != nil {
		o.loaded = probe.Kind == Saturated && disk.Kind == DiskWell
	}
	o.starved, o.isolated = recent(groupAcks), recent(groupIsolation)
	return o
}

// restartIsNews is how long a server that came back in place is said to be one.
const restartIsNews = 30 * time.Second

// heedOwnAgent keeps time-outs of others from failing an instance that answers
// its own agent, which we hear: then the hosts or the network between are
// slow, not the instance. The answer must be younger than two of its time-outs,
// so that a host that fell silent is not spared for longer than it takes the
// others to notice. A lost receiver is one more time-out: no heartbeat came, or
// its next connection is not made yet. Broken and refused connections of probes
// are no matter of time.
//
// It spares nothing that is cut off: see cutOff.
func (j *Judgement) heedOwnAgent(now time.Time, w Windows, t table) {
	limit := 2 * w.Timeout
	if j.Verdict != topology.Failed {
		return
	}
	own := slices.IndexFunc(j.Votes, func(v Vote) bool { return v.Observer == j.Subject && v.For })
	timed := !slices.ContainsFunc(j.Votes, func(v Vote) bool {
		return v.Against && v.Kind != Frozen && v.Kind != SilentHost && v.Kind != ReceiverLost
	})
	if own < 0 || !timed {
		return
	}
	if j.cutOff(now, w, t) {
		j.Cause = CutOff
		return
	}
	if age := j.Votes[own].Age; age <= limit {
		j.Verdict, j.spared = topology.Suspect, true
		j.next = soonest(j.next, limit-age+time.Microsecond)
		j.next = soonest(j.next, max(0, w.Starved-j.stood()))
	}
}

// stood is for how long as many as are needed have been against it.
func (j *Judgement) stood() time.Duration {
	var all []time.Duration
	for _, v := range j.Votes {
		if v.Against {
			all = append(all, v.standing)
		}
	}
	slices.Sort(all)
	return all[len(all)-j.Needed]
}

// cutOff tells whether an instance that a majority gets no answer from is of
// use to nobody although its own agent is answered: its agent says that for a
// while its commits have had no acknowledgement or that it has heard no
// majority itself, or each replica that we hear of has lost it. Slow hosts and networks do none of that:
// acknowledgements and heartbeats come late, but they come.
//
// The majority must have had no answer for as long: where many packets are lost
// commits may starve for a moment, and time-outs be there at the same moment,
// but in between somebody is answered.
func (j *Judgement) cutOff(now time.Time, w Windows, t table) bool {
	if j.stood() < w.Starved {
		return false
	}
	if j.own.starved != nil || j.own.isolated != nil && j.own.isolated.Since >= w.Starved {
		return true
	}
	lost := false
	for _, s := range t {
		ev := s.later(now)
		if ev.Kind.group() != groupReceiver || ev.Age > w.Freshness || ev.Slow {
			continue
		}
		if ev.Kind == ReceiverOn || ev.Since < w.Settle {
			return false
		}
		lost = true
	}
	return lost
}

// name finds the cause of a verdict where the votes do not tell it.
func (j *Judgement) name(now time.Time, w Windows, registered []topology.NodeName, t table) {
	switch {
	case j.Verdict == topology.Failed && j.own.disk != nil && writeFault(j.Cause):
		j.Cause = j.own.disk.Kind
	case j.Verdict != topology.Healthy:
	case j.own.isolated != nil:
		j.Verdict, j.Cause, j.FirstBad = topology.Suspect, Isolated, j.own.isolated.Since
	case j.own.starved != nil:
		j.Verdict, j.Cause, j.FirstBad = topology.Suspect, Starved, j.own.starved.Since
	case memberGone(now, w, registered, j.Subject, t):
		j.Cause = AgentGone
	case j.own.restarted != nil:
		j.Cause = Restarted
		j.next = soonest(j.next, restartIsNews-j.own.restarted.Since)
	}
}

// writeFault tells whether a cause is of an instance that answers, and cannot
// write.
func writeFault(k Kind) bool { return k.group() == groupWrite || k.group() == groupDisk }

// correctLastGood: an instance that cannot write, or that only its own agent
// reaches, answers somebody all the time. When it last worked is what those say
// who are against it.
func (j *Judgement) correctLastGood() {
	if j.Verdict != topology.Failed || j.Cause != CutOff && !writeFault(j.Cause) {
		return
	}
	j.LastGood = -1
	for _, v := range j.Votes {
		if v.Against && v.lastGood >= 0 && (j.LastGood < 0 || v.lastGood < j.LastGood) {
			j.LastGood = v.lastGood
		}
	}
	if j.LastGood < 0 {
		j.LastGood = j.FirstBad
	}
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
		if slices.ContainsFunc(j.Votes, func(v Vote) bool { return v.Kind == Saturated }) {
			j.Cause = Saturated // those who came in by the reserved connection do not notice
		}
	}
}
