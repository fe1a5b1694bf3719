package sim

import (
	"time"

	"interrex/failover"
	"interrex/internal/topology"
)

// watchtower is what an agent knows of the others: when each of them last
// answered each of them, as far as evidence arrived here. It belongs to the
// loop.
type watchtower struct {
	w    *world
	self topology.NodeName
	// seen[observer][subject]; heard[observer] is when that observer's
	// evidence last came.
	good, asked map[topology.NodeName]map[topology.NodeName]time.Duration
	heard       map[topology.NodeName]time.Duration
}

const (
	probeEvery = 200 * time.Millisecond
	failAfter  = 550 * time.Millisecond
	freshness  = time.Second
)

func newWatchtower(w *world, self topology.NodeName) *watchtower {
	return &watchtower{
		w: w, self: self, heard: map[topology.NodeName]time.Duration{},
		good:  map[topology.NodeName]map[topology.NodeName]time.Duration{},
		asked: map[topology.NodeName]map[topology.NodeName]time.Duration{},
	}
}

// look is one round of probes of one agent, and the gossip of it.
func (a *agent) look() {
	w, l := a.w, a.w.loop
	l.after(l.between(probeEvery-20*time.Millisecond, probeEvery+20*time.Millisecond), a.look)
	if a.proc.dead || a.proc.frozen {
		return
	}
	w.told.Lock()
	defer w.told.Unlock()
	t := a.tower
	if t.good[a.name] == nil {
		t.good[a.name] = map[topology.NodeName]time.Duration{}
		for _, s := range w.servers {
			t.good[a.name][s.name] = l.now()
		}
	}
	t.heard[a.name] = l.now()
	for _, s := range w.servers {
		if s.alive() && !s.hang && !w.net.cutEither(sessions, a.name, s.name) {
			t.good[a.name][s.name] = l.now()
		}
	}
	for _, b := range w.agents {
		if b == a || b.proc.dead || b.proc.frozen || w.net.blocked(gossip, a.name, b.name) {
			continue
		}
		b.tower.heard[a.name] = l.now()
		if b.tower.good[a.name] == nil {
			b.tower.good[a.name] = map[topology.NodeName]time.Duration{}
		}
		for n, at := range t.good[a.name] {
			b.tower.good[a.name][n] = at
		}
	}
}

// Judge implements failover.Detector: Failed when a majority of the members has
// had no answer for a while.
func (t *watchtower) Judge(name topology.NodeName) failover.Judgement {
	t.w.told.Lock()
	defer t.w.told.Unlock()
	now := t.w.loop.now()
	j := failover.Judgement{Subject: name, Verdict: topology.Unknown, At: time.Now(), LastGood: time.Hour, Explanation: "too little is known"}
	against, known := 0, 0
	for _, m := range t.w.members {
		at, ok := t.good[m.Name][name]
		if !ok || now-t.heard[m.Name] > freshness {
			continue
		}
		known++
		j.LastGood = min(j.LastGood, now-at)
		if now-at > failAfter {
			against++
		}
	}
	switch {
	case against*2 > len(t.w.members):
		j.Verdict, j.Explanation, j.Cause, j.FirstBad = topology.Failed, "it does not answer the majority", "query timed out", failAfter
	case known > 0:
		j.Verdict, j.Explanation = topology.Healthy, "it answers"
	}
	return j
}

// MemberFailed implements failover.Detector. What the others think of a member
// is not known here; that this one has not heard of it is what there is.
func (t *watchtower) MemberFailed(name topology.NodeName) bool {
	t.w.told.Lock()
	defer t.w.told.Unlock()
	now, gone, fresh := t.w.loop.now(), 0, 0
	for _, a := range t.w.agents {
		if now-t.heard[a.name] > freshness {
			continue
		}
		fresh++
		if now-a.tower.heard[name] > freshness {
			gone++
		}
	}
	return gone*2 > len(t.w.members)
}
