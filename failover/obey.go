package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// obeyed is what the instance was last brought to.
type obeyed struct {
	register election.Register
	boot     string
	at       time.Time
}

// obeyAgainAfter is how often shutting out is done anew, as long as somebody
// is shut out: a privilege that was granted by hand does not last.
const obeyAgainAfter = 5 * time.Second

// Obey brings the recorded primary to what its register asks for: the shut
// members kept out, the others let in, and as many acknowledgements waited for
// as it says. What it asks is read from etcd in here, among the other commands
// and one after another: so a late order can only make the instance obey the
// newest record once more, and what an order made stricter stays so until the
// record says otherwise (I3).
func (k *Keeper) Obey(ctx context.Context, req ObeyRequest) (Obeyed, error) {
	ctx, end, err := k.begin(ctx, req.Epoch)
	if err != nil {
		return Obeyed{}, err
	}
	defer end()
	if k.inst == nil {
		return Obeyed{}, ErrNoInstance
	}
	return k.obey(ctx)
}

// obey is called within a command.
func (k *Keeper) obey(ctx context.Context) (Obeyed, error) {
	name := k.cfg.Member.Name
	snap, err := k.reg.Read(ctx)
	if err != nil {
		return Obeyed{}, fmt.Errorf("read the register for %s: %w", name, err)
	}
	st, err := k.inst.Probe(ctx)
	if err != nil {
		return Obeyed{}, fmt.Errorf("look at %s: %w: %w", name, ErrNoInstance, err)
	}
	s := snap.State
	if !servesAs(name, s) || st.ServerUUID != s.Primary.ServerUUID || !st.Writable() {
		return Obeyed{}, fmt.Errorf("%s obeys no register: %w", name, ErrNotRecorded)
	}
	reg := s.Register
	began := reg.Acks() > 0 && !st.SemiSync.SourceEnabled
	drift := k.drifted(s, st)
	if drift != "" {
		k.beginDrift(s, st, drift)
	}
	k.mu.Lock()
	k.obeyed = obeyed{} // until all of it is done
	k.mu.Unlock()
	// Stricter first. What makes it less strict is recorded already, and done
	// also where the other cannot be.
	var failed []error
	for _, n := range reg.Shut {
		for _, user := range reg.Accounts[n] {
			if err := k.inst.ShutOut(ctx, user); err != nil {
				failed = append(failed, fmt.Errorf("shut %s out of %s: %w", n, name, err))
			}
		}
	}
	if err := k.waitFor(ctx, reg.Acks()); err != nil {
		failed = append(failed, err)
	}
	if err := k.inst.LetIn(ctx, receivers(reg, k.reg.Members())...); err != nil {
		// A member without an account here cannot follow; the others can.
		if !errors.Is(err, dbrepl.ErrNoAccount) {
			failed = append(failed, fmt.Errorf("let members in on %s: %w", name, err))
		}
		k.log.Warn("a member cannot receive from this instance", zap.Error(err))
	}
	if err := errors.Join(failed...); err != nil {
		return Obeyed{}, err
	}
	// Read last: what was acknowledged in the old way is in it.
	if st, err = k.inst.Probe(ctx); err != nil {
		return Obeyed{}, fmt.Errorf("look at %s: %w: %w", name, ErrNoInstance, err)
	}
	if drift != "" || began {
		var underway gtid.Set
		if st, underway, err = k.settle(ctx, st); err != nil {
			return Obeyed{}, fmt.Errorf("look what %s has answered: %w: %w", name, ErrNoInstance, err)
		}
		if drift != "" {
			k.endDrift(st, underway)
		}
	}
	k.mu.Lock()
	k.obeyed, k.waited = obeyed{reg, st.BootID, time.Now()}, waitedAt(st, time.Now())
	k.mu.Unlock()
	return Obeyed{Revision: snap.Revision, Acks: reg.Acks(), Has: st.Executed.Union(st.Committing)}, nil
}

// servesAs tells whether the record says that node is the primary and that
// nothing is about to change that.
func servesAs(node topology.NodeName, s election.State) bool {
	p := s.Primary
	return p != nil && p.Node == node && p.Phase == election.Open && s.Operation == nil && s.Epoch == p.Epoch
}

// receivers are the accounts that the primary lets in: those of all members
// but the shut ones.
func receivers(reg election.Register, members []topology.Member) []string {
	out := map[string]bool{}
	for _, n := range reg.Shut {
		for _, user := range reg.Accounts[n] {
			out[user] = true
		}
	}
	var users []string
	add := func(node topology.NodeName, user string) {
		if user != "" && !out[user] && !reg.IsShut(node) {
			out[user] = true
			users = append(users, user)
		}
	}
	for _, n := range reg.Ackers {
		for _, user := range reg.Accounts[n] {
			add(n, user)
		}
	}
	for _, m := range members {
		add(m.Name, m.ReplicationUser)
	}
	return users
}

// asOrdered tells whether a primary waits as its register says.
func asOrdered(s dbrepl.SemiSync, reg election.Register) bool {
	if reg.Acks() == 0 {
		return !s.SourceEnabled
	}
	return s.Lossless(reg.Acks()) && s.WaitFor == reg.Acks()
}

// hasObeyed tells whether the instance was brought to this register since its
// server started.
func (k *Keeper) hasObeyed(reg election.Register, boot string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.obeyed.boot == boot && k.obeyed.register.Equal(reg) &&
		(len(reg.Shut) == 0 || time.Since(k.obeyed.at) < obeyAgainAfter)
}

// obeyByItself brings the open primary to its register after that has changed,
// after a promotion, or after somebody changed the settings (see Drift).
func (k *Keeper) obeyByItself(ctx context.Context, state election.State) {
	cctx, end, err := k.begin(ctx, state.Epoch)
	if err != nil {
		return // a newer command is on its way
	}
	defer end()
	actx, cancel := context.WithTimeout(cctx, 2*time.Second)
	defer cancel()
	if _, err := k.obey(actx); err != nil && !errors.Is(err, ErrNotRecorded) {
		k.log.Warn("the register is not obeyed yet; trying again", zap.Error(err))
	}
}

// nudgeAfter is how long commits may wait, with enough ackers connected, before
// the primary looks whether an acknowledgement has only been lost. nudgeEvery
// keeps it from adding more than a few commits to those that wait.
const (
	nudgeAfter = time.Second
	nudgeEvery = 10 * time.Second
)

// stuck are commits that wait, since when, and when to nudge them.
type stuck struct {
	commits gtid.Set
	nudgeAt time.Time
}

// looksStuck tells whether commits of the primary have been waiting for a while
// although enough ackers are connected. A replica acknowledges nothing that it
// had received before it was an acker; where every client waits, no later
// commit comes whose acknowledgement would stand for those.
func (k *Keeper) looksStuck(state election.State, st dbrepl.Status, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	waits := servesAs(k.cfg.Member.Name, state) && st.SemiSync.WaitSessions > 0 && st.SemiSync.Clients >= state.Register.Acks()
	same := k.stuck.commits.Intersect(st.Committing)
	switch {
	case !waits:
		k.stuck = stuck{}
		return false
	case same.IsEmpty():
		k.stuck = stuck{st.Committing, now.Add(nudgeAfter)}
		return false
	}
	k.stuck.commits = same
	if now.Before(k.stuck.nudgeAt) {
		return false
	}
	k.stuck.nudgeAt = now.Add(nudgeEvery)
	return true
}

// nudge has the primary commit something small: its acknowledgement stands for
// everything before it. What no acker has is not answered by it either (I1).
func (k *Keeper) nudge(ctx context.Context, state election.State) {
	cctx, end, err := k.begin(ctx, state.Epoch)
	if err != nil {
		return // a newer command is on its way
	}
	defer end()
	nctx, cancel := context.WithTimeout(cctx, time.Second)
	defer cancel()
	k.log.Warn("commits wait although enough ackers are connected: an acknowledgement may have been lost; committing a row of interrex's own",
		zap.Uint64("epoch", uint64(state.Epoch)))
	if err := k.inst.Nudge(nctx, state.Epoch); err != nil {
		k.log.Warn("that is not acknowledged either", zap.Error(err))
	}
}
