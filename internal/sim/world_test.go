package sim

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"interrex/detector"
	"interrex/election"
	"interrex/failover"
	"interrex/internal/gtid"
	"interrex/internal/topology"
	"interrex/router"
)

// world is all there is in one run.
type world struct {
	loop    *loop
	net     *network
	gossip  *fellowship
	store   *store
	servers []*server
	agents  []*agent
	members []topology.Member
	shape   shape
	check   *checker
	markers []markerRow
	saved   gtid.Set // errant transactions that a rebuild has saved
	dir     string   // of the promise files
	doubles doubles
	log     *zap.Logger
	wg      sync.WaitGroup
	healing bool
	// injected counts the faults that struck by kind, struck all of them, and
	// active those that are not mended.
	injected       map[string]int
	struck, active int
}

// doubles replace one part of an agent each: mutants.
type doubles struct {
	instance   func(failover.Instance, instance) failover.Instance
	node       func(failover.Node, *agent) failover.Node
	startsOpen bool // configuration does not close a server that starts
	// A polite stop ends no session, and does not close the server.
	sessionsStay bool
	anyBase      bool // the store changes the record whatever it is and whoever leads
}

type markerRow struct {
	id     gtid.Set
	marker topology.Marker
}

// agent is one member with all that its agent runs. A restart makes the parts
// anew.
type agent struct {
	w      *world
	name   topology.NodeName
	member topology.Member
	server *server // nil without an instance

	proc     *process
	detector *detector.Detector
	registry *election.Client
	deaf     bool // the store's changes are not told
	keeper   *failover.Keeper
	table    *router.Table
	control  *failover.Controller
	obeyed   topology.Epoch // the highest epoch of a command that was carried out
	ctx      context.Context
	stop     context.CancelFunc
}

// shape is what a cluster is made of.
type shape struct {
	instances, arbiters, acks int
	degrade                   bool
	dropAfter                 time.Duration
}

func newWorld(seed uint64, sh shape, t *trace, dir string, d doubles, log *zap.Logger) *world {
	w := &world{loop: newLoop(seed, t), shape: sh, dir: dir, doubles: d, log: log, injected: map[string]int{}}
	w.net = &network{loop: w.loop, cuts: map[way]int{}}
	w.gossip = &fellowship{w: w}
	w.check = newChecker(w)
	w.store = newStore(w)
	for n := range sh.instances {
		s := newServer(w, n+1)
		w.servers = append(w.servers, s)
		w.members = append(w.members, topology.Member{Name: s.name, MySQL: s.address, ReplicationUser: accountOf(s.name)})
	}
	for n := range sh.arbiters {
		w.members = append(w.members, topology.Member{Name: topology.NodeName(fmt.Sprintf("a%d", n+1))})
	}
	for i := range w.members {
		m := &w.members[i]
		m.Gossip = gossipAddress(i)
		a := &agent{w: w, name: m.Name, member: *m, proc: newProcess(string(m.Name))}
		a.proc.dead = true
		a.table = router.NewTable()
		if m.HasInstance() {
			a.server = w.servers[i]
		}
		w.agents = append(w.agents, a)
	}
	return w
}

func (w *world) serverAt(address string) *server {
	i := slices.IndexFunc(w.servers, func(s *server) bool { return s.address == address })
	return w.servers[i]
}

func (w *world) server(name topology.NodeName) *server {
	for _, s := range w.servers {
		if s.name == name {
			return s
		}
	}
	return nil
}

func (w *world) agent(name topology.NodeName) *agent {
	i := slices.IndexFunc(w.agents, func(a *agent) bool { return a.name == name })
	return w.agents[i]
}

// hosts are all names that ways lead to and from.
func (w *world) hosts() []topology.NodeName {
	var names []topology.NodeName
	for _, a := range w.agents {
		names = append(names, a.name)
	}
	return append(names, storeHost)
}

func keysOf[K comparable, V any](m map[K]V) func(func(K) bool) { return maps.Keys(m) }

func (a *agent) promiseFile() string { return filepath.Join(a.w.dir, "promises-"+string(a.name)) }

// start starts the agent's process: the loops begin one after another, since
// their tickers must not fire together.
func (a *agent) start() {
	w := a.w
	if !a.proc.dead {
		return
	}
	a.proc = newProcess(string(a.name))
	a.table = router.NewTable()
	reg := a.newElection()
	w.check.mu.Lock()
	a.registry = reg
	w.check.mu.Unlock()
	var (
		inst    failover.Instance
		rebuild failover.Rebuilder
	)
	if a.server != nil {
		own := instance{a.server, a.proc}
		inst, rebuild = own, rebuilder{own}
		if w.doubles.instance != nil {
			inst = w.doubles.instance(inst, own)
		}
	}
	log := w.log.With(zap.String("agent", string(a.name)))
	keeper, err := failover.NewKeeper(failover.KeeperConfig{Member: a.member, PromiseFile: a.promiseFile(), TendEvery: time.Second},
		inst, rebuild, reg, a.table, log)
	if err != nil {
		panic(err)
	}
	a.keeper = keeper
	nodes := links{a, a.proc}
	d := a.newDetector(log)
	a.detector = d
	watcher := failover.NewWatcher(a.name, reg, nodes, judge{d}, 500*time.Millisecond)
	watcher.Sees(failover.Sight{Heard: d.Heard, Within: d.Windows().Freshness, After: 3 * time.Second, ReadLimit: time.Minute})
	control := failover.NewController(failover.ControllerConfig{
		Self: a.name, Policy: failover.Policy{
			Automatic: true, Acks: w.shape.acks, Degrade: w.shape.degrade, DropAfter: w.shape.dropAfter, MaxLag: time.Second,
			Rebuild: true, Expected: len(w.members),
		},
		Limits: failover.DefaultLimits(), Registry: reg, Leader: reg, Nodes: nodes, Watcher: watcher,
		Verifier: verifier{a, a.proc, a.table}, Table: a.table,
	}, log)
	changes, _ := reg.Subscribe() // for as long as the process lives
	wake := make(chan struct{}, 1)
	control.WakeBy(wake)
	moves, _ := reg.Subscribe()
	a.control = control
	a.ctx, a.stop = context.WithCancel(context.Background())
	ctx, proc := a.ctx, a.proc
	run := failover.RouteKeeper{Registry: reg, Watcher: watcher, Table: a.table, MaxLag: time.Second, Wake: moves, Log: log}.Run
	for i, part := range []func(context.Context) error{
		func(ctx context.Context) error { return keeper.Run(onBehalf(ctx, "keeper"), nodes) },
		func(ctx context.Context) error { return watcher.Run(onBehalf(ctx, "watcher")) },
		func(ctx context.Context) error { return control.Run(onBehalf(ctx, "controller")) },
		run,
		func(ctx context.Context) error { return reg.Run(onBehalf(ctx, "election")) },
		func(ctx context.Context) error { return reg.Register(onBehalf(ctx, "registering"), a.member) },
		d.Run,
		func(ctx context.Context) error { a.wakes(ctx, d, changes, wake); return nil },
	} {
		w.loop.after(w.loop.between(0, 2*time.Millisecond)+time.Duration(i)*time.Millisecond, func() {
			if !proc.dead {
				w.wg.Go(func() { _ = part(ctx) })
			}
		})
	}
	a.subjects(d)
	if a.server != nil && a.server.up {
		a.sees(detector.ProcessRunning)
	}
}

// kill ends the agent's process as SIGKILL does.
func (a *agent) kill() {
	if a.proc.dead {
		return
	}
	a.w.loop.kill(a.proc)
	a.stop()
}

// links are the members as one agent reaches them; implements failover.Nodes.
type links struct {
	from *agent
	by   *process
}

func (l links) Node(name topology.NodeName) (failover.Node, error) {
	i := slices.IndexFunc(l.from.w.agents, func(a *agent) bool { return a.name == name })
	if i < 0 {
		return nil, fmt.Errorf("no member %q", name)
	}
	return link{l, l.from.w.agents[i]}, nil
}

// link is the HTTP client for one member; the own one is called directly.
type link struct {
	links
	to *agent
}

var _ failover.Node = link{}

// node is the server side of a member's commands.
func (a *agent) node() failover.Node {
	if a.w.doubles.node != nil {
		return a.w.doubles.node(a.keeper, a)
	}
	return a.keeper
}

// send brings an order to a member; epoch is 0 for a question.
func send[T any](ctx context.Context, l link, what string, epoch topology.Epoch, order func(context.Context, failover.Node) (T, error)) (v T, err error) {
	do := func(ctx context.Context, n failover.Node) (T, error) {
		promised := l.from.w.check.seen(l.to)
		v, err := order(ctx, n)
		if err == nil && epoch != 0 {
			l.from.w.check.obeyed(l.to, what, epoch, promised)
		}
		return v, err
	}
	if epoch != 0 {
		what += fmt.Sprint(" ", epoch)
	}
	if l.to == l.from {
		if l.by.dead {
			return v, errKilled
		}
		return do(ctx, l.to.node())
	}
	w, key := l.from.w, l.by.name+" "+string(l.to.name)+" "+what
	got, err := w.loop.do(ctx, l.by, key, func(c *call) {
		w.carry(c, l, func(ctx context.Context, n failover.Node) (any, error) { return do(ctx, n) })
	})
	if err == nil {
		v = got.(T)
	}
	return v, err
}

// carry brings an order to its member and the answer back.
func (w *world) carry(c *call, l link, do func(context.Context, failover.Node) (any, error)) {
	from, to := l.from.name, l.to.name
	var arrive func()
	arrive = func() {
		proc := l.to.proc
		switch {
		case c.over && w.lost(c): // its sender has hung up, or died
		case w.net.blocked(orders, from, to):
			w.net.onHeal(arrive)
		case proc.dead:
			w.back(c, to, from, nil, errRefused)
		case proc.frozen:
			// Each has a connection of its own: they are read in any order.
			proc.held = append(proc.held, func() { w.loop.later(0, 3*time.Millisecond, arrive) })
		default:
			w.serve(c, l.to, from, do)
		}
	}
	w.loop.after(w.net.latency(), arrive)
}

// lost tells whether an order does not arrive whose sender waits for it no more.
// Half of those that were on their way do, if their time has not run out.
func (w *world) lost(c *call) bool {
	deadline, ok := c.ctx.Deadline()
	return ok && !deadline.After(time.Now()) || w.loop.chance(50)
}

// serve runs a command in a goroutine of the member that got it.
func (w *world) serve(c *call, at *agent, from topology.NodeName, do func(context.Context, failover.Node) (any, error)) {
	ctx, cancel := context.WithCancel(at.ctx)
	if deadline, ok := c.ctx.Deadline(); ok {
		ctx, cancel = context.WithDeadline(at.ctx, deadline.Add(time.Duration(w.loop.draw.IntN(1_000_000))))
	}
	ctx = onBehalf(ctx, c.key)
	// One that hangs up is noticed, unless the way is cut.
	hangUp := func() {
		w.loop.after(w.net.latency(), func() {
			if !w.net.blocked(orders, from, at.name) {
				cancel()
			}
		})
	}
	c.onEnd = func() {
		w.loop.finish(c, nil, c.ctx.Err())
		hangUp()
	}
	if c.over {
		hangUp()
	}
	proc, node := at.proc, at.node()
	w.wg.Go(func() {
		defer cancel()
		v, err := do(ctx, node)
		w.loop.post(proc, c.key+" done", func() { w.back(c, at.name, from, v, err) })
	})
}

func (w *world) back(c *call, from, to topology.NodeName, v any, err error) {
	var arrive func()
	arrive = func() {
		if w.net.blocked(orders, from, to) {
			w.net.onHeal(arrive)
			return
		}
		w.loop.finish(c, v, err)
	}
	w.loop.after(w.net.latency(), arrive)
}

type none struct{}

func silent(f func(context.Context, failover.Node) error) func(context.Context, failover.Node) (none, error) {
	return func(ctx context.Context, n failover.Node) (none, error) { return none{}, f(ctx, n) }
}

func (l link) Status(ctx context.Context) (failover.NodeStatus, error) {
	return send(ctx, l, "status", 0, func(ctx context.Context, n failover.Node) (failover.NodeStatus, error) { return n.Status(ctx) })
}

func (l link) Freeze(ctx context.Context, req failover.FreezeRequest) (failover.Frozen, error) {
	return send(ctx, l, "freeze", req.Epoch, func(ctx context.Context, n failover.Node) (failover.Frozen, error) { return n.Freeze(ctx, req) })
}

func (l link) CatchUp(ctx context.Context, req failover.CatchUpRequest) (failover.CaughtUp, error) {
	return send(ctx, l, "catch up", req.Epoch, func(ctx context.Context, n failover.Node) (failover.CaughtUp, error) { return n.CatchUp(ctx, req) })
}

func (l link) Promote(ctx context.Context, req failover.PromoteRequest) (failover.Promoted, error) {
	return send(ctx, l, "promote", req.Epoch, func(ctx context.Context, n failover.Node) (failover.Promoted, error) { return n.Promote(ctx, req) })
}

func (l link) Follow(ctx context.Context, req failover.FollowRequest) error {
	_, err := send(ctx, l, fmt.Sprint("follow ", req.Source, req.Acker), req.Epoch, silent(func(ctx context.Context, n failover.Node) error { return n.Follow(ctx, req) }))
	return err
}

func (l link) Close(ctx context.Context, req failover.CloseRequest) (failover.Closed, error) {
	return send(ctx, l, "close", req.Epoch, func(ctx context.Context, n failover.Node) (failover.Closed, error) { return n.Close(ctx, req) })
}

func (l link) Obey(ctx context.Context, req failover.ObeyRequest) (failover.Obeyed, error) {
	return send(ctx, l, "obey", req.Epoch, func(ctx context.Context, n failover.Node) (failover.Obeyed, error) { return n.Obey(ctx, req) })
}

func (l link) Rebuild(ctx context.Context, req failover.RebuildRequest) error {
	_, err := send(ctx, l, "rebuild", req.Epoch, silent(func(ctx context.Context, n failover.Node) error { return n.Rebuild(ctx, req) }))
	return err
}

func (l link) Route(ctx context.Context, r router.Route) error {
	_, err := send(ctx, l, fmt.Sprint("route ", r.Epoch, r.Phase), 0, silent(func(ctx context.Context, n failover.Node) error { return n.Route(ctx, r) }))
	return err
}

// verifier writes through the member's own route; implements failover.Verifier.
type verifier struct {
	a     *agent
	by    *process
	table *router.Table
}

func (v verifier) VerifyWrite(ctx context.Context, epoch topology.Epoch) error {
	w := v.a.w
	_, err := w.loop.do(ctx, v.by, v.by.name+" verify", func(c *call) {
		var try func()
		try = func() {
			if c.over {
				return
			}
			if r := v.table.Current(); r.Phase == router.Open && r.Epoch >= epoch {
				s := w.server(r.Primary.Node)
				if s.alive() && !s.hang && !w.net.cutEither(sessions, v.a.name, s.name) {
					s.write(false, nil, func(err error) {
						if err == nil {
							w.loop.finish(c, nil, nil)
						}
					})
					s.changed()
				}
			}
			w.loop.after(50*time.Millisecond, try)
		}
		try()
	})
	return err
}

// client is an application that writes, one transaction after another: through
// the route of some member, or always to the server of its own host, whether or
// not that is the primary.
type client struct {
	w     *world
	local *server
	busy  bool
}

func (c *client) tick() {
	l := c.w.loop
	if c.local != nil {
		l.later(20*time.Millisecond, 60*time.Millisecond, c.tick)
	} else {
		l.later(60*time.Millisecond, 160*time.Millisecond, c.tick)
	}
	if c.busy {
		return
	}
	s := c.local
	if s == nil {
		a := c.w.agents[l.draw.IntN(len(c.w.agents))]
		r := a.table.Current()
		if a.proc.dead || a.proc.frozen || r.Phase != router.Open || c.w.net.cutEither(sessions, a.name, r.Primary.Node) {
			return
		}
		s = c.w.server(r.Primary.Node)
	}
	if !s.alive() {
		return
	}
	c.busy = true
	over := false
	end := func(error) {
		if !over {
			over, c.busy = true, false
		}
	}
	l.later(3*time.Second, 4*time.Second, func() { end(errGone) }) // its patience
	s.write(false, nil, end)
	s.changed()
}

func tempDir() string {
	dir := os.TempDir()
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
		dir = "/dev/shm"
	}
	dir, err := os.MkdirTemp(dir, "interrex-sim-")
	if err != nil {
		panic(err)
	}
	return dir
}
