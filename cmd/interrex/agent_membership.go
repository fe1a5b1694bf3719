package main

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"interrex/election"
	"interrex/election/embedded"
	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/config"
	"interrex/internal/topology"
)

// members follows who is a member, by etcd: the configuration says so at the
// first formation only.
type members struct {
	a        *agent
	standing atomic.Value // failover.EtcdStanding of the own etcd member
	used     atomic.Value // float64: which part of etcd's quota is taken
}

// errAddedAgain ends an agent that was removed and is a member again: it begins
// anew with nothing of its former life in memory.
var errAddedAgain = errors.New("this node was removed and added again: the agent has to be started anew")

// run tells what of the configuration is out of date, keeps the addresses of
// etcd current, and says that this node was removed.
func (m *members) run(ctx context.Context) error {
	changes, cancel := m.a.registry.Subscribe()
	defer cancel()
	var told []string
	removed := false
	for {
		if s := m.a.registry.Snapshot().State; s.Members != nil {
			if drift := driftOf(m.a.cfg, s); !slices.Equal(drift, told) {
				told = drift
				for _, d := range drift {
					m.a.log.Warn("the configuration is out of date, and etcd counts", zap.String("drift", d))
				}
			}
			belongs := s.Belongs(m.a.self.Name)
			if removed && belongs {
				return errAddedAgain
			}
			if s.WasRemoved(m.a.self.Name) && !removed {
				removed = true
				m.a.log.Warn("this node was removed from the cluster: its routes are closed, its server is left closed and receives from nobody; the agent may be stopped")
			}
		}
		if m.a.cfg.Etcd.Mode == config.Embedded {
			m.a.registry.SetEndpoints(m.endpoints())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
		}
	}
}

// driftOf compares the configuration's members with the recorded ones. It is
// pure.
func driftOf(cfg config.Config, s election.State) []string {
	var drift []string
	listed := map[topology.NodeName]bool{}
	for _, m := range cfg.Cluster.Members {
		name := topology.NodeName(m.Name)
		listed[name] = true
		seat, member := s.Members[name]
		switch {
		case !member:
			drift = append(drift, m.Name+" is listed and is no member")
		case cfg.Etcd.Mode == config.Embedded && m.Voter != seat.Voter && seat.Voter:
			drift = append(drift, m.Name+" is listed with voter: false and is recorded with a vote")
		case cfg.Etcd.Mode == config.Embedded && m.Voter != seat.Voter:
			drift = append(drift, m.Name+" is listed with voter: true and is recorded without a vote")
		}
	}
	for name := range s.Members {
		if !listed[name] {
			drift = append(drift, string(name)+" is a member and is not listed")
		}
	}
	slices.Sort(drift)
	return drift
}

// endpoints are etcd's addresses: those that members have registered, and the
// configured ones of members that have not told theirs. The own comes first.
func (m *members) endpoints() []string {
	a := m.a
	s := a.registry.Snapshot().State
	var own, others []string
	add := func(name topology.NodeName, address string) {
		switch {
		case address == "" || slices.Contains(own, address) || slices.Contains(others, address):
		case name == a.self.Name:
			own = append(own, address)
		default:
			others = append(others, address)
		}
	}
	told := map[topology.NodeName]bool{}
	for _, o := range a.registry.Members() {
		if told[o.Name] = o.EtcdClient != ""; told[o.Name] {
			add(o.Name, o.EtcdClient)
		}
	}
	for _, o := range a.cfg.Voters() {
		if name := topology.NodeName(o.Name); !told[name] && s.Belongs(name) {
			add(name, o.EtcdClientAddress())
		}
	}
	return append(own, others...)
}

// hasVote tells whether the own etcd member is to run: unless the record says
// that it is not to.
func (m *members) hasVote() bool {
	s := m.a.registry.Snapshot().State
	seat, member := s.Members[m.a.self.Name]
	return s.Members == nil || member && seat.Voter
}

// runEtcd keeps the embedded etcd member running while it is to; with an
// external etcd, or on a member that is no voter, there is nothing to run.
func (a *agent) runEtcd(ctx context.Context) error {
	if a.cfg.Etcd.Mode != config.Embedded || !a.cfg.OwnMember().Voter {
		<-ctx.Done()
		return nil
	}
	c, err := embeddedConfig(a.cfg)
	if err != nil {
		return err
	}
	changes, cancel := a.registry.Subscribe()
	defer cancel()
	for ctx.Err() == nil {
		for !a.members.hasVote() {
			select {
			case <-ctx.Done():
				return nil
			case <-changes:
			}
		}
		running, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- embedded.Supervise(running, c, a.log) }()
		for err == nil && running.Err() == nil {
			select {
			case <-ctx.Done():
				stop()
			case err = <-ended: // it cannot be kept running
				ended <- err
			case <-changes:
				if !a.members.hasVote() {
					a.log.Warn("the embedded etcd is stopped: this node has no vote in the cluster any more")
					stop()
				}
			}
		}
		stop()
		if err := <-ended; err != nil {
			return err
		}
	}
	return nil
}

// watchEtcd asks the own etcd member how it is, for the status, or, now and then,
// the members of an external one.
func (m *members) watchEtcd(ctx context.Context) error {
	endpoints, every := m.a.cfg.Etcd.Endpoints, 10*time.Second
	if m.a.cfg.Etcd.Mode == config.Embedded {
		if !m.a.cfg.OwnMember().Voter {
			return nil
		}
		endpoints, every = []string{m.a.cfg.OwnMember().EtcdClientAddress()}, time.Second
	}
	secure, err := etcdTLS(m.a.cfg)
	if err != nil {
		return err
	}
	var askers []*embedded.Asker
	for _, e := range endpoints {
		a := embedded.NewAsker(e, secure)
		defer a.Close()
		askers = append(askers, a)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	filling := false
	for {
		if used := m.askEtcd(ctx, askers); used >= api.EtcdFilling != filling {
			filling = !filling
			if filling {
				m.a.log.Warn("etcd's database is filling up: once it is full it takes no more writes, and nobody is promoted",
					zap.Float64("part_of_its_quota", used))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// askEtcd notes how the own member is, and which part of their quota is taken by
// those that are asked, at most.
func (m *members) askEtcd(ctx context.Context, askers []*embedded.Asker) (used float64) {
	own := m.a.cfg.Etcd.Mode == config.Embedded
	if own && !m.hasVote() {
		m.standing.Store(failover.EtcdStanding(""))
		m.used.Store(0.0)
		for _, a := range askers {
			a.Close()
		}
		return 0
	}
	standing := failover.EtcdVoter
	for _, a := range askers {
		actx, cancel := context.WithTimeout(ctx, time.Second)
		s, err := a.Ask(actx)
		cancel()
		used = max(used, s.Used)
		switch {
		case err != nil: // what it said before may well be so still
			standing, used = failover.EtcdSilent, max(used, m.etcdUsed())
		case s.Learner:
			standing = failover.EtcdLearner
		}
	}
	if own {
		m.standing.Store(standing)
	}
	m.used.Store(used)
	return used
}

// etcdStanding is what watchEtcd saw last.
func (m *members) etcdStanding() failover.EtcdStanding {
	standing, _ := m.standing.Load().(failover.EtcdStanding)
	return standing
}

// etcdUsed likewise.
func (m *members) etcdUsed() float64 {
	used, _ := m.used.Load().(float64)
	return used
}

// etcdMembers is the embedded etcd as operations see it.
type etcdMembers struct{ a *agent }

// List implements failover.Voters.
func (e etcdMembers) List(ctx context.Context) ([]failover.Voter, error) {
	secure, err := etcdTLS(e.a.cfg)
	if err != nil {
		return nil, err
	}
	all, err := embedded.Members(ctx, e.a.members.endpoints(), secure)
	var voters []failover.Voter
	for _, m := range all {
		voters = append(voters, failover.Voter{Name: topology.NodeName(m.Name), Learner: m.Learner, Answers: m.Answers})
	}
	return voters, err
}

// Remove implements failover.Voters.
func (e etcdMembers) Remove(ctx context.Context, name topology.NodeName, peer string) error {
	secure, err := etcdTLS(e.a.cfg)
	if err != nil {
		return err
	}
	return embedded.Remove(ctx, e.a.members.endpoints(), secure, string(name), peer)
}

// MoveAway implements failover.Placement.
func (e etcdMembers) MoveAway(ctx context.Context, node topology.NodeName) error {
	endpoints := e.a.members.endpoints()
	if len(endpoints) < 2 {
		return nil
	}
	secure, err := etcdTLS(e.a.cfg)
	if err != nil {
		return err
	}
	return embedded.MoveLeaderAway(ctx, endpoints, secure, string(node))
}
