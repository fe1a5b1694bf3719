package dbrepl

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.uber.org/zap"
)

// EventsLeft are events of the event scheduler that are off on a primary,
// because replication turns every event off, and that TendEvents did not turn
// on; each as schema.name.
type EventsLeft struct {
	// Unclear: nobody recorded whether they were on; or they are recorded as on
	// and somebody turned them off, as is done on replicas.
	Unclear []string
	// Refused: the server would not; with its error.
	Refused []string
}

// event is one of the event scheduler's, and what is recorded of it.
type event struct {
	schema, name, definer string
	on                    bool
	// replica: it is off as on a replica, which does not tell whether it was on.
	// here: and was made so by this server, or by one whose id it has.
	replica, here bool
}

func (e event) String() string { return e.schema + "." + e.name }
func (e event) key() eventKey  { return eventKey{e.schema, e.name} }

type eventKey struct{ schema, name string }

// eventsAtOnce is how many events are recorded in one statement.
const eventsAtOnce = 500

// TendEvents has the events of the event scheduler follow the primary; it is for
// an open primary only, and repeated. MySQL turns each event off that comes by
// replication, and turns none on at a promotion. So which ones are on is
// recorded in a table, which replicates, and those that are off here for having
// come by replication are turned on if they are recorded as on. What somebody
// turned off on a primary stays off.
//
// Without the privilege EVENT, nothing is done. What does not fit in ctx is left
// for the next time.
func (i *Instance) TendEvents(ctx context.Context) (EventsLeft, error) {
	var left EventsLeft
	seen, err := i.seesEvents(ctx)
	if err != nil {
		return left, fmt.Errorf("tend events: %w", err)
	}
	if !seen {
		return left, nil // nor can it be told which of the recorded ones are gone
	}
	events, err := i.events(ctx)
	if err != nil {
		return left, fmt.Errorf("tend events: %w", err)
	}
	recorded, err := i.recordedEvents(ctx)
	if err != nil {
		return left, fmt.Errorf("tend events: read which are on: %w", err)
	}
	var news []event
	for _, e := range events {
		was, known := recorded[e.key()]
		delete(recorded, e.key())
		switch {
		case !e.replica:
			if !known || was != e.on {
				news = append(news, e)
			}
		case e.here && known && was:
			left.Unclear = append(left.Unclear, e.String())
		case e.here:
		case !known:
			left.Unclear = append(left.Unclear, e.String())
		case was && ctx.Err() == nil:
			if err := i.order(ctx, e.enable()); err != nil {
				left.Refused = append(left.Refused, fmt.Sprintf("%s of %s: %v", e, e.definer, err))
				continue
			}
			i.log.Info("event turned on: it was on before this server was promoted", zap.Stringer("event", e))
		}
	}
	if err := errors.Join(i.recordEvents(ctx, news), i.forgetEvents(ctx, slices.Collect(maps.Keys(recorded)))); err != nil {
		return left, fmt.Errorf("tend events: record which are on: %w", err)
	}
	return left, nil
}

// seesEvents tells whether this account is shown all events.
func (i *Instance) seesEvents(ctx context.Context) (seen bool, err error) {
	err = i.command.QueryRowContext(ctx, "SELECT COUNT(*) > 0 FROM information_schema.user_privileges WHERE privilege_type = 'EVENT' AND "+ownPrivileges).Scan(&seen)
	return seen, err
}

// events are those of the server.
func (i *Instance) events(ctx context.Context) ([]event, error) {
	// SLAVESIDE_DISABLED before 8.3.
	rows, err := i.command.QueryContext(ctx, `SELECT event_schema, event_name, definer, status = 'ENABLED',
		status IN ('REPLICA_SIDE_DISABLED', 'SLAVESIDE_DISABLED'), originator = @@global.server_id
		FROM information_schema.events ORDER BY event_schema, event_name`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []event
	for rows.Next() {
		var e event
		if err := rows.Scan(&e.schema, &e.name, &e.definer, &e.on, &e.replica, &e.here); err != nil {
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

// recordEvents records whether events are on. The table is made with the first
// one, for servers without events have no use for it.
func (i *Instance) recordEvents(ctx context.Context, events []event) error {
	if len(events) == 0 {
		return nil
	}
	events = events[:min(len(events), eventsAtOnce)]
	var args []any
	for _, e := range events {
		args = append(args, e.schema, e.name, e.on)
	}
	statement := "REPLACE INTO " + i.eventTable() + " (event_schema, event_name, is_on) VALUES (?, ?, ?)" + strings.Repeat(", (?, ?, ?)", len(events)-1)
	err := i.order(ctx, statement, args...)
	if isServerError(err, errNoSuchTable) {
		if err = i.order(ctx, "CREATE TABLE IF NOT EXISTS "+i.eventTable()+" ("+
			"event_schema VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, "+
			"event_name VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, "+
			"is_on BOOLEAN NOT NULL, PRIMARY KEY (event_schema, event_name)) ENGINE=InnoDB"); err == nil {
			err = i.order(ctx, statement, args...)
		}
	}
	return err
}

// forgetEvents drops what is recorded of events that are gone.
func (i *Instance) forgetEvents(ctx context.Context, gone []eventKey) error {
	if len(gone) == 0 {
		return nil
	}
	gone = gone[:min(len(gone), eventsAtOnce)]
	var args []any
	for _, key := range gone {
		args = append(args, key.schema, key.name)
	}
	return i.order(ctx, "DELETE FROM "+i.eventTable()+" WHERE (event_schema, event_name) IN ((?, ?)"+strings.Repeat(", (?, ?)", len(gone)-1)+")", args...)
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
