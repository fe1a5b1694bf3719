package detector

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"

	"interrex/internal/topology"
)

// presence is gossip's view of another member.
type presence struct {
	name topology.NodeName
	kind Kind // MemberPresent, MemberGone or MemberLeft
}

// Members is what the detector uses of memberlist; *memberlist.Memberlist
// implements it. What comes in, and who comes and goes, it tells the delegates
// of the configuration that it was made with.
type Members interface {
	Join(existing []string) (int, error)
	LocalNode() *memberlist.Node
	GetHealthScore() int
	SendBestEffort(to *memberlist.Node, msg []byte) error
	SendReliable(to *memberlist.Node, msg []byte) error
	Leave(timeout time.Duration) error
	Shutdown() error
}

// gossip is this member's end of memberlist. Its callbacks run on memberlist's
// own loops, partly under its locks: they copy, hand over and never block.
type gossip struct {
	cfg Config
	w   Windows
	log *zap.Logger

	list atomic.Pointer[Members] // nil before it has started and once it ends

	// evidence and app hold messages not yet looked at; when full, newer
	// ones are dropped and counted: evidence is repeated anyway.
	evidence chan []byte
	app      chan []byte
	dropped  atomic.Uint64

	// moved wakes who reads presences.
	moved chan struct{}

	mu    sync.Mutex
	nodes map[topology.NodeName]memberlist.Node // present members, not self
	view  map[topology.NodeName]Kind            // all that were ever present
	peers []string                              // registered members' addresses
	// leaving holds who said good-bye and has not joined again.
	leaving map[topology.NodeName]bool

	streams sync.WaitGroup
	busy    map[topology.NodeName]int // streams under way; guarded by mu
	stopped bool                      // no stream may begin any more; guarded by mu
}

const (
	queueDepth     = 1024
	streamsPerPeer = 4
	leaveLimit     = 300 * time.Millisecond
)

func newGossip(cfg Config, w Windows, log *zap.Logger) *gossip {
	return &gossip{
		cfg: cfg, w: w, log: log,
		evidence: make(chan []byte, queueDepth),
		app:      make(chan []byte, queueDepth),
		moved:    make(chan struct{}, 1),
		nodes:    map[topology.NodeName]memberlist.Node{},
		view:     map[topology.NodeName]Kind{},
		leaving:  map[topology.NodeName]bool{},
		busy:     map[topology.NodeName]int{},
	}
}

// settings translates the configuration for memberlist.
func (g *gossip) settings() (*memberlist.Config, error) {
	host, port, err := splitAddress(g.cfg.Bind)
	if err != nil {
		return nil, err
	}
	bindIP, err := resolve(host)
	if err != nil {
		return nil, err
	}
	adIP, adPort := bindIP, port
	if g.cfg.Advertise != "" {
		adHost, p, err := splitAddress(g.cfg.Advertise)
		if err != nil {
			return nil, err
		}
		if adIP, err = resolve(adHost); err != nil {
			return nil, err
		}
		adPort = p
	}
	c := memberlist.DefaultLANConfig()
	c.Name = string(g.cfg.Self)
	c.Label = g.cfg.Cluster
	c.BindAddr, c.BindPort = bindIP, port
	c.AdvertiseAddr, c.AdvertisePort = adIP, adPort
	c.SecretKey = g.cfg.Key
	c.GossipVerifyIncoming, c.GossipVerifyOutgoing = true, true
	c.EnableCompression = false
	c.TCPTimeout = g.w.Gossip.StreamTimeout
	c.ProbeInterval, c.ProbeTimeout = g.w.Gossip.ProbeInterval, g.w.Gossip.ProbeTimeout
	c.GossipInterval, c.PushPullInterval = g.w.Gossip.Interval, g.w.Gossip.PushPull
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = g.w.Gossip.SuspicionMult, 2
	c.RetransmitMult = g.w.Gossip.RetransmitMult
	c.DeadNodeReclaimTime = 30 * time.Second
	c.Delegate, c.Events, c.Conflict = gossipDelegate{g}, gossipEvents{g}, gossipConflict{g}
	c.Logger = gossipLogger(g.log)
	return c, nil
}

func resolve(host string) (string, error) {
	if net.ParseIP(host) != nil {
		return host, nil
	}
	ip, err := net.ResolveIPAddr("ip", host)
	if err != nil {
		return "", fmt.Errorf("resolve %q: %w", host, err)
	}
	return ip.String(), nil
}

// bind is memberlist itself, on the addresses of its configuration.
func bind(c *memberlist.Config) (Members, error) { return memberlist.Create(c) }

// start begins to take part, through what create makes.
func (g *gossip) start(create func(*memberlist.Config) (Members, error)) error {
	c, err := g.settings()
	if err != nil {
		return fmt.Errorf("configure gossip: %w", err)
	}
	list, err := create(c)
	if err != nil {
		return fmt.Errorf("start gossip on %s: %w", g.cfg.Bind, err)
	}
	g.list.Store(&list)
	return nil
}

// members returns nil while this member takes no part.
func (g *gossip) members() Members {
	if list := g.list.Load(); list != nil {
		return *list
	}
	return nil
}

// stop takes leave, so that the others need not find out, and ends.
func (g *gossip) stop() {
	was := g.list.Swap(nil)
	if was == nil {
		return
	}
	list := *was
	if err := list.Leave(leaveLimit); err != nil {
		g.log.Info("leave not confirmed", zap.Error(err))
	}
	if err := list.Shutdown(); err != nil {
		g.log.Warn("shut gossip down", zap.Error(err))
	}
	g.mu.Lock()
	g.stopped = true
	g.mu.Unlock()
	g.streams.Wait()
}

// join calls all known addresses at once and then again and again while some
// member is missing, until ctx ends.
func (g *gossip) join(ctx context.Context) {
	tick := time.NewTicker(g.w.Rejoin)
	defer tick.Stop()
	for {
		g.joinMissing(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (g *gossip) joinMissing(ctx context.Context) {
	list := g.members()
	if list == nil {
		return
	}
	for _, addr := range g.missing(list.LocalNode().Address()) {
		if ctx.Err() != nil {
			return
		}
		if _, err := list.Join([]string{addr}); err != nil {
			g.log.Debug("join", zap.String("address", addr), zap.Error(err))
		}
	}
}

// missing returns the known addresses that no present member has.
func (g *gossip) missing(own string) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	have := map[string]bool{own: true, g.cfg.Bind: true, g.cfg.Advertise: true}
	for _, n := range g.nodes {
		have[n.Address()] = true
	}
	var out []string
	known := g.peers
	if len(known) == 0 {
		known = g.cfg.Peers // nobody has registered yet, or that is not known yet
	}
	for _, addr := range known {
		if addr == "" || have[addr] {
			continue
		}
		have[addr] = true
		host, port, err := net.SplitHostPort(addr)
		if err == nil && net.ParseIP(host) == nil {
			if ip, err := resolve(host); err == nil && have[net.JoinHostPort(ip, port)] {
				continue
			}
		}
		out = append(out, addr)
	}
	return out
}

// setPeers replaces the registered members' addresses.
func (g *gossip) setPeers(addrs []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.peers = addrs
}

// presences returns the view of all members ever seen.
func (g *gossip) presences() []presence {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]presence, 0, len(g.view))
	for name, kind := range g.view {
		out = append(out, presence{name, kind})
	}
	return out
}

func (g *gossip) present() []memberlist.Node {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make([]memberlist.Node, 0, len(g.nodes))
	for _, n := range g.nodes {
		out = append(out, n)
	}
	return out
}

// slow tells whether memberlist takes this member for the slow one.
func (g *gossip) slow() bool {
	list := g.members()
	return list != nil && list.GetHealthScore() > 0
}

// send gives a packet to every present member; reliable: by a stream as well,
// in the background.
func (g *gossip) send(packet []byte, reliable bool) {
	list := g.members()
	if list == nil {
		return
	}
	for _, n := range g.present() {
		if len(packet) <= maxDatagram {
			if err := list.SendBestEffort(&n, packet); err != nil {
				g.log.Debug("send datagram", zap.String("to", n.Name), zap.Error(err))
			}
		}
		if reliable {
			g.stream(list, n, packet)
		}
	}
}

// stream sends over TCP without waiting, a bounded number at a time to each.
func (g *gossip) stream(list Members, n memberlist.Node, packet []byte) {
	name := topology.NodeName(n.Name)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stopped || g.busy[name] >= streamsPerPeer {
		g.dropped.Add(1)
		return
	}
	g.busy[name]++
	g.streams.Go(func() {
		if err := list.SendReliable(&n, packet); err != nil {
			g.log.Debug("send stream", zap.String("to", n.Name), zap.Error(err))
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.busy[name]--
	})
}
