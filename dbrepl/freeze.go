package dbrepl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"interrex/internal/gtid"
)

// waitSlice is how long one wait for the applier lasts before its state is
// looked at again. It is short because WAIT_FOR_EXECUTED_GTID_SET was measured
// to return up to 100 ms after the set is executed.
const waitSlice = 5 * time.Millisecond

// Freeze stops the receiver, waits until it has stopped, and then reads what
// the instance executed and received (executed ∪ retrieved), and how many
// transactions of that are not executed. After it has returned without error
// the instance acknowledges nothing more, until Follow (I1). The applier goes
// on. An instance that replicates from nobody, or is frozen already, is fine.
func (i *Instance) Freeze(ctx context.Context) (executed, received gtid.Set, unapplied uint64, err error) {
	executed, received, err = i.freeze(ctx)
	if err != nil {
		return gtid.Set{}, gtid.Set{}, 0, fmt.Errorf("freeze receiver: %w", err)
	}
	return executed, received, received.Minus(executed).Count(), nil
}

func (i *Instance) freeze(ctx context.Context) (executed, received gtid.Set, err error) {
	current, err := i.replication(ctx)
	if err != nil {
		return executed, received, err
	}
	if current.configured() {
		if err := i.order(ctx, "STOP REPLICA IO_THREAD FOR CHANNEL ''"); err != nil {
			return executed, received, err
		}
	}
	if executed, err = executedSet(ctx, i.command); err != nil {
		return executed, received, err
	}
	after, err := i.replication(ctx)
	if err != nil {
		return executed, received, err
	}
	if after.receiver != "OFF" && after.configured() {
		return executed, received, fmt.Errorf("receiver is %s after it was stopped: somebody else starts it", after.receiver)
	}
	return executed, executed.Union(after.retrieved), nil
}

// CatchUp waits until all of set is executed, at most limit, and returns what
// is executed then. It starts the applier where it is stopped. Errors:
// ErrApplierStopped with the applier's own error, ErrNotCaughtUp with how much
// is left; the instance is as it was but for the running applier.
func (i *Instance) CatchUp(ctx context.Context, set gtid.Set, limit time.Duration) (executed gtid.Set, err error) {
	executed, err = i.catchUp(ctx, set, time.Now().Add(limit))
	if err != nil {
		return executed, fmt.Errorf("catch up: %w", err)
	}
	return executed, nil
}

func (i *Instance) catchUp(ctx context.Context, set gtid.Set, deadline time.Time) (gtid.Set, error) {
	started := false
	for {
		executed, err := executedSet(ctx, i.command)
		if err != nil || executed.Contains(set) {
			return executed, err
		}
		left := func() string {
			return fmt.Sprintf("%d of %d transactions left", set.Minus(executed).Count(), set.Count())
		}
		current, err := i.replication(ctx)
		if err != nil {
			return executed, err
		}
		switch {
		case !current.configured():
			return executed, fmt.Errorf("%w: it replicates from nobody, %s", ErrNotCaughtUp, left())
		case current.applier == "ON":
		case started:
			return executed, fmt.Errorf("%w: %s; %s", ErrApplierStopped, current.applierError, left())
		default:
			if err := i.order(ctx, "START REPLICA SQL_THREAD FOR CHANNEL ''"); err != nil {
				return executed, err
			}
			started = true
		}
		if !time.Now().Before(deadline) {
			return executed, fmt.Errorf("%w: %s", ErrNotCaughtUp, left())
		}
		slice := max(time.Millisecond, min(waitSlice, time.Until(deadline)))
		var timedOut int
		err = i.command.QueryRowContext(ctx, "SELECT WAIT_FOR_EXECUTED_GTID_SET(?, ?)", set.String(), slice.Seconds()).Scan(&timedOut)
		if err != nil {
			return executed, fmt.Errorf("wait for applier: %w", err)
		}
	}
}

// replication is the state of the default channel.
type replication struct {
	host         string
	port         int
	user         string
	autoPosition bool
	heartbeat    time.Duration
	retry        time.Duration
	receiver     string // ON, OFF, CONNECTING
	applier      string // ON, OFF
	applierError string
	retrieved    gtid.Set
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(heartbeatUnit)
}

// unfit says how a receiver's times differ from what is configured; empty if
// they do not.
func (c Config) unfit(heartbeat, retry time.Duration) string {
	switch want := c.HeartbeatPeriod.Round(heartbeatUnit); {
	case heartbeat != want:
		return fmt.Sprintf("its heartbeat period is %s and should be %s", heartbeat, want)
	case retry != ConnectRetry:
		return fmt.Sprintf("its retry interval is %s and should be %s", retry, ConnectRetry)
	}
	return ""
}

// configured tells whether the instance replicates from anybody.
func (r replication) configured() bool { return r.host != "" }

func (i *Instance) replication(ctx context.Context) (replication, error) {
	var r replication
	var heartbeat, retry float64
	var retrieved string
	err := i.command.QueryRowContext(ctx, `SELECT c.host, c.port, c.user, c.auto_position = 1, c.heartbeat_interval, c.connection_retry_interval,
		s.service_state, a.service_state, s.received_transaction_set
		FROM performance_schema.replication_connection_configuration AS c
		JOIN performance_schema.replication_connection_status AS s USING (channel_name)
		JOIN performance_schema.replication_applier_status AS a USING (channel_name)
		WHERE c.channel_name = ''`).
		Scan(&r.host, &r.port, &r.user, &r.autoPosition, &heartbeat, &retry, &r.receiver, &r.applier, &retrieved)
	if errors.Is(err, sql.ErrNoRows) {
		return replication{receiver: "OFF", applier: "OFF"}, nil
	}
	if err != nil {
		return r, fmt.Errorf("read replication state: %w", err)
	}
	r.heartbeat, r.retry = seconds(heartbeat), seconds(retry)
	if r.retrieved, err = gtid.Parse(retrieved); err != nil {
		return r, fmt.Errorf("read replication state: %w", err)
	}
	if r.configured() && r.applier != "ON" {
		var s SourceStatus
		if err := i.readApplier(ctx, i.command, &s); err != nil {
			return r, fmt.Errorf("read applier state: %w", err)
		}
		r.applierError = s.ApplierError
	}
	return r, nil
}
