package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"interrex/dbrepl"
	"interrex/failover"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

var (
	errReadOnly = errors.New("the server is read only")
	errGone     = errors.New("connection lost, outcome unknown")
	errRefused  = errors.New("connection refused")
)

// instance is a server as its own agent commands it: the statements of dbrepl,
// one at a time, so that everything else can happen in between.
type instance struct {
	s  *server
	by *process
}

var _ failover.Instance = instance{}

// statement runs do on the server after a while, and ends when done is called.
// A server that is down refuses; a frozen one does it when it is thawed,
// whether or not its caller still waits; one that hangs does nothing before
// that ends. What do returns takes back a statement that waits.
func (i instance) statement(ctx context.Context, what string, least, most time.Duration, do func(done func(any, error)) (giveUp func())) (any, error) {
	return i.s.w.loop.do(ctx, i.by, i.by.name+" "+string(i.s.name)+" "+what, func(c *call) {
		s, l := i.s, i.s.w.loop
		d, boot := s.took(least, most), s.boot
		if !s.up {
			l.later(50*time.Microsecond, 200*time.Microsecond, func() { l.finish(c, nil, errRefused) })
			return
		}
		given := false
		giveUp := func() {}
		var run func()
		run = func() {
			switch {
			case given:
			case !s.up || s.boot != boot:
				l.finish(c, nil, errGone)
			case s.frozen:
				s.held = append(s.held, run)
			case s.hang:
				l.after(50*time.Millisecond, run)
			default:
				if undo := do(func(v any, err error) { l.finish(c, v, err) }); undo != nil {
					giveUp = undo
				}
				s.changed()
			}
		}
		l.after(d, run)
		c.onEnd = func() {
			if s.frozen || s.hang {
				// Its thread cannot be ended: it may be run later.
				l.later(500*time.Millisecond, time.Second, func() {
					l.finish(c, nil, fmt.Errorf("%w: %w", dbrepl.ErrOutcomeUnknown, ctx.Err()))
				})
				return
			}
			given = true
			giveUp()
			l.later(time.Millisecond, 3*time.Millisecond, func() {
				l.finish(c, nil, fmt.Errorf("%w: %w", dbrepl.ErrGivenUp, ctx.Err()))
			})
		}
	})
}

func (s *server) took(least, most time.Duration) time.Duration {
	d := s.between(least, most)
	return d + d*time.Duration(s.slow)/100
}

// set runs a statement that takes effect at once.
func (i instance) set(ctx context.Context, what string, do func() error) error {
	_, err := i.statement(ctx, what, 100*time.Microsecond, time.Millisecond, func(done func(any, error)) func() {
		done(nil, do())
		return nil
	})
	return err
}

// read asks something.
func read[T any](ctx context.Context, i instance, what string, get func() T) (v T, err error) {
	got, err := i.statement(ctx, what, 50*time.Microsecond, 500*time.Microsecond, func(done func(any, error)) func() {
		done(get(), nil)
		return nil
	})
	if err == nil {
		v = got.(T)
	}
	return v, err
}

type sets struct{ executed, received gtid.Set }

func (i instance) sets(ctx context.Context) (sets, error) {
	return read(ctx, i, "read sets", func() sets { return sets{i.s.executed, i.s.received()} })
}

// Probe implements failover.Instance.
func (i instance) Probe(ctx context.Context) (dbrepl.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 750*time.Millisecond)
	defer cancel()
	return read(ctx, i, "probe", i.s.status)
}

// Freeze implements failover.Instance.
func (i instance) Freeze(ctx context.Context) (executed, received gtid.Set, unapplied uint64, err error) {
	if err := i.stopReceiver(ctx); err != nil {
		return executed, received, 0, err
	}
	at, err := i.sets(ctx)
	return at.executed, at.received, at.received.Minus(at.executed).Count(), err
}

func (i instance) stopReceiver(ctx context.Context) error {
	s := i.s
	_, err := i.statement(ctx, "stop receiver", time.Millisecond, 20*time.Millisecond, func(done func(any, error)) func() {
		s.stopReceiver()
		boot := s.boot
		// One that is stuck is waited for. It has been told, whoever gives up.
		s.watched = append(s.watched, func() bool {
			switch {
			case !s.up || s.boot != boot:
				done(nil, errGone)
			case s.stuck:
				return false
			default:
				done(nil, nil)
			}
			return true
		})
		return nil
	})
	return err
}

// until waits for a condition of the server, as a statement does.
func (i instance) until(ctx context.Context, what string, ok func() bool) error {
	s := i.s
	_, err := i.statement(ctx, what, 50*time.Microsecond, 500*time.Microsecond, func(done func(any, error)) func() {
		over, boot := false, s.boot
		s.watched = append(s.watched, func() bool {
			switch {
			case over:
			case !s.up || s.boot != boot:
				done(nil, errGone)
			case s.alive() && ok():
				done(nil, nil)
			default:
				return false
			}
			return true
		})
		return func() { over = true }
	})
	return err
}

// CatchUp implements failover.Instance.
func (i instance) CatchUp(ctx context.Context, set gtid.Set, limit time.Duration) (gtid.Set, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := i.set(ctx, "start applier", func() error {
		i.s.applierOn = i.s.source != nil
		i.s.apply()
		return nil
	})
	if err == nil {
		err = i.until(ctx, "catch up", func() bool { return i.s.executed.Contains(set) })
	}
	if err != nil {
		return gtid.Set{}, fmt.Errorf("%w: %w", dbrepl.ErrNotCaughtUp, err)
	}
	at, err := i.sets(ctx)
	return at.executed, err
}

// Arm implements failover.Instance.
func (i instance) Arm(ctx context.Context, k int) error {
	return i.set(ctx, "arm", func() error {
		i.s.armed, i.s.k = true, k
		i.s.settle()
		return nil
	})
}

// Degrade implements failover.Instance.
func (i instance) Degrade(ctx context.Context) error {
	return i.set(ctx, "degrade", func() error {
		i.s.armed = false
		i.s.settle()
		return nil
	})
}

// ShutOut implements failover.Instance.
func (i instance) ShutOut(ctx context.Context, user string) error {
	return i.set(ctx, "shut out "+user, func() error {
		if i.s.superRO {
			return errReadOnly
		}
		if i.s.shut == nil {
			i.s.shut = map[string]bool{}
		}
		i.s.shut[user] = true
		for _, r := range i.s.w.servers {
			if accountOf(r.name) == user {
				i.s.drop(r)
			}
		}
		return nil
	})
}

// LetIn implements failover.Instance.
func (i instance) LetIn(ctx context.Context, users ...string) error {
	return i.set(ctx, "let in", func() error {
		for _, user := range users {
			if i.s.shut[user] && i.s.superRO {
				return errReadOnly
			}
			delete(i.s.shut, user)
		}
		return nil
	})
}

// WriteMarker implements failover.Instance.
func (i instance) WriteMarker(ctx context.Context, m topology.Marker, k int, receivers ...string) (gtid.Set, error) {
	err := i.set(ctx, "open for the marker", func() error {
		if k > 0 {
			i.s.armed, i.s.k = true, k
		}
		i.s.superRO = false
		return nil
	})
	if err != nil {
		return gtid.Set{}, err
	}
	if err := i.LetIn(ctx, receivers...); err != nil {
		return gtid.Set{}, err
	}
	_, err = i.statement(ctx, "write marker", 50*time.Microsecond, 500*time.Microsecond, func(done func(any, error)) func() {
		i.s.write(true, &m, func(err error) { done(nil, err) })
		return nil // a commit that waits is never taken back
	})
	switch {
	case errors.Is(err, errReadOnly), errors.Is(err, errRefused):
		return gtid.Set{}, err
	case err != nil:
		return gtid.Set{}, fmt.Errorf("%w: %w", dbrepl.ErrOutcomeUnknown, err)
	}
	at, err := i.sets(ctx)
	return at.executed, err
}

// Nudge implements failover.Instance.
func (i instance) Nudge(ctx context.Context, _ topology.Epoch) error {
	_, err := i.statement(ctx, "nudge", 50*time.Microsecond, 500*time.Microsecond, func(done func(any, error)) func() {
		i.s.write(true, nil, func(err error) { done(nil, err) })
		return nil // a commit that waits is never taken back
	})
	return err
}

// TendEvents implements failover.Instance; these servers have none.
func (instance) TendEvents(context.Context) (dbrepl.EventsLeft, error) {
	return dbrepl.EventsLeft{}, nil
}

// OpenWrites implements failover.Instance.
func (i instance) OpenWrites(ctx context.Context, k int) error {
	return i.set(ctx, "open", func() error {
		if k > 0 {
			i.s.armed, i.s.k = true, k
		}
		i.s.superRO, i.s.readOnly = false, false
		i.s.w.check.opened(i.s)
		return nil
	})
}

// Retire implements failover.Instance.
func (i instance) Retire(ctx context.Context) error {
	replicates, err := read(ctx, i, "read replication", func() bool { return i.s.source != nil })
	if err != nil {
		return err
	}
	if replicates {
		if err := i.stopReceiver(ctx); err != nil {
			return err
		}
		at, err := i.sets(ctx)
		if err != nil {
			return err
		}
		if rest := at.received.Minus(at.executed); !rest.IsEmpty() {
			return fmt.Errorf("%w: %s", dbrepl.ErrNotReplicated, rest)
		}
		err = i.set(ctx, "reset replica", func() error {
			i.s.stopReceiver()
			i.s.applierOn, i.s.source = false, nil
			return nil
		})
		if err != nil {
			return err
		}
	}
	return i.set(ctx, "stop acknowledging", func() error { i.s.ackerFlag = false; return nil })
}

// Follow implements failover.Instance.
func (i instance) Follow(ctx context.Context, spec dbrepl.FollowSpec) error {
	if err := i.shut(ctx); err != nil {
		return err
	}
	s, source := i.s, i.s.w.serverAt(net.JoinHostPort(spec.Host, strconv.Itoa(spec.Port)))
	err := i.set(ctx, "disarm", func() error {
		if s.armed && len(s.commits) > 0 {
			return dbrepl.ErrCommitsWaiting
		}
		s.armed = false
		return nil
	})
	if err != nil {
		return err
	}
	type state struct{ pointed, acker, runs, backlog bool }
	now, err := read(ctx, i, "read replication", func() state {
		acker := s.ackerFlag == spec.Acker && (s.stream == nil || s.stream.acker == spec.Acker)
		return state{s.source == source, acker, s.receiverOn && s.applierOn, !s.executed.Contains(s.retrieved)}
	})
	if err != nil || now.pointed && now.acker && now.runs {
		return err
	}
	if !now.pointed || !now.acker {
		if err := i.stopReceiver(ctx); err != nil {
			return err
		}
	}
	if err := i.set(ctx, "set acknowledging", func() error { s.ackerFlag = spec.Acker; return nil }); err != nil {
		return err
	}
	if !now.pointed {
		if now.backlog {
			if err := spec.AtRisk(); err != nil {
				return err
			}
		}
		// Never cut short.
		err := i.set(context.WithoutCancel(ctx), "point", func() error {
			if s.receiverOn || s.stuck {
				return errors.New("the receiver runs")
			}
			s.applierOn = s.applierOn || !s.executed.Contains(s.retrieved) // the relay log is kept
			s.source = source
			s.apply()
			return nil
		})
		if err != nil {
			return err
		}
		if now.backlog {
			spec.Kept()
		}
	}
	return i.set(ctx, "start replica", func() error { s.startReplica(); return nil })
}

// shut is SET GLOBAL super_read_only=ON, which queues behind commits.
func (i instance) shut(ctx context.Context) error {
	_, err := i.statement(ctx, "close", 100*time.Microsecond, time.Millisecond, func(done func(any, error)) func() {
		c := i.s.close(func() { done(nil, nil) })
		return func() { i.s.giveUp(c) }
	})
	if err != nil && (errors.Is(err, dbrepl.ErrGivenUp) || errors.Is(err, dbrepl.ErrOutcomeUnknown)) {
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), 250*time.Millisecond)
		defer cancel()
		waiting, askErr := read(asking, i, "count waiting", func() int { return len(i.s.commits) })
		if askErr == nil && waiting > 0 {
			return fmt.Errorf("%w: %d sessions: %w", dbrepl.ErrCommitsWaiting, waiting, err)
		}
	}
	return err
}

// CloseWrites implements failover.Instance.
func (i instance) CloseWrites(ctx context.Context, drain, limit time.Duration) (executed gtid.Set, killed int, err error) {
	s := i.s
	was, err := read(ctx, i, "read what is open", func() closing { return closing{super: s.superRO, read: s.readOnly} })
	if err != nil {
		return executed, 0, err
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	waiting, stop := context.WithTimeout(bounded, drain)
	err = i.until(waiting, "drain", func() bool { return len(s.commits) == 0 })
	stop()
	if err != nil && bounded.Err() == nil {
		err = i.set(bounded, "end sessions", func() error { s.endSessions(); return nil })
	}
	if err == nil {
		_, err = i.statement(bounded, "close", 100*time.Microsecond, time.Millisecond, func(done func(any, error)) func() {
			c := s.close(func() { done(nil, nil) })
			return func() { s.giveUp(c) }
		})
	}
	if err == nil {
		at, err := i.sets(ctx)
		return at.executed, 0, err
	}
	undoing, cancelUndo := context.WithTimeout(context.WithoutCancel(ctx), 500*time.Millisecond)
	defer cancelUndo()
	undo := i.set(undoing, "reopen", func() error { s.superRO, s.readOnly = was.super, was.read; return nil })
	if undo != nil {
		return executed, 0, fmt.Errorf("%w: %w; undoing it: %w", dbrepl.ErrOutcomeUnknown, err, undo)
	}
	if bounded.Err() != nil {
		err = fmt.Errorf("%w after %v: %w", dbrepl.ErrCloseTimedOut, limit, err)
	}
	return executed, 0, err
}

// Isolate implements failover.Instance.
func (i instance) Isolate(ctx context.Context) error {
	err := i.set(ctx, "end sessions and receivers", func() error {
		i.s.endSessions()
		i.s.dropReceivers()
		return nil
	})
	return errors.Join(i.shut(ctx), err)
}

// rebuilder makes an instance anew; implements failover.Rebuilder.
type rebuilder struct{ instance }

// Restart implements failover.Rebuilder: SIGKILL, and the supervisor.
func (r rebuilder) Restart(ctx context.Context) error {
	l, s := r.s.w.loop, r.s
	_, err := l.do(ctx, r.by, r.by.name+" "+string(s.name)+" restart", func(c *call) {
		l.later(20*time.Millisecond, 100*time.Millisecond, func() {
			s.kill()
			l.later(300*time.Millisecond, 900*time.Millisecond, func() {
				s.start(false)
				l.finish(c, nil, nil)
			})
		})
	})
	return err
}

// Rebuild implements failover.Rebuilder: what is errant is saved, the donor's
// data copied; the server restarts, with its own name.
func (r rebuilder) Rebuild(ctx context.Context, donor string, errant gtid.Set, progress func(stage, savedFile string)) error {
	l, s, from := r.s.w.loop, r.s, r.s.w.serverAt(donor)
	progress("save errant transactions", "")
	if err := r.set(ctx, "save errant", func() error { s.w.saved = s.w.saved.Union(errant); return nil }); err != nil {
		return err
	}
	progress("clone", "file")
	_, err := l.do(ctx, r.by, r.by.name+" "+string(s.name)+" clone", func(c *call) {
		l.later(200*time.Millisecond, 800*time.Millisecond, func() {
			if !s.alive() || s.full || !from.alive() || s.w.net.cutEither(replication, s.name, from.name) {
				l.finish(c, nil, errors.New("clone failed"))
				return
			}
			executed, marker := from.executed, from.marker
			s.kill()
			l.later(300*time.Millisecond, 900*time.Millisecond, func() {
				if s.up {
					l.finish(c, nil, errors.New("somebody else started it"))
					return
				}
				s.executed, s.logged, s.retrieved, s.marker, s.source = executed, executed, gtid.Set{}, marker, nil
				s.start(false)
				l.finish(c, nil, nil)
			})
		})
	})
	return err
}
