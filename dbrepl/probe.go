package dbrepl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// Probe reads the whole Status in three round trips on a warm connection of
// its own, within QueryTimeout each; one more is needed while the applier is
// behind or stopped, and while a plugin or the marker table is missing. Errors
// are for Classify, or ErrUnsupported.
func (i *Instance) Probe(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, i.cfg.ConnectTimeout+3*i.cfg.QueryTimeout)
	defer cancel()
	conn, err := i.probe.Conn(ctx)
	if err != nil {
		return Status{}, fmt.Errorf("probe instance: %w", err)
	}
	defer conn.Close()
	s, err := i.read(ctx, conn)
	if isServerError(err, errUnknownVariable, errNoSuchTable, errUnknownDatabase) {
		// A plugin or the table was there and is gone: another server.
		i.known.Store(&features{})
		s, err = i.read(ctx, conn)
	}
	if err != nil {
		return Status{}, fmt.Errorf("probe instance: %w", err)
	}
	return s, nil
}

// read asks the questions. The executed set is in the first, the received
// one in a later one: what is executed was received before, never after.
func (i *Instance) read(ctx context.Context, q querier) (Status, error) {
	f := *i.known.Load()
	if !f.complete() {
		var err error
		if f, err = i.discover(ctx, q); err != nil {
			return Status{}, err
		}
	}
	var s Status
	if err := i.readVariables(ctx, q, f, &s); err != nil {
		return Status{}, err
	}
	if err := i.readState(ctx, q, f, &s); err != nil {
		return Status{}, err
	}
	if s.Source == nil {
		return s, nil
	}
	if s.Source.Unapplied > 0 || !s.Source.ApplierOn || !s.Source.told {
		if err := i.readApplier(ctx, q, s.Source); err != nil {
			return Status{}, err
		}
	}
	s.Source.Lag = s.Source.lag(2 * i.cfg.HeartbeatPeriod)
	return s, nil
}

func (i *Instance) readVariables(ctx context.Context, q querier, f features, s *Status) error {
	ctx, cancel := context.WithTimeout(ctx, i.cfg.QueryTimeout)
	defer cancel()
	// From left to right: what leaves gtid_owned is in gtid_executed by then.
	query := `SELECT @@global.gtid_owned, @@global.gtid_executed, @@global.gtid_purged, @@global.server_uuid, @@global.version,
		@@global.read_only, @@global.super_read_only, @@global.log_bin AND @@global.log_replica_updates`
	var owned, executed, purged string
	var logs bool
	targets := []any{&owned, &executed, &purged, &s.ServerUUID, &s.Version, &s.ReadOnly, &s.SuperReadOnly, &logs}
	if f.source {
		query += `, @@global.rpl_semi_sync_source_enabled, @@global.rpl_semi_sync_source_wait_for_replica_count,
			@@global.rpl_semi_sync_source_timeout, @@global.rpl_semi_sync_source_wait_no_replica, @@global.rpl_semi_sync_source_wait_point`
		targets = append(targets, &s.SemiSync.SourceEnabled, &s.SemiSync.WaitFor,
			&s.SemiSync.TimeoutMillis, &s.SemiSync.WaitNoReplica, &s.SemiSync.WaitPoint)
	}
	if f.replica {
		query += ", @@global.rpl_semi_sync_replica_enabled"
		targets = append(targets, &s.SemiSync.ReplicaEnabled)
	}
	if err := q.QueryRowContext(ctx, query).Scan(targets...); err != nil {
		return err
	}
	var err error
	if s.Committing, err = parseOwned(owned); err != nil {
		return err
	}
	if s.Executed, err = gtid.Parse(executed); err != nil {
		return err
	}
	if s.Purged, err = gtid.Parse(purged); err != nil {
		return err
	}
	s.Committing = s.Committing.Minus(s.Executed)
	if !logs {
		s.Inadmissible = "log_bin or log_replica_updates is OFF: as the primary it could not send what its replicas lack"
	}
	return checkVersion(s.Version)
}

// inadmissible adds what of its replication forbids that an instance acknowledges
// or is promoted. What a filter left out is nowhere on it, whatever its GTIDs say.
func (s *Status) inadmissible(filters string, delay time.Duration) {
	switch {
	case s.Inadmissible != "":
	case filters != "":
		s.Inadmissible = "its applier leaves out a part of what it receives (replication filters: " + filters + ")"
	case delay > 0:
		s.Inadmissible = fmt.Sprintf("its applier waits %s on purpose (SOURCE_DELAY)", delay)
	}
}

// parseOwned reads gtid_owned: each GTID is followed by the thread that owns it
// (#45), and nothing is between the last one of a server and the next server's
// UUID: two servers own some while a replica applies what both have written.
func parseOwned(text string) (gtid.Set, error) {
	text = serverUUID.ReplaceAllString(text, ",$0")
	return gtid.Parse(strings.Trim(ownerThread.ReplaceAllString(text, ""), ","))
}

var (
	serverUUID  = regexp.MustCompile(`[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}`)
	ownerThread = regexp.MustCompile(`#\d+`)
)

// stateQuery asks for all that is in the performance schema, as one row.
// The time since the last sign of the source is by the server's own clock.
const stateQuery = `SELECT g.started, t.thread_os_id, g.active, g.clients, g.wait_sessions, g.no_tx,
	c.host, c.port, c.heartbeat_interval, c.connection_retry_interval, s.source_uuid, s.service_state, s.last_error_message, s.received_transaction_set,
	UNIX_TIMESTAMP(NOW(6)) * 1000000, 1000000 * GREATEST(UNIX_TIMESTAMP(s.last_heartbeat_timestamp),
		UNIX_TIMESTAMP(s.last_queued_transaction_end_queue_timestamp), UNIX_TIMESTAMP(s.queueing_transaction_start_queue_timestamp)),
	1000000 * UNIX_TIMESTAMP(s.last_heartbeat_timestamp), 1000000 * UNIX_TIMESTAMP(s.last_queued_transaction_end_queue_timestamp),
	a.service_state, COALESCE(d.desired_delay, 0), (SELECT COALESCE(GROUP_CONCAT(DISTINCT f.name ORDER BY f.name SEPARATOR ', '), '') FROM (
		SELECT filter_name AS name FROM performance_schema.replication_applier_filters WHERE channel_name = '' AND filter_rule <> ''
		UNION ALL SELECT filter_name FROM performance_schema.replication_applier_global_filters WHERE filter_rule <> '') AS f)
	FROM (SELECT UNIX_TIMESTAMP() - MAX(IF(variable_name = 'Uptime', variable_value, NULL)) AS started,
		COALESCE(MAX(IF(variable_name = 'Rpl_semi_sync_replica_status', variable_value = 'ON', NULL)), 0) AS active,
		COALESCE(MAX(IF(variable_name = 'Rpl_semi_sync_source_clients', variable_value, NULL)), 0) AS clients,
		COALESCE(MAX(IF(variable_name = 'Rpl_semi_sync_source_wait_sessions', variable_value, NULL)), 0) AS wait_sessions,
		COALESCE(MAX(IF(variable_name = 'Rpl_semi_sync_source_no_tx', variable_value, NULL)), 0) AS no_tx
		FROM performance_schema.global_status WHERE variable_name IN ('Uptime', 'Rpl_semi_sync_replica_status',
		'Rpl_semi_sync_source_clients', 'Rpl_semi_sync_source_wait_sessions', 'Rpl_semi_sync_source_no_tx')) AS g
	LEFT JOIN performance_schema.threads AS t ON t.name = 'thread/sql/main'
	LEFT JOIN performance_schema.replication_connection_configuration AS c ON c.channel_name = ''
	LEFT JOIN performance_schema.replication_connection_status AS s ON s.channel_name = ''
	LEFT JOIN performance_schema.replication_applier_status AS a ON a.channel_name = ''
	LEFT JOIN performance_schema.replication_applier_configuration AS d ON d.channel_name = ''`

func (i *Instance) readState(ctx context.Context, q querier, f features, s *Status) error {
	ctx, cancel := context.WithTimeout(ctx, i.cfg.QueryTimeout)
	defer cancel()
	var (
		started, thread                            sql.NullFloat64
		host, uuid, receiver, fault, received, app sql.NullString
		port                                       sql.NullInt64
		now                                        float64
		lastSeen, heartbeat, retry, beat, queued   sql.NullFloat64
		delay                                      int64
		filters                                    string
	)
	err := q.QueryRowContext(ctx, stateQuery).Scan(&started, &thread,
		&s.SemiSync.ReplicaActive, &s.SemiSync.Clients, &s.SemiSync.WaitSessions, &s.SemiSync.NoTx,
		&host, &port, &heartbeat, &retry, &uuid, &receiver, &fault, &received, &now, &lastSeen, &beat, &queued, &app, &delay, &filters)
	if err != nil {
		return err
	}
	s.inadmissible(filters, time.Duration(delay)*time.Second)
	// Both are constant while the process lives: Uptime and the clock are of
	// the same moment, and the main thread's id is the process's.
	s.BootID = fmt.Sprintf("%.0f-%.0f", started.Float64, thread.Float64)
	s.Received = s.Executed
	if f.marker {
		if s.Marker, _, err = i.readMarker(ctx, q); err != nil {
			return err
		}
	}
	if host.String == "" {
		return nil
	}
	retrieved, err := gtid.Parse(received.String)
	if err != nil {
		return err
	}
	s.Received = s.Executed.Union(retrieved)
	s.Source = &SourceStatus{
		Host: host.String, Port: int(port.Int64), ServerUUID: uuid.String,
		ReceiverOn: receiver.String == "ON", ReceiverState: receiver.String, ReceiverError: fault.String,
		ApplierOn:    app.String == "ON",
		Filters:      filters,
		HeartbeatAge: -1,
		Unfit:        i.cfg.unfit(seconds(heartbeat.Float64), seconds(retry.Float64)),
		Unapplied:    retrieved.Minus(s.Executed).Count(),
	}
	if lastSeen.Float64 > 0 {
		s.Source.HeartbeatAge = max(0, time.Duration(now-lastSeen.Float64)*time.Microsecond)
		s.Source.Deaf = s.Source.deaf(i.cfg.NetTimeout)
	}
	silent := !s.Source.ReceiverOn || s.Source.HeartbeatAge > i.cfg.NetTimeout
	s.Source.told, s.Source.late = i.hearing.told(silent, micros(beat.Float64), micros(queued.Float64), i.cfg.HeartbeatPeriod)
	s.Source.level = i.hearing.level(s.Source.told && !silent && s.Source.Unapplied == 0, micros(beat.Float64), micros(now))
	return nil
}

func micros(n float64) time.Duration { return time.Duration(n) * time.Microsecond }

// hearing is what a replica has heard of its source since it last heard nothing
// for a while. Times are of the server's clock.
type hearing struct {
	mu        sync.Mutex
	silent    bool          // and it has not been told since that there is no more
	before    time.Duration // the last heartbeat before
	queued    time.Duration // the last transaction before
	heartbeat time.Duration // the first one after; 0 if there was none yet
	known     time.Duration // the last heartbeat when it had executed everything
	// late: what came after the silence came before another one. It may be as old as
	// the first: the network goes on with what a source sent that is dead since.
	late bool
}

// told tells whether the source has said that it has no more to send, which it
// says by a heartbeat. But it also sends one when it begins to send, or to look
// for what is missing: after a silence only that counts which comes after a
// transaction, or a period after another one. late: see hearing.
func (h *hearing) told(silent bool, heartbeat, queued, period time.Duration) (told, late bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case silent:
		h.late = h.late || h.silent && (heartbeat != h.before || queued != h.queued)
		h.silent, h.before, h.queued, h.heartbeat = true, heartbeat, queued, 0
		return heartbeat >= queued && !h.late, h.late
	case heartbeat < queued || !h.silent:
		return heartbeat >= queued, h.late
	case heartbeat == h.before:
		return false, h.late
	case h.heartbeat == 0:
		h.heartbeat = heartbeat
	}
	h.silent = queued == h.queued && heartbeat-h.heartbeat < period*9/10
	h.late = h.late && h.silent
	return !h.silent, h.late
}

// readApplier asks for the applier's error and how old what it applies is.
func (i *Instance) readApplier(ctx context.Context, q querier, s *SourceStatus) error {
	ctx, cancel := context.WithTimeout(ctx, i.cfg.QueryTimeout)
	defer cancel()
	var workers, coordinator sql.NullString
	var lag sql.NullFloat64
	// 3030 is of a worker that stopped because another one failed.
	err := q.QueryRowContext(ctx, `SELECT COALESCE(MAX(IF(last_error_number NOT IN (0, 3030), last_error_message, NULL)),
			MAX(IF(last_error_number = 3030, last_error_message, NULL))),
		(SELECT MAX(IF(last_error_number <> 0, last_error_message, NULL))
			FROM performance_schema.replication_applier_status_by_coordinator WHERE channel_name = ''),
		1000000 * (UNIX_TIMESTAMP(NOW(6)) - COALESCE(
			MIN(NULLIF(UNIX_TIMESTAMP(applying_transaction_original_commit_timestamp), 0)),
			MAX(NULLIF(UNIX_TIMESTAMP(last_applied_transaction_original_commit_timestamp), 0))))
		FROM performance_schema.replication_applier_status_by_worker WHERE channel_name = ''`).Scan(&workers, &coordinator, &lag)
	if err != nil {
		return err
	}
	s.ApplierError = workers.String
	if s.ApplierError == "" {
		s.ApplierError = coordinator.String
	}
	s.last = max(0, time.Duration(lag.Float64)*time.Microsecond)
	return nil
}

// level is how long ago, at most, the replica had executed everything; 0 if that
// is not known. It is shown whether it has now.
func (h *hearing) level(isLevel bool, heartbeat, now time.Duration) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if isLevel {
		h.known = heartbeat
	}
	if h.known == 0 {
		return 0
	}
	return max(time.Microsecond, now-h.known)
}

// deaf tells whether its receiver has long been silent and did not leave its
// source. One whose times are not as configured may be patient.
func (s *SourceStatus) deaf(silence time.Duration) bool {
	return s.ReceiverOn && s.Unfit == "" && s.HeartbeatAge > 2*silence+time.Second
}

// lag is how far a replica is behind. A source that has no more to send says so
// with a heartbeat; one that is heard of again after a silence sends what is
// missing first, and between two of those transactions none may be unapplied.
func (s *SourceStatus) lag(silence time.Duration) time.Duration {
	since := max(0, s.HeartbeatAge)
	switch {
	case s.told:
	case s.level > 0: // the last one may be old because there was none since
		since = max(since, min(s.last, s.level))
	default:
		since = max(since, s.last)
	}
	switch {
	case s.Unapplied > 0:
		return s.last
	case (s.ReceiverOn || s.late) && since > silence:
		return since
	}
	return 0
}

// readMarker reads the newest marker row; without one it is zero and false.
func (i *Instance) readMarker(ctx context.Context, q querier) (topology.Marker, bool, error) {
	var m topology.Marker
	var epoch, node string
	err := q.QueryRowContext(ctx, "SELECT epoch, node, written_at FROM "+i.markerTable()+" ORDER BY epoch DESC LIMIT 1").
		Scan(&epoch, &node, &m.At)
	if errors.Is(err, sql.ErrNoRows) {
		return topology.Marker{}, false, nil
	}
	if err != nil {
		return topology.Marker{}, false, err
	}
	number, err := strconv.ParseUint(epoch, 10, 64)
	if err != nil {
		return topology.Marker{}, false, fmt.Errorf("read marker: %w", err)
	}
	m.Epoch, m.Node = topology.Epoch(number), topology.NodeName(node)
	return m, true, nil
}

// executedSet asks for the executed set alone.
func executedSet(ctx context.Context, q querier) (gtid.Set, error) {
	var text string
	if err := q.QueryRowContext(ctx, "SELECT @@global.gtid_executed").Scan(&text); err != nil {
		return gtid.Set{}, fmt.Errorf("read executed set: %w", err)
	}
	return gtid.Parse(text)
}
