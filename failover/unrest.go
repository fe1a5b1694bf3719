package failover

import (
	"fmt"
	"time"

	"interrex/election"
	"interrex/internal/topology"
)

// This file is about what keeps happening: failovers one after another, which a
// link or a host that comes and goes can cause, and a server that crashes again
// and again. What has happened is counted in the record, in the change that
// records the new primary, so that every later leader knows. For how long
// nothing was added is known to each member by its own monotonic clock, from
// when it saw the count; one that has just started waits too long rather than
// too short. No wall clock counts.

// calm measures for how long the count of unrest has been the same.
type calm struct {
	epoch topology.Epoch
	from  time.Time
}

func (c *calm) since(now time.Time, u *election.Unrest) time.Duration {
	var epoch topology.Epoch
	if u != nil {
		epoch = u.Epoch
	}
	if c.from.IsZero() || c.epoch != epoch {
		c.epoch, c.from = epoch, now
	}
	return now.Sub(c.from)
}

// crash remembers that the primary's process was seen to end: the evidence of
// it goes when the next process starts, which may take long to answer.
type crash struct {
	node topology.NodeName
	at   time.Time
}

func (c *crash) since(now time.Time, j Judgement) time.Duration {
	if j.Verdict == topology.Healthy || c.node != j.Subject {
		c.node, c.at = j.Subject, time.Time{}
	}
	if c.at.IsZero() && j.provenDead() {
		c.at = now.Add(-j.FirstBad)
	}
	if c.at.IsZero() {
		return 0
	}
	return max(now.Sub(c.at), 1)
}

// provenDead tells whether the primary's server process was seen to end by its
// own agent, and has not served since.
func provenDead(v View) bool { return v.Crashed > 0 || v.Primary.provenDead() }

// closedInPlace tells whether the recorded primary's own agent says that it
// refuses writes.
func closedInPlace(v View) bool {
	p := v.State.Primary
	n, ok := v.Nodes[p.Node]
	return ok && n.Instance != nil && n.Instance.ServerUUID == p.ServerUUID && n.Instance.SuperReadOnly
}

// restartedInPlace tells whether the recorded, open primary was restarted: it
// is closed, and in a process in which it has never served.
func restartedInPlace(v View) bool {
	return v.State.Primary.Phase == election.Open && closedInPlace(v) && !v.Nodes[v.State.Primary.Node].Certified
}

// counted is the unrest that still counts.
func counted(v View, p Policy) election.Unrest {
	if v.State.Unrest == nil || v.Calm >= p.FlapWindow {
		return election.Unrest{}
	}
	return *v.State.Unrest
}

// nextUnrest is the count once primary is recorded. A failover away from a
// primary that is proven dead is no flapping: that one cannot come back as what
// it was.
func nextUnrest(u *election.Unrest, plan Plan, primary election.Primary) *election.Unrest {
	var next election.Unrest
	if u != nil && plan.Calm < plan.Policy.FlapWindow {
		next = *u
	}
	before := next
	switch moved := primary.Node != plan.From; {
	case moved:
		next.Restarts = 0 // another server
		if plan.Kind == election.Failover && !plan.Proven {
			next.Failovers++
		}
	case plan.Restarted:
		next.Restarts++
	}
	if next.Failovers > before.Failovers || next.Restarts > before.Restarts {
		next.Epoch = primary.Epoch
	}
	if next.Failovers == 0 && next.Restarts == 0 {
		return nil
	}
	return &next
}

// unrestGates say what slows automatic failovers down. They are never in the
// way of an operation that has to be finished.
func unrestGates(v View, p Policy) []Gate {
	gate := func(name, open, shut string) Gate {
		g := Gate{Name: name, Operation: election.Failover, Open: shut == "", Reason: open}
		if !g.Open {
			g.Reason = shut
		}
		return g
	}
	return []Gate{
		gate(gateCooled, "no failover ended a short while ago", coolingDown(v, p)),
		gate(GateFlapping, "failovers do not follow one another", flapping(v, p)),
		gate(gateGrace, "no crashed server is being waited for", graceLeft(v, p)),
	}
}

// heldByUnrest is the gate that holds an automatic failover back; nil if none
// does.
func heldByUnrest(v View, p Policy) *Gate {
	for _, g := range unrestGates(v, p) {
		if !g.Open {
			return &g
		}
	}
	return nil
}

// coolingDown says why the next failover has to wait, if it has. A primary that
// is proven dead waits for nothing.
func coolingDown(v View, p Policy) string {
	u := counted(v, p)
	if p.FlapLimit == 0 || u.Failovers == 0 || u.Failovers >= p.FlapLimit || provenDead(v) || unfinished(v.State) {
		return ""
	}
	wait := p.FlapCooldown << (u.Failovers - 1)
	if v.Calm >= wait {
		return ""
	}
	return fmt.Sprintf("a failover away from a server that was not proven dead was %s ago (epoch %d): the next waits until it is %s, unless the process is seen to end",
		v.Calm.Round(time.Second), u.Epoch, wait)
}

// flapping says why no failover runs by itself any more, if so.
func flapping(v View, p Policy) string {
	u := counted(v, p)
	if p.FlapLimit == 0 || u.Failovers < p.FlapLimit || provenDead(v) || unfinished(v.State) {
		return ""
	}
	return fmt.Sprintf("%d failovers (the last in epoch %d) away from servers that were not proven dead, each within %s of the one before: find out why (interrex explain), then let automation go on with interrex resume; it goes on by itself %s after the last",
		u.Failovers, u.Epoch, p.FlapWindow, p.FlapWindow)
}

// graceLeft says that a crashed server is given time to come back, if it is.
func graceLeft(v View, p Policy) string {
	if !p.RestartFirst || !provenDead(v) || unfinished(v.State) {
		return ""
	}
	if n := counted(v, p).Restarts; p.RestartLimit > 0 && n+1 >= p.RestartLimit {
		return ""
	}
	since := max(v.Crashed, v.Primary.FirstBad)
	if since >= p.RestartGrace {
		return ""
	}
	return fmt.Sprintf("the server's process ended %s ago, and it is given %s to come back in place (failover.on_crash: restart_first)",
		since.Round(time.Millisecond), p.RestartGrace)
}

// crashLoop says why a primary that has restarted in place is not opened once
// more, if another server can take over from it.
func crashLoop(v View, p Policy) string {
	u := counted(v, p)
	if p.RestartLimit == 0 || u.Restarts+1 < p.RestartLimit || !restartedInPlace(v) {
		return ""
	}
	sv := withoutOld(expectedSurvey(v), *v.State.Primary)
	_, _, err := chooseCandidate(sv, choosePolicy{kind: election.Failover, from: v.State.Primary.Node, minFollowers: p.minAcks(), policy: p})
	if !sv.proven() || err != nil {
		return "" // better it than nobody
	}
	return fmt.Sprintf("%s has restarted in place %d times, each within %s of the one before", v.State.Primary.Node, u.Restarts+1, p.FlapWindow)
}
