package detector

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"interrex/internal/topology"
)

// record keeps own evidence, judges at once, and tells the others: at once if
// it is news, else with the next repetition.
func (d *Detector) record(ev Evidence) {
	d.mu.Lock()
	now := time.Now()
	news, reliable, before := d.keep(&ev, now)
	if m := (matter{name: ev.Subject, member: ev.Kind.group() == groupMember}); d.rejudges(m, ev, before) {
		d.judge(m, now)
	}
	if news && ev.Kind.raisesSuspicion() {
		wake(d.suspicions[ev.Subject])
	}
	var packets [][]byte
	if news {
		packets = d.pack([]seen{{ev, now}}, now)
	}
	d.mu.Unlock()
	for _, p := range packets {
		d.gossip.send(p, reliable)
	}
}

// keep completes own evidence with what its predecessor knew and stores it.
// news: the others should know now; reliable: at any cost; old: what it
// replaces, as of now.
func (d *Detector) keep(ev *Evidence, now time.Time) (news, reliable bool, old *Evidence) {
	ev.Observer, ev.Boot, ev.Slow = d.cfg.Self, d.boot, d.slow(now)
	ev.Detail = clean(ev.Detail)
	d.seq++
	ev.Seq = d.seq
	if ev.Kind.Good() {
		ev.LastGood = ev.Age
	} else {
		ev.LastGood = -1
	}
	before, had := d.store.put(*ev, now)
	if had {
		was := before.later(now)
		old = &was
		if old.Kind.Good() == ev.Kind.Good() && old.Kind.Bad() == ev.Kind.Bad() {
			ev.Since = max(ev.Since, old.Since)
		}
		if ev.LastGood < 0 {
			ev.LastGood = old.LastGood
		}
		d.store.put(*ev, now)
	}
	if ev.Kind.group() == groupProbe {
		d.store.drop(slot{d.cfg.Self, ev.Subject, groupPending})
	}
	news = !had || before.Kind != ev.Kind || (ev.Kind.timeout() && ev.Misses == d.w.Misses)
	reliable = news && (ev.Kind.Bad() || (had && before.Kind.Bad()))
	return news, reliable, old
}

// slow tells whether this member should not be believed about others.
func (d *Detector) slow(now time.Time) bool {
	held := !d.stalledAt.IsZero() && now.Sub(d.stalledAt) < d.w.Freshness
	return held || d.gossip.slow()
}

// sayGoodbye tells the others that this member leaves by intent.
func (d *Detector) sayGoodbye() {
	d.mu.Lock()
	head := d.head(time.Now())
	d.mu.Unlock()
	head.Leaving = true
	packets, err := encodeEvidence(head, nil)
	if err != nil {
		d.log.Error("encode good-bye", zap.Error(err))
	}
	for _, p := range packets {
		d.gossip.send(p, true)
	}
}

func (d *Detector) head(now time.Time) envelope {
	return envelope{From: d.cfg.Self, Boot: d.boot, Clock: now.Sub(d.start).Microseconds(), Slow: d.slow(now)}
}

// pack makes datagrams of own evidence.
func (d *Detector) pack(own []seen, now time.Time) [][]byte {
	head := d.head(now)
	items := make([]wireItem, 0, len(own))
	for _, s := range own {
		items = append(items, toWire(s.later(now)))
	}
	packets, err := encodeEvidence(head, items)
	if err != nil {
		d.log.Error("encode evidence", zap.Error(err))
	}
	return packets
}

// repeat tells the others all own evidence once per interval: so a lost
// datagram costs one interval, and silence means something.
func (d *Detector) repeat(ctx context.Context) {
	tick := time.NewTicker(d.w.Interval)
	defer tick.Stop()
	for {
		d.noteIsolation(time.Now())
		d.mu.Lock()
		now := time.Now()
		own := d.store.own(d.cfg.Self)
		for i := range own {
			d.seq++
			own[i].Seq = d.seq
			own[i].Slow = d.slow(now)
			if own[i].Kind.standing() {
				own[i].Evidence = own[i].later(now)
				own[i].Age, own[i].at = 0, now
			}
			d.store.put(own[i].Evidence, own[i].at)
		}
		packets := d.pack(own, now)
		d.mu.Unlock()
		for _, p := range packets {
			d.gossip.send(p, false)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// readEvidence takes in what the others send.
func (d *Detector) readEvidence(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case body := <-d.gossip.evidence:
			env, err := decodeEvidence(body)
			if err != nil {
				d.log.Debug("drop datagram", zap.Error(err))
				continue
			}
			d.take(env)
		}
	}
}

// take keeps and judges a datagram's evidence. What newly accuses an instance
// has it probed here at once.
func (d *Detector) take(env envelope) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if env.From == d.cfg.Self || !slices.Contains(d.registered, env.From) {
		return
	}
	env.Items = slices.DeleteFunc(env.Items, func(it wireItem) bool {
		if it.Kind.group() == groupMember {
			return !slices.Contains(d.registered, it.Subject)
		}
		_, ok := d.subjects[it.Subject]
		return !ok
	})
	if env.Leaving {
		d.gossip.goodbye(env.From)
	}
	now := time.Now()
	touched := map[matter]bool{}
	for _, c := range d.store.accept(env, now) {
		m := matter{name: c.evidence.Subject, member: c.evidence.Kind.group() == groupMember}
		if d.rejudges(m, c.evidence, c.before) {
			touched[m] = true
		}
		if c.turned && c.evidence.Kind.Bad() && !m.member {
			d.nudge(m.name)
		}
		if c.turned && c.evidence.Kind.raisesSuspicion() {
			wake(d.suspicions[m.name])
		}
	}
	if d.verdicts[matter{env.From, true}].verdict != topology.Healthy {
		touched[matter{env.From, true}] = true
	}
	for m := range touched {
		d.judge(m, now)
	}
}

// readPresences turns gossip's view into own evidence.
func (d *Detector) readPresences(ctx context.Context) {
	told := map[topology.NodeName]Kind{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.gossip.moved:
		}
		for _, p := range d.gossip.presences() {
			if told[p.name] == p.kind || !d.isRegistered(p.name) {
				continue
			}
			told[p.name] = p.kind
			d.log.Info("member", zap.String("member", string(p.name)), zap.String("presence", string(p.kind)))
			d.record(Evidence{Subject: p.name, Kind: p.kind})
		}
	}
}
