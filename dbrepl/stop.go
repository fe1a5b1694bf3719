package dbrepl

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// StopOptions bound the parts of StopServer.
type StopOptions struct {
	// CloseLimit is how long ending the sessions and closing the instance may
	// take before the process is killed. Default 2 s. A longer one gives a
	// busy server a better chance of a clean stop; a shorter one ends sooner
	// when commits wait for acknowledgements that will not come.
	CloseLimit time.Duration
	// ExitLimit is how long a clean stop may take before the process is
	// killed. Default 1 min. A killed server is slower to start.
	ExitLimit time.Duration
}

// StopServer stops the server's process without telling any client of a
// success that is none (I2): a polite stop (SHUTDOWN, SIGTERM) answers every
// commit that waits for an acknowledgement with OK. Sessions are ended first,
// the instance is closed, and only then, if that has succeeded and no commit
// waits, the process gets SIGTERM; in all other cases, SIGKILL. It returns when
// the process is gone. The process must be on this host (ErrNotLocal).
func (i *Instance) StopServer(ctx context.Context, o StopOptions) error {
	if o.CloseLimit == 0 {
		o.CloseLimit = 2 * time.Second
	}
	if o.ExitLimit == 0 {
		o.ExitLimit = time.Minute
	}
	if err := i.stopServer(ctx, o); err != nil {
		return fmt.Errorf("stop server: %w", err)
	}
	return nil
}

func (i *Instance) stopServer(ctx context.Context, o StopOptions) error {
	p, err := i.process(ctx)
	if err != nil {
		return err
	}
	defer p.close()
	closing, cancel := context.WithTimeout(ctx, o.CloseLimit)
	err = i.endAllCommits(closing)
	cancel()
	if err != nil {
		i.log.Warn("server is stopped by SIGKILL", zap.Int("pid", p.pid), zap.Error(err))
		return i.killProcess(ctx, p)
	}
	if err := p.signal(unix.SIGTERM); err != nil {
		return err
	}
	exiting, cancel := context.WithTimeout(ctx, o.ExitLimit)
	defer cancel()
	if err := p.wait(exiting); err == nil || ctx.Err() != nil {
		return err
	}
	i.log.Warn("server does not end and is killed", zap.Int("pid", p.pid), zap.Duration("after", o.ExitLimit))
	return i.killProcess(ctx, p)
}

func (i *Instance) killProcess(ctx context.Context, p *process) error {
	if err := p.signal(unix.SIGKILL); err != nil {
		return err
	}
	return p.wait(ctx)
}

// endAllCommits returns without error only when no commit waits and none can
// begin: every session was ended, and super_read_only, which queues behind
// waiting commits, was switched on after that.
func (i *Instance) endAllCommits(ctx context.Context) error {
	// Not offline_mode: it cuts off the replicas, too, and what waits for
	// them would wait for ever.
	if _, err := i.KillClients(ctx); err != nil {
		// Accounts that only others with SYSTEM_USER may end. If one of
		// theirs waits, the next statement does not return.
		i.log.Info("not all sessions could be ended", zap.Error(err))
	}
	if err := i.order(ctx, "SET GLOBAL super_read_only = ON"); err != nil {
		return err
	}
	waiting, err := i.waitingCommits(ctx)
	if err != nil {
		return err
	}
	if waiting > 0 {
		return fmt.Errorf("%w: %d sessions", ErrCommitsWaiting, waiting)
	}
	return nil
}

// process finds the server's process. Where the server still answers, its pid
// file and its own thread id must agree; a server that does not answer is
// found by the configured pid file alone.
func (i *Instance) process(ctx context.Context) (*process, error) {
	asking, cancel := context.WithTimeout(ctx, i.cfg.QueryTimeout)
	defer cancel()
	var pidFile, datadir string
	var thread int
	err := i.command.QueryRowContext(asking, `SELECT @@global.pid_file, @@global.datadir,
		(SELECT thread_os_id FROM performance_schema.threads WHERE name = 'thread/sql/main')`).Scan(&pidFile, &datadir, &thread)
	if err != nil {
		if i.cfg.PIDFile == "" {
			return nil, fmt.Errorf("%w: no pid file is configured and the server does not tell it: %w", ErrNotLocal, err)
		}
		return openProcess(i.cfg.PIDFile)
	}
	if i.cfg.Datadir != "" {
		datadir = i.cfg.Datadir
	}
	if !filepath.IsAbs(pidFile) {
		pidFile = filepath.Join(datadir, pidFile)
	}
	if i.cfg.PIDFile != "" {
		pidFile = i.cfg.PIDFile
	}
	p, err := openProcess(pidFile)
	if err != nil {
		return nil, err
	}
	// In another process id namespace the numbers differ; then the path in
	// the configuration is the operator's word for it.
	if thread != p.pid && i.cfg.PIDFile == "" {
		p.close()
		return nil, errors.Join(ErrNotLocal, fmt.Errorf("pid file %s says %d, the server says %d", pidFile, p.pid, thread))
	}
	return p, nil
}
