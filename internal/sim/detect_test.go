package sim

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"

	"interrex/detector"
	"interrex/failover"
	"interrex/internal/topology"
)

// newDetector is the agent's detector: the real one, whose probes, process
// watch and gossip are of this world.
func (a *agent) newDetector(log *zap.Logger) *detector.Detector {
	cfg := detector.DefaultConfig()
	cfg.Self, cfg.Cluster, cfg.Key, cfg.Bind = a.name, "c", make([]byte, 16), a.member.Gossip
	// As on a LAN, with fewer probes and datagrams: they are much of what a run
	// takes.
	cfg.Profile, cfg.Windows.Interval = detector.Custom, 250*time.Millisecond
	if len(a.w.members) > 4 {
		cfg.Windows.Interval = 350 * time.Millisecond
	}
	cfg.Windows.WriteTimeout = 300 * time.Millisecond // nobody tries writes; it must only fit
	proc := a.proc
	d, err := detector.New(cfg, detector.Deps{
		Log: log.Named("detector"), Classify: classify,
		Members: func(c *memberlist.Config) (detector.Members, error) { return a.w.gossip.enter(a, proc, c), nil },
	})
	if err != nil {
		panic(err)
	}
	d.SetRegistered(a.w.members)
	return d
}

// subjects has the detector probe one server after the other, so that their
// timers do not fire together. A member without a server has no account at
// those of others.
func (a *agent) subjects(d *detector.Detector) {
	if a.server == nil {
		return
	}
	var list []detector.Subject
	for i, s := range a.w.servers {
		list = append(list, detector.Subject{
			Name: s.name, Address: s.address, Local: s == a.server, Prober: &prober{w: a.w, by: a.proc, from: a.name, to: s},
		})
		known, proc := list[:i+1:i+1], a.proc
		a.w.loop.later(time.Duration(i)*20*time.Millisecond, time.Duration(i+1)*20*time.Millisecond, func() {
			a.w.loop.push(proc, func() { d.SetSubjects(known) })
		})
	}
}

// sees tells the agent of a server what has become of its process.
func (a *agent) sees(kind detector.Kind) {
	l, d, proc := a.w.loop, a.detector, a.proc
	if proc.dead {
		return
	}
	var tell func()
	tell = func() {
		if proc.frozen {
			proc.held = append(proc.held, tell)
			return
		}
		l.push(proc, func() {
			if err := d.Report(detector.Evidence{Subject: a.name, Kind: kind}); err != nil {
				panic(err)
			}
			d.Nudge(a.name)
		})
	}
	l.later(100*time.Microsecond, 3*time.Millisecond, tell)
}

// wakes passes on to the controller that the record or a verdict has changed.
// A verdict in a turn of its own, one for all that change together: the detector
// may not be through with what has changed the first.
func (a *agent) wakes(ctx context.Context, d *detector.Detector, record <-chan struct{}, merged chan<- struct{}) {
	wake := func() {
		select {
		case merged <- struct{}{}:
		default:
		}
	}
	l, proc := a.w.loop, a.proc
	var told atomic.Bool
	for {
		select {
		case <-ctx.Done():
			return
		case <-record:
			wake()
		case <-d.Changes():
			if told.Swap(true) {
				continue
			}
			l.post(proc, proc.name+" judges anew", func() {
				l.push(proc, func() { told.Store(false); wake() })
			})
		}
	}
}

// judge is a detector in the words of failover; implements failover.Detector.
type judge struct{ d *detector.Detector }

func (j judge) Judge(name topology.NodeName) failover.Judgement {
	v := j.d.Judgement(name)
	out := failover.Judgement{
		Subject: v.Subject, Verdict: v.Verdict, Cause: string(v.Cause), Explanation: v.Explanation,
		LastGood: max(v.LastGood, 0), FirstBad: v.FirstBad, At: v.At, Needed: v.Needed,
	}
	for _, o := range v.Votes {
		out.Votes = append(out.Votes, failover.Vote{Observer: o.Observer, Kind: string(o.Kind), Age: o.Age, Against: o.Against, For: o.For})
	}
	return out
}

func (j judge) MemberFailed(name topology.NodeName) bool {
	return j.d.MemberFailed(name)
}

// prober looks at one server from one agent, on a connection that it keeps;
// implements detector.Prober.
type prober struct {
	w    *world
	by   *process
	from topology.NodeName
	to   *server
	boot int // of the server that the connection is to; 0: none
}

var (
	errBroken         = errors.New("connection broken")
	errConnectTimeout = errors.New("connect timed out")
	errQueryTimeout   = errors.New("query timed out")
)

func classify(err error) detector.Kind {
	switch {
	case errors.Is(err, errRefused):
		return detector.Refused
	case errors.Is(err, errBroken):
		return detector.ConnectionBroken
	case errors.Is(err, errConnectTimeout):
		return detector.SilentHost
	case errors.Is(err, errQueryTimeout):
		return detector.Frozen
	default:
		return detector.Erring
	}
}

type glance struct {
	detector.Reading
	boot int
}

func (p *prober) Probe(ctx context.Context) (detector.Reading, error) {
	had := p.boot
	p.boot = 0
	got, err := p.w.loop.do(ctx, p.by, string(p.from)+" "+string(p.to.name)+" glance", func(c *call) { p.ask(c, had) })
	switch {
	case err == nil:
		g := got.(glance)
		p.boot = g.boot
		return g.Reading, nil
	case ctx.Err() == nil:
		return detector.Reading{}, err
	case had == 0:
		return detector.Reading{}, errConnectTimeout
	default:
		return detector.Reading{}, errQueryTimeout
	}
}

func (p *prober) ask(c *call, had int) {
	w, l, s := p.w, p.w.loop, p.to
	var arrive func()
	arrive = func() {
		switch {
		case c.over:
		case s.frozen, s.hang, w.net.cutEither(sessions, p.from, s.name):
			l.after(20*time.Millisecond, arrive)
		case had != 0 && (!s.up || s.boot != had):
			l.finish(c, nil, errBroken)
		case !s.up:
			l.finish(c, nil, errRefused)
		default:
			g := glance{detector.Reading{Closed: s.superRO}, s.boot}
			if s.source != nil {
				g.Receiver = &detector.Receiver{Source: s.source.name, Lost: s.receiverOn && s.stream == nil}
			}
			if s.armed {
				g.Acks = &detector.Acks{Waiting: len(s.commits), Acknowledged: s.acked}
			}
			l.finish(c, g, nil)
		}
	}
	l.after(w.net.latency()+s.took(100*time.Microsecond, 500*time.Microsecond), arrive)
}
