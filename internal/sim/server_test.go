package sim

import (
	"fmt"
	"math"
	"math/bits"
	"net"
	"slices"
	"strconv"
	"time"

	"interrex/dbrepl"
	"interrex/detector"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// server is one mysqld as far as replication, semi-sync and what a crash keeps
// or loses go (MYSQL.md). It belongs to the loop: nothing else touches it.
type server struct {
	w       *world
	index   int
	name    topology.NodeName
	uuid    string
	address string

	up     bool
	frozen bool // SIGSTOP: accepts, and does nothing
	boot   int
	held   []func() // what happens when it is thawed

	// Variables. A start sets them all to closed.
	superRO, readOnly bool
	armed             bool // semi-sync source
	k                 int
	timeout           time.Duration // after which a commit is answered all the same; 0: never
	ackerFlag         bool          // semi-sync replica, counts at the next start of the receiver
	// shut are the accounts that may not receive from here; a restart keeps them.
	shut map[string]bool

	executed  gtid.Set
	retrieved gtid.Set // in the relay log
	logged    gtid.Set // in the binary log: executed, and what waits
	next      int
	acked     uint64    // commits that were acknowledged since the start
	commits   []*commit // under way, in the order of the binary log
	marker    topology.Marker

	// Replication. source stays configured over a restart, running it does not.
	source     *server
	receiverOn bool
	applierOn  bool
	stream     *stream
	applying   bool
	waitingRO  []*closing

	// Faults.
	full     bool // nothing can be written to the disk, the binary log or the relay log
	stuck    bool // so the receiver waits in the middle of a write
	hang     bool // no statement returns
	slow     int  // percent by which statements take longer
	slowApps bool // the applier is far behind

	watched []func() bool // done when it returns true
}

// commit is one transaction on its way.
type commit struct {
	id     gtid.Set
	logged bool
	acks   uint64
	// released: it is answered all the same (SIGTERM).
	released bool
	marker   *topology.Marker
	// answer tells its session; nil once that is gone.
	answer func(err error)
	began  time.Duration
}

// closing is a SET super_read_only=ON that waits for commits under way.
type closing struct {
	super, read bool // as it was
	done        func()
}

// stream is one connected receiver. A broken one is replaced, never mended.
type stream struct {
	from, to *server
	acker    bool
	broken   bool
	killed   bool // by the source, which then reads nothing more from it
	sending  bool
	lastAt   time.Time // of the last delivery: they arrive in order
	ackAt    time.Time
}

func uuidOf(n int) string { return fmt.Sprintf("00000000-0000-0000-0000-%012d", n) }

func newServer(w *world, index int) *server {
	return &server{
		w: w, index: index, name: topology.NodeName(fmt.Sprintf("n%d", index)), uuid: uuidOf(index),
		address: "127.0.0.1:" + strconv.Itoa(3300+index), up: true, boot: 1, superRO: true, readOnly: true,
	}
}

func (s *server) alive() bool        { return s.up && !s.frozen }
func (s *server) writable() bool     { return s.up && !s.superRO && !s.readOnly }
func (s *server) received() gtid.Set { return s.executed.Union(s.retrieved) }
func (s *server) bootID() string     { return fmt.Sprintf("%s-%d", s.name, s.boot) }

// act does something on this server after d, unless it dies before; a frozen
// one does it when it is thawed.
func (s *server) act(d time.Duration, do func()) {
	boot := s.boot
	var run func()
	run = func() {
		switch {
		case !s.up || s.boot != boot:
		case s.frozen:
			s.held = append(s.held, run)
		default:
			do()
			s.changed()
		}
	}
	s.w.loop.after(d, run)
}

func (s *server) between(least, most time.Duration) time.Duration {
	return s.w.loop.between(least, most)
}

// changed lets go on what waited for a change here.
func (s *server) changed() {
	s.watched = slices.DeleteFunc(s.watched, func(done func() bool) bool { return done() })
	if len(s.waitingRO) > 0 && len(s.commits) == 0 {
		waiting := s.waitingRO
		s.waitingRO = nil
		for _, c := range waiting {
			c.done()
		}
	}
}

// Commits.

// write begins a transaction of a session: of a client, or (privileged) of the
// controller, which read_only does not keep out.
func (s *server) write(privileged bool, marker *topology.Marker, answer func(error)) {
	if s.superRO || (s.readOnly && !privileged) {
		answer(errReadOnly)
		return
	}
	c := &commit{marker: marker, answer: answer, began: s.w.loop.now()}
	s.commits = append(s.commits, c)
	s.act(s.between(200*time.Microsecond, 2*time.Millisecond), func() { s.flush(c) })
}

// flush puts a transaction into the binary log; from here on a crash keeps it.
func (s *server) flush(c *commit) {
	if s.full {
		s.whenRoom(func() { s.flush(c) })
		return
	}
	s.next++
	c.id, c.logged = gtid.MustParse(s.uuid+":"+strconv.Itoa(s.next)), true
	s.logged = s.logged.Union(c.id)
	if c.marker != nil {
		s.w.markers = append(s.w.markers, markerRow{c.id, *c.marker})
	}
	s.pump()
	s.settle()
	if s.timeout > 0 {
		s.act(s.timeout, func() {
			c.acks = math.MaxUint64
			s.settle()
		})
	}
}

// whenRoom does something once the disk takes writes again, unless the server
// ends before.
func (s *server) whenRoom(do func()) {
	s.watched = append(s.watched, func() bool {
		if s.full || !s.alive() {
			return !s.up
		}
		s.act(0, do)
		return true
	})
}

// settle commits in the engine what has its acknowledgements.
func (s *server) settle() {
	for _, c := range slices.Clone(s.commits) {
		if !c.logged || (s.armed && !c.released && bits.OnesCount64(c.acks) < s.k) {
			continue
		}
		s.commits = slices.DeleteFunc(s.commits, func(o *commit) bool { return o == c })
		s.executed = s.executed.Union(c.id)
		if s.armed {
			s.acked++
		}
		if c.marker != nil && c.marker.Epoch > s.marker.Epoch {
			s.marker = *c.marker
		}
		if c.answer != nil {
			s.w.check.acknowledged(s, c)
			c.answer(nil)
		}
	}
}

// endSessions ends the clients' sessions: their commits go on waiting, and
// nobody is told of them any more.
func (s *server) endSessions() {
	for _, c := range s.commits {
		if c.answer != nil && c.marker == nil {
			c.answer(errGone)
			c.answer = nil
		}
	}
}

// stopPolitely begins what the product's stop hook does (interrex mysql stop) and
// returns the rest of it: sessions are ended, the server is closed, and only
// if no commit waits then, SIGTERM, otherwise SIGKILL.
func (s *server) stopPolitely() (rest func()) {
	stopped, closed := false, false
	if !s.w.doubles.sessionsStay {
		s.endSessions()
		s.close(func() { closed = true })
	}
	return func() {
		switch {
		case stopped:
		case s.w.doubles.sessionsStay, closed && s.superRO && len(s.commits) == 0:
			s.terminate()
		default:
			s.kill()
		}
		stopped = true
	}
}

// terminate is SIGTERM: as the server ends, it answers every commit that waits
// with OK (MYSQL.md). A frozen one does not hear of it, and is killed in the end.
func (s *server) terminate() {
	if s.alive() {
		for _, c := range s.commits {
			c.released = true
		}
		s.settle()
	}
	s.kill()
}

// committing is what is in the binary log and waits.
func (s *server) committing() gtid.Set { return s.logged.Minus(s.executed) }

// Replication.

// pump sends to every receiver what it has not been sent.
func (s *server) pump() {
	for _, r := range s.w.servers {
		if st := r.stream; st != nil && st.from == s && !st.sending {
			s.send(st)
		}
	}
}

func (s *server) send(st *stream) {
	what := s.logged
	if st.to.received().Contains(what) {
		return
	}
	st.sending = true
	at := time.Now().Add(s.w.net.latency())
	if at.Before(st.lastAt) {
		at = st.lastAt
	}
	st.lastAt = at.Add(1)
	to, boot := st.to, st.to.boot
	var arrive func()
	arrive = func() {
		switch {
		case st.broken || !to.up || to.boot != boot:
			return
		case to.frozen:
			to.held = append(to.held, arrive)
			return
		case s.w.net.blocked(replication, s.name, to.name):
			s.w.net.onHeal(arrive)
			return
		case to.full:
			to.stuck = true
			to.whenRoom(func() {
				to.stuck = false
				arrive()
				to.stopIfTold()
			})
			return
		}
		st.sending = false
		to.retrieved = to.retrieved.Union(what)
		to.apply()
		if st.acker {
			s.acknowledge(st, what)
		}
		if s.alive() {
			s.send(st)
		}
		to.changed()
	}
	s.w.loop.after(time.Until(at), arrive)
}

// acknowledge is the way back of an acknowledgement of all of what.
func (s *server) acknowledge(st *stream, what gtid.Set) {
	at := time.Now().Add(s.w.net.latency())
	if at.Before(st.ackAt) {
		at = st.ackAt
	}
	st.ackAt = at.Add(1)
	boot, bit := s.boot, uint64(1)<<st.to.index
	var arrive func()
	arrive = func() {
		switch {
		case !s.up || s.boot != boot || st.killed || st.broken && !st.flying():
			return
		case s.frozen:
			s.held = append(s.held, arrive)
			return
		case s.w.net.blocked(replication, st.to.name, s.name):
			s.w.net.onHeal(arrive)
			return
		}
		for _, c := range s.commits {
			if c.logged && what.Contains(c.id) {
				c.acks |= bit
			}
		}
		s.settle()
		s.changed()
	}
	s.w.loop.after(time.Until(at), arrive)
}

// flying: what was sent before the connection ended may arrive all the same.
func (st *stream) flying() bool { return st.from.w.loop.chance(50) }

// apply executes what was received, a while later.
func (s *server) apply() {
	if s.applying || !s.applierOn || s.executed.Contains(s.retrieved) {
		return
	}
	s.applying = true
	d := s.between(300*time.Microsecond, 5*time.Millisecond)
	if s.slowApps {
		d = s.between(200*time.Millisecond, 1500*time.Millisecond)
	}
	what := s.retrieved
	var execute func()
	execute = func() {
		if s.full { // its own binary log takes nothing
			s.whenRoom(execute)
			return
		}
		s.applying = false
		if !s.applierOn {
			return
		}
		s.executed = s.executed.Union(what)
		s.logged = s.logged.Union(what)
		for _, m := range s.w.markers {
			if m.marker.Epoch > s.marker.Epoch && s.executed.Contains(m.id) {
				s.marker = m.marker
			}
		}
		s.pump()
		s.apply()
	}
	s.act(d, execute)
}

// startReplica starts receiver and applier. A receiver that is stuck runs, and
// if it was told to stop it will all the same.
func (s *server) startReplica() {
	s.applierOn = true
	s.apply()
	if s.stuck {
		return
	}
	s.receiverOn = true
	s.connect(s.between(time.Millisecond, 10*time.Millisecond))
}

// connect has the receiver connect after d, and every second again.
func (s *server) connect(d time.Duration) {
	source := s.source
	s.act(d, func() {
		if !s.receiverOn || s.source != source || s.stream != nil {
			return
		}
		if s.stuck || !source.alive() || s.w.net.cutEither(replication, s.name, source.name) || source.shut[accountOf(s.name)] {
			s.connect(time.Second)
			return
		}
		s.stream = &stream{from: source, to: s, acker: s.ackerFlag}
		source.send(s.stream)
	})
}

// hangUp ends the receiver's connection; it tries again while it is on.
func (s *server) hangUp() {
	if s.stream == nil {
		return
	}
	s.stream.broken = true
	s.stream = nil
	if s.receiverOn && s.up {
		s.connect(s.between(100*time.Millisecond, time.Second))
	}
}

// accountOf is the account with which a server receives.
func accountOf(node topology.NodeName) string { return "repl_" + string(node) }

// dropReceivers ends the connections of those that replicate from here.
func (s *server) dropReceivers() {
	for _, r := range s.w.servers {
		s.drop(r)
	}
}

// drop ends the connection of a receiver from this end.
func (s *server) drop(r *server) {
	if r.stream != nil && r.stream.from == s {
		r.stream.killed = true
		r.hangUp()
	}
}

// stopReceiver tells the receiver to stop, which it does at once, unless it is
// stuck: then as soon as that write is done.
func (s *server) stopReceiver() {
	s.receiverOn = false
	s.stopIfTold()
}

func (s *server) stopIfTold() {
	if !s.receiverOn && !s.stuck {
		s.hangUp()
	}
}

// Life and death.

// kill is SIGKILL: nobody is answered, what is in the binary log stays.
func (s *server) kill() {
	if !s.up {
		return
	}
	s.up, s.frozen = false, false
	s.w.agent(s.name).sees(detector.ProcessExited)
	for _, c := range s.commits {
		if c.answer != nil {
			c.answer(errGone)
		}
	}
	s.commits, s.waitingRO, s.held = nil, nil, nil
	s.applying, s.receiverOn, s.applierOn, s.stuck = false, false, false, false
	if s.stream != nil {
		s.stream.broken = true
		s.stream = nil
	}
	s.dropReceivers()
	s.changed()
}

// start is as the configuration says: closed, replication not running, what was
// in the binary log committed. With forget, the relay log that was not executed
// is dropped (relay_log_recovery, or a power cut).
func (s *server) start(forget bool) {
	if s.up {
		return
	}
	s.up, s.boot = true, s.boot+1
	s.w.agent(s.name).sees(detector.ProcessRunning)
	s.superRO, s.readOnly, s.armed, s.k, s.ackerFlag = true, true, false, 0, false
	s.timeout, s.acked = 0, 0
	if s.w.doubles.startsOpen {
		s.superRO, s.readOnly = false, false
	}
	s.executed = s.executed.Union(s.logged)
	if forget {
		s.retrieved = s.retrieved.Intersect(s.executed)
	}
	for _, m := range s.w.markers {
		if m.marker.Epoch > s.marker.Epoch && s.executed.Contains(m.id) {
			s.marker = m.marker
		}
	}
	s.changed()
}

func (s *server) thaw() {
	if !s.frozen {
		return
	}
	s.frozen = false
	held := s.held
	s.held = nil
	for _, h := range held {
		h()
	}
	s.pump()
	s.changed()
}

// close switches super_read_only on: new commits are refused from now on, and
// it returns when none is under way.
func (s *server) close(done func()) *closing {
	c := &closing{super: s.superRO, read: s.readOnly, done: done}
	s.superRO, s.readOnly = true, true
	if len(s.commits) == 0 {
		done()
		return c
	}
	s.waitingRO = append(s.waitingRO, c)
	return c
}

// giveUp ends a closing statement that waits: the variable is as before.
func (s *server) giveUp(c *closing) {
	n := len(s.waitingRO)
	s.waitingRO = slices.DeleteFunc(s.waitingRO, func(o *closing) bool { return o == c })
	if len(s.waitingRO) < n {
		s.superRO, s.readOnly = c.super, c.read
	}
}

// status is what a probe reads.
func (s *server) status() dbrepl.Status {
	st := dbrepl.Status{
		ServerUUID: s.uuid, Version: "8.4.5", BootID: s.bootID(),
		Executed: s.executed, Committing: s.committing(), Received: s.received(),
		ReadOnly: s.readOnly, SuperReadOnly: s.superRO, Marker: s.marker,
		SemiSync: dbrepl.SemiSync{
			SourceEnabled: s.armed, WaitFor: s.k, WaitNoReplica: true, WaitPoint: "AFTER_SYNC", TimeoutMillis: math.MaxUint32,
			ReplicaEnabled: s.ackerFlag, ReplicaActive: s.stream != nil && s.stream.acker,
		},
	}
	for _, c := range s.commits {
		if c.logged && s.armed {
			st.SemiSync.WaitSessions++
		}
	}
	for _, r := range s.w.servers {
		if r.stream != nil && r.stream.from == s && r.stream.acker {
			st.SemiSync.Clients++
		}
	}
	if s.source != nil {
		host, port, _ := net.SplitHostPort(s.source.address)
		n, _ := strconv.Atoi(port)
		src := &dbrepl.SourceStatus{
			Host: host, Port: n, ServerUUID: s.source.uuid, ApplierOn: s.applierOn, ReceiverState: "OFF",
			Unapplied: s.retrieved.Minus(s.executed).Count(),
		}
		if src.Unapplied > 0 && s.slowApps {
			src.Lag = time.Second
		}
		switch {
		case s.stream != nil || s.stuck:
			src.ReceiverOn, src.ReceiverState = true, "ON"
		case s.receiverOn:
			src.ReceiverState = "CONNECTING"
		}
		st.Source = src
	}
	return st
}
