package dbrepl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"go.uber.org/zap"

	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// semiSyncTimeout is the longest the server takes for
// rpl_semi_sync_source_timeout, in milliseconds (49 days): a commit without
// acknowledgement is never released by the time (I2).
const semiSyncTimeout = math.MaxUint32

// nudgeMarker is how long the marker waits before the first nudge, longer than
// replicas take that are near; each further one is twice as far away.
const nudgeMarker = 100 * time.Millisecond

// waitPoint is where a commit waits: before anybody can see it.
const waitPoint = "AFTER_SYNC"

// Arm makes every commit from now on wait, without a limit, for the
// acknowledgement of k replicas, before it is visible (AFTER_SYNC). It returns
// when the server says that it is so. It may be called again with another k:
// what waits then is judged by the new one.
func (i *Instance) Arm(ctx context.Context, k int) error {
	if k < 1 || k > math.MaxUint16 {
		return fmt.Errorf("arm semi-sync: k is %d, not between 1 and %d", k, math.MaxUint16)
	}
	if err := i.arm(ctx, k); err != nil {
		return fmt.Errorf("arm semi-sync: %w", err)
	}
	return nil
}

// openStatement begins another statement that opens the server: it arms the
// server as well (k > 0). Whoever armed it before may have been frozen while the
// server was restarted, and a server starts disarmed.
func openStatement(k int, opening string) (statement string, args []any) {
	if k == 0 {
		return "SET " + opening, nil
	}
	return armStatement + ", " + opening, []any{waitPoint, semiSyncTimeout, k}
}

// armStatement switches the role on last: it begins with all else in force.
const armStatement = `SET GLOBAL rpl_semi_sync_source_wait_point = ?, GLOBAL rpl_semi_sync_source_timeout = ?,
	GLOBAL rpl_semi_sync_source_wait_no_replica = ON, GLOBAL rpl_semi_sync_source_wait_for_replica_count = ?,
	GLOBAL rpl_semi_sync_source_enabled = ON`

func (i *Instance) arm(ctx context.Context, k int) error {
	err := i.order(ctx, armStatement, waitPoint, semiSyncTimeout, k)
	if err != nil {
		return err
	}
	var now SemiSync
	var status string
	err = i.command.QueryRowContext(ctx, `SELECT @@global.rpl_semi_sync_source_enabled, @@global.rpl_semi_sync_source_wait_no_replica,
		@@global.rpl_semi_sync_source_wait_point, @@global.rpl_semi_sync_source_timeout, @@global.rpl_semi_sync_source_wait_for_replica_count,
		(SELECT variable_value FROM performance_schema.global_status WHERE variable_name = 'Rpl_semi_sync_source_status')`).
		Scan(&now.SourceEnabled, &now.WaitNoReplica, &now.WaitPoint, &now.TimeoutMillis, &now.WaitFor, &status)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if !now.Lossless(k) || now.WaitFor != k || status != "ON" {
		return fmt.Errorf("read back: enabled %v, status %s, wait point %s, timeout %d ms, wait without replicas %v, wait for %d: not as ordered",
			now.SourceEnabled, status, now.WaitPoint, now.TimeoutMillis, now.WaitNoReplica, now.WaitFor)
	}
	return nil
}

// Degrade makes commits wait for nobody, those that wait now among them. The
// caller has recorded it before (I4): what is answered from now on may be lost
// with this instance. It may take the server a second. Arm undoes it.
func (i *Instance) Degrade(ctx context.Context) error {
	if err := i.order(ctx, "SET GLOBAL rpl_semi_sync_source_enabled = OFF"); err != nil {
		return fmt.Errorf("degrade: %w", err)
	}
	return nil
}

// WriteMarker lets the receivers in that are to acknowledge it (LetIn), writes
// the epoch's marker row while the instance is still closed for everybody else
// (read_only stays ON, super_read_only goes OFF), and returns the executed set
// when k of them have acknowledged it (0: at once, see Degrade). When ctx ends first the
// error is ErrOutcomeUnknown: the row is in the binary log and may be
// acknowledged later; super_read_only stays OFF, as it could not be closed
// behind a waiting commit. It may be repeated for the same epoch.
func (i *Instance) WriteMarker(ctx context.Context, m topology.Marker, k int, receivers ...string) (gtid.Set, error) {
	executed, err := i.writeMarker(ctx, m, k, receivers)
	if err != nil {
		return gtid.Set{}, fmt.Errorf("write marker of epoch %d: %w", m.Epoch, err)
	}
	return executed, nil
}

func (i *Instance) writeMarker(ctx context.Context, m topology.Marker, k int, receivers []string) (gtid.Set, error) {
	statement, args := openStatement(k, "GLOBAL super_read_only = OFF")
	if err := i.order(ctx, statement, args...); err != nil {
		return gtid.Set{}, err
	}
	// Where this hangs behind somebody's backup lock, those that are let in
	// already may acknowledge all the same.
	lctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := i.LetIn(lctx, receivers...); err != nil {
		i.log.Warn("not every acker was let in before the marker", zap.Error(err))
	}
	end := i.nudging(ctx, m.Epoch)
	err := i.order(ctx, "REPLACE INTO "+i.markerTable()+" (epoch, node, written_at) VALUES (?, ?, ?)",
		uint64(m.Epoch), string(m.Node), m.At.UTC())
	end(err == nil)
	switch {
	case err == nil:
		return executedSet(ctx, i.command)
	case refusedByServer(err):
		return gtid.Set{}, err
	default: // also when its session is gone: its commit is not
		return gtid.Set{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
}

// nudging nudges until the marker is acknowledged, and end waits for those
// nudges: they are acknowledged with it. The server looks for acknowledgements
// of a replica that connects while it waits for another's only when that one
// sends its next, or after a second (Ack_receiver::run: its sockets are polled
// for a second, and new ones are added in between). Where the marker needs two,
// from replicas that connect one after the other, that second is lost. A nudge
// is what the first one acknowledges next.
func (i *Instance) nudging(ctx context.Context, epoch topology.Epoch) (end func(marked bool)) {
	ctx, giveUp := context.WithCancel(ctx)
	marked := make(chan struct{})
	var nudges sync.WaitGroup
	nudges.Go(func() {
		for wait := nudgeMarker; ; wait *= 2 {
			select {
			case <-marked:
				return
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			nudges.Go(func() {
				if err := i.Nudge(ctx, epoch); err != nil {
					i.log.Debug("nudge beside the marker", zap.Error(err))
				}
			})
		}
	})
	return func(ok bool) {
		close(marked)
		if !ok {
			giveUp()
		}
		nudges.Wait()
		giveUp()
	}
}

// Nudge commits a row of its own and returns when that is acknowledged. A
// replica acknowledges nothing that it had received before it
// became an acker, or whose acknowledgement was lost with a connection; but
// what it acknowledges stands for everything before it, so a commit that waits
// for no better reason is answered then. It waits like any other; when ctx ends
// first, its session is ended and the commit goes on waiting.
func (i *Instance) Nudge(ctx context.Context, epoch topology.Epoch) error {
	// A row that waits keeps its lock: each has one for itself.
	if err := i.order(ctx, "INSERT INTO `"+i.cfg.Schema+"`.nudge (epoch) VALUES (?)", uint64(epoch)); err != nil {
		return fmt.Errorf("nudge: %w", err)
	}
	return nil
}

// OpenWrites lets clients write, each commit waiting for k replicas (0: for
// none, see Degrade): read_only and super_read_only are OFF when it returns. Its
// events stay off: see TendEvents.
func (i *Instance) OpenWrites(ctx context.Context, k int) error {
	statement, args := openStatement(k, "GLOBAL super_read_only = OFF, GLOBAL read_only = OFF")
	if err := i.order(ctx, statement, args...); err != nil {
		return fmt.Errorf("open for writes: %w", err)
	}
	return nil
}

// Retire ends an open primary's past as a replica: its replication
// configuration is forgotten and it acknowledges for nobody. An instance that
// has received what it has not executed is refused with ErrNotReplicated; what
// it has received in part is rolled back; where that takes longer than a second
// the error is ErrRollingBack, and it is to be called again. It takes some 10 ms
// otherwise, and is best called after OpenWrites, and at once: until then, the
// rows of what was received in part are locked.
func (i *Instance) Retire(ctx context.Context) error {
	if err := i.retire(ctx); err != nil {
		return fmt.Errorf("retire replica: %w", err)
	}
	return nil
}

func (i *Instance) retire(ctx context.Context) error {
	current, err := i.replication(ctx)
	if err != nil {
		return err
	}
	if current.configured() {
		if err := i.order(ctx, "STOP REPLICA IO_THREAD FOR CHANNEL ''"); err != nil {
			return err
		}
		_, rest, err := i.unexecuted(ctx)
		if err != nil {
			return err
		}
		if !rest.IsEmpty() {
			return fmt.Errorf("%w: %s", ErrNotReplicated, rest)
		}
		if err := i.dropUnfinished(ctx, rollbackLimit); err != nil {
			return err
		}
		for _, statement := range []string{"STOP REPLICA FOR CHANNEL ''", "RESET REPLICA ALL FOR CHANNEL ''"} {
			if err := i.order(ctx, statement); err != nil {
				return err
			}
		}
	}
	return i.order(ctx, "SET GLOBAL rpl_semi_sync_replica_enabled = OFF")
}

// dropUnfinished ends an applier that is in the middle of a transaction of
// which no more will come: the receiver is stopped, and what it had received
// whole is executed. Told to stop, such an applier waits a minute for the rest
// (SLAVE_WAIT_GROUP_DONE in the server's sql/rpl_replica.cc), and until then
// its workers hold the locks of what they have executed of it; killed, it rolls
// that back. One that is not multi-threaded has no coordinator, and stops at
// once. It returns when that is over, or ErrRollingBack after limit.
func (i *Instance) dropUnfinished(ctx context.Context, limit time.Duration) error {
	var thread uint64
	var transaction string
	err := i.command.QueryRowContext(ctx, `SELECT t.processlist_id, c.processing_transaction
		FROM performance_schema.replication_applier_status_by_coordinator AS c
		JOIN performance_schema.threads AS t ON t.thread_id = c.thread_id
		WHERE c.channel_name = '' AND c.processing_transaction <> ''`).Scan(&thread, &transaction)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the applier's transaction: %w", err)
	}
	err = i.endApplier(ctx, thread)
	if isServerError(err, errAccessDenied, errNotOwner) {
		i.log.Warn("applier could not be ended in the middle of a transaction, whose rows stay locked for a minute: run the statements of `interrex mysql grants`",
			zap.String("gtid", transaction), zap.Error(err))
		return nil
	}
	if err != nil {
		return fmt.Errorf("end the applier in the middle of %s: %w", transaction, err)
	}
	i.log.Info("applier ended in the middle of a transaction that was received in part, which rolls it back", zap.String("gtid", transaction))
	// Told to stop before it has gone, it would take the stop for the first,
	// and wait; told to start, it would take itself for running.
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = poll(waiting, func() (gone bool, err error) {
		err = i.command.QueryRowContext(waiting, "SELECT COUNT(*) = 0 FROM performance_schema.threads WHERE processlist_id = ?", thread).Scan(&gone)
		return gone, err
	})
	if err != nil && waiting.Err() != nil {
		return fmt.Errorf("%w: %s", ErrRollingBack, transaction)
	}
	return err
}

// rollbackLimit is how long Retire waits for an applier that it has ended: other
// commands wait with it.
const rollbackLimit = time.Second

// endApplier kills a coordinator.
func (i *Instance) endApplier(ctx context.Context, thread uint64) error {
	conn, err := i.killer.Conn(ctx)
	if err != nil {
		return fmt.Errorf("log in as %s: %w", killerOf(i.cfg.User), err)
	}
	defer conn.Close()
	return kill(ctx, conn, thread)
}
