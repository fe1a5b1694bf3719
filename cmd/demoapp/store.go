package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"
	"go.uber.org/zap"
)

const createOrders = `CREATE TABLE IF NOT EXISTS orders (
	id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
	created_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)
)`

// Errors of MySQL that matter here.
const (
	errDuplicate = 1062 // ER_DUP_ENTRY
	errShutdown  = 1053 // ER_SERVER_SHUTDOWN
	errKilled    = 1317 // ER_QUERY_INTERRUPTED
	errFull      = 1040 // ER_CON_COUNT_ERROR
)

// replicaLimit is how long a replica may take before the primary is asked.
const replicaLimit = 2 * time.Second

var (
	// errNotFound: there is no order of that id, on the primary either.
	errNotFound = errors.New("no such order")
	// errUnavailable: no server could be reached in time. For a write this
	// means that the outcome is unknown; asking again with the same id settles
	// it.
	errUnavailable = errors.New("database is not available")
)

// order is one stored order.
type order struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	Server    string    `json:"server_uuid"` // that answered
	Route     string    `json:"route"`       // it was reached by: rw or ro
}

// store keeps orders in MySQL.
type store struct {
	rw, ro *sql.DB
}

func openStore(cfg config) (*store, error) {
	rw, err := openRoute(cfg, cfg.rw)
	if err != nil {
		return nil, err
	}
	ro, err := openRoute(cfg, cfg.ro)
	if err != nil {
		return nil, errors.Join(err, rw.Close())
	}
	return &store{rw: rw, ro: ro}, nil
}

// openRoute makes the pool of one route. Nothing is connected yet.
func openRoute(cfg config, address string) (*sql.DB, error) {
	c := mysql.NewConfig()
	c.Net, c.Addr = "tcp", address
	c.User, c.Passwd, c.DBName = cfg.user, cfg.password, cfg.database
	c.ParseTime = true
	c.Logger = &mysql.NopLogger{} // broken connections are reported by what we return
	// One statement is one round trip, and no prepared statement is lost when
	// the connection moves.
	c.InterpolateParams = true
	// A server that says "read-only" is a former primary: the connection is
	// dropped, and a new one leads to the present primary.
	c.RejectReadOnly = true
	// Timeout is for the TCP handshake alone. Each request has a limit of its
	// own; the others are the net beneath it, for a host that vanishes without
	// a word. They must be longer than the proxies hold a connection
	// (routes.hold_time, 10 s), which to us looks like a server slow to greet.
	c.Timeout = time.Second
	c.ReadTimeout = cfg.requestLimit + 3*time.Second
	c.WriteTimeout = 3 * time.Second
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, fmt.Errorf("configure route %s: %w", address, err)
	}
	db := sql.OpenDB(connector)
	// As many as the server can serve us well; further requests wait here.
	// During a failover all of them wait, so it bounds what the proxy holds.
	db.SetMaxOpenConns(32)
	// Idle ones are kept for the next burst. With database/sql's default of 2
	// a busy service opens a new connection for most of its requests.
	db.SetMaxIdleConns(32)
	// Idle ones go before a firewall forgets them.
	db.SetConnMaxIdleTime(time.Minute)
	// All go in the end, so that the load spreads over replicas that came
	// back, and nothing stays connected to an instance for ever.
	db.SetConnMaxLifetime(5 * time.Minute)
	return db, nil
}

func (s *store) close() error { return errors.Join(s.rw.Close(), s.ro.Close()) }

// createTable creates the table if it is missing, and tries until there is a
// primary to do it or ctx ends.
func (s *store) createTable(ctx context.Context, log *zap.Logger) error {
	const first, most = 100 * time.Millisecond, 5 * time.Second
	for wait := first; ; wait = min(2*wait, most) {
		try, cancel := context.WithTimeout(ctx, 15*time.Second)
		_, err := s.rw.ExecContext(try, createOrders)
		cancel()
		if err == nil {
			return nil
		}
		log.Warn("table cannot be created yet", zap.Error(err), zap.Duration("retry_in", wait))
		select {
		case <-ctx.Done():
			return fmt.Errorf("create table orders: %w", errors.Join(context.Cause(ctx), err))
		case <-time.After(wait):
		}
	}
}

// add stores an order. It returns false if the id was there already, and the
// uuid of the server that said so.
//
// A connection that breaks leaves the outcome open. Trying once more is safe
// only because of the client's id: if the first try was committed after all,
// the second finds it and says so. Don't do this with an id of your own making,
// or with "balance = balance - 1".
func (s *store) add(ctx context.Context, id string) (added bool, server string, err error) {
	added, server, err = s.tryAdd(ctx, id)
	if isBroken(err) && ctx.Err() == nil {
		added, server, err = s.tryAdd(ctx, id)
	}
	return added, server, unavailable(err)
}

func (s *store) tryAdd(ctx context.Context, id string) (added bool, server string, err error) {
	// One connection for both, so that the uuid is of the server that stores
	// the order.
	conn, err := s.rw.Conn(ctx)
	if err != nil {
		return false, "", fmt.Errorf("connect to primary: %w", err)
	}
	defer func() { _ = conn.Close() }() // back to the pool, unless it is broken
	if err := conn.QueryRowContext(ctx, "SELECT @@server_uuid").Scan(&server); err != nil {
		return false, "", fmt.Errorf("ask primary for its name: %w", err)
	}
	_, err = conn.ExecContext(ctx, "INSERT INTO orders (id) VALUES (?)", id)
	var refused *mysql.MySQLError
	switch {
	case err == nil:
		return true, server, nil
	case errors.As(err, &refused) && refused.Number == errDuplicate:
		return false, server, nil
	default:
		return false, "", fmt.Errorf("insert order: %w", err)
	}
}

// get reads an order from a replica. A replica may be behind, so that an order
// it doesn't know is asked of the primary, as is everything when no replica
// answers.
func (s *store) get(ctx context.Context, id string) (order, error) {
	const query = "SELECT id, created_at, @@server_uuid FROM orders WHERE id = ?"
	o := order{Route: "ro"}
	replica, cancel := context.WithTimeout(ctx, replicaLimit)
	defer cancel()
	err := s.ro.QueryRowContext(replica, query, id).Scan(&o.ID, &o.CreatedAt, &o.Server)
	if err == nil {
		return o, nil
	}
	o.Route = "rw"
	err = s.rw.QueryRowContext(ctx, query, id).Scan(&o.ID, &o.CreatedAt, &o.Server)
	if errors.Is(err, sql.ErrNoRows) {
		return order{}, errNotFound
	}
	if err != nil {
		return order{}, unavailable(fmt.Errorf("read order: %w", err))
	}
	return o, nil
}

// count counts the orders, on a replica if one answers.
func (s *store) count(ctx context.Context) (n int64, route string, err error) {
	const query = "SELECT COUNT(*) FROM orders"
	replica, cancel := context.WithTimeout(ctx, replicaLimit)
	defer cancel()
	if err = s.ro.QueryRowContext(replica, query).Scan(&n); err == nil {
		return n, "ro", nil
	}
	if err = s.rw.QueryRowContext(ctx, query).Scan(&n); err != nil {
		return 0, "", unavailable(fmt.Errorf("count orders: %w", err))
	}
	return n, "rw", nil
}

// ping asks both routes at once, and is content when one answers: while the
// primary moves this service still reads, and its writes wait rather than fail.
// Taking it out then would help nobody.
func (s *store) ping(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	faults := make([]error, 2)
	var asking sync.WaitGroup
	for i, db := range []*sql.DB{s.rw, s.ro} {
		asking.Go(func() {
			var one int
			if faults[i] = db.QueryRowContext(ctx, "SELECT 1").Scan(&one); faults[i] == nil {
				cancel() // the other's answer no longer matters
			}
		})
	}
	asking.Wait()
	if faults[0] != nil && faults[1] != nil {
		return unavailable(errors.Join(faults...))
	}
	return nil
}

// isBroken tells whether an error is the connection's, not the statement's.
func isBroken(err error) bool {
	if err == nil {
		return false
	}
	var refused *mysql.MySQLError
	if errors.As(err, &refused) {
		return slices.Contains([]uint16{errShutdown, errKilled}, refused.Number)
	}
	var network net.Error
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, mysql.ErrInvalidConn) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network)
}

// unavailable marks an error that asking again may mend.
func unavailable(err error) error {
	var refused *mysql.MySQLError
	full := errors.As(err, &refused) && refused.Number == errFull
	if full || isBroken(err) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %w", errUnavailable, err)
	}
	return err
}
