package failover

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// Drift is a time in which the primary of Epoch did not wait as its register
// says, as its own agent found. The leader records it; until then nothing may be
// proven of that epoch.
type Drift struct {
	Epoch topology.Epoch `json:"epoch"`
	election.Lossy
	// Has is all that the primary had when it waited again, also what clients may be
	// told of later; or, while it does not, what it had executed when last looked at.
	Has gtid.Set `json:"has"`
	// counted is what Commits has been counted from.
	counted gtid.Set
}

// recorded tells whether nothing of it is missing in the record.
func (d *Drift) recorded(s election.State) bool {
	p := s.Primary
	if d == nil || p == nil || p.Epoch != d.Epoch {
		return true // proofs of its epoch are not wanted any more
	}
	return p.Lossy != nil && p.Lossy.Seq >= d.Seq
}

// latest is the later one of two that the same member told of.
func latest(a, b *Drift) *Drift {
	if a == nil || b != nil && (b.Epoch > a.Epoch || b.Epoch == a.Epoch && b.Seq >= a.Seq) {
		return b
	}
	return a
}

// record marks the epoch. What the primary had is added to what an acker has to
// hold before its word proves anything.
func (d *Drift) record(p *election.Primary) {
	l := d.Lossy
	switch old := p.Lossy; {
	case old.Ongoing():
		l.Since, l.Commits = old.Since, max(l.Commits, old.Commits)
	case old != nil:
		l.Since, l.Commits = old.Since, l.Commits+old.Commits
	}
	p.Lossy, p.Base = &l, p.Base.Union(d.Has)
}

// errUnrecorded: nothing is proven before the drift is recorded.
func errUnrecorded(d *Drift) error {
	return fmt.Errorf("it is not recorded yet that the primary did not wait (%s); ask again: %w", d.Reason, election.ErrConflict)
}

// unrecorded is a drift that this member was told of and the record does not know.
func unrecorded(v View) *Drift {
	if p := v.State.Primary; p != nil {
		if d := v.Sighted[p.Node].Drift; !d.recorded(v.State) {
			return d
		}
	}
	return nil
}

// markDrift records a drift before anything else is decided: whoever has to fail
// over, this leader or a later one, must not count on what was not waited for.
func (c *Controller) markDrift(ctx context.Context, v View) (View, error) {
	d := unrecorded(v)
	if d == nil {
		return v, nil
	}
	c.endTidying()
	uctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := c.cfg.Registry.Update(uctx, c.cfg.Registry.Snapshot(), func(s *election.State) error {
		if !d.recorded(*s) {
			d.record(s.Primary)
		}
		return nil
	})
	if err != nil {
		return v, fmt.Errorf("record that the primary did not wait (%s): %w", d.Reason, err)
	}
	c.log.Warn("epoch marked: commits were answered without the acknowledgements that the register asks for",
		zap.Uint64("epoch", uint64(d.Epoch)), zap.String("reason", d.Reason), zap.Bool("ongoing", d.Ongoing()), zap.Uint64("commits_at_most", d.Commits))
	return c.cfg.Watcher.View(), nil
}

// waited is the last look at which the open primary waited as its register says.
type waited struct {
	boot string
	at   time.Time
	noTx uint64 // commits that had not waited by then, see dbrepl.SemiSync
	has  gtid.Set
}

func waitedAt(st dbrepl.Status, now time.Time) waited {
	return waited{st.BootID, now, st.SemiSync.NoTx, st.Executed.Union(st.Committing)}
}

// slipped counts the commits that did not wait since, though all is set as it
// should be: somebody changed it and changed it back.
func (w waited) slipped(st dbrepl.Status) uint64 {
	if w.boot != st.BootID || st.SemiSync.NoTx < w.noTx { // FLUSH STATUS begins to count anew
		return 0
	}
	return st.SemiSync.NoTx - w.noTx
}

// keepsWaiting notes that the primary, asked at that time, waits as its register
// says. It is false if commits slipped through, if the record says that it does not
// wait and nothing is told that says otherwise, or if it waits in another way; one
// that is less strict is looked at again within a command, and must not be
// forgotten if it is gone by then.
func (k *Keeper) keepsWaiting(s election.State, st dbrepl.Status, asked time.Time) bool {
	if s.Primary.Lossy.Ongoing() && k.untold() == nil {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case asked.Before(k.waited.at):
		return true // a command has looked since
	case k.waited.slipped(st) > 0:
		return false
	case asOrdered(st.SemiSync, s.Register):
		k.waited = waitedAt(st, time.Now())
		return true
	}
	if s.Register.K > 0 {
		k.loose = st.SemiSync.Loose(s.Register.K)
	}
	return false
}

// drifted says in which way the open primary of s does not wait as its register
// says, or did not since it was last looked at; empty: it waited. s is what etcd
// said before st was asked for, within a command: what is less strict was done by
// somebody else.
func (k *Keeper) drifted(s election.State, st dbrepl.Status) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	found := k.loose
	k.loose = ""
	if s.Register.K == 0 {
		return ""
	}
	if why := st.SemiSync.Loose(s.Register.K); why != "" {
		return why
	}
	if found != "" {
		return found
	}
	if d := k.drift; d != nil && d.Epoch == s.Primary.Epoch && d.Ongoing() {
		return d.Reason // it could not be ended
	}
	if n := k.waited.slipped(st); n > 0 {
		return fmt.Sprintf("%d commits were not waited for: somebody changed semi-sync and changed it back", n)
	}
	if s.Primary.Lossy.Ongoing() {
		return s.Primary.Lossy.Reason // the agent that found it has been restarted
	}
	return ""
}

// beginDrift notes that the primary does not wait.
func (k *Keeper) beginDrift(s election.State, st dbrepl.Status, why string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// A commit that is on its way may still come to nothing, and no replica would
	// ever hold it: it is counted, and not yet demanded.
	all := st.Executed.Union(st.Committing)
	d := Drift{Epoch: s.Primary.Epoch, Has: st.Executed, counted: all}
	d.Reason = why
	switch l := s.Primary.Lossy; {
	case k.waited.boot == st.BootID:
		d.Since, d.Commits = k.waited.at.UTC(), all.Minus(k.waited.has).Count()
	case l.Ongoing():
		d.Since, d.Commits = l.Since, l.Commits+all.Minus(s.Primary.Base).Count()
	default:
		d.Since, d.Commits = s.Primary.Since, all.Minus(s.Primary.Base).Count()
	}
	old := k.drift
	if old != nil && old.Epoch != d.Epoch {
		old = nil
	}
	// An agent that has been restarted does not begin below the one before it.
	d.Seq = uint64(time.Now().UnixMilli())
	if l := s.Primary.Lossy; l != nil {
		d.Seq = max(d.Seq, l.Seq+1)
	}
	switch {
	case old == nil:
	case old.Ongoing(): // still the same one
		d.Seq, d.Since, d.Commits = old.Seq, old.Since, max(d.Commits, old.Commits)
	case !old.recorded(s):
		d.Seq, d.Since, d.Has, d.Commits = max(d.Seq, old.Seq+1), old.Since, d.Has.Union(old.Has), d.Commits+old.Commits
	default:
		d.Seq = max(d.Seq, old.Seq+1)
	}
	if old == nil || !old.Ongoing() || old.Reason != why {
		k.log.Error("commits were answered without acknowledgement: somebody changed semi-sync on the primary; arming it again",
			zap.Uint64("epoch", uint64(d.Epoch)), zap.String("reason", why), zap.Any("semi_sync", st.SemiSync))
	}
	k.drift = &d
}

// settle gives the commits that are on their way a moment to come to be or not:
// they may have been let through before the primary began to wait. It returns what
// the primary is then, and those that are on their way still.
func (k *Keeper) settle(ctx context.Context, st dbrepl.Status) (dbrepl.Status, gtid.Set, error) {
	underway := st.Committing
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 25 {
		if underway.Intersect(st.Committing).IsEmpty() {
			break
		}
		select {
		case <-ctx.Done():
			return st, underway, ctx.Err()
		case <-tick.C:
		}
		var err error
		if st, err = k.inst.Probe(ctx); err != nil {
			return st, underway, err
		}
	}
	return st, underway.Intersect(st.Committing), nil
}

// endDrift notes that the primary waits again, and what it has by now: all but the
// commits that began to wait since.
func (k *Keeper) endDrift(st dbrepl.Status, underway gtid.Set) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := *k.drift
	has := st.Executed.Union(underway)
	d.Commits += has.Minus(d.counted).Count()
	d.Has, d.Until, d.Seq = d.Has.Union(has), time.Now().UTC(), d.Seq+1
	k.drift = &d
	k.log.Warn("the primary waits again", zap.Uint64("epoch", uint64(d.Epoch)), zap.Uint64("commits_at_most", d.Commits))
}

// untold is the drift that the record does not know yet.
func (k *Keeper) untold() *Drift {
	k.mu.Lock()
	d := k.drift
	k.mu.Unlock()
	if d == nil || d.recorded(k.reg.Snapshot().State) {
		return nil
	}
	return d
}
