package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"interrex/internal/chaos"
	"interrex/internal/nethost"
	"interrex/internal/sandbox"
)

// Limits of a run.
const (
	// diskRetry is how long a server that waits for room on its disk lets pass
	// before it looks again; nothing can make it look sooner.
	diskRetry = time.Minute
	// tellEvery is how often it is told what is not whole yet.
	tellEvery = 5 * time.Second
	// doubles is how many of ten rounds have two faults.
	doubles = 3
	// maxLag is routes.max_replica_lag, its default: a replica further behind
	// gets no reads.
	maxLag = 5 * time.Second
	// judging is how long it may take until a route knows that: agents ask each
	// other every second, with a second to answer, routes look at the answers
	// every quarter, and sessions that exist go on for a second more (see
	// docs/chaos.md).
	judging = 4 * time.Second
)

// chaosRun is one run.
type chaosRun struct {
	o      options
	c      *cluster
	load   *chaos.Load
	rng    *rand.Rand
	kinds  []kind // to choose from
	deck   []kind // those that have not had their turn
	report report
	out    io.Writer
	events *json.Encoder // every strike and heal, as they happen
}

// run is everything: cluster, load, rounds, checks, report. It tells whether
// all promises were kept. unavailable is why there are no hosts, if there are
// none.
func run(ctx context.Context, o options, unavailable error, out io.Writer) (passed bool, err error) {
	fmt.Fprintf(out, "seed %d, %s, revision %s, folder %s\n", o.seed, o.duration, o.revision, o.folder)
	var network *nethost.Network
	if unavailable == nil {
		if network, err = nethost.NewNetwork(ctx, hostNames[:]...); err != nil && !errors.Is(err, nethost.ErrUnavailable) {
			return false, err
		}
		unavailable = err
	}
	events, err := os.Create(filepath.Join(o.folder, "events.jsonl"))
	if err != nil {
		return false, fmt.Errorf("write events: %w", err)
	}
	defer events.Close()
	r := &chaosRun{o: o, rng: rand.New(rand.NewPCG(o.seed, 0)), out: out, events: json.NewEncoder(events)}
	r.report = newReport(o)
	if err := r.chooseKinds(ctx, network, unavailable); err != nil {
		return false, err
	}
	if r.c, err = startCluster(ctx, o.interrex, filepath.Join(o.folder, "cluster"), network, out); err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, r.c.down(context.WithoutCancel(ctx))) }()
	if err := r.startLoad(ctx); err != nil {
		return false, err
	}
	r.report.Stopped = words(r.strikeAll(ctx))
	history := r.load.Stop()
	if err := r.conclude(context.WithoutCancel(ctx), history); err != nil {
		return false, err
	}
	return r.report.Passed, r.report.write(o.folder, out)
}

// words is an error's text, empty without one.
func words(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// chooseKinds leaves out the kinds of faults that this machine cannot make, and
// says so.
func (r *chaosRun) chooseKinds(ctx context.Context, network *nethost.Network, unavailable error) error {
	missing := map[need]error{}
	if unavailable != nil {
		missing[hosts], missing[disks], missing[clocks] = unavailable, unavailable, unavailable
	} else if cut, err := network.Cut(ctx); err != nil {
		missing[hosts] = err
	} else if err := cut.Heal(ctx); err != nil {
		return err
	}
	if missing[disks] == nil {
		missing[disks] = tryDisk(r.o.folder)
	}
	only, without := strings.Split(r.o.only, ","), strings.Split(r.o.without, ",")
	for _, k := range kinds() {
		if r.o.only != "" && !slices.Contains(only, k.name) || slices.Contains(without, k.name) {
			continue
		}
		if why := missing[k.needs]; why != nil {
			r.report.LeftOut[k.name] = why.Error()
			continue
		}
		r.kinds = append(r.kinds, k)
	}
	if n := len(r.report.LeftOut); n > 0 {
		why := errors.Join(missing[hosts], missing[disks])
		if r.o.strict {
			return fmt.Errorf("%d kinds of faults cannot be made on this machine, and CI is set: %w", n, why)
		}
		fmt.Fprintf(r.out, "LEFT OUT: %d kinds of faults, all that need hosts or disks of their own: %v\n", n, why)
	}
	if len(r.kinds) == 0 {
		return fmt.Errorf("no kind of fault is left to choose from (-only %q)", r.o.only)
	}
	return nil
}

// startLoad gives the application's account what it reads, and starts the
// clients.
func (r *chaosRun) startLoad(ctx context.Context) error {
	v, _, err := r.c.healthy(ctx, r.o.recover)
	if err != nil {
		return err
	}
	app := r.c.App
	grant := fmt.Sprintf("GRANT SELECT ON interrex.marker TO '%s'@'%%'", app.User)
	if _, err := r.c.node(string(v.Primary.Node)).root.ExecContext(ctx, grant); err != nil {
		return fmt.Errorf("let the clients read the markers: %w", err)
	}
	cfg := chaos.LoadConfig{
		User: app.User, Password: app.Password, Database: app.Database, Markers: "interrex.marker",
		Writers: 2, Pause: 30 * time.Millisecond, Timeout: 5 * time.Second, Seed: r.o.seed,
	}
	for _, n := range r.c.nodes {
		cfg.Routes = append(cfg.Routes, chaos.Route{Name: n.Name, ReadWrite: n.Addr(n.Ports.RW), ReadOnly: n.Addr(n.Ports.RO)})
	}
	r.load, err = chaos.Start(context.WithoutCancel(ctx), cfg)
	return err
}

// strikeAll strikes round after round until the time is over. The error says
// why it ended before.
func (r *chaosRun) strikeAll(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for end := time.Now().Add(r.o.duration); time.Now().Before(end); {
		if err := r.round(ctx); err != nil {
			return err
		}
	}
	return nil
}

// round strikes one fault or two, holds them, heals them, and waits until the
// cluster is whole.
func (r *chaosRun) round(ctx context.Context) error {
	v, _, err := r.c.healthy(ctx, r.o.recover)
	if err != nil {
		return err
	}
	began := time.Now()
	one := &round{c: r.c, rng: r.rng, view: v, struck: map[string]bool{}, limit: r.o.recover}
	count := 1
	if r.rng.IntN(10) < doubles {
		count = 2
	}
	result := roundResult{Began: began, Primary: string(v.Primary.Node), Leader: string(v.Leader), Epoch: uint64(v.Epoch)}
	var strikes []*strike
	var failed error
	for len(strikes) < count && failed == nil {
		if len(strikes) > 0 {
			failed = pause(ctx, one.between(0, 1500*time.Millisecond))
		}
		var s *strike
		if s, err = r.strike(ctx, one); s != nil {
			strikes = append(strikes, s)
		}
		failed = errors.Join(failed, err)
	}
	if failed == nil {
		failed = pause(ctx, one.hold())
	}
	r.rng.Shuffle(len(strikes), func(i, j int) { strikes[i], strikes[j] = strikes[j], strikes[i] })
	failed = errors.Join(failed, r.heal(context.WithoutCancel(ctx), strikes))
	result.Healed = time.Now()
	if failed == nil {
		result.Recovered, failed = r.whole(ctx, one.limit)
	}
	for _, s := range strikes {
		result.Strikes = append(result.Strikes, *s)
	}
	result.Outage = r.load.LongestOutage(began, time.Now())
	result.Error = words(failed)
	r.report.add(result)
	r.note("whole", fmt.Sprintf("after %s; writes were out for %s at most", result.Recovered.Round(time.Millisecond), result.Outage.Round(time.Millisecond)))
	return failed
}

// whole waits until the cluster is as it was before: every agent finds it
// healthy, a write is acknowledged, and every replica has executed it. It starts
// servers that have ended by themselves, which is a host's part.
func (r *chaosRun) whole(ctx context.Context, limit time.Duration) (time.Duration, error) {
	began, told, seen := time.Now(), time.Now(), error(nil)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the cluster is not whole %s after the last fault was healed", limit))
	defer cancel()
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	serving.Go(func() { r.serve(ctx) })
	for {
		v, err := r.c.look(ctx)
		if err == nil && !r.load.AcknowledgedSince(began) {
			err = errors.New("no write is acknowledged")
		}
		if err == nil {
			err = r.c.level(ctx, string(v.Primary.Node))
		}
		if err == nil {
			return time.Since(began), nil
		}
		if ctx.Err() != nil {
			return time.Since(began), fmt.Errorf("%w: %w", context.Cause(ctx), seen)
		}
		if time.Since(told) > tellEvery {
			told = time.Now()
			r.note("not whole yet", strings.Join(strings.Split(err.Error(), "\n"), "; "))
			for _, line := range r.c.replication(ctx) {
				r.record("replication", line)
			}
		}
		seen = err
		_ = pause(ctx, 50*time.Millisecond)
	}
}

// serve does what a host's service manager does, until ctx ends: it starts
// servers that have ended by themselves.
func (r *chaosRun) serve(ctx context.Context) {
	for pause(ctx, time.Second) == nil {
		status, err := r.c.Status(ctx)
		if err != nil {
			continue
		}
		for _, n := range status.Nodes {
			if s := n.MySQL.State; s == sandbox.Killed || s == sandbox.Stopped || s == sandbox.Failed {
				err := r.c.Start(ctx, n.Name)
				r.note("server had ended by itself and is started again", strings.TrimSpace(n.Name+" "+n.MySQL.Detail+" "+words(err)))
			}
		}
	}
}

// strike strikes the next fault of the deck that fits. A strike that failed
// half-way comes with its error: it is to be healed all the same.
func (r *chaosRun) strike(ctx context.Context, one *round) (*strike, error) {
	unfit := 0
	for range 10 * len(r.kinds) {
		if unfit == len(r.deck) { // also when it is empty
			fresh := slices.Clone(r.kinds)
			r.rng.Shuffle(len(fresh), func(i, j int) { fresh[i], fresh[j] = fresh[j], fresh[i] })
			r.deck, unfit = append(r.deck, fresh...), 0
		}
		k := r.deck[len(r.deck)-1]
		r.deck = r.deck[:len(r.deck)-1]
		s, err := k.strike(ctx, one)
		if errors.Is(err, errUnfit) {
			r.deck = slices.Insert(r.deck, 0, k)
			unfit++
			continue
		}
		if s != nil {
			s.Kind = k.name
			word := "struck: "
			if s.Missed {
				word = "its moment did not come: "
			}
			r.note(word+k.name, s.Detail)
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", k.name, err)
		}
		return s, err
	}
	return nil, errors.New("no fault fits beside the other one")
}

// heal takes strikes back. What cannot be yet is tried once more after the
// others: a server does not start on a full disk.
func (r *chaosRun) heal(ctx context.Context, strikes []*strike) error {
	for pass := range 2 {
		var left []*strike
		var errs []error
		for _, s := range strikes {
			if s.heal == nil {
				continue
			}
			if err := s.heal(ctx); err != nil {
				left, errs = append(left, s), append(errs, fmt.Errorf("heal %s: %w", s.Kind, err))
				continue
			}
			r.note("healed: "+s.Kind, s.Detail)
		}
		if strikes = left; len(left) == 0 {
			return nil
		}
		if pass == 1 {
			return errors.Join(errs...)
		}
	}
	return nil
}

// note tells of an event, on the clock of the history.
func (r *chaosRun) note(what, detail string) {
	fmt.Fprintf(r.out, "%10s  %s: %s\n", r.at(), what, detail)
	r.record(what, detail)
}

// record is what is for events.jsonl only.
func (r *chaosRun) record(what, detail string) {
	_ = r.events.Encode(map[string]any{"at": r.at().String(), "time": time.Now(), "event": what, "detail": detail})
}

func (r *chaosRun) at() time.Duration { return time.Since(r.load.Began()).Round(time.Millisecond) }
