package sim

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	_ "interrex/internal/onecore"
)

// loop decides what happens next, and is the only one who does. Agents run in
// goroutines of their own, but whatever they ask of the outside (a server, the
// store, another agent) is a call that parks them. The loop waits until all of
// them are parked or wait for a timer, and then lets exactly one go on. Calls
// that came at the same time are put in the order of their keys before any
// random number is drawn for them, so that the order in which goroutines ran
// has no influence.
type loop struct {
	draw  *rand.Rand // of the loop's goroutine alone
	begin time.Time
	poked chan struct{}

	mu       sync.Mutex
	incoming []*call // calls that the loop has not seen yet
	ended    []*call // calls whose context ended while they were parked

	ready  []*call // calls to let go on, in order
	events eventQueue
	seq    uint64
	// taken has the nanoseconds within a millisecond at which a goroutine was
	// let go on. Each is used once: timers that agents set are whole
	// milliseconds, so those set in different turns never fire together.
	taken [1_000_000 / 64]uint64
	free  int
	turns int // how often a goroutine was let go on

	trace    *trace
	traps    []*trap
	admitted int
	ties     int // calls that came together under one key, whose order is anybody's guess
}

func newLoop(seed uint64, t *trace) *loop {
	return &loop{draw: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)), begin: time.Now(), poked: make(chan struct{}, 1), trace: t}
}

// process is what dies, freezes and thaws together: an agent from its start to
// its end.
type process struct {
	name         string
	dead, frozen bool
	held         []func() // what happens when it thaws
	calls        map[*call]struct{}
}

func newProcess(name string) *process { return &process{name: name, calls: map[*call]struct{}{}} }

var errKilled = errors.New("this process was killed")

// call is one question of a goroutine to the outside, or (without done) its
// answer to one.
type call struct {
	what  string // of the key, without on whose behalf
	key   string
	n     int // as they were admitted
	by    *process
	ctx   context.Context
	begin func(*call)
	// onEnd replaces what happens when ctx ends while the call is parked: by
	// default it returns the context's error.
	onEnd func()
	done  chan struct{}
	hand  func() // in place of done, see push
	over  bool
	value any
	err   error
}

// do parks the calling goroutine. begin runs in the loop, and the call ends
// when the loop calls finish, or its context ends.
func (l *loop) do(ctx context.Context, by *process, key string, begin func(*call)) (any, error) {
	what := key
	if of, ok := ctx.Value(behalf{}).(string); ok {
		key += " (" + of + ")"
	}
	if of, ok := pprof.Label(ctx, "election"); ok {
		key += " " + of
	}
	c := &call{what: what, key: key, by: by, ctx: ctx, begin: begin, done: make(chan struct{})}
	l.enter(c)
	var stop func() bool
	if ctx.Done() != nil {
		stop = context.AfterFunc(ctx, func() {
			l.mu.Lock()
			l.ended = append(l.ended, c)
			l.mu.Unlock()
			l.poke()
		})
	}
	<-c.done
	if stop != nil {
		stop()
	}
	return c.value, c.err
}

// post hands something to the loop without waiting.
func (l *loop) post(by *process, key string, begin func()) {
	l.enter(&call{key: key, by: by, begin: func(*call) { begin() }})
}

// push has something be handed to a process in a turn of its own.
func (l *loop) push(to *process, hand func()) {
	l.ready = append(l.ready, &call{key: to.name + " is told", by: to, hand: hand})
}

func (l *loop) enter(c *call) {
	l.mu.Lock()
	l.incoming = append(l.incoming, c)
	l.mu.Unlock()
	l.poke()
}

func (l *loop) poke() {
	select {
	case l.poked <- struct{}{}:
	default:
	}
}

// finish ends a call; a second time it does nothing.
func (l *loop) finish(c *call, value any, err error) {
	if c.over {
		return
	}
	c.over, c.value, c.err = true, value, err
	delete(c.by.calls, c)
	if c.by.frozen && !c.by.dead {
		c.by.held = append(c.by.held, func() { l.ready = append(l.ready, c) })
		return
	}
	l.ready = append(l.ready, c)
}

// kill ends a process: nothing that it asks or answers from now on arrives.
func (l *loop) kill(p *process) {
	p.dead, p.frozen = true, false
	held := p.held
	p.held = nil
	for _, h := range held {
		h()
	}
	for _, c := range slices.SortedFunc(keysOf(p.calls), compareCalls) {
		l.finish(c, nil, errKilled)
	}
}

func (l *loop) thaw(p *process) {
	p.frozen = false
	held := p.held
	p.held = nil
	for _, h := range held {
		h()
	}
}

func compareCalls(a, b *call) int { return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.n, b.n)) }

// behalf is what distinguishes calls of the same kind that come together: the
// part of an agent, or the order, in whose course they are made.
type behalf struct{}

func onBehalf(ctx context.Context, of string) context.Context {
	return context.WithValue(ctx, behalf{}, of)
}

// admit takes in what came since the last turn, in the order of keys.
func (l *loop) admit() {
	l.mu.Lock()
	incoming, ended := l.incoming, l.ended
	l.incoming, l.ended = nil, nil
	l.mu.Unlock()
	slices.SortFunc(incoming, compareCalls)
	for i, c := range incoming {
		if i > 0 && incoming[i-1].key == c.key {
			l.ties++
			l.trace.note(l.now(), "TIE", c.key)
		}
		l.admitted++
		c.n = l.admitted
		l.begun(c)
	}
	slices.SortFunc(ended, compareCalls)
	for _, c := range ended {
		switch {
		case c.over:
		case c.onEnd != nil:
			c.onEnd()
		default:
			l.finish(c, nil, c.ctx.Err())
		}
	}
}

func (l *loop) begun(c *call) {
	switch {
	case c.done == nil && c.by.dead:
	case c.by.dead:
		l.finish(c, nil, errKilled)
	case c.by.frozen:
		c.by.held = append(c.by.held, func() { l.begun(c) })
	case c.done == nil:
		c.begin(c)
	case c.ctx.Err() != nil:
		l.finish(c, nil, c.ctx.Err())
	default:
		l.trace.note(l.now(), "?", c.key)
		c.by.calls[c] = struct{}{}
		l.spring(c, false)
		if !c.over {
			c.begin(c)
		}
	}
}

// trap is set off by a call, when it begins or has ended.
type trap struct {
	on    string // part of what it is
	after bool
	nth   int
	do    func()
}

func (l *loop) spring(c *call, after bool) {
	for _, t := range slices.Clone(l.traps) {
		if t.after != after || !strings.Contains(c.what, t.on) {
			continue
		}
		if t.nth--; t.nth <= 0 {
			l.traps = slices.DeleteFunc(l.traps, func(o *trap) bool { return o == t })
			t.do()
		}
	}
}

// after has do happen in the loop d from now.
func (l *loop) after(d time.Duration, do func()) {
	l.seq++
	heap.Push(&l.events, event{at: time.Now().Add(d), seq: l.seq, do: do})
}

// later is after, within a time drawn between least and most.
func (l *loop) later(least, most time.Duration, do func()) { l.after(l.between(least, most), do) }

func (l *loop) between(least, most time.Duration) time.Duration {
	return least + time.Duration(l.draw.Int64N(int64(most-least)+1))
}

func (l *loop) chance(percent int) bool { return l.draw.IntN(100) < percent }

func (l *loop) now() time.Duration { return time.Since(l.begin) }

// run is the loop, until over says so.
func (l *loop) run(over func() bool) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		synctest.Wait()
		if over() {
			return
		}
		select {
		case <-l.poked:
		default:
		}
		l.admit()
		if len(l.ready) > 0 {
			c := l.ready[0]
			l.ready = l.ready[1:]
			if c.by.dead {
				if c.done != nil {
					close(c.done) // it has no part in anything any more
				}
				continue
			}
			l.moment()
			l.turns++
			l.trace.result(l.now(), c)
			if c.hand != nil {
				c.hand()
				continue
			}
			l.spring(c, true)
			close(c.done)
			continue
		}
		if l.events.Len() == 0 {
			panic("nothing is ever to happen again")
		}
		wait := time.Until(l.events[0].at)
		if wait <= 0 {
			heap.Pop(&l.events).(event).do()
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-l.poked:
			l.poke() // looked at by the next round, once all is quiet
		}
	}
}

// moment waits for a moment that no goroutine was let go on at, as far as the
// timers that it may set are concerned.
func (l *loop) moment() {
	if l.free == 0 {
		l.taken, l.free = [1_000_000 / 64]uint64{}, 900_000
	}
	l.free--
	at := l.now()
	n := int(at % 1_000_000)
	wait := time.Duration(0)
	for l.taken[n/64]&(1<<(n%64)) != 0 {
		n = (n + 1) % 1_000_000
		wait++
	}
	l.taken[n/64] |= 1 << (n % 64)
	if wait > 0 {
		time.Sleep(wait)
		synctest.Wait()
	}
}

type event struct {
	at  time.Time
	seq uint64
	do  func()
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	if c := q[i].at.Compare(q[j].at); c != 0 {
		return c < 0
	}
	return q[i].seq < q[j].seq
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}

// trace is everything that happened, in order: as a sum that two runs of one
// seed must agree on, and in words where they are asked for.
type trace struct {
	sum   uint64
	lines []string
	keep  bool
}

func (t *trace) mix(s string) {
	for i := range len(s) {
		t.sum = (t.sum ^ uint64(s[i])) * 1099511628211
	}
}

func (t *trace) note(at time.Duration, parts ...string) {
	if t.sum == 0 {
		t.sum = 14695981039346656037
	}
	t.sum = (t.sum ^ uint64(at)) * 1099511628211
	for _, p := range parts {
		t.mix(p)
	}
	if t.keep {
		t.lines = append(t.lines, fmt.Sprintf("%12.6f ms %v", float64(at)/1e6, parts))
	}
}

func (t *trace) result(at time.Duration, c *call) {
	how := "ok"
	switch {
	case errors.Is(c.err, context.Canceled), errors.Is(c.err, context.DeadlineExceeded):
		how = "called off" // both may come at one instant
	case c.err != nil:
		how = c.err.Error()
	}
	t.note(at, "=", c.key, how)
}
