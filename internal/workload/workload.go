package workload

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"
)

// Config says what to write, where, and how hard.
type Config struct {
	// Address is the host:port of the read-write route, or of several, comma
	// between: each connection is made to the next of them, and to another if
	// that one cannot be reached, as applications with a list of hosts do.
	Address string
	// User, Password and Database log in; the account may create a table.
	User, Password, Database string
	// Table is made if it is missing.
	Table string
	// Writers is how many connections write at the same time; default 8.
	Writers int
	// Pause is how long a writer rests between two rows; 0 not at all.
	Pause time.Duration
	// Timeout is how long one attempt may take; default 5 s. An attempt that
	// takes longer is an error to the client.
	Timeout time.Duration
}

// outcome is what a writer was told of a row.
type outcome int

const (
	acknowledged outcome = iota
	refused              // certainly not committed
	unknown              // no answer: it may be there or not
)

// row is one attempt to write.
type row struct {
	writer, number int
	outcome        outcome
	began, ended   time.Duration // since the run began
}

// Workload is a running workload.
type Workload struct {
	cfg    Config
	db     *sql.DB
	cancel context.CancelFunc
	began  time.Time
	first  int // the number of its first writer; those below wrote before it
	wg     sync.WaitGroup
	mu     sync.Mutex
	rows   []row
	acked  int // rows that were acknowledged
	errs   map[string]int
}

// Start makes the table and starts the writers. Stop ends them.
func Start(ctx context.Context, c Config) (*Workload, error) {
	if c.Writers == 0 {
		c.Writers = 8
	}
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	db, err := open(c, c.Address, c.Writers)
	if err != nil {
		return nil, err
	}
	create := "CREATE TABLE IF NOT EXISTS `" + c.Table + "` (writer INT, number INT, at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6), PRIMARY KEY (writer, number))"
	if _, err := db.ExecContext(ctx, create); err != nil {
		return nil, errors.Join(fmt.Errorf("make table %s: %w", c.Table, err), db.Close())
	}
	var first int
	if err := db.QueryRowContext(ctx, "SELECT COALESCE(MAX(writer) + 1, 0) FROM `"+c.Table+"`").Scan(&first); err != nil {
		return nil, errors.Join(fmt.Errorf("read table %s: %w", c.Table, err), db.Close())
	}
	run, cancel := context.WithCancel(ctx)
	w := &Workload{cfg: c, db: db, cancel: cancel, began: time.Now(), first: first, errs: map[string]int{}}
	for i := range c.Writers {
		w.wg.Add(1)
		go w.write(run, first+i)
	}
	return w, nil
}

// open returns a pool on one address or several. Errors are not retried by the driver, so
// that the client sees what there is to see.
func open(c Config, address string, conns int) (*sql.DB, error) {
	m := mysql.NewConfig()
	m.Net, m.Addr, m.User, m.Passwd, m.DBName = "tcp", address, c.User, c.Password, c.Database
	routes := &routes{list: strings.Split(address, ",")}
	m.DialFunc = routes.dial
	m.Timeout, m.ReadTimeout, m.WriteTimeout = c.Timeout, c.Timeout, c.Timeout
	m.InterpolateParams = true
	m.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(m)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db, nil
}

// routes takes its addresses in turn.
type routes struct {
	list []string
	next atomic.Uint64
}

// dial connects to the next address, or to the first of the others that can
// be reached. The error is that of the last one tried.
func (r *routes) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	var d net.Dialer
	first := r.next.Add(1) - 1
	var err error
	for i := range uint64(len(r.list)) {
		var conn net.Conn
		if conn, err = d.DialContext(ctx, network, r.list[(first+i)%uint64(len(r.list))]); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// write is one writer: a row at a time, each tried once.
func (w *Workload) write(ctx context.Context, writer int) {
	defer w.wg.Done()
	insert := "INSERT INTO `" + w.cfg.Table + "` (writer, number) VALUES (?, ?)"
	for number := 0; ctx.Err() == nil; number++ {
		r := row{writer: writer, number: number, began: time.Since(w.began)}
		// The attempt is not cut off by the end of the run: its answer counts.
		actx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.cfg.Timeout)
		_, err := w.db.ExecContext(actx, insert, writer, number)
		cancel()
		r.ended = time.Since(w.began)
		r.outcome = outcomeOf(err)
		w.mu.Lock()
		w.rows = append(w.rows, r)
		if r.outcome == acknowledged {
			w.acked++
		}
		if err != nil {
			w.errs[err.Error()]++
		}
		w.mu.Unlock()
		pause := w.cfg.Pause
		if err != nil {
			pause = max(pause, time.Millisecond)
		}
		if pause > 0 {
			t := time.NewTimer(pause)
			select {
			case <-ctx.Done():
			case <-t.C:
			}
			t.Stop()
		}
	}
}

// Errors after which a row is certainly not there: no connection, the server
// read only (1290, 1792, 1836), not available at the route (3168), too many
// connections (1040), transaction rolled back (1213, 1205, 3101).
func outcomeOf(err error) outcome {
	if err == nil {
		return acknowledged
	}
	var e *mysql.MySQLError
	if errors.As(err, &e) {
		switch e.Number {
		case 1290, 1792, 1836, 3168, 1040, 1213, 1205, 3101:
			return refused
		}
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return refused
	}
	return unknown
}

// Acknowledged is how many rows have been acknowledged so far.
func (w *Workload) Acknowledged() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.acked
}

// Stop ends the writers, waits for their last answers and returns the result.
func (w *Workload) Stop() *Result {
	w.cancel()
	w.wg.Wait()
	_ = w.db.Close() // nothing is pending any more
	return &Result{cfg: w.cfg, first: w.first, began: w.began, length: time.Since(w.began), rows: w.rows, Errors: w.errs}
}
