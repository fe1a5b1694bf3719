package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"interrex/election"
	"interrex/internal/gtid"
	"interrex/internal/topology"
	"interrex/router"
)

// agent is one member with all that its agent runs.
type agent struct {
	member   topology.Member
	registry *fakeRegistry
	keeper   *Keeper
	table    *router.Table
	watcher  *Watcher
	control  *Controller
	stop     context.CancelFunc
	ctx      context.Context
}

// cluster is a fleet with agents: n1… with an instance, a1 and a2 without.
type cluster struct {
	t      *testing.T
	fleet  *fleet
	store  *store
	agents map[topology.NodeName]*agent
	wg     sync.WaitGroup

	mu  sync.Mutex
	cut map[topology.NodeName]bool // agents nobody reaches
	// judged are instances that are Failed in the eyes of the majority.
	judged map[topology.NodeName]bool
	// accused are instances that one member's vote is against.
	accused map[topology.NodeName]bool
	// ailing are instances that their own agent finds something wrong with.
	ailing map[topology.NodeName]bool
	on     func(e event) error

	hooking sync.Mutex

	disarmed bool // somebody has changed how a primary waits
}

// event is an order or a change of the record; after tells whether it has been
// carried out. An error in its place is what the caller gets.
type event struct {
	from, to topology.NodeName
	what     string
	epoch    topology.Epoch
	after    bool
	acker    bool // of an order to follow
}

func (e event) String() string {
	return fmt.Sprintf("%s→%s %s (epoch %d, after %v)", e.from, e.to, e.what, e.epoch, e.after)
}

// newCluster has the given number of instances, none of which runs an agent
// yet. Call it in a synctest bubble.
func newCluster(t *testing.T, instances int) *cluster {
	c := &cluster{
		t: t, fleet: newFleet(), agents: map[topology.NodeName]*agent{}, cut: map[topology.NodeName]bool{}, judged: map[topology.NodeName]bool{}, accused: map[topology.NodeName]bool{}, ailing: map[topology.NodeName]bool{},
		store: &store{reports: map[topology.Epoch][]byte{}, leader: election.Leadership{Holder: "a1"}, state: election.State{Cluster: "c"}},
	}
	for i := range instances {
		s := c.fleet.add(i + 1)
		c.store.members = append(c.store.members, topology.Member{Name: s.name, MySQL: s.address, ReplicationUser: s.user()})
	}
	c.store.members = append(c.store.members, topology.Member{Name: "a1"}, topology.Member{Name: "a2"})
	for _, m := range c.store.members {
		c.agents[m.Name] = c.newAgent(m)
	}
	return c
}

func (c *cluster) newAgent(m topology.Member) *agent {
	a := &agent{member: m, table: router.NewTable()}
	a.registry = &fakeRegistry{store: c.store, self: m.Name, on: func(ctx context.Context, what string, after bool) error {
		return c.happen(ctx, event{from: m.Name, what: what, after: after})
	}}
	var (
		inst    Instance
		rebuild Rebuilder
		err     error
	)
	if m.HasInstance() {
		s := c.fleet.servers[m.Name]
		inst, rebuild = s, restarter{s}
	}
	a.keeper, err = NewKeeper(KeeperConfig{Member: m, PromiseFile: filepath.Join(c.t.TempDir(), "promises")},
		inst, rebuild, a.registry, a.table, zap.NewNop())
	require.NoError(c.t, err)
	nodes := linkedNodes{c, m.Name}
	a.watcher = NewWatcher(m.Name, a.registry, nodes, fakeDetector{c}, 0)
	a.control = NewController(ControllerConfig{
		Self: m.Name, Policy: Policy{Automatic: true, Acks: 1, MaxLag: time.Second, DropAfter: 10 * time.Second, Expected: len(c.store.members)},
		Limits: DefaultLimits(), Registry: a.registry, Leader: a.registry, Nodes: nodes, Watcher: a.watcher,
		Verifier: routeVerifier{c, a.table}, Table: a.table,
	}, zap.NewNop())
	a.ctx, a.stop = context.WithCancel(context.Background())
	return a
}

// policy changes what the operator wants, before the agents run.
func (c *cluster) policy(change func(*Policy)) {
	for _, a := range c.agents {
		change(&a.control.cfg.Policy)
		a.control.register.cfg.Policy, a.control.rejoin.cfg.Policy = a.control.cfg.Policy, a.control.cfg.Policy
	}
}

// acks has the primary wait for k.
func acks(k int) func(*cluster) {
	return func(c *cluster) { c.policy(func(p *Policy) { p.Acks = k }) }
}

// restarter is a Rebuilder that can only restart.
type restarter struct{ *server }

func (r restarter) Restart(context.Context) error { r.kill(); r.start(false); return nil }

func (r restarter) Rebuild(context.Context, string, gtid.Set, func(string, string)) error {
	return errors.New("no rebuilding here")
}

// run starts what the agents run; end stops it.
func (c *cluster) run() {
	for _, a := range c.agents {
		for _, f := range []func(context.Context) error{
			func(ctx context.Context) error { return a.keeper.Run(ctx, linkedNodes{c, a.member.Name}) },
			a.watcher.Run, a.control.Run,
			RouteKeeper{Registry: a.registry, Watcher: a.watcher, Table: a.table, MaxLag: time.Second, Log: zap.NewNop()}.Run,
		} {
			c.wg.Go(func() { _ = f(a.ctx) })
		}
	}
}

func (c *cluster) end() {
	for _, a := range c.agents {
		a.stop()
	}
	c.wg.Wait()
}

// happen tells the test of an event; whoever causes one after its agent was
// stopped gets the context's error.
func (c *cluster) happen(ctx context.Context, e event) error {
	c.mu.Lock()
	on := c.on
	c.mu.Unlock()
	if on != nil {
		if err := on(e); err != nil {
			return err
		}
	}
	if c.agents[e.from].ctx.Err() != nil {
		return context.Canceled
	}
	return ctx.Err()
}

// hook has on see every event, one at a time; what on has changed may be read
// after the next call. rawHook is for one that blocks.
func (c *cluster) hook(on func(event) error) {
	c.hooking.Lock()
	defer c.hooking.Unlock()
	if on == nil {
		c.rawHook(nil)
		return
	}
	c.rawHook(func(e event) error {
		c.hooking.Lock()
		defer c.hooking.Unlock()
		return on(e)
	})
}

func (c *cluster) rawHook(on func(event) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on = on
}

// reach cuts an agent off from all others and from etcd, or ends that.
func (c *cluster) reach(name topology.NodeName, ok bool) {
	r := c.agents[name].registry
	last := r.Snapshot()
	c.store.mu.Lock()
	r.cut, r.pinned = !ok, &last
	if ok {
		r.pinned = nil
	}
	c.store.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut[name] = !ok
}

// judge makes an instance Failed for all, whatever it does, or ends that.
func (c *cluster) judge(name topology.NodeName, failed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.judged[name] = failed
}

// lead makes a member the leader.
func (c *cluster) lead(name topology.NodeName) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.store.leader = election.Leadership{Holder: name, Revision: c.store.leader.Revision + 1}
}

func (c *cluster) state() election.State { return c.agents["a1"].registry.Snapshot().State }

func (c *cluster) server(name topology.NodeName) *server { return c.fleet.servers[name] }

// fakeDetector knows the truth at once: a server that does not answer failed.
type fakeDetector struct{ c *cluster }

func (d fakeDetector) Judge(name topology.NodeName) Judgement {
	d.c.mu.Lock()
	judged, cut, accused, ailing := d.c.judged[name], d.c.cut[name], d.c.accused[name], d.c.ailing[name]
	d.c.mu.Unlock()
	d.c.fleet.mu.Lock()
	defer d.c.fleet.mu.Unlock()
	j := Judgement{Subject: name, Verdict: topology.Healthy, Explanation: "it answers", At: time.Now()}
	switch s := d.c.fleet.servers[name]; {
	case ailing:
		j.Verdict, j.Votes = topology.Suspect, []Vote{{Observer: name, Kind: "disk_full", Against: true}}
	case accused:
		j.Votes = []Vote{{Observer: "n3", Kind: "silent_host", Against: true}}
	case s.alive() && s.superRO && cut: // what the others see, while nobody hears its agent
		j.Needed = len(d.c.agents)/2 + 1
		for n := range d.c.agents {
			if n != name {
				j.Votes = append(j.Votes, Vote{Observer: n, Kind: causeClosed, For: true})
			}
		}
	}
	if judged || !d.c.fleet.servers[name].alive() {
		j.Verdict, j.Explanation, j.Cause = topology.Failed, "it does not answer", "process exited"
		j.LastGood, j.FirstBad = 30*time.Millisecond, 20*time.Millisecond
		if s := d.c.fleet.servers[name]; s.down && !cut {
			j.Votes = []Vote{{Observer: name, Kind: causeProcessExited, Against: true}}
			j.FirstBad = max(j.FirstBad, time.Since(s.died))
			j.LastGood = j.FirstBad + 10*time.Millisecond
		}
	}
	return j
}

func (d fakeDetector) MemberFailed(name topology.NodeName) bool {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	return d.c.cut[name]
}

// routeVerifier writes through a member's route.
type routeVerifier struct {
	c     *cluster
	table *router.Table
}

func (v routeVerifier) VerifyWrite(ctx context.Context, epoch topology.Epoch) error {
	return v.c.write(ctx, v.table, epoch)
}

// write is a client's write through a route of at least epoch, tried until it
// is acknowledged.
func (c *cluster) write(ctx context.Context, table *router.Table, epoch topology.Epoch) error {
	for {
		r := table.Current()
		if r.Phase == router.Open && r.Epoch >= epoch {
			if s := c.server(r.Primary.Node); s != nil {
				wctx, cancel := context.WithTimeout(ctx, time.Second)
				_, err := s.commit(wctx, true)
				cancel()
				if err == nil {
					return nil
				}
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// clients write through the arbiters' routes until the function it returns is
// called.
func (c *cluster) clients() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, name := range []topology.NodeName{"a1", "a2"} {
		table := c.agents[name].table
		wg.Go(func() {
			for ctx.Err() == nil {
				_ = c.write(ctx, table, 0)
				select {
				case <-ctx.Done():
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

// eventually waits for a condition, in the bubble's time.
func (c *cluster) eventually(what string, ok func() bool) {
	c.t.Helper()
	for range 6000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	raw, _ := json.MarshalIndent(c.state(), "", " ")
	require.FailNow(c.t, "not within a minute: "+what, "%s\n%s\n%+v", raw, c.describe(), c.agents["a2"].control.Gates())
}

func (c *cluster) describe() string {
	c.fleet.mu.Lock()
	defer c.fleet.mu.Unlock()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(c.fleet.servers)) {
		s := c.fleet.servers[name]
		src := topology.NodeName("nobody")
		if s.source != nil {
			src = s.source.name
		}
		fmt.Fprintf(&b, "%s: boot %d, down %v, super_read_only %v, read_only %v, armed %v, from %s (receiver %v, acker %v), executed %s, received %s, waiting %d\n",
			name, s.boot, s.down, s.superRO, s.readOnly, s.armed, src, s.receiverOn, s.acker, s.executed, s.received, len(s.acks))
	}
	return b.String()
}

// settled tells whether a primary serves and nothing is in flight.
func (c *cluster) settled() bool {
	s := c.state()
	return s.Primary != nil && s.Operation == nil && s.Members != nil && s.Primary.Phase == election.Open && s.Epoch == s.Primary.Epoch &&
		slices.Equal(c.writable(), []topology.NodeName{s.Primary.Node})
}

// writable are the servers that take clients' writes.
func (c *cluster) writable() []topology.NodeName {
	c.fleet.mu.Lock()
	defer c.fleet.mu.Unlock()
	var out []topology.NodeName
	for name, s := range c.fleet.servers {
		if s.alive() && !s.superRO && !s.readOnly {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// check asserts what must hold whenever the cluster has settled: one writable
// instance, no acknowledged commit lost (I1, I2), a ledger entry with an
// outcome for every epoch (I7, I10).
func (c *cluster) check() {
	c.t.Helper()
	c.eventually("one primary that serves", c.settled)
	s := c.state()
	c.fleet.mu.Lock()
	lost := c.fleet.acked.Minus(c.fleet.servers[s.Primary.Node].executed)
	c.fleet.mu.Unlock()
	require.True(c.t, lost.IsEmpty(), "acknowledged and lost: %s\n%s", lost, c.describe())
	if !c.disarmed {
		require.Nil(c.t, s.Primary.Lossy, "nobody has disarmed it")
	}
	for e := topology.Epoch(1); e <= s.Epoch; e++ {
		c.eventually(fmt.Sprintf("epoch %d is in the ledger", e), func() bool { return c.store.has(e) })
		raw, err := c.agents["a1"].registry.Report(context.Background(), e)
		require.NoError(c.t, err, "epoch %d is not in the ledger", e)
		var rep Report
		require.NoError(c.t, json.Unmarshal(raw, &rep))
		require.NotEqual(c.t, Unfinished, rep.Outcome, "epoch %d", e)
	}
}

// report reads the ledger entry of an epoch.
func (c *cluster) report(epoch topology.Epoch) Report {
	c.t.Helper()
	raw, err := c.agents["a1"].registry.Report(context.Background(), epoch)
	require.NoError(c.t, err)
	var rep Report
	require.NoError(c.t, json.Unmarshal(raw, &rep))
	return rep
}
