package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"

	"interrex/detector"
	"interrex/internal/topology"
)

// fellowship is memberlist as far as the detector uses it: datagrams, streams,
// and who takes whom for present. It belongs to the loop.
type fellowship struct {
	w    *world
	ends []*gossiper // of the agents that live, in their order
}

const (
	gossipEvery = 200 * time.Millisecond
	// goneAfter is about what a member takes to be suspected, and declared dead.
	goneAfter = time.Second
	// streamLimit is how long a stream is tried for.
	streamLimit = time.Second
)

// gossiper is one agent's end; implements detector.Members.
type gossiper struct {
	w   *world
	a   *agent
	by  *process
	cfg *memberlist.Config
	// heard is when each of those that it has ever met was last reached,
	// directly or by way of another; there are those it takes for present.
	heard map[*agent]time.Duration
	there map[*agent]bool
}

var _ detector.Members = (*gossiper)(nil)

func gossipAddress(member int) string { return fmt.Sprintf("10.0.1.%d:7946", member+1) }

// enter is called by an agent's goroutine as it starts.
func (f *fellowship) enter(a *agent, by *process, cfg *memberlist.Config) *gossiper {
	g := &gossiper{w: f.w, a: a, by: by, cfg: cfg, heard: map[*agent]time.Duration{}, there: map[*agent]bool{}}
	f.w.loop.post(by, by.name+" enters", func() { f.ends = append(f.ends, g) })
	return g
}

// tick is the probing of the members by each other.
func (f *fellowship) tick() {
	f.w.loop.after(gossipEvery, f.tick)
	f.ends = slices.DeleteFunc(f.ends, func(g *gossiper) bool { return g.by.dead })
	for _, g := range f.ends {
		if !g.by.frozen {
			g.look()
		}
	}
}

// look renews whom a member takes for present.
func (g *gossiper) look() {
	now := g.w.loop.now()
	for _, m := range g.w.agents {
		last, met := g.heard[m]
		switch {
		case !met:
		case g.reaches(m):
			g.meets(m)
		case g.there[m] && now-last > goneAfter:
			delete(g.there, m)
			g.w.loop.push(g.by, func() { g.cfg.Events.NotifyLeave(m.gossipNode()) })
		}
	}
}

// reaches tells whether a member answers, if need be through another one.
func (g *gossiper) reaches(m *agent) bool {
	if m.proc.dead || m.proc.frozen {
		return false
	}
	both := func(a, b *agent) bool { return !g.w.net.cutEither(gossip, a.name, b.name) }
	return both(g.a, m) || slices.ContainsFunc(g.w.agents, func(o *agent) bool {
		return o != m && o != g.a && !o.proc.dead && !o.proc.frozen && both(g.a, o) && both(o, m)
	})
}

func (g *gossiper) meets(m *agent) {
	g.heard[m] = g.w.loop.now()
	if m != g.a && !g.there[m] {
		g.there[m] = true
		g.w.loop.push(g.by, func() { g.cfg.Events.NotifyJoin(m.gossipNode()) })
	}
}

func (a *agent) gossipNode() *memberlist.Node {
	host, _, _ := net.SplitHostPort(a.member.Gossip)
	return &memberlist.Node{Name: string(a.name), Addr: net.ParseIP(host), Port: 7946}
}

// LocalNode implements detector.Members.
func (g *gossiper) LocalNode() *memberlist.Node { return g.a.gossipNode() }

// GetHealthScore implements detector.Members.
func (g *gossiper) GetHealthScore() int { return 0 }

// Leave implements detector.Members. An agent of the simulation is killed.
func (g *gossiper) Leave(time.Duration) error { return nil }

// Shutdown implements detector.Members.
func (g *gossiper) Shutdown() error { return nil }

// Join implements detector.Members: both, and whom they know, have met.
func (g *gossiper) Join(addresses []string) (int, error) {
	w, l := g.w, g.w.loop
	i := slices.IndexFunc(w.agents, func(a *agent) bool { return a.member.Gossip == addresses[0] })
	m := w.agents[i]
	_, err := l.do(context.Background(), g.by, fmt.Sprintf("%s joins %s", g.a.name, m.name), func(c *call) {
		l.after(2*w.net.latency(), func() {
			other := w.gossip.of(m)
			if other == nil || m.proc.frozen || w.net.cutEither(gossip, g.a.name, m.name) {
				l.after(streamLimit, func() { l.finish(c, nil, errors.New("no answer")) })
				return
			}
			for _, a := range w.agents {
				if _, known := other.heard[a]; known || a == m {
					g.meets(a)
				}
			}
			for _, end := range w.gossip.ends {
				if end == other || (other.there[end.a] && !end.by.frozen) {
					end.meets(g.a)
				}
			}
			l.finish(c, nil, nil)
		})
	})
	if err != nil {
		return 0, err
	}
	return 1, nil
}

func (f *fellowship) of(a *agent) *gossiper {
	if i := slices.IndexFunc(f.ends, func(g *gossiper) bool { return g.by == a.proc && !g.by.dead }); i >= 0 {
		return f.ends[i]
	}
	return nil
}

// SendBestEffort implements detector.Members.
func (g *gossiper) SendBestEffort(to *memberlist.Node, msg []byte) error {
	g.send(to, msg, false)
	return nil
}

// SendReliable implements detector.Members.
func (g *gossiper) SendReliable(to *memberlist.Node, msg []byte) error {
	g.send(to, msg, true)
	return nil
}

// send does not wait: a datagram is gone, a stream is its own goroutine's.
func (g *gossiper) send(to *memberlist.Node, msg []byte, stream bool) {
	w, l := g.w, g.w.loop
	m, sent := w.agent(topology.NodeName(to.Name)), time.Now()
	l.post(g.by, fmt.Sprintf("%s tells %s %s %v", g.by.name, m.name, gist(msg), stream), func() {
		if time.Since(sent) > time.Millisecond {
			return // its process was frozen: it would not have run
		}
		limit := l.now() + streamLimit
		var arrive func()
		arrive = func() {
			proc, end := m.proc, w.gossip.of(m)
			switch {
			case end == nil:
			case w.net.blocked(gossip, g.a.name, m.name):
				if stream && l.now() < limit {
					l.after(50*time.Millisecond, arrive)
				}
			case proc.frozen: // it lies in the socket
				proc.held = append(proc.held, arrive)
			default:
				l.push(proc, func() { end.cfg.Delegate.NotifyMsg(msg) })
			}
		}
		if stream || l.draw.IntN(100) > 0 {
			l.after(w.net.latency(), arrive)
		}
	})
}

// gist tells the messages apart that one agent sends at one moment: about whom
// the first evidence is, of which kind, and how many there are.
func gist(msg []byte) string {
	first := []byte(`"s":"`)
	_, rest, _ := bytes.Cut(msg, first)
	what, _, _ := bytes.Cut(rest, []byte(`","q"`))
	return fmt.Sprintf("%s of %d", what, bytes.Count(msg, first))
}
