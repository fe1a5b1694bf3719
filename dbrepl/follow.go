package dbrepl

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"interrex/internal/gtid"
)

// heartbeatUnit is the finest the server keeps a heartbeat period in.
const heartbeatUnit = time.Millisecond

// retryCount makes a receiver try its source about for ever, every second.
const retryCount = 1 << 30

// FollowSpec says whom an instance replicates from, and whether it
// acknowledges.
type FollowSpec struct {
	Host string
	Port int
	// Acker switches acknowledging on. Only for an instance that is in the
	// register (I3).
	Acker bool
	// AtRisk, if it is set, is called before a change of source while something
	// is received and not executed, which the server may drop (ErrForgotten).
	// Only when Kept is called after it, it is certain that nothing was dropped,
	// whatever becomes of the order. Its error ends the order, with nothing changed.
	AtRisk func() error
	Kept   func()
}

// Follow closes the instance, ends its role as a semi-sync source, and makes
// it replicate from the given source. The applier is left running, or is
// started; where the instance follows this source already, as told, nothing
// is touched. It returns when the receiver was started, not when it is
// connected.
//
// The caller has made sure that the source has all that this instance ever
// received: a change of source may drop what was received and is not executed.
// An instance whose applier does not run and which has such transactions is
// refused all the same, with ErrApplierStopped; if it is seen afterwards that
// they were dropped, the error is ErrForgotten. ErrCommitsWaiting: see there.
func (i *Instance) Follow(ctx context.Context, spec FollowSpec) error {
	err := i.follow(ctx, spec)
	if isServerError(err, errApplierMetadata) {
		i.log.Warn("the applier cannot start, whatever the source is: forgetting its state", zap.Error(err))
		if err = i.resetApplier(ctx); err == nil {
			err = i.follow(ctx, spec)
		}
	}
	if err != nil {
		return fmt.Errorf("follow %s:%d: %w", spec.Host, spec.Port, err)
	}
	return nil
}

// resetApplier has the server forget what it knows of its applier, of which one
// that died while it forgot its source (Retire) has half, and its relay log; not
// while anything that was received is not executed (I8).
func (i *Instance) resetApplier(ctx context.Context) error {
	executed, err := executedSet(ctx, i.command)
	if err != nil {
		return err
	}
	current, err := i.replication(ctx)
	if err != nil {
		return err
	}
	if rest := current.retrieved.Minus(executed); !rest.IsEmpty() {
		return fmt.Errorf("%w and cannot start, with %d transactions unapplied", ErrApplierStopped, rest.Count())
	}
	return i.order(ctx, "RESET REPLICA FOR CHANNEL ''")
}

func (i *Instance) follow(ctx context.Context, spec FollowSpec) error {
	if err := i.shut(ctx); err != nil {
		return err
	}
	if err := i.disarm(ctx); err != nil {
		return err
	}
	current, err := i.replication(ctx)
	if err != nil {
		return err
	}
	acker, err := i.ackerState(ctx)
	if err != nil {
		return err
	}
	pointed := current.configured() && current.host == spec.Host && current.port == spec.Port && current.autoPosition &&
		current.user == i.cfg.ReplUser && i.cfg.unfit(current.heartbeat, current.retry) == ""
	if pointed && acker.is(spec.Acker, current.receiver) && current.receiver != "OFF" && current.applier == "ON" {
		return nil
	}
	// What acknowledges now must stop before it is told otherwise, and the
	// flag counts at the receiver's next start only.
	if current.configured() && (current.receiver != "OFF") && !(pointed && acker.is(spec.Acker, current.receiver)) {
		if err := i.order(ctx, "STOP REPLICA IO_THREAD FOR CHANNEL ''"); err != nil {
			return err
		}
	}
	if acker.enabled != spec.Acker {
		if err := i.order(ctx, "SET GLOBAL rpl_semi_sync_replica_enabled = ?", spec.Acker); err != nil {
			return err
		}
	}
	if !pointed {
		if err := i.keepRelayLog(ctx); err != nil {
			return err
		}
		if err := i.repoint(ctx, spec, current.autoPosition); err != nil {
			return err
		}
	}
	return i.order(ctx, "START REPLICA FOR CHANNEL ''")
}

// shut makes super_read_only ON, and tells of waiting commits if these are why
// it cannot.
func (i *Instance) shut(ctx context.Context) error {
	err := i.order(ctx, "SET GLOBAL super_read_only = ON")
	if err == nil || !(errors.Is(err, ErrGivenUp) || errors.Is(err, ErrOutcomeUnknown)) {
		return err
	}
	// ctx has ended; this question has its own time.
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), i.cfg.QueryTimeout)
	defer cancel()
	waiting, askErr := i.waitingCommits(asking)
	if askErr == nil && waiting > 0 {
		return fmt.Errorf("%w: %d sessions: %w", ErrCommitsWaiting, waiting, err)
	}
	return err
}

// disarm switches the source role off, on a closed instance only. It may take
// the server a second. A commit that waits would be released by it.
func (i *Instance) disarm(ctx context.Context) error {
	var enabled bool
	if err := i.command.QueryRowContext(ctx, "SELECT @@global.rpl_semi_sync_source_enabled").Scan(&enabled); err != nil {
		return fmt.Errorf("read semi-sync role: %w", err)
	}
	if !enabled {
		return nil
	}
	waiting, err := i.waitingCommits(ctx)
	if err != nil {
		return err
	}
	if waiting > 0 {
		return fmt.Errorf("%w: %d sessions", ErrCommitsWaiting, waiting)
	}
	return i.order(ctx, "SET GLOBAL rpl_semi_sync_source_enabled = OFF")
}

// waitingCommits counts the sessions whose commit waits for an
// acknowledgement, by the plugin's own count and by the sessions' states (the
// plugin's own thread, which has no session, is in that state all the time).
// Commits that are one group are one, and none is only when there is none.
func (i *Instance) waitingCommits(ctx context.Context) (int, error) {
	var waiting int
	err := i.command.QueryRowContext(ctx, `SELECT GREATEST(
		(SELECT COUNT(*) FROM performance_schema.threads
			WHERE processlist_state LIKE 'Waiting for semi-sync ACK%' AND processlist_id IS NOT NULL),
		COALESCE((SELECT variable_value + 0 FROM performance_schema.global_status
			WHERE variable_name = 'Rpl_semi_sync_source_wait_sessions'), 0))`).Scan(&waiting)
	if err != nil {
		return 0, fmt.Errorf("count waiting commits: %w", err)
	}
	return waiting, nil
}

// ackerState is the semi-sync replica role: as set, and as it is.
type ackerState struct{ enabled, active bool }

// is tells whether the role is as wanted, given the receiver's state: one that
// is not connected is not active and will be as set.
func (a ackerState) is(wanted bool, receiver string) bool {
	return a.enabled == wanted && (receiver != "ON" || a.active == wanted)
}

func (i *Instance) ackerState(ctx context.Context) (ackerState, error) {
	var a ackerState
	err := i.command.QueryRowContext(ctx, `SELECT @@global.rpl_semi_sync_replica_enabled, COALESCE((SELECT variable_value = 'ON'
		FROM performance_schema.global_status WHERE variable_name = 'Rpl_semi_sync_replica_status'), 0)`).Scan(&a.enabled, &a.active)
	if err != nil {
		return a, fmt.Errorf("read acknowledging role: %w", err)
	}
	return a, nil
}

// provenAfter is how long an applier that had to be started is watched: what
// stopped it is mostly met again at once.
const provenAfter = time.Second

// keepRelayLog sees to it that a change of source drops nothing that is not
// executed: a running applier keeps its relay log (I8). One that was stopped has
// to execute what is left, or to run for provenAfter.
func (i *Instance) keepRelayLog(ctx context.Context) error {
	current, err := i.replication(ctx)
	if err != nil || !current.configured() || current.applier == "ON" {
		return err
	}
	_, err = i.catchUp(ctx, current.retrieved, time.Now().Add(provenAfter))
	if errors.Is(err, ErrNotCaughtUp) {
		return nil
	}
	return err
}

// repoint changes the source, and looks afterwards whether all is there that was
// received. An applier that fails between the last look at it and the change
// is one that does not run, and the server then drops the relay log. It cannot be
// told not to: the option that keeps it, RELAY_LOG_FILE, is refused while
// positions are automatic (error 1776).
func (i *Instance) repoint(ctx context.Context, spec FollowSpec, autoPosition bool) error {
	received, rest, err := i.unexecuted(ctx)
	if err != nil {
		return err
	}
	if rest.IsEmpty() { // and nothing comes: the receiver is stopped
		return i.point(ctx, spec, autoPosition)
	}
	if spec.AtRisk != nil {
		if err := spec.AtRisk(); err != nil {
			return err
		}
	}
	pointed := i.point(ctx, spec, autoPosition)
	if errors.Is(pointed, ErrOutcomeUnknown) {
		return pointed // it may be done yet
	}
	// Also for an order that was called off: the change was not.
	lctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookLimit)
	defer cancel()
	left, _, err := i.unexecuted(lctx)
	if err != nil {
		return errors.Join(pointed, fmt.Errorf("look what the change of source has left: %w", err))
	}
	if lost := received.Minus(left); !lost.IsEmpty() {
		i.log.Error("the applier failed while the source was changed, and the server dropped what it had received",
			zap.Uint64("transactions", lost.Count()), zap.String("gtids", lost.String()))
		return fmt.Errorf("%w: %s", ErrForgotten, lost)
	}
	if spec.Kept != nil {
		spec.Kept()
	}
	return pointed
}

// lookLimit bounds the look after a change of source.
const lookLimit = 2 * time.Second

// unexecuted is what is executed or received, and what of it is not executed.
func (i *Instance) unexecuted(ctx context.Context) (received, rest gtid.Set, err error) {
	executed, err := executedSet(ctx, i.command)
	if err != nil {
		return received, rest, err
	}
	current, err := i.replication(ctx)
	return executed.Union(current.retrieved), current.retrieved.Minus(executed), err
}

// pointLimit bounds a change of source, which takes milliseconds.
const pointLimit = 10 * time.Second

// point changes the source; the receiver is stopped, the applier may run, for
// which automatic positions must be on already: naming them again is refused.
func (i *Instance) point(ctx context.Context, spec FollowSpec, autoPosition bool) error {
	statement := `CHANGE REPLICATION SOURCE TO SOURCE_HOST = ?, SOURCE_PORT = ?, SOURCE_USER = ?, SOURCE_PASSWORD = ?,
		SOURCE_CONNECT_RETRY = ?, SOURCE_RETRY_COUNT = ?, SOURCE_HEARTBEAT_PERIOD = ?, `
	if !autoPosition {
		statement += "SOURCE_AUTO_POSITION = 1, "
	}
	if i.cfg.TLS != nil {
		statement += "SOURCE_SSL = 1"
	} else {
		statement += "SOURCE_SSL = 0, GET_SOURCE_PUBLIC_KEY = 1"
	}
	// Never cut short: a change of source that was interrupted half-way leaves
	// a server that refuses to start replication (error 1872) until it restarts.
	whole, cancel := context.WithTimeout(context.WithoutCancel(ctx), pointLimit)
	defer cancel()
	return i.order(whole, statement+" FOR CHANNEL ''", spec.Host, spec.Port, i.cfg.ReplUser, i.cfg.ReplPassword,
		int(ConnectRetry.Seconds()), retryCount, i.cfg.HeartbeatPeriod.Round(heartbeatUnit).Seconds())
}
