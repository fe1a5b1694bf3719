package detector

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"

	"interrex/internal/topology"
)

// Deps are what a detector uses of the world.
type Deps struct {
	// Log; required.
	Log *zap.Logger
	// Classify says which kind a probe's error is. Required. What is none of
	// the probe's bad kinds is taken for Erring.
	Classify func(error) Kind
	// FindProcess returns the pid of the local server (its pid file says). An
	// error or 0: not known now. Nil: no local server to watch.
	FindProcess func() (pid int, err error)
	// Disk is what the local server writes to. Nil: it is not looked at.
	Disk Disk
	// OnMessage takes application messages, one at a time, on a goroutine of
	// their own; a message may come again after its sender restarted, and
	// order is not kept. Nil: they are dropped.
	OnMessage func(Message)
	// Members makes this member's end of gossip from its settings; nil:
	// memberlist, by UDP and TCP on Config.Bind.
	Members func(*memberlist.Config) (Members, error)
}

// Detector judges instances and members. All methods may be called by any
// goroutine, before, during and after Run.
type Detector struct {
	cfg    Config
	w      Windows
	deps   Deps
	log    *zap.Logger
	boot   uint64
	start  time.Time
	gossip *gossip

	changes  chan struct{} // some verdict changed
	rejudge  chan struct{} // d.due became earlier
	reassign chan struct{} // subjects changed

	mu         sync.Mutex
	store      *store
	registered []topology.NodeName
	subjects   map[topology.NodeName]Subject
	nudges     map[topology.NodeName]chan struct{}
	suspicions map[topology.NodeName]chan struct{} // has writes tried at once
	open       map[topology.NodeName]bool          // for writes, by its last answer that told
	starving   starvation                          // of the own instance
	verdicts   map[matter]opinion
	due        time.Time // when time alone may next change a verdict
	seq        uint64
	appSeq     uint64
	stalledAt  time.Time // when this process last noticed being held up
	running    bool
}

// matter is what a verdict is on: an instance, or a member.
type matter struct {
	name   topology.NodeName
	member bool
}

type opinion struct {
	verdict topology.Verdict
	cause   Kind
	due     time.Time
}

// New makes a detector. It returns Config.Validate's faults, or which
// dependency is missing.
func New(cfg Config, deps Deps) (*Detector, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure detector: %w", err)
	}
	if deps.Log == nil || deps.Classify == nil {
		return nil, errors.New("configure detector: Log and Classify are required")
	}
	if deps.Members == nil {
		deps.Members = bind
	}
	w, err := cfg.EffectiveWindows()
	if err != nil {
		return nil, fmt.Errorf("configure detector: %w", err)
	}
	now := time.Now()
	return &Detector{
		cfg: cfg, w: w, deps: deps, log: deps.Log, boot: newBoot(), start: now,
		gossip:   newGossip(cfg, w, deps.Log),
		changes:  make(chan struct{}, 1),
		rejudge:  make(chan struct{}, 1),
		reassign: make(chan struct{}, 1),
		store:    newStore(now),
		subjects: map[topology.NodeName]Subject{},
		nudges:   map[topology.NodeName]chan struct{}{}, suspicions: map[topology.NodeName]chan struct{}{},
		open:     map[topology.NodeName]bool{},
		verdicts: map[matter]opinion{},
	}, nil
}

// newBoot draws what tells this process from earlier ones, always 19 digits
// long: how evidence is packed into datagrams does not depend on it.
func newBoot() uint64 { return 1e18 + rand.Uint64N(9e18) }

// Run gossips, probes and judges until ctx ends; then it takes leave of the
// other members and waits for all it started. It returns an error only if
// gossip could not start. Call it once.
func (d *Detector) Run(ctx context.Context) error {
	if err := d.gossip.start(d.deps.Members); err != nil {
		return fmt.Errorf("run detector: %w", err)
	}
	d.setRunning(true)
	var work sync.WaitGroup
	for _, loop := range []func(context.Context){
		d.gossip.join, d.readEvidence, d.readMessages, d.readPresences, d.repeat, d.watchTime, d.assign,
	} {
		work.Go(func() { loop(ctx) })
	}
	if d.deps.FindProcess != nil {
		work.Go(func() { d.watchServer(ctx) })
	}
	if d.deps.Disk != nil {
		work.Go(func() { d.watchDisk(ctx) })
	}
	<-ctx.Done()
	d.setRunning(false)
	work.Wait()
	d.sayGoodbye()
	d.gossip.stop()
	return nil
}

func (d *Detector) setRunning(running bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running = running
}

// SetRegistered says which members are registered: they vote, and their gossip
// addresses are joined. Evidence of others is dropped.
func (d *Detector) SetRegistered(members []topology.Member) {
	var names []topology.NodeName
	var addrs []string
	for _, m := range members {
		names = append(names, m.Name)
		if m.Name != d.cfg.Self && m.Gossip != "" {
			addrs = append(addrs, m.Gossip)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	d.gossip.setPeers(addrs)
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.Equal(names, d.registered) {
		return
	}
	d.registered = names
	d.store.forget(func(k slot) bool {
		return k.observer != d.cfg.Self && !slices.Contains(names, k.observer)
	})
	d.judgeAll()
	wake(d.gossip.moved)
}

// SetSubjects says which instances are probed and judged. The probers stay
// the caller's.
func (d *Detector) SetSubjects(subjects []Subject) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.subjects = map[topology.NodeName]Subject{}
	for _, s := range subjects {
		d.subjects[s.Name] = s
	}
	d.store.forget(func(k slot) bool {
		_, ok := d.subjects[k.subject]
		return k.group != groupMember && !ok
	})
	maps.DeleteFunc(d.verdicts, func(m matter, _ opinion) bool {
		_, ok := d.subjects[m.name]
		return !m.member && !ok
	})
	d.judgeAll()
	wake(d.reassign)
}

// Judgement judges an instance as of now.
func (d *Detector) Judgement(subject topology.NodeName) Judgement {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.judgement(matter{name: subject}, time.Now())
}

// JudgeMember judges a member itself, that is, its agent, as of now.
func (d *Detector) JudgeMember(name topology.NodeName) Judgement {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.judgement(matter{name: name, member: true}, time.Now())
}

// MemberFailed is whether JudgeMember would say Failed, for those who do not need
// its words.
func (d *Detector) MemberFailed(name topology.NodeName) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.weigh(matter{name: name, member: true}, time.Now()).Verdict == topology.Failed
}

// Evidence returns what is known about an instance and its member, with ages
// as of now, ordered by observer.
func (d *Detector) Evidence(subject topology.NodeName) []Evidence {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	var out []Evidence
	for _, s := range slices.Concat(d.store.about(subject, false), d.store.about(subject, true)) {
		out = append(out, s.later(now))
	}
	slices.SortFunc(out, func(a, b Evidence) int {
		switch {
		case a.Observer < b.Observer:
			return -1
		case a.Observer > b.Observer:
			return 1
		default:
			return int(a.Kind.group()) - int(b.Kind.group())
		}
	})
	return out
}

// Heard is how long ago the newest message of another member was sent, as far
// as we can tell; negative if there was none.
func (d *Detector) Heard(member topology.NodeName) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.store.heard(member, time.Now())
}

// Dropped is how many messages were dropped since the start because a bounded
// queue was full.
func (d *Detector) Dropped() uint64 { return d.gossip.dropped.Load() }

// Windows returns the windows in use.
func (d *Detector) Windows() Windows { return d.w }

// Changes becomes readable when a verdict or its cause has changed since it
// was last read. It is level-triggered, has one slot and so one reader, who
// then looks at the judgements.
func (d *Detector) Changes() <-chan struct{} { return d.changes }

// Nudge has an instance probed at once: call it when a connection to it broke.
func (d *Detector) Nudge(subject topology.NodeName) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nudge(subject)
}

func (d *Detector) nudge(subject topology.NodeName) {
	if ch, ok := d.nudges[subject]; ok {
		wake(ch)
	}
}

// Report adds evidence that a watcher of this member has seen. Observer, Boot,
// Seq, Slow and LastGood are set here; Since grows with what was known before.
func (d *Detector) Report(ev Evidence) error {
	switch {
	case ev.Kind.group() == groupNone || !validName(ev.Subject):
		return fmt.Errorf("report evidence %q on %q: %w", ev.Kind, ev.Subject, errMalformed)
	case ev.Kind.group().own() && ev.Subject != d.cfg.Self:
		return fmt.Errorf("report evidence %q on %q: only its own agent can know", ev.Kind, ev.Subject)
	}
	d.record(ev)
	return nil
}

// Broadcast sends an application message to all present members: by datagram
// if it is small, and by stream, without waiting. What arrives twice is handed
// out once. ErrTooLarge, ErrNotRunning.
func (d *Detector) Broadcast(kind string, payload []byte) error {
	if len(payload) > MaxMessageBytes || len(kind) > maxName {
		return fmt.Errorf("broadcast %s: %w", kind, ErrTooLarge)
	}
	d.mu.Lock()
	running := d.running
	d.appSeq++
	seq := d.appSeq
	d.mu.Unlock()
	if !running {
		return fmt.Errorf("broadcast %s: %w", kind, ErrNotRunning)
	}
	packet, err := encodeMessage(wireApp{From: d.cfg.Self, Boot: d.boot, Seq: seq, Kind: kind, Payload: payload})
	if err != nil {
		return fmt.Errorf("broadcast %s: %w", kind, err)
	}
	d.gossip.send(packet, true)
	return nil
}
