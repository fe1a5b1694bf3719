package dbrepl

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.uber.org/zap"
)

// EventsLeft are events of the event scheduler that are off on a primary,
// because replication turns every event off, and that TendEvents did not turn
// on; each as schema.name.
type EventsLeft struct {
	// Unknown: nobody recorded whether they were on.
	Unknown []string
	// Refused: the server would not; with its error.
	Refused []string
}

// event is one of the event scheduler's, and what is recorded of it.
type event struct {
	schema, name, definer string
	on                    bool
	// replicated: it is off because it came by replication, which does not tell
	// whether it was on.
	replicated bool
}

func (e event) String() string { return e.schema + "." + e.name }

type eventKey struct{ schema, name string }

// TendEvents has the events of the event scheduler follow the primary; it is for
// an open primary only, and repeated. MySQL turns each event off that comes by
// replication, and turns none on at a promotion. So which ones are on is
// recorded in a table, which replicates, and those that are off here for having
// come by replication are turned on if they are recorded as on. What somebody
// turned off on the primary itself stays off.
//
// Without the privilege EVENT there are no events to be seen, and nothing is
// done.
func (i *Instance) TendEvents(ctx context.Context) (EventsLeft, error) {
	var left EventsLeft
	events, err := i.events(ctx)
	if err != nil {
		return left, fmt.Errorf("tend events: %w", err)
	}
	recorded, err := i.recordedEvents(ctx)
	if err != nil {
		return left, fmt.Errorf("tend events: read which are on: %w", err)
	}
	var faults []error
	for _, e := range events {
		key := eventKey{e.schema, e.name}
		was, known := recorded[key]
		delete(recorded, key)
		switch {
		case !e.replicated && known && was == e.on:
		case !e.replicated:
			faults = append(faults, i.recordEvent(ctx, e))
		case !known:
			left.Unknown = append(left.Unknown, e.String())
		case was:
			if err := i.order(ctx, e.enable()); err != nil {
				left.Refused = append(left.Refused, fmt.Sprintf("%s of %s: %v", e, e.definer, err))
				break
			}
			i.log.Info("event turned on: it was on before this server was promoted", zap.Stringer("event", e))
		}
		if ctx.Err() != nil {
			break // the rest is for the next time
		}
	}
	if ctx.Err() == nil {
		for gone := range recorded {
			faults = append(faults, i.order(ctx, "DELETE FROM "+i.eventTable()+" WHERE event_schema = ? AND event_name = ?", gone.schema, gone.name))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return left, fmt.Errorf("tend events: record which are on: %w", err)
	}
	return left, nil
}

// events are those of the server.
func (i *Instance) events(ctx context.Context) ([]event, error) {
	// SLAVESIDE_DISABLED before 8.3.
	rows, err := i.command.QueryContext(ctx, `SELECT event_schema, event_name, definer, status = 'ENABLED',
		status IN ('REPLICA_SIDE_DISABLED', 'SLAVESIDE_DISABLED') AND originator <> @@global.server_id
		FROM information_schema.events ORDER BY event_schema, event_name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []event
	for rows.Next() {
		var e event
		if err := rows.Scan(&e.schema, &e.name, &e.definer, &e.on, &e.replicated); err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, rows.Err()
}

// recordedEvents tells which events are recorded as on (true) and as off.
func (i *Instance) recordedEvents(ctx context.Context) (map[eventKey]bool, error) {
	recorded := map[eventKey]bool{}
	rows, err := i.command.QueryContext(ctx, "SELECT event_schema, event_name, is_on FROM "+i.eventTable())
	if isServerError(err, errNoSuchTable) {
		return recorded, nil
	}
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var key eventKey
		var on bool
		if err := rows.Scan(&key.schema, &key.name, &on); err != nil {
			return nil, err
		}
		recorded[key] = on
	}
	return recorded, rows.Err()
}

// recordEvent records whether an event is on. The table is made with the first
// one, for servers without events have no use for it.
func (i *Instance) recordEvent(ctx context.Context, e event) error {
	record := func() error {
		return i.order(ctx, "REPLACE INTO "+i.eventTable()+" (event_schema, event_name, is_on) VALUES (?, ?, ?)", e.schema, e.name, e.on)
	}
	err := record()
	if isServerError(err, errNoSuchTable) {
		if err = i.order(ctx, "CREATE TABLE IF NOT EXISTS "+i.eventTable()+" ("+
			"event_schema VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, "+
			"event_name VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, "+
			"is_on BOOLEAN NOT NULL, PRIMARY KEY (event_schema, event_name)) ENGINE=InnoDB"); err == nil {
			err = record()
		}
	}
	return err
}

// enable turns the event on and leaves its definer, which would be us otherwise.
func (e event) enable() string {
	account := Account{User: e.definer}
	if at := strings.LastIndexByte(e.definer, '@'); at >= 0 {
		account.User, account.Host = e.definer[:at], e.definer[at+1:]
	}
	return "ALTER DEFINER = " + account.name() + " EVENT " + identifier(e.schema) + "." + identifier(e.name) + " ENABLE"
}

func (i *Instance) eventTable() string { return "`" + i.cfg.Schema + "`.event" }

// identifier quotes a name.
func identifier(s string) string { return "`" + strings.ReplaceAll(s, "`", "``") + "`" }
