package nginx

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"interrex/router"
)

// firstRetry is how long a failed change waits before it is tried again; the
// wait doubles up to Config.Recheck.
const firstRetry = 250 * time.Millisecond

// Table is the route table as the rewriter reads it; *router.Table is one.
type Table interface {
	Current() router.Route
	// Subscribe returns a channel that has a value whenever the route may
	// have changed since the last receive.
	Subscribe() (changed <-chan struct{}, cancel func())
}

// Rewriter keeps one nginx configuration file in step with the route table and
// with the health of its HTTP members.
type Rewriter struct {
	cfg   Config
	table Table
	log   *zap.Logger
	// woken has a value when a member's health has changed.
	woken chan struct{}

	mu      sync.Mutex // guards what follows
	status  Status
	said    time.Time // when status.Error was logged last
	members map[memberKey]*MemberStatus

	// Owned by Run's goroutine.
	obeyed      router.Route // the newest route ever seen
	closedSince time.Time    // when obeyed was first seen closed; zero while open
}

// New returns a rewriter that does nothing until it is run. The configuration
// must be valid.
func New(cfg Config, table Table, log *zap.Logger) (*Rewriter, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure nginx router: %w", err)
	}
	r := &Rewriter{
		cfg: cfg, table: table, log: log.With(zap.String("file", cfg.File)),
		woken:   make(chan struct{}, 1),
		members: map[memberKey]*MemberStatus{},
		status:  Status{File: cfg.File},
	}
	for _, u := range cfg.Upstreams {
		for _, m := range u.Members {
			r.members[memberKey{u.Name, m.Address}] = &MemberStatus{
				Upstream: u.Name, Address: m.Address, Healthy: true, Since: time.Now()}
		}
	}
	return r, nil
}

// Run obeys the table until ctx ends, and returns nil then. One change is made
// at a time; whatever comes meanwhile is made in one further change. A change
// that has been put in place is finished or taken back before Run returns.
func (r *Rewriter) Run(ctx context.Context) error {
	changed, unsubscribe := r.table.Subscribe()
	defer unsubscribe()
	var watchers sync.WaitGroup
	defer watchers.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()

	r.adoptMembers()
	watchers.Go(func() { r.warnOfOldSessions(ctx) })
	for _, u := range r.cfg.Upstreams {
		for _, m := range u.Members {
			watchers.Go(func() { r.watchMember(ctx, memberKey{u.Name, m.Address}, m) })
		}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-r.woken:
		case <-timer.C:
		}
		if r.pass(ctx) {
			failures = 0
		} else {
			failures++
		}
		timer.Reset(r.wait(failures, time.Now()))
	}
}

// wait is how long nothing has to be done by itself.
func (r *Rewriter) wait(failures int, now time.Time) time.Duration {
	d := r.cfg.Recheck
	if failures > 0 && failures < 10 {
		d = min(d, firstRetry<<(failures-1))
	}
	if left := r.closedSince.Add(r.cfg.CloseAfter).Sub(now); !r.closedSince.IsZero() && left > 0 {
		d = min(d, left)
	}
	return d
}

// pass applies the route and the members' health as they are now. It returns
// false if it should be tried again soon.
func (r *Rewriter) pass(ctx context.Context) bool {
	now := time.Now()
	route := r.table.Current()
	if isOlder(route, r.obeyed) {
		r.note(r.obeyed, nil, 0, fmt.Errorf("obey route of epoch %d at epoch %d: %w", route.Epoch, r.obeyed.Epoch, router.ErrStaleRoute))
		return true
	}
	switch {
	case route.Phase == router.Open:
		r.closedSince = time.Time{}
	case r.closedSince.IsZero() || route.Epoch != r.obeyed.Epoch:
		r.closedSince = now
	}
	r.obeyed = route
	wants, err := choose(r.cfg.Upstreams, r.facts(route, now))
	var took time.Duration
	if err == nil {
		took, err = r.apply(ctx, wants)
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return true
	}
	r.note(route, wants, took, err)
	return err == nil
}

func (r *Rewriter) facts(route router.Route, now time.Time) facts {
	f := facts{
		route: route, readsFallBack: r.cfg.ReadsFallBack, unhealthy: map[memberKey]bool{},
		closedLong: !r.closedSince.IsZero() && now.Sub(r.closedSince) >= r.cfg.CloseAfter,
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, s := range r.members {
		f.unhealthy[key] = !s.Healthy
	}
	return f
}

// adoptMembers starts with the file's own opinion of the members' health, so
// that restarting the agent doesn't send requests to a dead one.
func (r *Rewriter) adoptMembers() {
	text, err := os.ReadFile(r.cfg.File)
	if err != nil {
		return // the first pass tells
	}
	file, err := parse(text)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range r.cfg.Upstreams {
		b, err := findUpstream(file, u.Context, u.Name)
		if err != nil {
			continue
		}
		for _, d := range serverLines(b) {
			down := slices.ContainsFunc(d.words[2:], func(t token) bool { return t.text == "down" })
			for _, m := range u.Members {
				if lineAddress(m.Address, u.Context) == lineAddress(d.words[1].text, u.Context) && down {
					r.members[memberKey{u.Name, m.Address}].Healthy = false
				}
			}
		}
	}
}

// noteMember counts a member's answer and wakes Run if it changes its health.
func (r *Rewriter) noteMember(key memberKey, m Member, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.members[key]
	was := s.Healthy
	*s = judgeMember(*s, m, err, time.Now())
	if s.Healthy == was {
		return
	}
	r.log.Info("health of an HTTP member changed", zap.String("upstream", key.upstream),
		zap.String("address", key.address), zap.Bool("healthy", s.Healthy), zap.String("reason", s.Error))
	select {
	case r.woken <- struct{}{}:
	default:
	}
}

// signalReload asks nginx to read its configuration.
func (r *Rewriter) signalReload(ctx context.Context, m master) error {
	if len(r.cfg.ReloadCommand) == 0 {
		if err := m.process.Signal(syscall.SIGHUP); err != nil {
			return fmt.Errorf("signal nginx to reload: %w", err)
		}
		return nil
	}
	stderr, _, err := runCommand(ctx, r.cfg.ReloadCommand, r.cfg.CommandLimit)
	if err != nil {
		return fmt.Errorf("reload nginx: %w: %s", err, digest(stderr))
	}
	return nil
}

// warnOfOldSessions tells when nginx is not told to end old sessions: they
// would stay with the old primary for as long as clients keep them (R4).
func (r *Rewriter) warnOfOldSessions(ctx context.Context) {
	direct := slices.ContainsFunc(r.cfg.Upstreams, func(u Upstream) bool { return u.Context == Stream && u.Via == Direct })
	at := slices.Index(r.cfg.TestCommand, "-t")
	if !direct || at < 0 {
		return
	}
	argv := slices.Clone(r.cfg.TestCommand)
	argv[at] = "-T" // test, and print every file of the configuration
	_, dump, err := runCommand(ctx, argv, r.cfg.CommandLimit)
	if err != nil {
		return // the first change tells what is wrong
	}
	file, err := parse([]byte(dump))
	isSet := func(d directive) bool { return d.name() == "worker_shutdown_timeout" }
	if err != nil || slices.ContainsFunc(file.directives, isSet) {
		return
	}
	warning := strings.Join([]string{"worker_shutdown_timeout is not set in nginx's main context:",
		"after the primary moves, sessions that clients keep stay with the old one until they end by themselves;",
		"set it, for instance, to 5s"}, " ")
	r.log.Warn(warning)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Warnings = append(r.status.Warnings, warning)
}
