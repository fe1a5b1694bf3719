package failover

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"interrex/election"
	"interrex/internal/topology"
)

// The changes of membership, as the gates that refuse them name them.
const (
	MemberAdd    election.Kind = "member_add"
	MemberRemove election.Kind = "member_remove"
)

// The names of the gates of a change of membership (I10).
const (
	gateMember     = "member"
	gateListed     = "members_recorded"
	gateOneChange  = "one_change_at_a_time"
	gateNotPrimary = "not_the_primary"
	gateVoters     = "etcd_voters"
	gateAckers     = "enough_ackers"
	gateReleased   = "acker_released"
)

// Voters is the etcd that the members run themselves.
type Voters interface {
	// List tells etcd's members, and whether each answers now. It needs the
	// quorum.
	List(ctx context.Context) ([]Voter, error)
	// Remove takes one out, by name or, where it was never started, by the
	// host:port of its peer listener. One that is not there is no error.
	Remove(ctx context.Context, name topology.NodeName, peer string) error
}

// Voter is a member of etcd.
type Voter struct {
	Name    topology.NodeName // empty if it was never started
	Learner bool              // it has no vote yet
	Answers bool
}

// MemberChange is what became of a change of membership.
type MemberChange struct {
	Name topology.NodeName
	// Done is false for a removal that goes on by itself; Waiting says what for.
	Done    bool
	Waiting string
	Notes   []string // what the operator should know of the new set
	Members []topology.Member
	Seats   map[topology.NodeName]election.Seat
}

// removeLimit is how long a removal is waited for before the caller is told
// that it goes on.
const removeLimit = 20 * time.Second

// membership carries out changes of the list of members, in quiet times and on
// the leader: what was asked for is in the record, so that any leader goes on
// with it (I7).
type membership struct {
	cfg ControllerConfig
	log *zap.Logger

	mu      sync.Mutex
	waiting map[topology.NodeName]string // why each leaving member is still there
}

func newMembership(cfg ControllerConfig, log *zap.Logger) *membership {
	return &membership{cfg: cfg, log: log.Named("members"), waiting: map[topology.NodeName]string{}}
}

// AddMember makes a node a member, with or without a vote in the embedded etcd.
// It counts as soon as its agent has registered. Refused with a *GateError.
// Only on the leader.
func (c *Controller) AddMember(ctx context.Context, name topology.NodeName, voter bool) (MemberChange, error) {
	m := c.members
	v, voters, err := m.look(ctx)
	if err != nil {
		return MemberChange{}, err
	}
	if g := decideAdd(v, voters, c.cfg.Voters != nil, name, voter); g != nil {
		return MemberChange{}, &GateError{*g}
	}
	snap, err := c.cfg.Registry.Update(ctx, v.base, func(s *election.State) error {
		s.Members[name] = election.Seat{Voter: voter, Since: time.Now().UTC()}
		delete(s.Removed, name)
		return nil
	})
	if err != nil {
		return MemberChange{}, fmt.Errorf("add member %s: %w", name, asBusy(err))
	}
	m.log.Info("member added", zap.String("member", string(name)), zap.Bool("voter", voter))
	return m.change(name, true, "", snap.State), nil
}

// RemoveMember takes a node out of the cluster, once it can acknowledge nothing
// more. If that takes long, it returns before and the removal goes on by itself.
// Refused with a *GateError, and given up when an operation comes in between.
// Only on the leader.
func (c *Controller) RemoveMember(ctx context.Context, name topology.NodeName) (MemberChange, error) {
	m := c.members
	v, voters, err := m.look(ctx)
	if err != nil {
		return MemberChange{}, err
	}
	if g := decideRemove(v, voters, name); g != nil {
		return MemberChange{}, &GateError{*g}
	}
	if name == c.cfg.Self {
		return MemberChange{}, m.standDown(ctx, v)
	}
	if !v.State.Leaving(name) {
		_, err = c.cfg.Registry.Update(ctx, v.base, func(s *election.State) error {
			now := time.Now().UTC()
			seat := s.Members[name]
			seat.Leaving = &now
			s.Members[name] = seat
			return nil
		})
		if err != nil {
			return MemberChange{}, fmt.Errorf("remove member %s: %w", name, asBusy(err))
		}
		m.log.Info("member is to be removed", zap.String("member", string(name)))
	}
	return m.awaitRemoval(ctx, name)
}

// asBusy says that something else was faster.
func asBusy(err error) error {
	if errors.Is(err, election.ErrConflict) {
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return err
}

// awaitRemoval watches the record: the leader's own pass carries it out.
func (m *membership) awaitRemoval(ctx context.Context, name topology.NodeName) (MemberChange, error) {
	wctx, cancel := context.WithTimeout(ctx, removeLimit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		s := m.cfg.Registry.Snapshot().State
		switch {
		case !s.Belongs(name):
			return m.change(name, true, "", s), nil
		case !s.Leaving(name):
			return MemberChange{}, fmt.Errorf("remove member %s: %w: an operation came in between; ask again", name, ErrUndone)
		}
		select {
		case <-wctx.Done():
			m.mu.Lock()
			why := m.waiting[name]
			m.mu.Unlock()
			return m.change(name, false, why, s), nil
		case <-tick.C:
		}
	}
}

// standDown hands leadership to another member, which then removes this one.
func (m *membership) standDown(ctx context.Context, v View) error {
	for _, o := range v.Members {
		if _, answers := v.Nodes[o.Name]; !answers || o.Name == m.cfg.Self {
			continue
		}
		if err := m.cfg.Leader.Transfer(ctx, o.Name); err != nil {
			return fmt.Errorf("hand leadership to %s before removing %s: %w", o.Name, m.cfg.Self, err)
		}
		wctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			if l := m.cfg.Registry.Leadership(); l.Holder == o.Name && !l.Offered {
				break
			}
			select {
			case <-wctx.Done():
				return fmt.Errorf("%s does not take leadership: %w", o.Name, wctx.Err())
			case <-tick.C:
			}
		}
		return ErrNotLeader // it is asked instead
	}
	return fmt.Errorf("remove %s, which leads: no other member answers: %w", m.cfg.Self, ErrNotLeader)
}

// look is the view as of now, on the leader, with etcd's members.
func (m *membership) look(ctx context.Context) (View, []Voter, error) {
	if !m.cfg.Registry.Leadership().Mine {
		return View{}, nil, ErrNotLeader
	}
	if _, err := m.cfg.Registry.Read(ctx); err != nil {
		return View{}, nil, err
	}
	v := m.cfg.Watcher.RefreshAll(ctx)
	if m.cfg.Voters == nil {
		return v, nil, nil
	}
	lctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	voters, err := m.cfg.Voters.List(lctx)
	if err != nil {
		return v, nil, fmt.Errorf("%w: %w", election.ErrUnreachable, err)
	}
	return v, voters, nil
}

func (m *membership) change(name topology.NodeName, done bool, waiting string, s election.State) MemberChange {
	return MemberChange{
		Name: name, Done: done, Waiting: waiting, Seats: s.Members,
		Members: m.cfg.Registry.Members(), Notes: notesOn(s, m.cfg.Registry.Members(), m.cfg.Voters != nil, m.cfg.Policy),
	}
}

// notesOn says what a set of members is not good for. It is pure.
func notesOn(s election.State, registered []topology.Member, embedded bool, p Policy) []string {
	notes := []string{}
	voters := 0
	for _, seat := range s.Members {
		if seat.Voter {
			voters++
		}
	}
	switch {
	case !embedded:
	case voters < 3:
		notes = append(notes, fmt.Sprintf("%d members vote: etcd survives the loss of none of them; three do better", voters))
	case voters%2 == 0:
		notes = append(notes, fmt.Sprintf("%d members vote, which survives no more losses than %d: add one that votes, or remove one", voters, voters-1))
	}
	instances := 0
	for _, m := range registered {
		if m.HasInstance() {
			instances++
		}
	}
	if instances-2 < p.minAcks() {
		notes = append(notes, fmt.Sprintf("%d registered members have an instance: without the primary, too few would be left to acknowledge the next one's commits, so no failover is possible", instances))
	}
	return notes
}

// tidy writes the members down where no leader has yet, and goes on with a
// removal that was asked for.
func (m *membership) tidy(ctx context.Context, v View) {
	p := v.State.Primary
	if p == nil || p.Phase != election.Open || v.State.Epoch != p.Epoch || v.State.Operation != nil {
		return
	}
	if v.State.Members == nil {
		if err := m.writeDown(ctx, v); err != nil && ctx.Err() == nil {
			m.log.Warn("the members are not written down yet", zap.Error(err))
		}
		return
	}
	for _, name := range slices.Sorted(maps.Keys(v.State.Members)) {
		if !v.State.Leaving(name) {
			continue
		}
		err := m.letGo(ctx, v, name)
		if ctx.Err() != nil {
			return
		}
		m.note(name, err)
	}
}

func (m *membership) note(name topology.NodeName, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.waiting[name]
	delete(m.waiting, name)
	if err == nil {
		m.log.Info("member removed", zap.String("member", string(name)))
		return
	}
	m.waiting[name] = err.Error()
	if err.Error() != before {
		m.log.Warn("member is not removed yet", zap.String("member", string(name)), zap.Error(err))
	}
}

// writeDown makes the members that have registered the recorded ones: those of
// a cluster that was just formed, or that builds without a list had formed.
func (m *membership) writeDown(ctx context.Context, v View) error {
	votes := map[topology.NodeName]bool{}
	if m.cfg.Voters != nil {
		voters, err := m.cfg.Voters.List(ctx)
		if err != nil {
			return err
		}
		for _, o := range voters {
			if o.Name == "" {
				return errors.New("one of etcd's members was never started")
			}
			votes[o.Name] = true
		}
	}
	seats := map[topology.NodeName]election.Seat{}
	now := time.Now().UTC()
	for _, o := range v.Members {
		if m.cfg.Voters != nil && o.EtcdPeer != "" && !votes[o.Name] {
			// One that joins again is none of them for a moment, and would be
			// recorded without a vote for good.
			return fmt.Errorf("%s is to run one of etcd's members (voter: true), and is not among them yet", o.Name)
		}
		seats[o.Name] = election.Seat{Voter: votes[o.Name], Since: now}
	}
	if _, ok := seats[v.State.Primary.Node]; !ok {
		return fmt.Errorf("%s is the primary and has not registered", v.State.Primary.Node)
	}
	_, err := m.cfg.Registry.Update(ctx, m.cfg.Registry.Snapshot(), func(s *election.State) error {
		if s.Members == nil {
			s.Members = seats
		}
		return nil
	})
	if err == nil {
		m.log.Info("members written down", zap.Int("members", len(seats)))
	}
	return err
}

// letGo takes the next steps of a removal: first it acknowledges nothing any
// more, then it has no vote, then it is no member. Each may be taken again.
func (m *membership) letGo(ctx context.Context, v View, name topology.NodeName) error {
	free, err := m.release(ctx, v, name)
	if err != nil {
		return err
	}
	var member topology.Member
	for _, o := range v.Members {
		if o.Name == name {
			member = o
		}
	}
	if m.cfg.Voters != nil {
		vctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := m.cfg.Voters.Remove(vctx, name, member.EtcdPeer); err != nil {
			return err
		}
	}
	uctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err = m.cfg.Registry.Update(uctx, free.base, func(s *election.State) error {
		drop(name)(s)
		if free.silenced {
			letIn(name)(s)
			delete(s.Sources, name)
			delete(s.Register.Accounts, name)
		}
		s.Primary.Base = s.Primary.Base.Union(free.has)
		delete(s.Members, name)
		if s.Removed == nil {
			s.Removed = map[topology.NodeName]time.Time{}
		}
		s.Removed[name] = time.Now().UTC()
		return nil
	})
	return err
}

// EtcdStanding is how a member of etcd is, by its own word.
type EtcdStanding string

// The standings. A learner has no vote until it has caught up.
const (
	EtcdVoter   EtcdStanding = "voter"
	EtcdLearner EtcdStanding = "learner"
	EtcdSilent  EtcdStanding = "silent"
)
