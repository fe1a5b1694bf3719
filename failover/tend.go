package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/topology"
)

// Run looks after the instance until ctx ends: it certifies a boot that has
// caught up, asking the primary among nodes, and closes an instance that has
// been replaced. It returns when everything it started has ended.
func (k *Keeper) Run(ctx context.Context, nodes Nodes) error {
	k.mu.Lock()
	k.life, k.nodes = ctx, nodes
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		k.life = nil // nothing more is started
		k.mu.Unlock()
		k.wg.Wait()
	}()
	if k.inst == nil {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(k.cfg.TendEvery)
	defer tick.Stop()
	for {
		k.tend(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// background runs f beside the command that starts it and ends it with the
// keeper; a keeper that does not run starts nothing.
func (k *Keeper) background(f func(context.Context)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.life == nil {
		return
	}
	life := k.life
	k.wg.Add(1)
	go func() {
		defer k.wg.Done()
		f(life)
	}()
}

func (k *Keeper) peers() Nodes {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.nodes
}

func (k *Keeper) tend(ctx context.Context) {
	if k.rebuilding() {
		return
	}
	pctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	asked := time.Now()
	st, err := k.inst.Probe(pctx)
	if err != nil {
		return // the detector tells; there is nothing to look after
	}
	snap := k.reg.Snapshot()
	obeyed := k.hasObeyed(snap.State.Register, st.BootID)
	if obeyed && servesAs(k.cfg.Member.Name, snap.State) && st.Writable() {
		obeyed = k.keepsWaiting(snap.State, st, asked)
	}
	switch decideTending(k.cfg.Member.Name, snap.State, st, k.promises.certified(st.BootID), k.promises.epoch(), obeyed) {
	case tendIsolate:
		k.isolate(ctx, snap.State)
	case tendObey:
		k.obeyByItself(ctx, snap.State)
	case tendLeave:
		k.leave(ctx)
	case tendDesert:
		k.desert(ctx, snap.State)
	case tendCertify:
		if err := k.certify(pctx, st, snap.State); err != nil {
			k.log.Debug("not certified yet", zap.Error(err))
		}
	case tendNothing:
		if k.inherits(snap.State, st) {
			k.retireSoon(snap.State.Epoch)
		}
		if k.looksStuck(snap.State, st, time.Now()) {
			k.nudge(ctx, snap.State)
		}
		k.tendEvents(ctx, snap.State, st)
	}
}

// inherits tells, once in an agent's life, whether the primary it serves beside
// was promoted by an agent that ended before it had retired it. Later, a stopped
// receiver is an operator's.
func (k *Keeper) inherits(state election.State, st dbrepl.Status) bool {
	if k.foundOut || !servesAs(k.cfg.Member.Name, state) || !st.Writable() {
		return false
	}
	k.foundOut = true
	return st.Source != nil && st.Source.ReceiverState == "OFF"
}

type tending int

const (
	tendNothing tending = iota
	tendIsolate
	tendObey
	tendCertify
	tendLeave
	tendDesert
)

// decideTending says what the keeper owes its instance now. An open instance
// that the record does not name is isolated (I2); while the record is not
// known, nothing is done to an instance that serves (I9).
func decideTending(self topology.NodeName, state election.State, st dbrepl.Status, certified bool, promised topology.Epoch, obeyed bool) tending {
	p := state.Primary
	if p == nil || state.Past != "" { // who is the primary is not known
		return tendNothing
	}
	if p.Node != self {
		// An instance that is open, or armed as a source with commits that
		// wait for nobody, belongs to a past epoch.
		if !st.SuperReadOnly || st.SemiSync.WaitSessions > 0 {
			return tendIsolate
		}
		if state.WasRemoved(self) {
			if st.Source != nil && st.Source.ReceiverState != "OFF" {
				return tendLeave
			}
			return tendNothing
		}
		if deserts(state, st) {
			return tendDesert
		}
		// What it acknowledged in a later epoch than the record as seen here
		// knows of, that record's primary may lack.
		following := st.Source != nil && st.Source.ReceiverOn && st.Source.ServerUUID == p.ServerUUID && promised <= p.Epoch
		if following && !certified && p.Phase == election.Open {
			return tendCertify
		}
		return tendNothing
	}
	serves := servesAs(self, state) && promised <= p.Epoch
	if serves && st.Writable() && (!obeyed || !asOrdered(st.SemiSync, state.Register)) {
		return tendObey
	}
	return tendNothing
}

// deserts tells whether the instance still receives from a primary that was
// replaced without having been revoked: what it acknowledges there is lost.
func deserts(state election.State, st dbrepl.Status) bool {
	p := state.Primary
	return p.Forced != nil && state.Operation == nil && state.Epoch == p.Epoch &&
		st.Source != nil && st.Source.ReceiverState != "OFF" &&
		// One that was never connected knows no uuid, and acknowledges nothing.
		st.Source.ServerUUID != "" && st.Source.ServerUUID != p.ServerUUID
}

// desert stops such a receiver, without waiting for the leader's orders: only
// so can a former primary and an acker that come back together be kept from
// acknowledging on (I2).
func (k *Keeper) desert(ctx context.Context, state election.State) {
	cctx, end, err := k.begin(ctx, state.Epoch)
	if err != nil {
		return // a newer command is on its way
	}
	defer end()
	fctx, cancel := context.WithTimeout(cctx, 2*time.Second)
	defer cancel()
	// A command that ran until now may have pointed it elsewhere.
	st, err := k.inst.Probe(fctx)
	if err != nil || !deserts(state, st) {
		return
	}
	k.log.Warn("receives from a primary that was replaced by force: stopping the receiver",
		zap.String("primary", string(state.Primary.Node)), zap.Uint64("epoch", uint64(state.Epoch)))
	if _, _, _, err := k.inst.Freeze(fctx); err != nil {
		k.log.Error("receiver was not stopped, retrying", zap.Error(err))
	}
}

// looking is what may make a look at what the instance has received worthless:
// the rebuild that has begun last (nil: none has), and how often a change of
// source that put it at risk was begun or ended.
type looking struct {
	rebuild *RebuildProgress
	risks   int
}

// disturbed tells whether what is seen now may be gone the moment after.
func (l looking) disturbed() bool { return l.rebuild.Underway() || l.risks%2 != 0 }

// attest keeps the certificate, but not where a rebuild or a change of source
// has begun since the look that it is the result of, whether that still goes on
// or has failed.
func (k *Keeper) attest(boot string, look looking) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if look != (looking{k.progress, k.risks}) || look.disturbed() {
		return ErrBusy
	}
	k.log.Info("instance has caught up since it started", zap.String("boot", boot))
	return k.promises.certify(boot)
}

func (k *Keeper) beginLook() looking {
	k.mu.Lock()
	defer k.mu.Unlock()
	return looking{k.progress, k.risks}
}

// certify records that this boot holds everything the instance acknowledged
// in earlier ones. The primary is asked now, after the boot: what it has
// committed or is committing contains every such commit; once all of that is
// received here, nothing is missing.
func (k *Keeper) certify(ctx context.Context, st dbrepl.Status, state election.State) error {
	look := k.beginLook()
	if look.disturbed() {
		return ErrBusy
	}
	primary, err := k.peers().Node(state.Primary.Node)
	if err != nil {
		return err
	}
	src, err := primary.Status(ctx)
	if err != nil {
		return fmt.Errorf("ask %s for its set: %w", state.Primary.Node, err)
	}
	if src.Instance == nil || src.Instance.ServerUUID != state.Primary.ServerUUID || !src.Instance.Writable() {
		return fmt.Errorf("primary %s does not serve", state.Primary.Node)
	}
	want := src.Instance.Executed.Union(src.Instance.Committing)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := k.inst.Probe(ctx)
		if err != nil {
			return err
		}
		if now.BootID != st.BootID {
			return errors.New("server restarted meanwhile")
		}
		if now.Received.Contains(want) {
			return k.attest(st.BootID, look)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("still missing %d transactions: %w", want.Minus(now.Received).Count(), ctx.Err())
		case <-tick.C:
		}
	}
}

// isolate closes an instance that another one has replaced. Waiting commits
// are never released: where they keep the instance from closing, the server
// is ended by SIGKILL, which answers nobody, and starts again closed (I2).
func (k *Keeper) isolate(ctx context.Context, state election.State) {
	cctx, end, err := k.begin(ctx, state.Epoch)
	if err != nil {
		return // a newer command is on its way
	}
	defer end()
	// A command that ran until now may have made this instance the primary
	// after the record was seen: only what etcd says now is a reason.
	snap, err := k.reg.Read(cctx)
	if err != nil {
		return // without etcd nothing that serves is touched (I9)
	}
	st, err := k.inst.Probe(cctx)
	if err != nil || decideTending(k.cfg.Member.Name, snap.State, st, true, k.promises.epoch(), true) != tendIsolate {
		return
	}
	state = snap.State
	k.log.Warn("instance is open but another is primary: isolating",
		zap.String("primary", string(state.Primary.Node)), zap.Uint64("epoch", uint64(state.Epoch)))
	if err := k.shut(cctx); err != nil {
		k.log.Error("instance could not be isolated; it cannot acknowledge commits, retrying", zap.Error(err))
	}
}

// shut isolates an instance that is no primary any more, by a restart where
// commits keep it from closing.
func (k *Keeper) shut(ctx context.Context) error {
	ictx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := k.inst.Isolate(ictx)
	if !errors.Is(err, dbrepl.ErrCommitsWaiting) || k.rebuild == nil || ctx.Err() != nil {
		return err
	}
	k.log.Warn("commits wait for acknowledgements that will not come: restarting the server closed")
	if err := k.rebuild.Restart(ctx); err != nil {
		return fmt.Errorf("restart %s, which has to be ended with SIGKILL and started by hand: %w", k.cfg.Member.Name, err)
	}
	return nil
}

// Rebuild saves what the instance holds alone and makes it a copy of the
// donor, in the background; NodeStatus tells how far it is.
func (k *Keeper) Rebuild(ctx context.Context, req RebuildRequest) error {
	_, end, err := k.begin(ctx, req.Epoch)
	if err != nil {
		return err
	}
	defer end()
	if k.inst == nil || k.rebuild == nil {
		return ErrNoInstance
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.life == nil {
		return ErrBusy // the keeper is starting or stopping
	}
	k.progress = &RebuildProgress{Stage: "begin", Errant: req.Errant, Since: time.Now().UTC()}
	k.wg.Add(1)
	go k.runRebuild(k.life, req)
	return nil
}

// rebuilding tells whether a rebuild is under way.
func (k *Keeper) rebuilding() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.progress.Underway()
}

// The last stages of a rebuild.
const (
	stageDone   = "done"
	stageFailed = "failed"
)

func (k *Keeper) runRebuild(ctx context.Context, req RebuildRequest) {
	defer k.wg.Done()
	ctx, cancel := context.WithTimeout(ctx, 12*time.Hour)
	defer cancel()
	// A copy throws away what was received and not executed, acknowledged though it
	// is, and may fail after that, in the same boot of the server: from here on it
	// proves nothing, until it has caught up again (I1).
	err := k.promises.certify("")
	if err == nil {
		err = k.copy(ctx, req)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.progress.Stage, k.progress.Error = stageFailed, err.Error()
		k.log.Error("rebuild failed; the instance stays closed and is tried again", zap.Error(err))
		return
	}
	k.progress.Stage = stageDone
	k.errant = nil
	k.log.Info("rebuilt", zap.String("donor", string(req.Donor)))
}

func (k *Keeper) copy(ctx context.Context, req RebuildRequest) error {
	return k.rebuild.Rebuild(ctx, req.Address, req.Errant, func(stage, file string) {
		k.mu.Lock()
		defer k.mu.Unlock()
		news := k.progress.Stage != stage
		k.progress.Stage = stage
		if file != "" {
			k.progress.SavedFile = file
		}
		if news {
			k.log.Info("rebuilding", zap.String("stage", stage), zap.String("saved_file", k.progress.SavedFile))
		}
	})
}
