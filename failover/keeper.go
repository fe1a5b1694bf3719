package failover

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
	"interrex/router"
)

// Instance is one mysqld as its keeper commands it; *dbrepl.Instance
// implements it. Every method is idempotent.
type Instance interface {
	Probe(ctx context.Context) (dbrepl.Status, error)
	Freeze(ctx context.Context) (executed, received gtid.Set, unapplied uint64, err error)
	CatchUp(ctx context.Context, set gtid.Set, limit time.Duration) (gtid.Set, error)
	Arm(ctx context.Context, k int) error
	Degrade(ctx context.Context) error
	ShutOut(ctx context.Context, user string) error
	LetIn(ctx context.Context, users ...string) error
	WriteMarker(ctx context.Context, m topology.Marker, k int, receivers ...string) (gtid.Set, error)
	Nudge(ctx context.Context, epoch topology.Epoch) error
	TendEvents(ctx context.Context) (dbrepl.EventsLeft, error)
	OpenWrites(ctx context.Context, k int) error
	Retire(ctx context.Context) error
	Follow(ctx context.Context, spec dbrepl.FollowSpec) error
	CloseWrites(ctx context.Context, drain, limit time.Duration) (executed gtid.Set, killed int, err error)
	Isolate(ctx context.Context) error
}

// Rebuilder saves what an instance holds alone and makes it a copy of another
// one. It is apart from Instance because it may end and start the server.
type Rebuilder interface {
	// Rebuild saves errant to a file and clones the instance from donor,
	// telling its progress; it returns when the instance answers again.
	Rebuild(ctx context.Context, donor string, errant gtid.Set, progress func(stage, savedFile string)) error
	// Restart ends the server with SIGKILL, which answers no waiting commit,
	// and has it started again, closed.
	Restart(ctx context.Context) error
}

// KeeperConfig is what a keeper needs to know of its node.
type KeeperConfig struct {
	Member topology.Member
	// PromiseFile holds the highest epoch seen and the boot certificate.
	PromiseFile string
	// Etcd tells how this node's own member of the embedded etcd is, and must
	// not wait; nil where there is none.
	Etcd func() EtcdStanding
	// EtcdUsed tells which part of etcd's quota is taken, likewise; 0 if that is
	// not known.
	EtcdUsed func() float64
	// Nginx tells of the nginx configurations of this node, likewise.
	Nginx func() []NginxFile
	// Certificate tells until when the member's certificate is good, likewise;
	// zero without one.
	Certificate func() time.Time
	// TendEvery is how often the keeper looks after its instance by itself;
	// default 500 ms. More often costs a probe each time.
	TendEvery time.Duration
}

// Keeper obeys commands on one member and looks after its instance: it
// promises epochs (I5), refuses stale commands, certifies that the instance
// has caught up since it started (I1, amnesia), and closes an instance that
// has been replaced (I2). It implements Node for the own member.
type Keeper struct {
	cfg     KeeperConfig
	inst    Instance  // nil for a member without an instance
	rebuild Rebuilder // nil when rebuilding is not possible here
	reg     Registry
	table   *router.Table
	log     *zap.Logger

	promises *promiseStore

	// gate serialises commands; a command of a higher epoch interrupts the
	// one that runs.
	gate commandGate

	mu       sync.Mutex
	life     context.Context // of Run; what outlives a command ends with it
	nodes    Nodes           // set by Run
	progress *RebuildProgress
	risks    int // begun and ended, see point
	errant   *gtid.Set
	obeyed   obeyed
	waited   waited
	loose    string // how it does not wait, found by tend and not yet looked at by obey
	drift    *Drift // the last one
	stuck    stuck
	events   tendedEvents // of Run alone
	foundOut bool         // of Run alone: see inherits
	wg       sync.WaitGroup
}

// NewKeeper reads the promise file and returns the keeper. A file that is
// missing or torn is not an error: the node is then treated as amnesiac and
// relearns the epoch from etcd before it acts (D7).
func NewKeeper(cfg KeeperConfig, inst Instance, rebuild Rebuilder, reg Registry, table *router.Table, log *zap.Logger) (*Keeper, error) {
	if cfg.TendEvery == 0 {
		cfg.TendEvery = 500 * time.Millisecond
	}
	promises, err := openPromises(cfg.PromiseFile)
	if err != nil {
		return nil, fmt.Errorf("read promises of %s: %w", cfg.Member.Name, err)
	}
	return &Keeper{
		cfg: cfg, inst: inst, rebuild: rebuild, reg: reg, table: table,
		log: log.Named("keeper"), promises: promises,
	}, nil
}

// begin admits a command of epoch: it waits for or interrupts the one that
// runs, then promises the epoch. The returned end must be called.
func (k *Keeper) begin(ctx context.Context, epoch topology.Epoch) (context.Context, func(), error) {
	cctx, end, err := k.gate.enter(ctx, epoch)
	if err != nil {
		return nil, nil, err
	}
	if k.rebuilding() {
		end()
		return nil, nil, fmt.Errorf("%s is being rebuilt: %w", k.cfg.Member.Name, ErrBusy)
	}
	seen, err := k.seen(cctx)
	if err != nil {
		end()
		return nil, nil, err
	}
	if epoch < seen {
		end()
		return nil, nil, &StaleEpochError{Node: k.cfg.Member.Name, Asked: epoch, Promised: seen}
	}
	if err := k.promises.promise(epoch); err != nil {
		end()
		return nil, nil, fmt.Errorf("promise epoch %d on %s: %w", epoch, k.cfg.Member.Name, err)
	}
	return cctx, end, nil
}

// seen is the highest epoch this node knows of, by its own promises or by the
// record as last seen. A node that has lost its promises asks etcd first: the
// record has every epoch that it can have promised (D7).
func (k *Keeper) seen(ctx context.Context) (topology.Epoch, error) {
	snap := k.reg.Snapshot()
	if k.promises.forgotten() {
		var err error
		if snap, err = k.reg.Read(ctx); err != nil {
			return 0, fmt.Errorf("read the record in place of the lost promises of %s: %w", k.cfg.Member.Name, err)
		}
	}
	return max(k.promises.epoch(), snap.State.Epoch), nil
}

// Status tells what the member knows of itself, with a fresh probe.
func (k *Keeper) Status(ctx context.Context) (NodeStatus, error) {
	st := NodeStatus{Member: k.cfg.Member, Promised: k.promises.epoch(), Route: k.table.Current()}
	k.mu.Lock()
	if k.progress != nil {
		p := *k.progress
		st.Rebuild = &p
	}
	st.Errant = k.errant
	k.mu.Unlock()
	st.Drift = k.untold()
	k.describeNode(&st)
	if k.inst == nil {
		return st, nil
	}
	probe, err := k.inst.Probe(ctx)
	if err != nil {
		st.InstanceError = err.Error()
		return st, nil
	}
	st.Instance = &probe
	st.Certified = k.promises.certified(probe.BootID)
	return st, nil
}

// Freeze stops the receiver and says what was received (I1). On an instance
// that is no replica it only promises the epoch and tells its state.
func (k *Keeper) Freeze(ctx context.Context, req FreezeRequest) (Frozen, error) {
	ctx, end, err := k.begin(ctx, req.Epoch)
	if err != nil {
		return Frozen{}, err
	}
	defer end()
	if k.inst == nil {
		return Frozen{}, ErrNoInstance
	}
	if _, _, _, err := k.inst.Freeze(ctx); err != nil {
		return Frozen{}, fmt.Errorf("freeze %s: %w", k.cfg.Member.Name, err)
	}
	// Read after the receiver has stopped: all that it acknowledged is in the
	// received set now, and no more can come.
	st, err := k.inst.Probe(ctx)
	if err != nil {
		return Frozen{}, fmt.Errorf("survey %s: %w", k.cfg.Member.Name, err)
	}
	return frozenOf(k.cfg.Member, st, k.promises.certified(st.BootID)), nil
}

// CatchUp executes what was received.
func (k *Keeper) CatchUp(ctx context.Context, req CatchUpRequest) (CaughtUp, error) {
	ctx, end, err := k.begin(ctx, req.Epoch)
	if err != nil {
		return CaughtUp{}, err
	}
	defer end()
	if k.inst == nil {
		return CaughtUp{}, ErrNoInstance
	}
	executed, err := k.inst.CatchUp(ctx, req.Set, req.Limit)
	if err != nil {
		return CaughtUp{}, fmt.Errorf("catch up %s: %w", k.cfg.Member.Name, err)
	}
	return CaughtUp{Executed: executed}, nil
}

// Promote opens the instance: semi-sync source on, the marker row written and
// acknowledged, then writes (I2). It is refused unless etcd names this node.
func (k *Keeper) Promote(ctx context.Context, req PromoteRequest) (Promoted, error) {
	ctx, end, err := k.begin(ctx, req.Epoch)
	if err != nil {
		return Promoted{}, err
	}
	defer end()
	if k.inst == nil {
		return Promoted{}, ErrNoInstance
	}
	state, err := k.recorded(ctx, req.Epoch)
	if err != nil {
		return Promoted{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, req.Limit)
	defer cancel()

	var p Promoted
	clock := time.Now()
	lap := func() time.Duration { d := time.Since(clock); clock = time.Now(); return d }
	if err := k.arm(ctx, state, req.K); err != nil {
		return p, err
	}
	p.Armed = lap()
	m := topology.Marker{Epoch: req.Epoch, Node: k.cfg.Member.Name, At: time.Now().UTC()}
	if _, err := k.inst.WriteMarker(ctx, m, req.K, receivers(state.Register, nil)...); err != nil {
		return p, fmt.Errorf("write marker of epoch %d on %s: %w", req.Epoch, k.cfg.Member.Name, err)
	}
	p.Marked = lap()
	// A higher epoch may have been promised elsewhere meanwhile; here it
	// would have interrupted this command, so the context is the last check.
	if err := ctx.Err(); err != nil {
		return p, fmt.Errorf("open %s: %w", k.cfg.Member.Name, err)
	}
	if err := k.inst.OpenWrites(ctx, req.K); err != nil {
		return p, fmt.Errorf("open %s: %w", k.cfg.Member.Name, err)
	}
	p.Opened = lap()
	k.afterPromote(ctx, req.Epoch, &p)
	return p, nil
}

// arm has the instance wait before it is opened. One that is resumed may be open
// already, and somebody may have changed how it waits.
func (k *Keeper) arm(ctx context.Context, s election.State, acks int) error {
	if s.Operation == nil || s.Operation.Kind != election.Resume || acks == 0 {
		return k.waitFor(ctx, acks)
	}
	st, err := k.inst.Probe(ctx)
	if err != nil {
		return fmt.Errorf("look at %s: %w: %w", k.cfg.Member.Name, ErrNoInstance, err)
	}
	drift := ""
	if st.Writable() {
		drift = k.drifted(s, st)
	}
	if drift != "" {
		k.beginDrift(s, st, drift)
	}
	if err = k.waitFor(ctx, acks); err != nil || drift == "" {
		return err
	}
	underway := gtid.Set{}
	if st, err = k.inst.Probe(ctx); err == nil {
		st, underway, err = k.settle(ctx, st)
	}
	if err != nil {
		return fmt.Errorf("look what %s has answered: %w: %w", k.cfg.Member.Name, ErrNoInstance, err)
	}
	k.endDrift(st, underway)
	return nil
}

// waitFor has the instance wait for so many acknowledgements; for none only
// where the record says so (I4).
func (k *Keeper) waitFor(ctx context.Context, acks int) (err error) {
	if acks == 0 {
		err = k.inst.Degrade(ctx)
	} else {
		err = k.inst.Arm(ctx, acks)
	}
	if err != nil {
		return fmt.Errorf("have %s wait for %d acknowledgements: %w", k.cfg.Member.Name, acks, err)
	}
	return nil
}

// afterPromote certifies this boot (the primary holds everything) and tidies
// the former replication away. The instance serves by now: what goes wrong
// here is told, and is no reason to close it again.
func (k *Keeper) afterPromote(ctx context.Context, epoch topology.Epoch, p *Promoted) {
	k.mu.Lock()
	k.errant = nil
	k.mu.Unlock()
	st, err := k.inst.Probe(ctx)
	if err == nil {
		p.Executed = st.Executed
		k.mu.Lock()
		k.waited, k.loose = waitedAt(st, time.Now()), ""
		k.mu.Unlock()
		err = k.promises.certify(st.BootID)
	}
	if err != nil {
		k.log.Warn("primary is open and not certified: it is no proof before it has caught up with its successor", zap.Error(err))
	}
	if err == nil && st.Source == nil {
		return
	}
	k.retireSoon(epoch)
}

// retireAgain is how long a primary that could not be retired is left alone.
const retireAgain = 2 * time.Second

// retireSoon removes the primary's former replication beside all others, and
// tries again for some minutes: what that holds may lock clients' rows.
func (k *Keeper) retireSoon(epoch topology.Epoch) {
	k.background(func(ctx context.Context) {
		for try := range 60 {
			err := k.retire(ctx, epoch)
			switch {
			case err == nil || errors.Is(err, ErrStaleEpoch) || ctx.Err() != nil:
				return // done, or no longer the primary of that epoch
			case try == 0:
				k.log.Warn("former replication could not be removed yet; its receiver is stopped", zap.Error(err))
			}
			wait := retireAgain
			if errors.Is(err, dbrepl.ErrGivenUp) || errors.Is(err, dbrepl.ErrOutcomeUnknown) {
				wait = time.Minute // for which a stop may hang, and all commands of replication with it
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
		}
		k.log.Error("former replication could not be removed, and is not tried again before the agent restarts: STOP REPLICA; RESET REPLICA ALL")
	})
}

// retire is as a command among others: beside a later order to follow, it would
// remove what that one has set up.
func (k *Keeper) retire(ctx context.Context, epoch topology.Epoch) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	ctx, end, err := k.begin(ctx, epoch)
	if err != nil {
		return err
	}
	defer end()
	return k.inst.Retire(ctx)
}

// recorded makes sure that etcd names this node as the primary of epoch, and
// returns the record.
func (k *Keeper) recorded(ctx context.Context, epoch topology.Epoch) (election.State, error) {
	names := func(s election.Snapshot) bool {
		p := s.State.Primary
		return p != nil && p.Node == k.cfg.Member.Name && p.Epoch == epoch
	}
	s := k.reg.Snapshot()
	if names(s) {
		return s.State, nil
	}
	s, err := k.reg.Read(ctx)
	if err != nil {
		return s.State, fmt.Errorf("read the record before promoting: %w", err)
	}
	if !names(s) {
		return s.State, ErrNotRecorded
	}
	return s.State, nil
}

// Close stops writes: for a switchover by draining, for a primary judged
// Failed by isolating it.
func (k *Keeper) Close(ctx context.Context, req CloseRequest) (Closed, error) {
	ctx, end, err := k.begin(ctx, req.Epoch)
	if err != nil {
		return Closed{}, err
	}
	defer end()
	if k.inst == nil {
		return Closed{}, ErrNoInstance
	}
	if req.Isolate {
		ictx, cancel := context.WithTimeout(ctx, req.Limit)
		defer cancel()
		if err := k.inst.Isolate(ictx); err != nil {
			return Closed{}, fmt.Errorf("isolate %s: %w", k.cfg.Member.Name, err)
		}
		st, err := k.inst.Probe(ctx)
		if err != nil {
			return Closed{}, fmt.Errorf("look at %s after isolating: %w", k.cfg.Member.Name, err)
		}
		return Closed{Executed: st.Executed}, nil
	}
	executed, killed, err := k.inst.CloseWrites(ctx, req.Drain, req.Limit)
	if errors.Is(err, dbrepl.ErrCloseTimedOut) {
		return Closed{}, fmt.Errorf("close %s: %w: %w", k.cfg.Member.Name, ErrCloseTimedOut, err)
	}
	if err != nil {
		return Closed{}, fmt.Errorf("close %s: %w", k.cfg.Member.Name, err)
	}
	return Closed{Executed: executed, Killed: killed}, nil
}

// Route tells the member's routes where writes go.
func (k *Keeper) Route(_ context.Context, r router.Route) error {
	_, err := k.table.Apply(r)
	if errors.Is(err, router.ErrStaleRoute) {
		return &StaleEpochError{Node: k.cfg.Member.Name, Asked: r.Epoch, Promised: k.table.Current().Epoch}
	}
	return err
}
