package dbrepl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"go.uber.org/zap"
)

// cloneInterval is how often a running clone's progress is read.
const cloneInterval = 200 * time.Millisecond

// cloneSettle is how long a server that was cloned and restarted may take to
// say that the clone is complete.
const cloneSettle = 20 * time.Second

// CloneProgress tells how far a clone has come.
type CloneProgress struct {
	Stage string // as the server names it: DROP DATA, FILE COPY, PAGE COPY, REDO COPY, …
	Done  uint64 // bytes of this stage
	Total uint64 // bytes of this stage, as estimated
}

// CloneSpec says what to make a copy of.
type CloneSpec struct {
	Donor          string // its host:port
	User, Password string // an account there, with BACKUP_ADMIN
	// Progress may be nil; it is called from one goroutine, which has ended when
	// Clone returns.
	Progress func(CloneProgress)
	// Start starts the server where its supervisor has not done so a while after
	// it ended; nil: nothing does.
	Start func(context.Context) error
}

// cloneRestart is how long the server's supervisor has to start it again.
const cloneRestart = 30 * time.Second

// cloneReturn is how long the server may take to be back: a large one has much to
// recover.
const cloneReturn = time.Hour

// Clone replaces all data of the instance by a copy of the donor's. Everything
// the instance had is gone: save it before (SaveErrant). At the end the server
// process exits (code 16) and is to be started again by its supervisor; Clone
// returns when it is back and says that the clone was completed. The instance
// keeps its server uuid and persisted settings, and has the donor's accounts and
// GTID set; it replicates from nobody.
func (i *Instance) Clone(ctx context.Context, spec CloneSpec) error {
	if err := i.clone(ctx, spec); err != nil {
		return fmt.Errorf("clone from %s: %w", spec.Donor, err)
	}
	return nil
}

func (i *Instance) clone(ctx context.Context, spec CloneSpec) error {
	host, service, err := net.SplitHostPort(spec.Donor)
	if err != nil {
		return err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return err
	}
	before, err := i.Probe(ctx)
	if err != nil {
		return err
	}
	if before.Source != nil {
		for _, statement := range []string{"STOP REPLICA FOR CHANNEL ''", "RESET REPLICA ALL FOR CHANNEL ''"} {
			if err := i.order(ctx, statement); err != nil {
				return err
			}
		}
	}
	if err := i.order(ctx, "SET GLOBAL clone_valid_donor_list = ?", net.JoinHostPort(host, service)); err != nil {
		return err
	}
	statement := "CLONE INSTANCE FROM ?@?:" + strconv.FormatUint(port, 10) + " IDENTIFIED BY ?"
	if i.cfg.TLS != nil {
		statement += " REQUIRE SSL"
	}
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		i.watchClone(watching, spec.Progress)
	}()
	// The server refuses to be cloned while super_read_only is ON. read_only
	// stays ON, and the restarted server is closed again.
	if err = i.order(ctx, "SET GLOBAL super_read_only = OFF, GLOBAL read_only = ON"); err == nil {
		err = i.order(ctx, statement, spec.User, host, spec.Password)
	}
	stop()
	<-watched
	if err != nil && (refusedByServer(err) && !isServerError(err, errRestartFailed) || ctx.Err() != nil) {
		return errors.Join(err, i.reopen(ctx, true, true))
	}
	i.log.Info("clone has ended, server restarts", zap.NamedError("answer", err))
	return i.awaitClone(ctx, before.BootID, err, spec.Start)
}

// awaitClone waits for another server process and asks it how the clone ended.
func (i *Instance) awaitClone(ctx context.Context, before string, answer error, start func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, cloneReturn)
	defer cancel()
	ticker := time.NewTicker(cloneInterval)
	defer ticker.Stop()
	last, since := answer, time.Now()
	var settles time.Time // when a restarted server must have told the outcome
	for {
		s, err := i.Probe(ctx)
		if err == nil && s.BootID != before {
			if settles.IsZero() {
				settles = time.Now().Add(cloneSettle)
			}
			ended, err := i.cloneOutcome(ctx)
			if ended || time.Now().After(settles) {
				return err
			}
			last = err
		}
		if err != nil {
			last = err
			if start != nil && time.Since(since) > cloneRestart {
				if err := start(ctx); err != nil {
					i.log.Warn("server is not back after a clone, and cannot be started", zap.Error(err))
				}
				start = nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the restarted server: %w; last seen: %w", context.Cause(ctx), last)
		case <-ticker.C:
		}
	}
}

// cloneOutcome tells whether the clone has ended, and how.
func (i *Instance) cloneOutcome(ctx context.Context) (ended bool, err error) {
	var state, message string
	err = i.command.QueryRowContext(ctx, "SELECT state, error_message FROM performance_schema.clone_status").Scan(&state, &message)
	if err != nil {
		return false, fmt.Errorf("read outcome: %w", err)
	}
	return cloneEnded(state, message)
}

// cloneEnded judges the state that a restarted server tells of its clone. It
// takes connections before it has settled that.
func cloneEnded(state, message string) (ended bool, err error) {
	switch state {
	case "Completed":
		return true, nil
	case "In Progress":
		return false, errors.New("the restarted server still says that it is in progress")
	default:
		return true, fmt.Errorf("it is %s: %s", state, message)
	}
}

// watchClone reports the stage in progress until ctx ends.
func (i *Instance) watchClone(ctx context.Context, progress func(CloneProgress)) {
	if progress == nil {
		return
	}
	ticker := time.NewTicker(cloneInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		var p CloneProgress
		err := i.command.QueryRowContext(ctx, `SELECT stage, COALESCE(data, 0), COALESCE(estimate, 0) FROM performance_schema.clone_progress
			WHERE state = 'In Progress' ORDER BY begin_time DESC LIMIT 1`).Scan(&p.Stage, &p.Done, &p.Total)
		switch {
		case err == nil:
			progress(p)
		case errors.Is(err, sql.ErrNoRows), ctx.Err() != nil:
		default: // the clone itself tells what went wrong
			i.log.Debug("clone progress cannot be read", zap.Error(err))
		}
	}
}
