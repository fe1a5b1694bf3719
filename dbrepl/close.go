package dbrepl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"interrex/internal/gtid"
)

// controllers are the users that a controller logs in with (see killerOf).
const controllers = `SUBSTRING_INDEX(USER(), '@', 1), CONCAT(SUBSTRING_INDEX(USER(), '@', 1), '` + killerSuffix + `')`

// clientThreads are the sessions of clients: neither the server's own, nor
// replication's, nor the controller's.
const clientThreads = `FROM performance_schema.threads AS t WHERE t.type = 'FOREGROUND' AND t.processlist_id IS NOT NULL
	AND t.processlist_user NOT IN ('system user', 'event_scheduler', ` + controllers + `)
	AND t.processlist_command NOT IN ('Daemon', 'Binlog Dump', 'Binlog Dump GTID')`

const (
	selectClients = "SELECT t.processlist_id " + clientThreads
	selectDumps   = "SELECT t.processlist_id FROM performance_schema.threads AS t WHERE t.processlist_command LIKE 'Binlog Dump%'"
	// Not information_schema.innodb_trx: that is not brought up to date while
	// it is read more often than every 100 ms.
	selectTransactions = `SELECT t.processlist_id, e.event_id FROM performance_schema.events_transactions_current AS e
		JOIN performance_schema.threads AS t USING (thread_id)
		WHERE e.state = 'ACTIVE' AND e.access_mode = 'READ WRITE' AND t.type = 'FOREGROUND' AND t.processlist_id IS NOT NULL
		AND t.processlist_user NOT IN ('system user', 'event_scheduler', ` + controllers + `)`
)

// CloseWrites closes an open instance for a switchover and returns what it has
// executed when nothing can be added any more. New transactions are held back
// by the routes already. Running ones may end by themselves within drain; the
// sessions of those that have not are killed (their number is returned), and
// then super_read_only is switched on; only the return of that statement
// counts. If all that takes longer than limit it is undone: the error is
// ErrCloseTimedOut and the instance is open as before; but for killed
// sessions nobody noticed. If not even the undoing could be seen to succeed
// the error is ErrOutcomeUnknown.
func (i *Instance) CloseWrites(ctx context.Context, drain, limit time.Duration) (executed gtid.Set, killed int, err error) {
	executed, killed, err = i.closeWrites(ctx, drain, limit)
	if err != nil {
		return executed, killed, fmt.Errorf("close for writes: %w", err)
	}
	return executed, killed, nil
}

func (i *Instance) closeWrites(ctx context.Context, drain, limit time.Duration) (gtid.Set, int, error) {
	deadline := time.Now().Add(limit)
	var readOnly, superReadOnly bool
	if err := i.command.QueryRowContext(ctx, "SELECT @@global.read_only, @@global.super_read_only").Scan(&readOnly, &superReadOnly); err != nil {
		return gtid.Set{}, 0, fmt.Errorf("read what is open: %w", err)
	}
	bounded, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	killed, err := i.endTransactions(bounded, min(drain, limit))
	if err == nil {
		err = i.order(bounded, "SET GLOBAL super_read_only = ON")
	}
	if err == nil {
		executed, err := executedSet(ctx, i.command)
		return executed, killed, err
	}
	if undoErr := i.reopen(ctx, readOnly, superReadOnly); undoErr != nil {
		return gtid.Set{}, killed, fmt.Errorf("%w: %w; undoing it: %w", ErrOutcomeUnknown, err, undoErr)
	}
	if bounded.Err() != nil {
		err = fmt.Errorf("%w after %v: %w", ErrCloseTimedOut, limit, err)
	}
	return gtid.Set{}, killed, err
}

// reopen brings back what was found before, also when ctx has ended: a
// primary must not be left half closed.
func (i *Instance) reopen(ctx context.Context, readOnly, superReadOnly bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), i.cfg.ConnectTimeout+i.cfg.QueryTimeout)
	defer cancel()
	if err := i.order(ctx, "SET GLOBAL super_read_only = ?, GLOBAL read_only = ?", superReadOnly, readOnly); err != nil {
		return err
	}
	var nowRead, nowSuper bool
	if err := i.command.QueryRowContext(ctx, "SELECT @@global.read_only, @@global.super_read_only").Scan(&nowRead, &nowSuper); err != nil {
		return err
	}
	if nowRead != readOnly || nowSuper != superReadOnly {
		return fmt.Errorf("read_only is %v and super_read_only %v", nowRead, nowSuper)
	}
	return nil
}

// endTransactions waits up to drain for the transactions that clients have open
// now, and kills the sessions of those that have not ended by then. Younger
// ones are left to the closing itself: it waits for what is committing and
// refuses the rest.
func (i *Instance) endTransactions(ctx context.Context, drain time.Duration) (killed int, err error) {
	first, err := i.transactions(ctx)
	if err != nil || len(first) == 0 {
		return 0, err
	}
	open := first
	waiting, cancel := context.WithTimeout(ctx, drain)
	defer cancel()
	err = poll(waiting, func() (bool, error) {
		now, err := i.transactions(waiting)
		if err != nil {
			return false, err
		}
		open = map[transaction]bool{}
		for t := range now {
			if first[t] {
				open[t] = true
			}
		}
		return len(open) == 0, nil
	})
	if err == nil || waiting.Err() == nil || ctx.Err() != nil {
		return 0, err
	}
	var sessions []uint64
	for t := range open {
		sessions = append(sessions, t.session)
	}
	return i.kill(ctx, sessions)
}

// transaction names one transaction of one session.
type transaction struct{ session, event uint64 }

// transactions are the clients' open read-write transactions.
func (i *Instance) transactions(ctx context.Context) (map[transaction]bool, error) {
	rows, err := i.command.QueryContext(ctx, selectTransactions)
	if err != nil {
		return nil, fmt.Errorf("read open transactions: %w", err)
	}
	defer rows.Close() //nolint:errcheck // its error is rows.Err
	open := map[transaction]bool{}
	for rows.Next() {
		var t transaction
		if err := rows.Scan(&t.session, &t.event); err != nil {
			return nil, fmt.Errorf("read open transactions: %w", err)
		}
		open[t] = true
	}
	return open, rows.Err()
}

// Isolate closes an instance that may be no primary any more: all client
// sessions and all replicas' connections are ended, and super_read_only is
// switched on. If that hangs behind a commit that waits for an acknowledgement
// until ctx ends, the error is ErrCommitsWaiting: the statement was ended, the
// instance is not closed, and yet it acknowledges nothing while its ackers are
// frozen. Semi-sync is never switched off here (I2).
func (i *Instance) Isolate(ctx context.Context) error {
	if err := i.isolate(ctx); err != nil {
		return fmt.Errorf("isolate instance: %w", err)
	}
	return nil
}

func (i *Instance) isolate(ctx context.Context) error {
	_, killErr := i.killAll(ctx, selectClients)
	safe, err := i.waitsWithoutReplicas(ctx)
	if err != nil {
		return cmp.Or(killErr, err) // both say that it cannot be reached
	}
	if safe {
		_, err = i.killAll(ctx, selectDumps)
		killErr = errors.Join(killErr, err)
	}
	// Closing waits for the locks of an applier that was ended, and keeps others
	// out meanwhile.
	ended := i.releaseApplier(ctx, 0)
	shut := i.shut(ctx)
	if ended && shut == nil {
		i.releaseApplier(ctx, rollbackLimit)
	}
	return errors.Join(shut, killErr)
}

// releaseApplier ends what has come in part from a former primary, where this
// instance was replaced before it was retired: closing waits for what it locks.
func (i *Instance) releaseApplier(ctx context.Context, limit time.Duration) (ended bool) {
	current, err := i.replication(ctx)
	if err != nil || !current.configured() || current.receiver != "OFF" {
		return false
	}
	_, rest, err := i.unexecuted(ctx)
	if err == nil && rest.IsEmpty() {
		err = i.dropUnfinished(ctx, limit)
	}
	ended = errors.Is(err, ErrRollingBack)
	if err != nil && !ended {
		i.log.Warn("a transaction that was received in part may still lock the instance", zap.Error(err))
	}
	return ended
}

// waitsWithoutReplicas tells whether replicas may be cut off without releasing
// commits that wait for them.
func (i *Instance) waitsWithoutReplicas(ctx context.Context) (bool, error) {
	f, err := i.discover(ctx, i.command)
	if err != nil || !f.source {
		return err == nil, err
	}
	var safe bool
	err = i.command.QueryRowContext(ctx, "SELECT @@global.rpl_semi_sync_source_wait_no_replica OR NOT @@global.rpl_semi_sync_source_enabled").Scan(&safe)
	if err != nil {
		return false, fmt.Errorf("read semi-sync settings: %w", err)
	}
	return safe, nil
}

// KillClients ends the sessions of all clients (not the controller's, not the
// server's own, not replicas') and returns how many there were. It does not
// wait until they are gone. Sessions it may not end (accounts with
// SYSTEM_USER) are in the error.
func (i *Instance) KillClients(ctx context.Context) (int, error) {
	n, err := i.killAll(ctx, selectClients)
	if err != nil {
		return n, fmt.Errorf("kill client sessions: %w", err)
	}
	return n, nil
}

// killAll ends the sessions that a query lists.
func (i *Instance) killAll(ctx context.Context, query string) (killed int, err error) {
	threads, err := i.threads(ctx, query)
	if err != nil {
		return 0, err
	}
	return i.kill(ctx, threads)
}

// kill ends sessions, one after another on one connection: several in parallel
// are slower.
func (i *Instance) kill(ctx context.Context, sessions []uint64) (killed int, err error) {
	conn, err := i.command.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	var failed []error
	for _, session := range sessions {
		if err := kill(ctx, conn, session); err != nil {
			failed = append(failed, err)
			if ctx.Err() != nil {
				break
			}
			continue
		}
		killed++
	}
	return killed, errors.Join(failed...)
}

func (i *Instance) threads(ctx context.Context, query string) ([]uint64, error) {
	return listThreads(ctx, i.command, query)
}

func listThreads(ctx context.Context, q querier, query string, args ...any) ([]uint64, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	defer rows.Close()
	var threads []uint64
	for rows.Next() {
		var thread uint64
		if err := rows.Scan(&thread); err != nil {
			return nil, fmt.Errorf("list sessions: %w", err)
		}
		threads = append(threads, thread)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	return threads, nil
}
