package dbrepl

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Glance is the little that detection needs, many times a second.
type Glance struct {
	ServerUUID    string
	SuperReadOnly bool
	// SourceHost is empty when no replication is configured.
	SourceHost    string
	SourcePort    int
	ReceiverState string // ON, OFF, CONNECTING
	ReceiverError string
	// SourceSeen is how long ago the receiver was first seen to have had its last
	// sign of its source, by this process' clock, whatever the server's says;
	// negative if there was none since it connected.
	SourceSeen time.Duration
	// Armed: commits wait for acknowledgements; so many do now, and so many
	// have had theirs.
	Armed        bool
	Waiting      int
	Acknowledged uint64
	// Saturated: as many connections as max_connections; this one is the
	// reserved one, or one of the last.
	Saturated bool
	// Running is how many sessions execute something: this one, and those that
	// wait for an acknowledgement, are among them.
	Running int
}

// Glance reads it in one round trip on the warm probe connection, about a
// fifth of what Probe costs the server. Its errors are for Classify.
func (i *Instance) Glance(ctx context.Context) (Glance, error) {
	ctx, cancel := context.WithTimeout(ctx, i.cfg.ConnectTimeout+i.cfg.QueryTimeout)
	defer cancel()
	var (
		g                     Glance
		host, receiver, fault sql.NullString
		port                  sql.NullInt64
		signs                 sql.NullString
	)
	err := i.probe.QueryRowContext(ctx, `SELECT @@global.server_uuid, @@global.super_read_only, c.host, c.port, s.service_state, s.last_error_message,
		CONCAT_WS(' ', UNIX_TIMESTAMP(s.last_heartbeat_timestamp), UNIX_TIMESTAMP(s.last_queued_transaction_end_queue_timestamp),
			UNIX_TIMESTAMP(s.queueing_transaction_start_queue_timestamp))
		FROM (SELECT 1) AS one
		LEFT JOIN performance_schema.replication_connection_configuration AS c ON c.channel_name = ''
		LEFT JOIN performance_schema.replication_connection_status AS s ON s.channel_name = ''`).
		Scan(&g.ServerUUID, &g.SuperReadOnly, &host, &port, &receiver, &fault, &signs)
	if err != nil {
		return Glance{}, fmt.Errorf("glance at instance: %w", err)
	}
	g.SourceHost, g.SourcePort = host.String, int(port.Int64)
	g.ReceiverState, g.ReceiverError = receiver.String, fault.String
	g.SourceSeen = i.signs.age(time.Now(), signs.String)
	return g, nil
}

// signs is what was last seen of a receiver's signs of its source: the times of
// its last heartbeat and of what it last queued. Only that they change counts:
// they are by the server's clock, which may be set.
type signs struct {
	mu   sync.Mutex
	last string
	at   time.Time // when they were first seen to be these
}

// age is how long ago they changed; negative where there is none.
func (s *signs) age(now time.Time, seen string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seen != s.last {
		s.last, s.at = seen, now
	}
	if strings.Trim(seen, "0. ") == "" {
		return -1
	}
	return now.Sub(s.at)
}

// GlanceAtLoad is Glance, and how the commits and connections of an open primary
// fare: another round trip, for its own agent.
func (i *Instance) GlanceAtLoad(ctx context.Context) (Glance, error) {
	g, err := i.Glance(ctx)
	if err != nil || g.SuperReadOnly {
		return g, err
	}
	ctx, cancel := context.WithTimeout(ctx, i.cfg.ConnectTimeout+i.cfg.QueryTimeout)
	defer cancel()
	err = i.probe.QueryRowContext(ctx, `SELECT COALESCE(MAX(IF(variable_name = 'Rpl_semi_sync_source_status', variable_value = 'ON', NULL)), 0),
		COALESCE(MAX(IF(variable_name = 'Rpl_semi_sync_source_wait_sessions', variable_value, NULL)), 0),
		COALESCE(MAX(IF(variable_name = 'Rpl_semi_sync_source_yes_tx', variable_value, NULL)), 0),
		COALESCE(MAX(IF(variable_name = 'Threads_connected', variable_value >= @@global.max_connections, NULL)), 0),
		COALESCE(MAX(IF(variable_name = 'Threads_running', variable_value, NULL)), 0)
		FROM performance_schema.global_status WHERE variable_name IN ('Rpl_semi_sync_source_status',
		'Rpl_semi_sync_source_wait_sessions', 'Rpl_semi_sync_source_yes_tx', 'Threads_connected', 'Threads_running')`).
		Scan(&g.Armed, &g.Waiting, &g.Acknowledged, &g.Saturated, &g.Running)
	if err != nil {
		return Glance{}, fmt.Errorf("glance at load: %w", err)
	}
	return g, nil
}
