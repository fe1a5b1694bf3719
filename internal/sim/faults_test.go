package sim

import (
	"cmp"
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
	// on: it strikes, from at on, when the nth call begins (or ends, if after)
	// that is about this; empty: it strikes at once.
	on    string
	after bool
	nth   int
}

func (f fault) String() string {
	s := fmt.Sprintf("%6.3f s: %s, for %.3f s (%d %d %v)", f.at.Seconds(), f.kind, f.length.Seconds(), f.a, f.b, f.coin)
	if f.on != "" {
		when := map[bool]string{false: "begins", true: "ends"}[f.after]
		s += fmt.Sprintf(", when %q %s, time %d", f.on, when, f.nth)
	}
	return s
}

type faultKind int

const (
	killServer faultKind = iota
	killReplica
	killPrimary
	killCandidate
	freezeServer
	freezePrimary
	freezeCandidate
	killAgent
	killLeader
	freezeAgent
	freezeLeader
	killHost
	killPrimaryHost
	cutHost
	cutPrimary
	cutOneWay
	cutSource
	cutAllButOne
	cutAgents
	cutLeader
	cutStore
	cutPrimaryOff
	storeDown
	storeHangs
	storeFlaky
	stealLead
	staleWatch
	slowServer
	hangServer
	hangPrimary
	diskFull
	slowApplier
	slowNetwork
	switchover
	politeStop
	losePromise
	breakStreams
	restartUnder
	faultKinds
)

func (k faultKind) String() string {
	return [...]string{
		"kill a server", "kill a replica's server", "kill the primary's server", "kill the candidate's server",
		"freeze a server", "freeze the primary's server", "freeze the candidate's server",
		"kill an agent", "kill the leader", "freeze an agent", "freeze the leader", "kill a host", "kill the primary's host",
		"cut a host off", "cut the primary's host off", "cut one way of a host", "cut a replica from its source", "cut all replicas but one from the primary",
		"cut two agents", "cut the leader from an agent", "cut an agent from the store",
		"cut the primary's host from all but replicas and its own clients",
		"store without quorum", "a member of the store hangs", "store loses answers", "leadership moves", "a watch delivers nothing", "slow statements",
		"statements hang", "statements hang on the primary", "disk full", "slow applier", "slow network", "switchover",
		"polite stop", "promise file lost", "replication connections break",
		"restart the candidate's server while its agent is frozen",
	}[k]
}

// What begins an incident, what may come on top of it, and at which moments.
var (
	leading = []faultKind{
		killPrimary, killPrimary, freezePrimary, cutPrimaryOff, cutPrimaryOff, cutPrimaryOff, cutPrimary, killPrimaryHost,
		hangPrimary, switchover, switchover, politeStop,
	}
	following = []faultKind{
		killServer, killCandidate, freezeServer, freezeCandidate, killLeader, freezeLeader, freezeLeader, killHost, cutHost, cutOneWay,
		cutSource, cutSource, cutAgents, cutLeader, cutLeader, storeDown, storeHangs, storeFlaky, stealLead, stealLead, staleWatch, slowServer,
		slowApplier, slowNetwork, killAgent, losePromise, killPrimary, cutPrimaryOff, diskFull, diskFull,
	}
	moments = []string{
		"update state", "update state", "freeze", "freeze", "follow", "follow", "promote", "catch up", "close", "route",
		"stop receiver", "start replica", "point", "arm", "write marker", "open", "verify", "update ledger", "reset replica", "restart", "clone",
	}
)

// schedule draws the faults of a seed: a few incidents, each of which is
// something that moves the primary and what goes wrong in its course, and some
// kinds of faults in between, so that each seed has its own mixture.
func schedule(draw *rand.Rand, length time.Duration) []fault {
	pick := func(kinds []faultKind) faultKind { return kinds[draw.IntN(len(kinds))] }
	anew := func(kind faultKind, at, mean time.Duration) fault {
		return fault{
			at: at, length: 50*time.Millisecond + time.Duration(draw.ExpFloat64()*float64(mean)),
			kind: kind, a: draw.IntN(60), b: draw.IntN(60), coin: draw.IntN(2) == 0,
		}
	}
	var faults []fault
	for range 1 + draw.IntN(3) {
		at := time.Duration(draw.Int64N(int64(length * 3 / 4)))
		switch draw.IntN(12) {
		case 0, 1:
			faults = append(faults, forgetting(draw, at)...)
			continue
		case 2:
			faults = append(faults, restarting(draw, at)...)
			continue
		}
		faults = append(faults, anew(pick(leading), at, 2500*time.Millisecond))
		for range draw.IntN(5) {
			f := anew(pick(following), at, 1500*time.Millisecond)
			if draw.IntN(3) > 0 {
				f.on, f.after, f.nth = moments[draw.IntN(len(moments))], draw.IntN(2) == 0, 1+draw.IntN(3)
			} else {
				f.at = max(0, f.at+time.Duration(draw.Int64N(int64(2*time.Second)))-500*time.Millisecond)
			}
			faults = append(faults, f)
		}
	}
	var others []faultKind
	for k := range faultKinds {
		if draw.IntN(100) < 15 {
			others = append(others, k)
		}
	}
	for range draw.IntN(6) {
		if len(others) > 0 {
			faults = append(faults, anew(pick(others), time.Duration(draw.Int64N(int64(length))), 1500*time.Millisecond))
		}
	}
	slices.SortStableFunc(faults, func(a, b fault) int { return cmp.Compare(a.at, b.at) })
	return faults
}

func milliseconds(draw *rand.Rand, least, most int) time.Duration {
	return time.Duration(least+draw.IntN(most-least)) * time.Millisecond
}

// restarting is an incident in which a new primary's server is restarted in the
// middle of its promotion, which its agent does not notice.
func restarting(draw *rand.Rand, at time.Duration) []fault {
	on := []string{"arm", "let in", "write marker"}[draw.IntN(3)]
	return []fault{
		{at: at, length: milliseconds(draw, 1500, 4000), kind: killPrimary},
		{at: at + time.Millisecond, length: milliseconds(draw, 150, 1000), kind: restartUnder, a: draw.IntN(60), on: on, after: true, nth: 1},
	}
}

// forgetting is an incident in which a replica alone acknowledges, has executed
// little of it, and loses the rest with its host, as the primary dies.
func forgetting(draw *rand.Rand, at time.Duration) []fault {
	a := draw.IntN(60)
	ms := func(least, most int) time.Duration { return milliseconds(draw, least, most) }
	return []fault{
		{at: at, length: ms(2000, 4000), kind: slowApplier, a: a},
		{at: at, length: ms(600, 2500), kind: cutAllButOne, a: a},
		{at: at + ms(300, 1500), length: ms(50, 900), kind: killReplica, a: a, coin: true},
		{at: at + ms(400, 2000), length: ms(1500, 6000), kind: killPrimary},
	}
}

// target says whom a fault strikes now.
func (w *world) target(f fault) (s *server, a *agent) {
	s, a = w.servers[f.a%len(w.servers)], w.agents[f.a%len(w.agents)]
	st := w.store.state
	switch f.kind {
	case killPrimary, freezePrimary, hangPrimary, killPrimaryHost, cutPrimary, cutPrimaryOff, politeStop:
		if st.Primary != nil {
			s = w.server(st.Primary.Node)
		}
		a = w.agent(s.name)
	case slowApplier, killReplica, cutAllButOne: // of a replica
		if st.Primary != nil && s.name == st.Primary.Node {
			s = w.servers[(f.a+1)%len(w.servers)]
		}
	case killCandidate, freezeCandidate, restartUnder:
		if st.Operation != nil && st.Operation.To != "" {
			s = w.server(st.Operation.To)
		}
	case killLeader, freezeLeader, cutLeader, switchover:
		if w.store.leader != "" {
			a = w.agent(w.store.leader)
		}
	}
	return s, a
}

// strike makes a fault happen and returns what ends it.
func (w *world) strike(f fault) (heal func()) {
	l := w.loop
	s, a := w.target(f)
	other := w.agents[f.b%len(w.agents)]
	l.trace.note(l.now(), "FAULT", f.kind.String(), string(s.name), string(a.name), string(other.name))
	switch f.kind {
	case killServer, killReplica, killPrimary, killCandidate:
		s.kill()
		return func() { s.start(f.coin) }
	case politeStop:
		return w.stopPolitely(s, f.coin)
	case freezeServer, freezePrimary, freezeCandidate:
		s.frozen = s.up
		return s.thaw
	case killAgent, killLeader:
		a.kill()
		return a.start
	case restartUnder:
		s.kill()
		l.later(50*time.Millisecond, 100*time.Millisecond, func() { s.start(false) })
		proc := w.agent(s.name).proc
		proc.frozen = !proc.dead
		return func() { l.thaw(proc) }
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
	case killHost, killPrimaryHost:
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
		w.switchover(a, w.servers[f.b%len(w.servers)].name, f.coin)
		return func() {}
	case stealLead:
		was := w.store.leader
		w.steal(other)
		return func() {
			if f.coin && was != "" { // and back
				w.steal(w.agent(was))
			}
		}
	}
	return w.strikeMore(f, s, a, other)
}

// stopPolitely stops a server as the product's stop hook does, in half of the
// cases while its commits wait for replicas that do not hear of it.
func (w *world) stopPolitely(s *server, unheard bool) (heal func()) {
	mend, rest, healed := func() {}, func() {}, false
	if unheard {
		mend = w.net.cut(around(s.name, w.hosts(), replication))
	}
	w.loop.later(20*time.Millisecond, 200*time.Millisecond, func() {
		if !healed {
			rest = s.stopPolitely()
			w.loop.later(10*time.Millisecond, 50*time.Millisecond, rest)
		}
	})
	return func() {
		healed = true
		rest()
		mend()
		s.start(false)
	}
}

func (w *world) steal(a *agent) {
	if !w.store.down && !a.proc.dead {
		w.store.lead(a.name)
	}
}

func (w *world) strikeMore(f fault, s *server, a, other *agent) (heal func()) {
	host := []topology.NodeName{a.name}
	every := []traffic{orders, replication, storage, sessions, gossip}
	switch f.kind {
	case cutHost, cutPrimary:
		return w.net.cut(around(a.name, w.hosts(), every...))
	case cutOneWay:
		if f.coin {
			return w.net.cut(waysBetween(host, w.hosts(), false, every...))
		}
		return w.net.cut(waysBetween(w.hosts(), host, false, every...))
	case cutPrimaryOff:
		return w.net.cut(around(a.name, w.hosts(), [][]traffic{
			{orders, storage, sessions, gossip}, {orders, storage, sessions, gossip}, {storage, sessions, gossip}, {sessions, gossip},
		}[f.b%4]...))
	case cutSource:
		return w.net.cut(around(s.name, w.hosts(), replication))
	case cutAllButOne:
		return w.net.cut(w.waysToOthers(s))
	case cutAgents, cutLeader:
		return w.net.cut(waysBetween(host, []topology.NodeName{other.name}, f.coin, orders, gossip))
	case cutStore:
		return w.net.cut(waysBetween(host, []topology.NodeName{storeHost}, true, storage))
	case storeDown:
		w.store.lose()
		back := w.check.storeAway()
		return func() { w.store.regain(); back() }
	case storeHangs:
		m := f.a % storeMembers
		w.store.hangs[m] = true
		return func() { delete(w.store.hangs, m) }
	case storeFlaky:
		w.store.lost = 30
		return func() { w.store.lost = 0 }
	case staleWatch:
		a.deaf = true
		return func() { a.deaf = false }
	case slowServer:
		s.slow = 3000
		return func() { s.slow = 0 }
	case hangServer, hangPrimary:
		s.hang = true
		return func() { s.hang = false; s.changed() }
	case diskFull:
		s.full = true
		return func() { s.full = false; s.changed() }
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

// waysToOthers are the replication connections of the primary but that of one
// replica.
func (w *world) waysToOthers(but *server) []way {
	p := w.store.state.Primary
	if p == nil {
		return nil
	}
	var others []topology.NodeName
	for _, s := range w.servers {
		if s != but && s.name != p.Node {
			others = append(others, s.name)
		}
	}
	return waysBetween([]topology.NodeName{p.Node}, others, true, replication)
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
		fmt.Fprintf(&b, "    %s\n", f)
	}
	return b.String()
}
