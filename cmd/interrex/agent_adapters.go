package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"interrex/dbrepl"
	"interrex/detector"
	"interrex/election"
	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/topology"
)

// judge gives operations the detector's judgement in their own words.
type judge struct{ d *detector.Detector }

func (j judge) Judge(subject topology.NodeName) failover.Judgement {
	return judgementOf(j.d.Judgement(subject))
}

func (j judge) MemberFailed(name topology.NodeName) bool {
	return j.d.MemberFailed(name)
}

func judgementOf(d detector.Judgement) failover.Judgement {
	out := failover.Judgement{
		Subject: d.Subject, Verdict: d.Verdict, Cause: string(d.Cause), Explanation: d.Explanation,
		LastGood: max(d.LastGood, 0), FirstBad: d.FirstBad, At: d.At, Needed: d.Needed,
	}
	for _, v := range d.Votes {
		out.Votes = append(out.Votes, failover.Vote{
			Observer: v.Observer, Kind: string(v.Kind), Age: v.Age, Against: v.Against, For: v.For,
			Why: whyNot(v), Detail: v.Detail,
		})
	}
	return out
}

// whyNot says why a vote does not count; empty for one that does.
func whyNot(v detector.Vote) string {
	switch {
	case v.Against || v.For:
		return ""
	case v.Why != "":
		return "it " + v.Why
	case v.Kind == "" && v.Age > 0:
		return "it is silent: what it last said is too old"
	case v.Kind == "":
		return "it has said nothing"
	}
	return "it says that it lives, and nothing else"
}

// subjects keeps the detector's subjects as the registered members are.
type subjects struct {
	a      *agent
	mu     sync.Mutex
	probed map[topology.NodeName]subject
}

type subject struct {
	address string
	inst    *dbrepl.Instance
}

func newSubjects(a *agent) *subjects {
	return &subjects{a: a, probed: map[topology.NodeName]subject{}}
}

func (s *subjects) run(ctx context.Context) error {
	changes, cancel := s.a.registry.Subscribe()
	defer cancel()
	var last []topology.Member
	for {
		if members := s.a.registry.Members(); !slices.Equal(members, last) {
			if err := s.set(members); err != nil {
				return err
			}
			last = members
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
		}
	}
}

// set opens a prober for every member's instance.
func (s *subjects) set(members []topology.Member) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	windows := s.a.detector.Windows()
	limit := accountConfig(s.a.cfg, s.a.secrets).NetTimeout
	var list []detector.Subject
	for _, m := range members {
		// Without an account of its own (an arbiter) a member cannot look at
		// instances; it votes by gossip and proxy alone.
		if !m.HasInstance() || s.a.cfg.MySQL == nil {
			continue
		}
		have, ok := s.probed[m.Name]
		if !ok || have.address != m.MySQL {
			c := accountConfig(s.a.cfg, s.a.secrets)
			c.Address = m.MySQL
			c.ConnectTimeout, c.QueryTimeout = windows.Timeout, windows.Timeout
			if m.Name == s.a.self.Name {
				c.AdminAddress = s.a.cfg.MySQL.AdminAddress
			} else {
				c.AdminAddress = s.adminAddress(m.Name)
			}
			inst, err := dbrepl.Open(c, s.a.log.Named("probe"))
			if err != nil {
				return fmt.Errorf("watch %s: %w", m.Name, err)
			}
			have = subject{address: m.MySQL, inst: inst}
			s.probed[m.Name] = have
		}
		local := m.Name == s.a.self.Name
		list = append(list, detector.Subject{
			Name: m.Name, Address: m.MySQL, Local: local,
			Prober: &instanceProber{
				inst: have.inst, name: m.Name, primary: s.a.recordedPrimary, source: s.a.nodeAt, limit: limit, local: local,
			},
			Writer: instanceWriter{inst: have.inst, observer: s.a.self.Name},
		})
	}
	s.a.detector.SetRegistered(members)
	s.a.detector.SetSubjects(list)
	return nil
}

func (s *subjects) adminAddress(name topology.NodeName) string {
	if m, ok := s.a.lookup(name); ok && m.MySQLAdmin != "" {
		return m.MySQLAdmin
	}
	for _, m := range s.a.cfg.Cluster.Members { // what an older agent has not told
		if m.Name == string(name) {
			return m.MySQLAdmin
		}
	}
	return ""
}

func (s *subjects) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for name := range maps.Keys(s.probed) {
		errs = append(errs, s.probed[name].inst.Close())
	}
	return errors.Join(errs...)
}

// nodeAt names the member whose instance listens at host and port.
func (a *agent) nodeAt(host string, port int) topology.NodeName {
	address := net.JoinHostPort(host, strconv.Itoa(port))
	for _, m := range a.registry.Members() {
		if m.MySQL == address {
			return m.Name
		}
	}
	return ""
}

func (a *agent) recordedPrimary() *election.Primary { return a.registry.Snapshot().State.Primary }

// findProcess is the local server's pid: by the configured pid file, or by the
// one that the server names.
func (a *agent) findProcess() (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), connectPatience)
	defer cancel()
	return a.instance.PID(ctx)
}

// findFolders are where the local server writes.
func (a *agent) findFolders() ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), connectPatience)
	defer cancel()
	return a.instance.Folders(ctx)
}

// backend is what the API shows of the agent.
type backend struct {
	*agent
	began time.Time
}

var _ api.Backend = (*backend)(nil)

func (b *backend) View() failover.View { return b.watcher.View() }

func (b *backend) Gates() []failover.Gate { return b.control.Gates() }

// stallLimit is how long the agent may do nothing before it says so: ten times
// what it takes when everything around it hangs.
const stallLimit = 10 * time.Second

func (b *backend) Health() api.Health {
	var h api.Health
	if why := b.watcher.Stalled(stallLimit); why != "" {
		h.Faults = append(h.Faults, "the agent hangs: "+why)
	}
	if err := b.registry.Unreadable(); errors.Is(err, election.ErrNewerFormat) {
		h.Faults = append(h.Faults, err.Error())
	}
	return h
}

func (b *backend) Evidence(name topology.NodeName) (failover.Judgement, bool) {
	if _, ok := b.lookup(name); !ok {
		return failover.Judgement{}, false
	}
	return judgementOf(b.detector.Judgement(name)), true
}

func (b *backend) Decisions() []failover.Decision { return b.journal.Decisions() }

func (b *backend) Reports(ctx context.Context, n int) ([]failover.Report, error) {
	raws, err := b.registry.Reports(ctx, n)
	if err != nil {
		return nil, err
	}
	reports := make([]failover.Report, 0, len(raws))
	for _, raw := range raws {
		var r failover.Report
		if err := json.Unmarshal(raw, &r); err != nil {
			return nil, fmt.Errorf("read ledger: %w", err)
		}
		reports = append(reports, r)
	}
	return reports, nil
}

func (b *backend) Report(ctx context.Context, epoch topology.Epoch) (failover.Report, error) {
	var r failover.Report
	raw, err := b.registry.Report(ctx, epoch)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("read ledger entry of epoch %d: %w", epoch, err)
	}
	return r, nil
}

// ledgerDepth is how many entries the objectives are measured over.
const ledgerDepth = 1000

func (b *backend) Objectives(ctx context.Context) (failover.Attainment, error) {
	reports, err := b.Reports(ctx, ledgerDepth)
	if err != nil {
		return failover.Attainment{}, err
	}
	since := time.Now()
	for _, r := range reports {
		if r.StartedAt.Before(since) {
			since = r.StartedAt
		}
	}
	return failover.ComputeObjectives(time.Now(), objectivesOf(b.cfg), reports, since), nil
}

func (b *backend) Switchover(ctx context.Context, to topology.NodeName) (failover.Report, error) {
	if !b.registry.Leadership().Mine {
		return failover.Report{}, failover.ErrNotLeader
	}
	return b.control.Switchover(ctx, to)
}

func (b *backend) PreviewForce(ctx context.Context) (failover.LossPreview, error) {
	return b.control.PreviewForce(ctx)
}

func (b *backend) Force(ctx context.Context, o failover.ForceOrder) (failover.Report, error) {
	if !b.registry.Leadership().Mine {
		return failover.Report{}, failover.ErrNotLeader
	}
	return b.control.Force(ctx, o)
}

func (b *backend) Pause(ctx context.Context, reason string) error {
	return notLeader(b.control.Pause(ctx, "operator", reason))
}

func (b *backend) Resume(ctx context.Context) error { return notLeader(b.control.Resume(ctx)) }

func (b *backend) AddMember(ctx context.Context, name topology.NodeName, voter bool) (failover.MemberChange, error) {
	change, err := b.control.AddMember(ctx, name, voter)
	return change, notLeader(err)
}

func (b *backend) RemoveMember(ctx context.Context, name topology.NodeName) (failover.MemberChange, error) {
	change, err := b.control.RemoveMember(ctx, name)
	return change, notLeader(err)
}

// notLeader makes the store's refusal the operation's, so that the API
// forwards the call.
func notLeader(err error) error {
	if errors.Is(err, election.ErrNotLeader) {
		return failover.ErrNotLeader
	}
	return err
}

// savedErrantDir is where errant transactions are kept before a rebuild.
func savedErrantDir(dataDir string) string { return filepath.Join(dataDir, "errant") }
