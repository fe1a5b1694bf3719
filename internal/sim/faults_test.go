package sim

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"interrex/internal/topology"
)

// fault is one thing that goes wrong, for a while. The whole schedule of a seed
// is drawn before it is run, so that a failing one can be run without some of
// its faults.
type fault struct {
	at, length time.Duration
	kind       faultKind
	a, b       int // whom it strikes, drawn; modulo how many there are
	coin       bool
}

func (f fault) String() string {
	return fmt.Sprintf("%s at %s for %s (%d, %d, %v)", f.kind, f.at.Round(time.Millisecond), f.length.Round(time.Millisecond), f.a, f.b, f.coin)
}

type faultKind int

const (
	killServer faultKind = iota
	killPrimary
	freezeServer
	freezePrimary
	killAgent
	killLeader
	freezeAgent
	freezeLeader
	killHost
	cutHost
	cutOneWay
	cutSource
	cutAgents
	cutStore
	cutPrimaryOff
	storeDown
	storeFlaky
	stealLead
	staleWatch
	slowServer
	hangServer
	diskFull
	slowApplier
	slowNetwork
	switchover
	politeStop
	losePromise
	breakStreams
	faultKinds
)

func (k faultKind) String() string {
	return [...]string{
		"kill a server", "kill the primary's server", "freeze a server", "freeze the primary's server", "kill an agent",
		"kill the leader", "freeze an agent", "freeze the leader", "kill a host", "cut a host off", "cut one way of a host",
		"cut a replica from its source", "cut two agents", "cut an agent from the store", "cut the primary's host from all but clients",
		"store without quorum", "store loses answers", "leadership moves", "a watch delivers nothing", "slow statements",
		"statements hang", "disk full", "slow applier", "slow network", "switchover", "polite stop", "promise file lost", "replication connections break",
	}[k]
}

// schedule draws the faults of a seed: a few kinds of them, so that each seed
// has its own mixture.
func schedule(draw *rand.Rand, length time.Duration) []fault {
	var kinds []faultKind
	for k := range faultKinds {
		if draw.IntN(100) < 30 {
			kinds = append(kinds, k)
		}
	}
	if len(kinds) == 0 {
		kinds = append(kinds, killPrimary)
	}
	n := 3 + draw.IntN(12)
	var faults []fault
	for range n {
		faults = append(faults, fault{
			at: time.Duration(draw.Int64N(int64(length))), length: 50*time.Millisecond + time.Duration(draw.ExpFloat64()*float64(1500*time.Millisecond)),
			kind: kinds[draw.IntN(len(kinds))], a: draw.IntN(1 << 20), b: draw.IntN(1 << 20), coin: draw.IntN(2) == 0,
		})
	}
	slices.SortFunc(faults, func(a, b fault) int { return int(a.at - b.at) })
	return faults
}

// strike makes a fault happen and returns what ends it.
func (w *world) strike(f fault) (heal func()) {
	l := w.loop
	s, a := w.servers[f.a%len(w.servers)], w.agents[f.a%len(w.agents)]
	other := w.agents[f.b%len(w.agents)]
	primary := s
	if p := w.store.state.Primary; p != nil {
		primary = w.server(p.Node)
	}
	leader := a
	if w.store.leader.Holder != "" {
		leader = w.agent(w.store.leader.Holder)
	}
	switch f.kind {
	case killPrimary, freezePrimary:
		s = primary
	case killLeader, freezeLeader:
		a = leader
	}
	l.trace.note(l.now(), "FAULT", f.String(), string(s.name), string(a.name))
	switch f.kind {
	case killServer, killPrimary:
		s.kill()
		return func() { s.start(f.coin) }
	case politeStop:
		// As the product's stop hook does it: sessions first.
		s.endSessions()
		l.later(10*time.Millisecond, 50*time.Millisecond, s.kill)
		return func() { s.start(false) }
	case freezeServer, freezePrimary:
		s.frozen = s.up
		return s.thaw
	case killAgent, killLeader:
		a.kill()
		return a.start
	case freezeAgent, freezeLeader:
		if a.proc.dead {
			return func() {}
		}
		proc := a.proc
		proc.frozen = true
		return func() { l.thaw(proc) }
	case losePromise:
		a.kill()
		_ = os.Remove(a.promiseFile())
		return a.start
	case killHost:
		a.kill()
		if a.server != nil {
			a.server.kill()
		}
		heal := w.net.cut(around(a.name, w.hosts(), orders, replication, storage, sessions, gossip))
		return func() {
			heal()
			if a.server != nil {
				a.server.start(f.coin)
			}
			a.start()
		}
	case switchover:
		w.switchover(leader, w.servers[f.b%len(w.servers)].name, f.coin)
		return func() {}
	case stealLead:
		if !w.store.down && !other.proc.dead {
			w.store.lead(other.name)
		}
		return func() {}
	}
	return w.strikeOther(f, s, primary, a, other)
}

func (w *world) strikeOther(f fault, s, primary *server, a, other *agent) (heal func()) {
	host := []topology.NodeName{a.name}
	switch f.kind {
	case cutHost:
		return w.net.cut(around(a.name, w.hosts(), orders, replication, storage, sessions, gossip))
	case cutOneWay:
		if f.coin {
			return w.net.cut(waysBetween(host, w.hosts(), false, orders, replication, storage, sessions, gossip))
		}
		return w.net.cut(waysBetween(w.hosts(), host, false, orders, replication, storage, sessions, gossip))
	case cutPrimaryOff:
		return w.net.cut(around(primary.name, w.hosts(), orders, storage, gossip, sessions)[f.b%2:])
	case cutSource:
		return w.net.cut(around(s.name, w.hosts(), replication))
	case cutAgents:
		return w.net.cut(waysBetween(host, []topology.NodeName{other.name}, f.coin, orders, gossip))
	case cutStore:
		return w.net.cut(waysBetween(host, []topology.NodeName{storeHost}, true, storage))
	case storeDown:
		w.store.down = true
		return func() { w.store.down = false }
	case storeFlaky:
		was := w.store.lost
		w.store.lost = 30
		return func() { w.store.lost = was }
	case staleWatch:
		r := a.registry
		r.deaf = true
		return func() { r.deaf = false }
	case slowServer:
		s.slow = 3000
		return func() { s.slow = 0 }
	case hangServer:
		s.hang = true
		return func() { s.hang = false; s.changed() }
	case diskFull:
		s.stall = true
		return func() { s.stall = false; s.changed() }
	case slowApplier:
		s.slowApps = true
		return func() { s.slowApps = false }
	case slowNetwork:
		w.net.slow = 2000
		return func() { w.net.slow = 0 }
	case breakStreams:
		s.hangUp()
		s.dropReceivers()
		return func() {}
	}
	panic(fmt.Sprint("no such fault: ", int(f.kind)))
}

// switchover is an operator's order to whoever leads.
func (w *world) switchover(leader *agent, to topology.NodeName, best bool) {
	if leader.proc.dead {
		return
	}
	if best {
		to = ""
	}
	ctx, control := onBehalf(leader.ctx, "operator"), leader.control
	w.wg.Go(func() { _, _ = control.Switchover(ctx, to) })
}

func describeFaults(faults []fault) string {
	var b strings.Builder
	for _, f := range faults {
		fmt.Fprintf(&b, "  %s\n", f)
	}
	return b.String()
}
