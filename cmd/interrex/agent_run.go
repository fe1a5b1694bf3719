package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"interrex/election"
	"interrex/failover"
)

// run runs all actors until ctx ends or one of them fails. etcd is told to
// stop only after the others have said what they had to say to it.
func (a *agent) run(ctx context.Context) error {
	etcdCtx, stopEtcd := context.WithCancel(context.WithoutCancel(ctx))
	defer stopEtcd()
	etcdEnded := make(chan error, 1)
	go func() { etcdEnded <- a.runEtcd(etcdCtx) }()

	ctx, a.stop = context.WithCancel(ctx)
	defer a.stop()
	g, ctx := errgroup.WithContext(ctx)
	wakeControl, wakeJournal, cancelControl := a.merge(ctx, g)
	defer cancelControl()
	a.control.WakeBy(wakeControl)
	wakeRoutes, cancelRoutes := a.registry.Subscribe()
	defer cancelRoutes()

	g.Go(func() error { return a.registry.Run(ctx) })
	g.Go(func() error { return a.register(ctx) })
	g.Go(func() error { return a.prepare(ctx) })
	g.Go(func() error { return a.detector.Run(ctx) })
	g.Go(func() error { return a.subjects.run(ctx) })
	g.Go(func() error { return a.members.run(ctx) })
	g.Go(func() error { return a.members.watchEtcd(ctx) })
	g.Go(func() error { return a.keeper.Run(ctx, a.peers) })
	g.Go(func() error { return a.watcher.Run(ctx) })
	g.Go(func() error { return a.keepRoutes(ctx, wakeRoutes) })
	g.Go(func() error { return a.control.Run(ctx) })
	g.Go(func() error { return a.journal.Run(ctx, wakeJournal) })
	g.Go(func() error { return a.faults.Run(ctx) })
	g.Go(func() error { return a.server.Serve(ctx, a.listener) })
	if a.proxy != nil {
		g.Go(func() error { return a.proxy.Run(ctx) })
	}
	for _, r := range a.nginx {
		g.Go(func() error { return r.Run(ctx) })
	}
	if a.tls != nil {
		g.Go(func() error { return a.tls.Run(ctx, time.Minute) })
		g.Go(func() error { return a.reloadOnHangup(ctx) })
	}
	g.Go(func() error {
		select {
		case err := <-etcdEnded:
			etcdEnded <- nil
			return fmt.Errorf("embedded etcd cannot be kept running: %w", err)
		case <-ctx.Done():
			return nil
		}
	})
	a.log.Info("agent runs", zap.String("version", version), zap.String("api", a.listener.Addr().String()))
	notifySystemd(a.log)
	err := g.Wait()
	stopEtcd()
	if e := <-etcdEnded; err == nil && e != nil && !errors.Is(e, context.Canceled) {
		err = e
	}
	a.log.Info("agent stopped", zap.Error(err))
	return err
}

// certificateUntil is when the certificate that members know this one by ends;
// zero without one.
func (a *agent) certificateUntil() time.Time {
	if a.tls == nil {
		return time.Time{}
	}
	return a.tls.Until()
}

func (a *agent) keepRoutes(ctx context.Context, wake <-chan struct{}) error {
	return failover.RouteKeeper{
		Registry: a.registry, Watcher: a.watcher, Table: a.table, MaxLag: a.cfg.Routes.MaxReplicaLag,
		Wake: wake, Log: a.log.Named("routes"),
	}.Run(ctx)
}

// merge gives the controller, and the journal, a wake-up channel each for the
// record and the verdicts.
func (a *agent) merge(ctx context.Context, g *errgroup.Group) (control, journal <-chan struct{}, cancel func()) {
	record, cancel := a.registry.Subscribe()
	merged := []chan struct{}{make(chan struct{}, 1), make(chan struct{}, 1)}
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-record:
			case <-a.detector.Changes():
			}
			for _, wake := range merged {
				select {
				case wake <- struct{}{}:
				default: // not yet read: it will see this change too
				}
			}
		}
	})
	return merged[0], merged[1], cancel
}

// register tells etcd where this member is, and again until etcd has heard.
func (a *agent) register(ctx context.Context) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	told := ""
	for {
		err := a.registry.Register(ctx, a.self)
		if err == nil {
			return nil
		}
		if errors.Is(err, election.ErrUnreachable) {
			a.log.Debug("not registered yet", zap.Error(err))
		} else if told != err.Error() {
			told = err.Error()
			a.log.Error("this agent takes no part in the cluster", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// prepare brings the own instance's settings in order once it answers. What an
// operator has to do is said in the log and by the doctor; nothing waits for it.
func (a *agent) prepare(ctx context.Context) error {
	if a.instance == nil {
		return nil
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		err := a.instance.Ping(ctx)
		if err == nil {
			if err := a.instance.Prepare(ctx); err != nil {
				a.log.Warn("the instance is not set up as it should be", zap.Error(err))
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (a *agent) reloadOnHangup(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
			if _, err := a.tls.Reload(); err != nil {
				a.log.Error("TLS files are faulty; the old ones stay in use", zap.Error(err))
			}
		}
	}
}
