package failover

import (
	"context"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"interrex/dbrepl"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// gtids is a set in short: "1:1-5,2:7" are transactions of the servers whose
// uuids uuidOf(1) and uuidOf(2) are.
func gtids(short string) gtid.Set {
	var parts []string
	for part := range strings.SplitSeq(short, ",") {
		if n, numbers, ok := strings.Cut(part, ":"); ok {
			parts = append(parts, uuidOf(n)+":"+numbers)
		}
	}
	return gtid.MustParse(strings.Join(parts, ","))
}

func uuidOf(number string) string { return "00000000-0000-0000-0000-" + fmt.Sprintf("%012s", number) }

// fleet is a handful of servers in memory that replicate from one another, as
// far as semi-sync and what is lost or kept go. One lock guards them all.
type fleet struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	servers map[topology.NodeName]*server
	// acked has every commit that a client was told is done.
	acked gtid.Set
	// told is asked of each commit that a client is told is done: by is who had
	// acknowledged it.
	told func(primary topology.NodeName, by map[topology.NodeName]bool)
}

func newFleet() *fleet {
	return &fleet{changed: make(chan struct{}), servers: map[topology.NodeName]*server{}}
}

// server is one mysqld; it implements Instance. Fields are guarded by fleet.mu.
type server struct {
	fleet             *fleet
	name              topology.NodeName
	uuid              string
	address           string
	version           string
	boot              int
	down              bool // nobody answers
	died              time.Time
	hung              bool // accepts and never answers
	superRO, readOnly bool
	armed             bool
	k                 int
	executed          gtid.Set
	received          gtid.Set                              // executed ∪ retrieved
	committing        gtid.Set                              // in the binary log, waiting for acknowledgements
	ackedBy           map[string]map[topology.NodeName]bool // of what is executed
	acks              map[string]map[topology.NodeName]bool
	next              int
	source            *server
	receiverOn        bool
	acker             bool
	shut              map[string]bool // users that may not receive from it
	held              bool            // the applier does not get on
	fault             string          // why the applier has stopped
	frail             bool            // the applier fails as the source is changed
	stalled           bool            // the receiver is connected and gets nothing
	marker            topology.Marker
	unarmable         bool
	lax               bool   // armed, with a timeout that has passed: nobody is waited for
	noTx              uint64 // commits that were not waited for while armed
	busy              bool   // a transaction is open that keeps it from closing
	retires, nudges   int
	eventsTended      int
}

func (f *fleet) add(number int) *server {
	s := &server{
		fleet: f, name: topology.NodeName(fmt.Sprintf("n%d", number)), uuid: uuidOf(strconv.Itoa(number)),
		address: "127.0.0.1:" + strconv.Itoa(3300+number), version: "8.4.5", boot: 1,
		superRO: true, readOnly: true, acks: map[string]map[topology.NodeName]bool{}, shut: map[string]bool{},
		ackedBy: map[string]map[topology.NodeName]bool{},
	}
	f.servers[s.name] = s
	return s
}

// change runs do under the lock, lets replication get on, and wakes who waits.
func (f *fleet) change(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	for range f.servers {
		for _, s := range f.servers {
			s.replicate()
		}
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

func (s *server) alive() bool { return !s.down && !s.hung }

// user is the account with which it receives.
func (s *server) user() string { return userOf(s.name) }

func userOf(n topology.NodeName) string { return "repl_" + string(n) }

// ackers counts the connected replicas that acknowledge.
func (s *server) ackers() (n int) {
	for _, o := range s.fleet.servers {
		if o.source == s && o.acker && o.alive() && o.connected() {
			n++
		}
	}
	return n
}

func (s *server) connected() bool {
	return s.receiverOn && s.source.alive() && !s.source.shut[s.user()]
}

func (s *server) replicate() {
	if !s.alive() {
		return
	}
	if s.connected() && !s.stalled {
		sent := s.source.executed.Union(s.source.committing)
		// A receiver passes over what bears its own server's id.
		s.received = s.received.Union(sent.Minus(sent.Of(s.uuid)))
		for id, by := range s.source.acks {
			if s.acker && s.received.Contains(gtid.MustParse(id)) {
				by[s.name] = true
			}
		}
	}
	if !s.held && s.fault == "" {
		s.executed = s.received
		if s.source != nil && s.source.marker.Epoch > s.marker.Epoch {
			s.marker = s.source.marker
		}
	}
	for id, by := range s.acks {
		if len(by) >= s.k || !s.waits() {
			s.finish(id)
		}
	}
}

func (s *server) finish(id string) {
	set := gtid.MustParse(id)
	s.committing = s.committing.Minus(set)
	s.executed = s.executed.Union(set)
	s.received = s.received.Union(set)
	s.ackedBy[id] = s.acks[id]
	if s.armed && s.lax {
		s.noTx++ // MySQL counts only while semi-sync is on
	}
	delete(s.acks, id)
}

func (s *server) waits() bool { return s.armed && !s.lax }

// timeout in milliseconds, as MySQL has it.
func (s *server) timeout() uint64 {
	if s.lax {
		return 1
	}
	return math.MaxUint32
}

// wait waits until ok holds (under the lock) or ctx ends.
func (f *fleet) wait(ctx context.Context, ok func() bool) error {
	for {
		f.mu.Lock()
		done, changed := ok(), f.changed
		f.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// commit writes one transaction and waits until it is acknowledged; a client's
// is refused while the server is closed.
func (s *server) commit(ctx context.Context, client bool) (gtid.Set, error) {
	var id gtid.Set
	refused, boot := false, 0
	s.fleet.change(func() {
		if refused = !s.alive() || s.superRO || (client && s.readOnly); refused {
			return
		}
		s.next++
		boot = s.boot
		id = gtid.MustParse(s.uuid + ":" + strconv.Itoa(s.next))
		s.committing = s.committing.Union(id)
		s.acks[id.String()] = map[topology.NodeName]bool{}
	})
	if refused {
		return id, fmt.Errorf("%s refuses writes", s.name)
	}
	lost := false
	err := s.fleet.wait(ctx, func() bool {
		lost = s.down || s.boot != boot
		if !lost && s.executed.Contains(id) {
			s.fleet.acked = s.fleet.acked.Union(id)
			if s.fleet.told != nil && client {
				s.fleet.told(s.name, s.ackedBy[id.String()])
			}
			return true
		}
		return lost
	})
	if err == nil && lost {
		err = fmt.Errorf("%s: connection lost, outcome unknown", s.name)
	}
	return id, err
}

// kill ends the process; waiting commits are answered by nobody.
func (s *server) kill() { s.fleet.change(func() { s.down, s.died = true, time.Now() }) }

// start brings the process back as configuration says: closed, replicating
// from nobody, what was in the binary log committed. With forget, the relay
// log that was not executed is dropped, as relay_log_recovery does.
func (s *server) start(forget bool) {
	s.fleet.change(func() {
		s.down, s.hung, s.boot = false, false, s.boot+1
		s.superRO, s.readOnly, s.armed, s.acker, s.receiverOn, s.busy = true, true, false, false, false, false
		s.executed = s.executed.Union(s.committing)
		if forget {
			s.received = s.executed
		}
		s.received = s.received.Union(s.executed)
		s.committing, s.acks = gtid.Set{}, map[string]map[topology.NodeName]bool{}
	})
}

// order waits until the server answers, and then does it.
func (s *server) order(ctx context.Context, do func() error) error {
	var err error
	werr := s.fleet.wait(ctx, func() bool { return !s.hung })
	if werr != nil {
		return werr
	}
	s.fleet.change(func() {
		if s.down {
			err = fmt.Errorf("%s: connection refused", s.name)
			return
		}
		err = do()
	})
	return err
}

func (s *server) Probe(ctx context.Context) (st dbrepl.Status, err error) {
	err = s.order(ctx, func() error {
		st = dbrepl.Status{
			ServerUUID: s.uuid, Version: s.version, BootID: s.bootID(),
			Executed: s.executed, Committing: s.committing, Received: s.received,
			ReadOnly: s.readOnly, SuperReadOnly: s.superRO, Marker: s.marker,
			SemiSync: dbrepl.SemiSync{
				SourceEnabled: s.armed, Clients: s.ackers(), WaitFor: s.k, WaitNoReplica: true, WaitPoint: "AFTER_SYNC", TimeoutMillis: s.timeout(),
				WaitSessions: len(s.acks), ReplicaEnabled: s.acker, NoTx: s.noTx,
			},
		}
		if s.source != nil {
			host, port, _ := net.SplitHostPort(s.source.address)
			n, _ := strconv.Atoi(port)
			src := &dbrepl.SourceStatus{
				Host: host, Port: n, ServerUUID: s.source.uuid, ApplierOn: s.fault == "", ApplierError: s.fault, ReceiverState: "OFF",
				Unapplied: s.received.Minus(s.executed).Count(),
			}
			if s.receiverOn {
				src.ReceiverState = "CONNECTING"
				if s.connected() {
					src.ReceiverOn, src.ReceiverState = true, "ON"
					st.SemiSync.ReplicaActive = s.acker
				}
			}
			st.Source = src
		}
		return nil
	})
	return st, err
}

func (s *server) Freeze(ctx context.Context) (executed, received gtid.Set, unapplied uint64, err error) {
	err = s.order(ctx, func() error {
		s.receiverOn = false
		executed, received = s.executed, s.received
		return nil
	})
	return executed, received, received.Minus(executed).Count(), err
}

func (s *server) CatchUp(ctx context.Context, set gtid.Set, limit time.Duration) (executed gtid.Set, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = s.fleet.wait(ctx, func() bool {
		executed = s.executed
		return s.alive() && (s.executed.Contains(set) || s.fault != "")
	})
	if err == nil && !executed.Contains(set) {
		return executed, fmt.Errorf("%w: %s", dbrepl.ErrApplierStopped, s.fault)
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", dbrepl.ErrNotCaughtUp, err)
	}
	return executed, err
}

func (s *server) Arm(ctx context.Context, k int) error {
	return s.order(ctx, func() error {
		if s.unarmable {
			return fmt.Errorf("%s cannot be armed", s.name)
		}
		s.armed, s.lax, s.k = true, false, k
		return nil
	})
}

func (s *server) Degrade(ctx context.Context) error {
	return s.order(ctx, func() error { s.armed = false; return nil })
}

func (s *server) ShutOut(ctx context.Context, user string) error {
	return s.order(ctx, func() error {
		if s.superRO {
			return fmt.Errorf("%s is read-only", s.name)
		}
		s.shut[user] = true
		return nil
	})
}

func (s *server) LetIn(ctx context.Context, users ...string) error {
	return s.order(ctx, func() error {
		for _, user := range users {
			if s.shut[user] && s.superRO {
				return fmt.Errorf("%s is read-only", s.name)
			}
			delete(s.shut, user)
		}
		return nil
	})
}

func (s *server) WriteMarker(ctx context.Context, m topology.Marker, k int, receivers ...string) (gtid.Set, error) {
	err := s.order(ctx, func() error {
		if k > 0 {
			s.armed, s.k = true, k
		}
		s.superRO, s.marker = false, m
		return nil
	})
	if err != nil {
		return gtid.Set{}, err
	}
	if err := s.LetIn(ctx, receivers...); err != nil {
		return gtid.Set{}, err
	}
	if _, err := s.commit(ctx, false); err != nil {
		return gtid.Set{}, fmt.Errorf("%w: %w", dbrepl.ErrOutcomeUnknown, err)
	}
	return s.has(), nil
}

func (s *server) Nudge(ctx context.Context, _ topology.Epoch) error {
	s.fleet.change(func() { s.nudges++ })
	_, err := s.commit(ctx, false)
	return err
}

func (s *server) TendEvents(context.Context) (dbrepl.EventsLeft, error) {
	s.fleet.change(func() { s.eventsTended++ })
	return dbrepl.EventsLeft{}, nil
}

func (s *server) bootID() string { return fmt.Sprintf("%s-%d", s.name, s.boot) }

func (s *server) has() gtid.Set {
	s.fleet.mu.Lock()
	defer s.fleet.mu.Unlock()
	return s.executed
}

func (s *server) OpenWrites(ctx context.Context, k int) error {
	return s.order(ctx, func() error {
		if k > 0 {
			s.armed, s.k = true, k
		}
		s.superRO, s.readOnly = false, false
		return nil
	})
}

func (s *server) Retire(ctx context.Context) error {
	return s.order(ctx, func() error {
		s.source, s.receiverOn, s.acker, s.retires = nil, false, false, s.retires+1
		return nil
	})
}

func (s *server) Follow(ctx context.Context, spec dbrepl.FollowSpec) error {
	var to *server
	atRisk := false
	s.fleet.change(func() {
		if !s.alive() || len(s.acks) > 0 {
			return
		}
		for _, o := range s.fleet.servers {
			if o.address == net.JoinHostPort(spec.Host, strconv.Itoa(spec.Port)) {
				to = o
			}
		}
		atRisk = s.source != nil && s.source != to && !s.executed.Contains(s.received)
		s.receiverOn = s.receiverOn && s.source == to
	})
	if atRisk && spec.AtRisk != nil {
		if err := spec.AtRisk(); err != nil {
			return err
		}
	}
	return s.order(ctx, func() error {
		if len(s.acks) > 0 {
			return dbrepl.ErrCommitsWaiting
		}
		s.source = to
		if atRisk && s.frail {
			s.received, s.receiverOn = s.executed, false
			return dbrepl.ErrForgotten
		}
		if atRisk && spec.Kept != nil {
			spec.Kept()
		}
		s.superRO, s.readOnly, s.armed, s.acker, s.receiverOn = true, true, false, spec.Acker, true
		return nil
	})
}

// close closes the server once no commit waits, or tells that it could not.
func (s *server) close(ctx context.Context) error {
	err := s.fleet.wait(ctx, func() bool { return s.down || (!s.hung && len(s.acks) == 0 && !s.busy) })
	if err != nil {
		return err
	}
	return s.order(ctx, func() error { s.superRO, s.readOnly = true, true; return nil })
}

func (s *server) CloseWrites(ctx context.Context, _, limit time.Duration) (gtid.Set, int, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := s.close(ctx); err != nil {
		return gtid.Set{}, 0, fmt.Errorf("%w: %w", dbrepl.ErrCloseTimedOut, err)
	}
	return s.has(), 0, nil
}

func (s *server) Isolate(ctx context.Context) error {
	err := s.order(ctx, func() error { s.busy = false; return nil })
	if err == nil {
		err = s.close(ctx)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", dbrepl.ErrCommitsWaiting, err)
	}
	return err
}
