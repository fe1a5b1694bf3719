package dbrepl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// WriteOutcome is what came of TryWrite.
type WriteOutcome string

// The outcomes.
const (
	Written WriteOutcome = "written"
	// WriteStalled: the write did not return in time and waits for no lock; or
	// an earlier one was given up on and its thread is still there.
	WriteStalled WriteOutcome = "write stalled"
	// WriteRefused: the server says that its disk takes nothing.
	WriteRefused WriteOutcome = "write refused"
	// LogBusy: the write was done, and the writer of the binary log does not
	// come free: for want of room, or for the size of what it writes.
	LogBusy WriteOutcome = "binary log busy"
	// WriteUnknown: nothing can be said: no connection, closed for writes,
	// or somebody's lock in the way.
	WriteUnknown WriteOutcome = "unknown"
)

// lane is a connection of its own for statements that may hang, and the thread
// of the one that was given up on: nothing is sent while that is there.
type lane struct {
	pool *sql.DB
	mu   sync.Mutex
	left *threadState
}

// threadState is what a connection of the server does. Its number says which it
// is only together with when the server started: the next process counts from
// the beginning again.
type threadState struct {
	id      uint64
	started float64 // Unix time, by the server's own clock
	text    string
}

// TryWrite does, within ctx, what tells a server that can write from one that
// merely answers, on connections of its own: it changes a row of observer's, in
// no binary log (so it waits for no acknowledgement, and fills nothing), and
// asks for the binary log's position, for which its writer must come free. With
// grow it makes a table and drops it, which needs room on the disk.
//
// What hangs is killed, and as long as its thread is not seen gone nothing
// more is sent: that it is still there is the outcome then. The text says more
// for people.
func (i *Instance) TryWrite(ctx context.Context, observer string, grow bool) (WriteOutcome, string) {
	type answer struct {
		outcome WriteOutcome
		detail  string
	}
	position := make(chan answer, 1)
	go func() {
		outcome, detail := i.try(ctx, &i.logLane, i.askPosition)
		position <- answer{outcome, detail}
	}()
	outcome, detail := i.try(ctx, &i.writeLane, func(ctx context.Context, conn *sql.Conn) error {
		return i.writeRow(ctx, conn, observer, grow)
	})
	logged := <-position
	if outcome == Written && logged.outcome == WriteStalled {
		return LogBusy, logged.detail
	}
	if outcome == Written && logged.outcome == WriteUnknown {
		return logged.outcome, logged.detail // it may wait for room
	}
	return outcome, detail
}

// KeepWriteReady makes the connections that TryWrite needs, within ctx, where
// they are not there yet or any more: three of them, which it keeps. Without them
// it can tell nothing of a server whose connections are used up, as they are
// when its clients' writes hang.
func (i *Instance) KeepWriteReady(ctx context.Context) error {
	for _, pool := range []*sql.DB{i.writeLane.pool, i.logLane.pool, i.witness} {
		if err := pool.PingContext(ctx); err != nil {
			return fmt.Errorf("keep connections to try writes: %w", err)
		}
	}
	return nil
}

// try runs something on a lane until it returns or ctx ends.
func (i *Instance) try(ctx context.Context, l *lane, run func(context.Context, *sql.Conn) error) (WriteOutcome, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left != nil {
		now, err := i.threadState(l.left.id)
		if err != nil {
			return stalled("", err)
		}
		if now != nil && now.started == l.left.started {
			return stalled(now.text, nil)
		}
		l.left = nil
	}
	conn, err := l.pool.Conn(ctx)
	if err != nil {
		return WriteUnknown, err.Error()
	}
	defer conn.Close()
	var thread uint64
	if err := conn.QueryRowContext(ctx, "SELECT CONNECTION_ID()").Scan(&thread); err != nil {
		return WriteUnknown, err.Error()
	}
	running, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	result := make(chan error, 1)
	go func() { result <- run(running, conn) }()
	select {
	case err := <-result:
		return finished(err)
	case <-ctx.Done():
	}
	if !errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		abandon()
		return WriteUnknown, fmt.Sprintf("called off (%v)", <-result)
	}
	var text string
	state, err := i.threadState(thread)
	if state != nil {
		l.left, text = state, state.text
		err = i.killThread(thread)
	}
	abandon()
	if late := <-result; late == nil || refusedByServer(late) {
		l.left = nil
		return finished(late)
	}
	return stalled(text, err)
}

// stalled is what a statement that hangs comes to, by its thread's state.
func stalled(state string, err error) (WriteOutcome, string) {
	switch {
	case err != nil:
		return WriteUnknown, err.Error()
	case strings.HasPrefix(state, "Waiting for") && strings.HasSuffix(state, "lock"):
		return WriteUnknown, "behind a lock: " + state
	case state == "":
		return WriteStalled, "it does not return"
	default:
		return WriteStalled, "it does not return: " + state
	}
}

// finished is what a statement that returned comes to.
func finished(err error) (WriteOutcome, string) {
	switch {
	case err == nil:
		return Written, ""
	case isServerError(err, errDiskFull, errTableFull, errSpaceFull, errCantCreateTable, errEngine, errOnWrite, errOpenReadOnly):
		return WriteRefused, err.Error()
	default:
		return WriteUnknown, err.Error()
	}
}

// threadState is what a connection of the server does; nil if it is not there.
// It has its own time: it is asked when the caller's has run out.
func (i *Instance) threadState(thread uint64) (*threadState, error) {
	ctx, cancel := context.WithTimeout(context.Background(), i.cfg.QueryTimeout)
	defer cancel()
	var text sql.NullString
	s := threadState{id: thread}
	err := i.witness.QueryRowContext(ctx, `SELECT t.processlist_state, UNIX_TIMESTAMP() - g.variable_value
		FROM performance_schema.threads AS t, performance_schema.global_status AS g
		WHERE t.processlist_id = ? AND g.variable_name = 'Uptime'`, thread).Scan(&text, &s.started)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at thread %d: %w", thread, err)
	}
	s.text = text.String
	return &s, nil
}

// killThread orders the end of a connection and does not wait for it.
func (i *Instance) killThread(thread uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), i.cfg.QueryTimeout)
	defer cancel()
	conn, err := i.witness.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return kill(ctx, conn, thread)
}

// writeRow changes the observer's row, and makes and drops a table to grow.
func (i *Instance) writeRow(ctx context.Context, conn *sql.Conn, observer string, grow bool) error {
	canary := "`" + i.cfg.Schema + "`.canary"
	change := "INSERT INTO " + canary + " (observer, writes) VALUES (?, 1) ON DUPLICATE KEY UPDATE writes = writes + 1"
	_, err := conn.ExecContext(ctx, change, observer)
	if isServerError(err, errNoSuchTable) {
		if _, err = conn.ExecContext(ctx, canaryDDL(i.cfg.Schema)); err == nil {
			_, err = conn.ExecContext(ctx, change, observer)
		}
	}
	if err != nil || !grow {
		return err
	}
	// One for each observer: they try at the same time.
	room := fmt.Sprintf("`%s`.room_%08x", i.cfg.Schema, crc32.ChecksumIEEE([]byte(observer)))
	for _, statement := range []string{"DROP TABLE IF EXISTS " + room, "CREATE TABLE " + room + " (id INT) ENGINE=InnoDB", "DROP TABLE " + room} {
		if _, err := conn.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// canaryDDL makes the table that observers try writes with. It is in no binary
// log, and neither are its rows: each server has its own.
func canaryDDL(schema string) string {
	return "CREATE TABLE IF NOT EXISTS `" + schema + "`.canary (" +
		"observer VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY, " +
		"writes BIGINT UNSIGNED NOT NULL) ENGINE=InnoDB"
}

// askPosition asks where the binary log is, which its writer says between two
// writes.
func (i *Instance) askPosition(ctx context.Context, conn *sql.Conn) error {
	rows, err := conn.QueryContext(ctx, "SHOW BINARY LOG STATUS")
	if isServerError(err, errSyntax) { // before 8.2
		rows, err = conn.QueryContext(ctx, "SHOW MASTER STATUS")
	}
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
	}
	return rows.Err()
}

// Folders are where the server writes: its data, its binary log, its relay log,
// its redo log; as this host sees them (Config.Datadir).
func (i *Instance) Folders(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, i.cfg.ConnectTimeout+i.cfg.QueryTimeout)
	defer cancel()
	var datadir string
	var logs, relay, redo sql.NullString
	err := i.command.QueryRowContext(ctx, "SELECT @@global.datadir, @@global.log_bin_basename, @@global.relay_log_basename, @@global.innodb_log_group_home_dir").
		Scan(&datadir, &logs, &relay, &redo)
	if err != nil {
		return nil, fmt.Errorf("find the server's folders: %w", err)
	}
	folders := []string{i.localPath(datadir, datadir), i.localPath(datadir, redo.String)}
	for _, base := range []string{logs.String, relay.String} {
		if base != "" {
			folders = append(folders, i.localPath(datadir, filepath.Dir(base)))
		}
	}
	return folders, nil
}

// localPath is a path of the server's as this host sees it.
func (i *Instance) localPath(datadir, path string) string {
	if !filepath.IsAbs(path) {
		path = filepath.Join(datadir, path)
	}
	if below, err := filepath.Rel(datadir, path); err == nil && i.cfg.Datadir != "" && filepath.IsLocal(below) {
		return filepath.Join(i.cfg.Datadir, below)
	}
	return path
}

// writeLimit is a backstop of the lanes' connections: what is given up on is
// ended by its thread's end or by the caller long before.
const writeLimit = time.Minute
