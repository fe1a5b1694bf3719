package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"go.uber.org/zap"

	"interrex/dbrepl"
	"interrex/internal/gtid"
	"interrex/internal/sandbox"
	"interrex/internal/topology"
	"interrex/router"
	"interrex/router/proxy"
)

// script is the scripted limit: one program that knows when it kills the
// primary, and does what a failover needs by the same SQL steps as the agents,
// at once and on warm connections. Nobody has to notice anything, agree on
// anything, or remember anything; so it is no way to run a cluster, and the
// least that a failover of these servers can take.
type script struct {
	cluster sandbox.Cluster
	servers []*server
	primary *server
	epoch   topology.Epoch
	load    *load
	dir     string // for transactions saved before a rebuild
	saved   int

	table     *router.Table
	proxy     *proxy.Proxy
	stopProxy context.CancelFunc
	proxyDone chan error
	verifier  *sql.DB
}

// openScript takes over the servers of a sandbox whose agents are stopped, as
// these left them. close must be called.
func openScript(ctx context.Context, cluster sandbox.Cluster, load *load, dir string) (_ *script, err error) {
	s := &script{cluster: cluster, load: load, dir: dir, table: router.NewTable()}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.servers, err = openServers(ctx, cluster); err != nil {
		return nil, err
	}
	for _, one := range s.servers {
		status, err := one.Probe(ctx)
		if err != nil {
			return nil, err
		}
		if status.Writable() {
			s.primary, s.epoch = one, status.Marker.Epoch
		}
	}
	if s.primary == nil {
		return nil, errors.New("take over servers: none of them is open for writes")
	}
	if err := s.startProxy(ctx); err != nil {
		return nil, err
	}
	return s, s.route(router.Open, s.primary)
}

// startProxy opens the clients' route: the agents' proxy, in this process.
func (s *script) startProxy(ctx context.Context) error {
	cfg := proxy.DefaultConfig()
	cfg.Cluster, cfg.ReadWrite = s.cluster.Name, sandbox.Addr(0)
	p, err := proxy.New(cfg, s.table, zap.NewNop())
	if err != nil {
		return err
	}
	if err := p.Listen(ctx); err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	s.proxy, s.stopProxy, s.proxyDone = p, stop, make(chan error, 1)
	go func() { s.proxyDone <- p.Run(running) }() // close waits for it
	s.verifier, err = s.servers[0].openThrough(s.address())
	return err
}

// address is where clients write.
func (s *script) address() string { return s.proxy.Address(proxy.ReadWrite) }

// close ends the route and the connections. The servers stay as they are.
func (s *script) close() error {
	var faults []error
	if s.verifier != nil {
		faults = append(faults, s.verifier.Close())
	}
	if s.stopProxy != nil {
		s.stopProxy()
		faults = append(faults, <-s.proxyDone)
	}
	for _, one := range s.servers {
		faults = append(faults, one.Close())
	}
	return errors.Join(faults...)
}

// round kills the primary under load and fails over, then brings the old one
// back and looks for every row.
func (s *script) round(ctx context.Context) (round, error) {
	if err := s.ready(ctx); err != nil {
		return round{}, err
	}
	old := s.primary
	var took map[string]float64
	result, outage, err := s.load.during(ctx, s.address(), func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		took, err = s.failOver(ctx)
		return err
	})
	if err != nil {
		return round{}, err
	}
	if err := s.primary.Retire(ctx); err != nil {
		return round{}, err
	}
	if err := s.bringBack(ctx, old); err != nil {
		return round{}, err
	}
	if err := s.ready(ctx); err != nil {
		return round{}, err
	}
	check, err := result.Verify(ctx, s.address())
	if err != nil {
		return round{}, err
	}
	r := newRound(result, outage, check)
	for name, ms := range took {
		r.values[name] = ms
	}
	return r, nil
}

// failOver is the steps, with how long each took in milliseconds.
func (s *script) failOver(ctx context.Context) (map[string]float64, error) {
	pid, err := s.primary.PID(ctx)
	if err != nil {
		return nil, err
	}
	took := map[string]float64{}
	began := time.Now()
	last := began
	lap := func(step string) {
		now := time.Now()
		took[step], last = millis(now.Sub(last)), now
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return nil, fmt.Errorf("kill primary: %w", err)
	}
	s.epoch++
	frozen, err := s.revoke(ctx)
	if err != nil {
		return nil, err
	}
	lap(rowRevoke)
	candidate, other, err := choose(frozen)
	if err != nil {
		return nil, err
	}
	lap(rowChoose)
	// The other's receiver need not wait for the candidate's applier: by the
	// time the marker is written, it listens.
	pointed := make(chan error, 1)
	go func() { pointed <- other.follow(ctx, candidate.server) }()
	err = s.promote(ctx, candidate, lap)
	if err = errors.Join(err, <-pointed); err != nil {
		return nil, err
	}
	s.primary = candidate.server
	took[rowOperation] = millis(last.Sub(began))
	return took, nil
}

// revoke freezes both replicas at once, and closes the route meanwhile.
func (s *script) revoke(ctx context.Context) ([]frozen, error) {
	type answer struct {
		frozen
		err error
	}
	answers := make(chan answer, len(s.servers))
	asked := 0
	for _, one := range s.servers {
		if one == s.primary {
			continue
		}
		asked++
		go func() {
			executed, received, unapplied, err := one.Freeze(ctx)
			answers <- answer{frozen{one, executed, received, unapplied}, err}
		}()
	}
	err := s.route(router.Closed, nil)
	var all []frozen
	for range asked {
		a := <-answers
		all, err = append(all, a.frozen), errors.Join(err, a.err)
	}
	return all, err
}

// promote is all from the choice on: catch up, open, move the route, and see a
// write go through it.
func (s *script) promote(ctx context.Context, candidate frozen, lap func(step string)) error {
	if _, err := candidate.CatchUp(ctx, candidate.received, patience); err != nil {
		return err
	}
	lap(rowCatchUp)
	if err := candidate.Arm(ctx, acks); err != nil {
		return err
	}
	marker := topology.Marker{Epoch: s.epoch, Node: topology.NodeName(candidate.name), At: time.Now()}
	if _, err := candidate.WriteMarker(ctx, marker, acks); err != nil {
		return err
	}
	if err := candidate.OpenWrites(ctx, acks); err != nil {
		return err
	}
	lap(rowPromote)
	if err := s.route(router.Open, candidate.server); err != nil {
		return err
	}
	lap(rowRoute)
	_, err := s.verifier.ExecContext(ctx, "UPDATE interrex.marker SET written_at = NOW(6) WHERE epoch = ?", uint64(s.epoch))
	if err != nil {
		return fmt.Errorf("write through the route: %w", err)
	}
	lap(rowVerify)
	return nil
}

// acks is how many replicas a commit waits for: the agents' default.
const acks = 1

// frozen is a replica whose receiver has stopped.
type frozen struct {
	*server
	executed, received gtid.Set
	unapplied          uint64
}

// choose picks the replica to promote among two: one that has received all
// that any has, and of two such the one with less to apply. It is pure.
func choose(two []frozen) (candidate, other frozen, err error) {
	a, b := two[0], two[1]
	switch hasA, hasB := a.received.Contains(b.received), b.received.Contains(a.received); {
	case !hasA && !hasB:
		return a, b, fmt.Errorf("choose: %s and %s each received what the other lacks", a.name, b.name)
	case hasA && (!hasB || a.unapplied <= b.unapplied):
		return a, b, nil
	default:
		return b, a, nil
	}
}

// route moves the clients' route in the epoch.
func (s *script) route(phase router.Phase, to *server) error {
	r := router.Route{Epoch: s.epoch, Phase: phase, Reason: "scripted failover"}
	if to != nil {
		r.Primary = &router.Backend{Node: topology.NodeName(to.name), Address: to.address}
	}
	_, err := s.table.Apply(r)
	return err
}

// bringBack starts the killed server and has it follow. Transactions that only
// it has are saved, and it is cloned from a replica, as the agents do.
func (s *script) bringBack(ctx context.Context, old *server) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.cluster.Start(ctx, old.name); err != nil {
		return err
	}
	has, err := old.Probe(ctx)
	if err != nil {
		return err
	}
	primary, err := s.primary.Probe(ctx) // after the old one: it lacks nothing by being behind
	if err != nil {
		return err
	}
	errant := has.Received.Minus(primary.Executed.Union(primary.Committing))
	if !errant.IsEmpty() {
		s.saved++
		file := filepath.Join(s.dir, fmt.Sprintf("errant-%d.sql", s.saved))
		if err := old.SaveErrant(ctx, errant, file); err != nil {
			return err
		}
		if err := old.cloneFrom(ctx, s.donor(old)); err != nil {
			return err
		}
	}
	return old.follow(ctx, s.primary)
}

// donor is a replica other than the server.
func (s *script) donor(than *server) *server {
	for _, one := range s.servers {
		if one != than && one != s.primary {
			return one
		}
	}
	return s.primary
}

// ready waits until both replicas acknowledge and are level with the primary,
// and leaves the connections warm.
func (s *script) ready(ctx context.Context) error {
	err := await(ctx, func() (bool, error) {
		primary, err := s.primary.Probe(ctx)
		if err != nil {
			return false, err
		}
		for _, one := range s.servers {
			if one == s.primary {
				continue
			}
			status, err := one.Probe(ctx)
			if err != nil {
				return false, err
			}
			if why := behind(status, primary); why != "" {
				return false, fmt.Errorf("%s %s", one.name, why)
			}
		}
		return primary.SemiSync.Clients == len(s.servers)-1,
			fmt.Errorf("%d replicas acknowledge to %s", primary.SemiSync.Clients, s.primary.name)
	})
	if err != nil {
		return fmt.Errorf("wait for the replicas: %w", err)
	}
	for _, one := range s.servers {
		// Nothing to wait for: it only uses the connection for commands.
		if _, err := one.CatchUp(ctx, gtid.Set{}, time.Second); err != nil {
			return err
		}
	}
	return nil
}

// behind says why a replica is not level with the primary, as read before it.
func behind(replica, primary dbrepl.Status) string {
	switch {
	case replica.Source == nil || !replica.Source.ReceiverOn || !replica.Source.ApplierOn:
		return "does not replicate"
	case !replica.SemiSync.ReplicaActive:
		return "does not acknowledge"
	case !replica.Executed.Contains(primary.Executed):
		return fmt.Sprintf("has %d transactions to apply", replica.Source.Unapplied)
	}
	return ""
}
