package dbrepl

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"maps"
	"net"
	"sync/atomic"
	"time"

	"github.com/go-sql-driver/mysql"
	"go.uber.org/zap"
)

// pollInterval is how often a state that the server does not announce is
// looked at.
const pollInterval = 2 * time.Millisecond

// commandIdle is how many connections for commands are kept warm.
const commandIdle = 2

// Instance is one mysqld as its controller sees it. Its methods may be called
// from any goroutine; who orders one thing after another is the caller's
// business.
type Instance struct {
	cfg Config
	log *zap.Logger
	// Pools of their own, so that a stuck command never blocks a probe, and a
	// probe that waits for a lock in the server never blocks a ping. What is
	// done in local stays out of the binary log.
	ping, probe, command, local *sql.DB
	// killer logs in as killerOf the controller, when it is used.
	killer *sql.DB
	// What may hang for as long as the server's disk does (TryWrite), and what
	// looks at it then, and kills it.
	writeLane, logLane lane
	witness            *sql.DB
	// known is what the instance was last seen to have; the questions of a
	// probe depend on it.
	known   atomic.Pointer[features]
	hearing hearing
	signs   signs
}

// Open makes an Instance. It does not touch the network: a server that is
// down is noticed by the first call.
func Open(cfg Config, log *zap.Logger) (*Instance, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("open instance: %w", err)
	}
	i := &Instance{cfg: cfg.withDefaults(), log: log}
	i.known.Store(&features{})
	for _, pool := range []struct {
		db    **sql.DB
		user  string
		read  time.Duration // a backstop: contexts bound calls
		limit int
		idle  int
		with  map[string]string // variables of its sessions
	}{
		{&i.ping, i.cfg.User, 2 * i.cfg.QueryTimeout, 1, 1, nil},
		{&i.probe, i.cfg.User, 2 * i.cfg.QueryTimeout, 1, 1, nil},
		{&i.command, i.cfg.User, 0, 0, commandIdle, nil},
		{&i.local, i.cfg.User, 0, 1, -1, map[string]string{"sql_log_bin": "0"}},
		{&i.killer, killerOf(i.cfg.User), 2 * i.cfg.QueryTimeout, 1, -1, nil},
		{&i.writeLane.pool, i.cfg.User, writeLimit, 1, 1, map[string]string{"sql_log_bin": "0"}},
		{&i.logLane.pool, i.cfg.User, writeLimit, 1, 1, nil},
		{&i.witness, i.cfg.User, 2 * i.cfg.QueryTimeout, 1, 1, nil},
	} {
		c, err := i.connector(pool.user, pool.read, pool.with)
		if err != nil {
			return nil, fmt.Errorf("open instance: %w", err)
		}
		*pool.db = sql.OpenDB(c)
		(*pool.db).SetMaxOpenConns(pool.limit)
		(*pool.db).SetMaxIdleConns(pool.idle)
	}
	return i, nil
}

// Close ends the connections. Calls that run end with an error.
func (i *Instance) Close() error {
	for _, db := range []*sql.DB{i.ping, i.probe, i.command, i.local, i.killer, i.writeLane.pool, i.logLane.pool, i.witness} {
		if err := db.Close(); err != nil {
			return fmt.Errorf("close connections: %w", err)
		}
	}
	return nil
}

// connector dials and logs in within ConnectTimeout and marks its errors.
type connector struct {
	driver.Connector
	timeout time.Duration
}

func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	reached := new(atomic.Bool)
	conn, err := c.Connector.Connect(context.WithValue(ctx, reachedKey{}, reached))
	if err != nil {
		return nil, &connectError{err, reached.Load()}
	}
	return conn, nil
}

// reachedKey is of the flag, in the context of a connect, that its dialling sets
// when the other host has accepted: what fails after that is the server's.
type reachedKey struct{}

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if reached, ok := ctx.Value(reachedKey{}).(*atomic.Bool); ok && err == nil {
		reached.Store(true)
	}
	return conn, err
}

// driverLog takes what the driver would print to standard error; the same is
// in the errors it returns.
type driverLog struct{ log *zap.Logger }

func (l driverLog) Print(v ...any) {
	l.log.Debug("mysql driver", zap.String("text", fmt.Sprint(v...)))
}

func (i *Instance) connector(user string, readTimeout time.Duration, with map[string]string) (driver.Connector, error) {
	c := mysql.NewConfig()
	c.Net, c.Addr = i.cfg.endpoint()
	c.User, c.Passwd = user, i.cfg.Password
	if c.Net != "unix" {
		c.TLS = i.cfg.TLS
	}
	c.Timeout, c.DialFunc = i.cfg.ConnectTimeout, dial
	c.ReadTimeout, c.WriteTimeout = readTimeout, 2*i.cfg.QueryTimeout
	c.InterpolateParams = true // one round trip, and CHANGE REPLICATION SOURCE takes no parameters
	c.ParseTime = true
	c.AllowNativePasswords = true
	c.Logger = driverLog{i.log}
	c.Params = map[string]string{
		"time_zone":  "'+00:00'",
		"autocommit": "1",
		// Neither the server's modes nor its limits change what we say.
		"sql_mode":           "'STRICT_TRANS_TABLES'",
		"max_execution_time": "0",
	}
	maps.Copy(c.Params, with)
	inner, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	return connector{inner, i.cfg.ConnectTimeout}, nil
}

// Ping asks for SELECT 1 on a warm connection of its own, within
// QueryTimeout. Its errors are for Classify.
func (i *Instance) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, i.cfg.QueryTimeout+i.cfg.ConnectTimeout)
	defer cancel()
	conn, err := i.ping.Conn(ctx)
	if err != nil {
		return fmt.Errorf("ping instance: %w", err)
	}
	defer conn.Close()
	ctx, cancel = context.WithTimeout(ctx, i.cfg.QueryTimeout)
	defer cancel()
	var one int
	if err := conn.QueryRowContext(ctx, "SELECT 1").Scan(&one); err != nil {
		return fmt.Errorf("ping instance: %w", err)
	}
	return nil
}

// order runs a statement on a connection of its own until it returns or ctx
// ends. In the latter case its server thread is killed and seen gone before
// order returns ErrGivenUp, so that it cannot take effect after its caller has
// gone on to something else; if the end cannot be seen, the error is
// ErrOutcomeUnknown. A statement that was faster than the kill has succeeded.
func (i *Instance) order(ctx context.Context, statement string, args ...any) error {
	return i.orderOn(ctx, i.command, statement, args...)
}

func (i *Instance) orderOn(ctx context.Context, pool *sql.DB, statement string, args ...any) error {
	if err := ctx.Err(); err != nil {
		return err // an order that was called off is not sent at all
	}
	conn, err := pool.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	var thread uint64
	if err := conn.QueryRowContext(ctx, "SELECT CONNECTION_ID()").Scan(&thread); err != nil {
		return err
	}
	running, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	began := time.Now()
	result := make(chan error, 1)
	go func() {
		_, err := conn.ExecContext(running, statement, args...)
		result <- err
	}()
	select {
	case err = <-result:
		// The text without its arguments: those may be secrets.
		i.log.Debug("statement returned", zap.String("statement", statement), zap.Duration("took", time.Since(began)), zap.Error(err))
		return err
	case <-ctx.Done():
	}
	gone := i.endThread(thread)
	abandon()
	if err = <-result; err == nil {
		return nil
	}
	if gone != nil {
		return fmt.Errorf("%w: %w; ending its thread: %w", ErrOutcomeUnknown, context.Cause(ctx), gone)
	}
	return fmt.Errorf("%w: %w", ErrGivenUp, context.Cause(ctx))
}

// endThread kills a server thread and returns when it is seen gone, within
// QueryTimeout and a connect. It has its own time: it is called when the
// caller's has run out. A thread that waits for an acknowledgement stays: its
// client is told of an error, its commit goes on waiting.
func (i *Instance) endThread(thread uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), i.cfg.ConnectTimeout+i.cfg.QueryTimeout)
	defer cancel()
	conn, err := i.command.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := kill(ctx, conn, thread); err != nil {
		return err
	}
	return poll(ctx, func() (bool, error) {
		var left, commits int
		err := conn.QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(SUM(processlist_state LIKE 'Waiting for semi-sync ACK%'), 0)
			FROM performance_schema.threads WHERE processlist_id = ?`, thread).Scan(&left, &commits)
		if err == nil && commits > 0 {
			err = ErrCommitsWaiting
		}
		return left == 0, err
	})
}

// kill ends one connection; that it is gone already is no error.
func kill(ctx context.Context, conn *sql.Conn, thread uint64) error {
	_, err := conn.ExecContext(ctx, "KILL CONNECTION ?", thread)
	if err != nil && !isServerError(err, errNoSuchThread) {
		return fmt.Errorf("kill connection %d: %w", thread, err)
	}
	return nil
}

// poll asks done at once and then every pollInterval, until it says true or
// fails or ctx ends.
func poll(ctx context.Context, done func() (bool, error)) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
