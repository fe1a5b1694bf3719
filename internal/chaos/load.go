package chaos

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"
)

// Route is a member's two ports: host:port.
type Route struct {
	Name      string
	ReadWrite string
	ReadOnly  string
}

// LoadConfig says who does how much.
type LoadConfig struct {
	Routes []Route
	// User, Password and Database log in. The account may make tables, and
	// read Markers, the table with the epochs.
	User, Password, Database, Markers string
	// Writers is how many clients each route has that work on registers; one
	// that appends and one that reads by way of the read-only port come besides.
	Writers int
	// Pause is how long a client rests between two operations, on average.
	Pause time.Duration
	// Timeout is how long a client waits for an answer.
	Timeout time.Duration
	Seed    uint64
}

// Registers in use at the same time, and how many operations each has before
// a new one takes its place: histories stay short enough to be checked.
const (
	slots      = 6
	opsPerSlot = 150
)

// Load is a running load.
type Load struct {
	cfg     LoadConfig
	began   time.Time
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	clients []*client
	acked   atomic.Int64 // when the newest acknowledged operation was invoked, since began
	last    atomic.Int64 // number of the newest operation

	mu      sync.Mutex
	history History
	slots   [slots]slot
	newest  int64 // register
}

// slot is a place among the registers in use.
type slot struct {
	key  int64
	used int
}

// client is one of the clients; its goroutine owns it.
type client struct {
	number int
	route  string
	db     *sql.DB
	rng    *rand.Rand
	act    func(context.Context, *client)
	seen   map[int64]int64 // the value it last saw, by register
}

const (
	registerTable = "chaos_registers"
	logTable      = "chaos_log"
)

var tables = [...]string{
	"CREATE TABLE IF NOT EXISTS " + registerTable + " (k BIGINT PRIMARY KEY, v BIGINT NOT NULL, n BIGINT NOT NULL)",
	"CREATE TABLE IF NOT EXISTS " + logTable + ` (id BIGINT PRIMARY KEY, v_before BIGINT NOT NULL, swapped BOOL NOT NULL,
		n BIGINT NOT NULL, server CHAR(36) CHARACTER SET ascii NOT NULL, epoch BIGINT UNSIGNED NOT NULL)`,
}

// Start makes the tables and starts the clients. Stop ends them.
func Start(ctx context.Context, c LoadConfig) (*Load, error) {
	l := &Load{cfg: c, began: time.Now()}
	for i := range l.slots {
		l.replace(&l.slots[i])
	}
	var errs []error
	for _, r := range c.Routes {
		for range c.Writers {
			errs = append(errs, l.add(r.Name, r.ReadWrite, l.operate))
		}
		errs = append(errs, l.add(r.Name, r.ReadWrite, l.appendLines), l.add(r.Name, r.ReadOnly, l.glance))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, l.close())
	}
	for _, statement := range tables {
		if _, err := l.clients[0].db.ExecContext(ctx, statement); err != nil {
			return nil, errors.Join(fmt.Errorf("make tables: %w", err), l.close())
		}
	}
	run, cancel := context.WithCancel(ctx)
	l.cancel = cancel
	for _, one := range l.clients {
		l.wg.Go(func() {
			for run.Err() == nil {
				one.act(run, one)
				l.rest(run, one)
			}
		})
	}
	return l, nil
}

// add makes a client of an address. It has one connection, and errors are not
// retried by the driver.
func (l *Load) add(route, address string, act func(context.Context, *client)) error {
	m := mysql.NewConfig()
	m.Net, m.Addr, m.User, m.Passwd, m.DBName = "tcp", address, l.cfg.User, l.cfg.Password, l.cfg.Database
	m.Timeout, m.ReadTimeout, m.WriteTimeout = l.cfg.Timeout, l.cfg.Timeout, l.cfg.Timeout
	m.InterpolateParams = true
	// A client that was cut off in the middle of a transaction leaves locks.
	m.Params = map[string]string{"innodb_lock_wait_timeout": "2"}
	m.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(m)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", address, err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	n := len(l.clients) + 1
	l.clients = append(l.clients, &client{
		number: n, route: route, db: db, act: act, rng: rand.New(rand.NewPCG(l.cfg.Seed, uint64(n))), seen: map[int64]int64{},
	})
	return nil
}

func (l *Load) close() error {
	var errs []error
	for _, c := range l.clients {
		errs = append(errs, c.db.Close())
	}
	return errors.Join(errs...)
}

// replace gives a slot a new register.
func (l *Load) replace(s *slot) {
	l.newest++
	*s = slot{key: l.newest}
}

// choose picks a register for an operation.
func (l *Load) choose(rng *rand.Rand) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.slots[rng.IntN(slots)]
	if s.used == opsPerSlot {
		l.replace(s)
	}
	s.used++
	return s.key
}

// peek picks a register for a glance.
func (l *Load) peek(rng *rand.Rand) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.slots[rng.IntN(slots)].key
}

// operate works on a register.
func (l *Load) operate(ctx context.Context, c *client) {
	op := Op{Key: l.choose(c.rng), Kind: Write}
	switch n := c.rng.IntN(10); {
	case n < 3:
		op.Kind = Read
	case n < 7:
		op.Kind, op.Expect = CAS, c.seen[op.Key]
	}
	l.record(ctx, c, op)
}

// appendLines leaves a line.
func (l *Load) appendLines(ctx context.Context, c *client) { l.record(ctx, c, Op{Kind: Append}) }

// record carries out an operation and notes what the client was told.
func (l *Load) record(ctx context.Context, c *client, op Op) {
	op.ID, op.Client, op.Route, op.Invoked = l.last.Add(1), c.number, c.route, time.Since(l.began)
	// Not cut off by the end of the load: its answer counts.
	err := l.try(context.WithoutCancel(ctx), c, &op)
	op.Returned = time.Since(l.began)
	if err != nil {
		op.Error = err.Error()
	} else {
		l.acked.Store(int64(op.Invoked))
		c.note(op)
	}
	l.mu.Lock()
	l.history.Ops = append(l.history.Ops, op)
	l.mu.Unlock()
}

func (c *client) note(op Op) {
	if op.Kind == Append {
		return
	}
	c.seen[op.Key] = op.Before
	if op.Swapped {
		c.seen[op.Key] = op.ID
	}
}

// try is one operation: a transaction that begins by locking its row.
func (l *Load) try(ctx context.Context, c *client, op *Op) error {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	op.Outcome = Refused // until COMMIT is sent
	tx, err := c.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // nothing to undo after COMMIT, and nobody to tell before it
	if op.Kind == Append {
		err = l.look(ctx, tx, op)
	} else {
		err = l.lockAndLook(ctx, tx, op)
	}
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO "+logTable+" VALUES (?, ?, ?, ?, ?, ?)", op.ID, op.Before, op.Swapped, op.Version, op.Server, op.Epoch)
	if err != nil {
		return err
	}
	op.Outcome = Unknown
	err = tx.Commit()
	switch {
	case err == nil:
		op.Outcome = Acknowledged
	case rolledBack(err):
		op.Outcome = Refused
	}
	return err
}

// look finds out who the server is.
func (l *Load) look(ctx context.Context, tx *sql.Tx, op *Op) error {
	return tx.QueryRowContext(ctx, "SELECT @@server_uuid, MAX(epoch) FROM "+l.cfg.Markers).Scan(&op.Server, &op.Epoch)
}

// lockAndLook works on the register, up to the line in the log.
func (l *Load) lockAndLook(ctx context.Context, tx *sql.Tx, op *Op) error {
	// It locks the row, whether it is there or not. The snapshot that is read
	// after it is of the time when the lock was held.
	if _, err := tx.ExecContext(ctx, "INSERT INTO "+registerTable+" VALUES (?, 0, 0) ON DUPLICATE KEY UPDATE k = k", op.Key); err != nil {
		return err
	}
	err := tx.QueryRowContext(ctx, "SELECT v, n, @@server_uuid, (SELECT MAX(epoch) FROM "+l.cfg.Markers+") FROM "+registerTable+" WHERE k = ?", op.Key).
		Scan(&op.Before, &op.Version, &op.Server, &op.Epoch)
	if err != nil {
		return err
	}
	if op.Kind == Read || op.Kind == CAS && op.Before != op.Expect {
		return nil
	}
	op.Swapped = true
	op.Version++
	_, err = tx.ExecContext(ctx, "UPDATE "+registerTable+" SET v = ?, n = ? WHERE k = ?", op.ID, op.Version, op.Key)
	return err
}

// rolledBack tells whether an answer to COMMIT says that nothing was
// committed: read only (1290, 1792, 1836), deadlock (1213), lock wait (1205),
// aborted by a plugin (3101).
func rolledBack(err error) bool {
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		return false
	}
	switch e.Number {
	case 1290, 1792, 1836, 1213, 1205, 3101:
		return true
	}
	return false
}

// glance reads a register by way of a read-only port.
func (l *Load) glance(ctx context.Context, c *client) {
	g := Glance{Client: c.number, Route: c.route, Key: l.peek(c.rng), Invoked: time.Since(l.began)}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.Timeout)
	defer cancel()
	// One statement, one snapshot.
	err := c.db.QueryRowContext(ctx, "SELECT COALESCE(MAX(n), 0), @@server_uuid FROM "+registerTable+" WHERE k = ?", g.Key).Scan(&g.Version, &g.Server)
	g.Returned = time.Since(l.began)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.history.Glances = append(l.history.Glances, g)
	} else {
		l.history.Unread++
	}
}

// rest lets a client rest for a random time.
func (l *Load) rest(ctx context.Context, c *client) {
	timer := time.NewTimer(time.Duration(c.rng.Int64N(int64(2*l.cfg.Pause) + 1)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// AcknowledgedSince tells whether an operation that began after that moment was
// acknowledged.
func (l *Load) AcknowledgedSince(at time.Time) bool { return l.acked.Load() > int64(at.Sub(l.began)) }

// Began is the beginning of the history's clock.
func (l *Load) Began() time.Time { return l.began }

// LongestOutage is the longest time between two acknowledgements in a row, to
// any clients, that overlaps the time between from and to. The end of the time
// counts as one.
func (l *Load) LongestOutage(from, to time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return longestOutage(l.history.Ops, from.Sub(l.began), to.Sub(l.began))
}

// Stop ends the clients, waits for their last answers and returns the history.
func (l *Load) Stop() *History {
	l.cancel()
	l.wg.Wait()
	_ = l.close() // nothing is pending any more
	l.history.Began, l.history.Length = l.began, time.Since(l.began)
	return &l.history
}

// ReadCommitted reads the log table of one server.
func ReadCommitted(ctx context.Context, db *sql.DB, database string) (Committed, error) {
	rows, err := db.QueryContext(ctx, "SELECT id, v_before, swapped, n, server, epoch FROM "+database+"."+logTable)
	if err != nil {
		return nil, fmt.Errorf("read log table: %w", err)
	}
	defer rows.Close()
	found := Committed{}
	for rows.Next() {
		var id int64
		var line Line
		if err := rows.Scan(&id, &line.Before, &line.Swapped, &line.Version, &line.Server, &line.Epoch); err != nil {
			return nil, fmt.Errorf("read log table: %w", err)
		}
		found[id] = line
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read log table: %w", err)
	}
	return found, nil
}
