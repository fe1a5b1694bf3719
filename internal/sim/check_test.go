package sim

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"time"

	"interrex/election"
	"interrex/failover"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

// checker watches a run and notes what must never be. It belongs to the loop.
type checker struct {
	w     *world
	acked gtid.Set // every commit that a client was told is done
	// who acknowledged in each epoch, by the marker it has.
	who        map[topology.Epoch]topology.NodeName
	violations []string
	roles      int // changes of the recorded primary
	uncovered  int // commits acknowledged while degraded
	kept       int // times that the store alone was away and the primary served
	kinds      map[election.Kind]int

	mu    sync.Mutex // seen and obeyed are called by the agents' goroutines
	stale []string
}

func newChecker(w *world) *checker {
	return &checker{w: w, who: map[topology.Epoch]topology.NodeName{}, kinds: map[election.Kind]int{}}
}

func (c *checker) violate(invariant, format string, args ...any) {
	what := invariant + ": " + fmt.Sprintf(format, args...)
	c.w.loop.trace.note(c.w.loop.now(), "VIOLATION", what)
	if len(c.violations) < 5 {
		c.violations = append(c.violations, what)
	}
}

// acknowledged: a session is told that its commit is done.
func (c *checker) acknowledged(s *server, t *commit) {
	c.w.loop.trace.note(c.w.loop.now(), string(s.name), "acknowledges")
	degraded := c.covered(s, t)
	if t.marker != nil {
		return // the controller's own
	}
	if degraded {
		c.uncovered++
		return
	}
	c.acked = c.acked.Union(t.id)
	if by, ok := c.who[s.marker.Epoch]; ok && by != s.name {
		c.violate("I2", "%s and %s both acknowledged in epoch %d", by, s.name, s.marker.Epoch)
	}
	c.who[s.marker.Epoch] = s.name
	p := c.w.store.state.Primary
	if p == nil {
		c.violate("I2", "%s acknowledged before any primary was recorded", s.name)
		return
	}
	if p.Node == s.name {
		return
	}
	if primary := c.w.server(p.Node); !primary.received().Contains(t.id) {
		c.violate("I1", "%s acknowledged %s in epoch %d, which %s, recorded in epoch %d, lacks", s.name, short(t.id), s.marker.Epoch, p.Node, p.Epoch)
	}
}

// covered tells whether the record promises nothing for a commit that is
// acknowledged, and notes if it promises more than is kept.
func (c *checker) covered(s *server, t *commit) (degraded bool) {
	st := c.w.store.state
	p := st.Primary
	if p == nil || p.Node != s.name || (t.marker == nil && s.marker.Epoch != p.Epoch) {
		return false
	}
	registered := uint64(0)
	for _, o := range c.w.servers {
		if st.Register.Has(o.name) {
			registered |= 1 << o.index
		}
	}
	// What the primary was committing when its register became stricter is in
	// the base, which every proof has to contain.
	if n := bits.OnesCount64(t.acks & registered); n < st.Register.K && !p.Base.Contains(t.id) {
		c.violate("I3", "%s acknowledges %s with %d of the registered %v, of which %d are promised", s.name, short(t.id), n, st.Register.Ackers, st.Register.K)
	}
	if st.Register.K == 0 && st.Degraded == nil {
		c.violate("I4", "k is 0 and nothing says that the cluster is degraded")
	}
	return st.Register.K == 0
}

// recorded: the record is about to change.
func (c *checker) recorded(from, to election.State) {
	c.w.loop.trace.note(c.w.loop.now(), "record", describe(to))
	if to.Epoch < from.Epoch || (from.Primary != nil && to.Primary != nil && to.Primary.Epoch < from.Primary.Epoch) {
		c.violate("I5", "epoch of the record goes back: %s to %s", describe(from), describe(to))
	}
	if to.Primary != nil && to.Primary.Lossy != nil {
		c.violate("I3", "marked as having answered without acknowledgement, which nobody has told it to: %s", describe(to))
	}
	if from.Operation == nil && to.Operation != nil || from.Operation != nil && to.Operation != nil && to.Operation.Epoch > from.Operation.Epoch {
		c.kinds[to.Operation.Kind]++
	}
	if to.Primary == nil || (from.Primary != nil && from.Primary.Node == to.Primary.Node) {
		return
	}
	c.roles++
	s := c.w.server(to.Primary.Node)
	if lost := c.acked.Minus(s.received()); !lost.IsEmpty() {
		c.violate("I1", "%s is recorded in epoch %d and lacks acknowledged %s", s.name, to.Primary.Epoch, short(lost))
	}
}

// storeAway: the store goes away now; back is to be called when it is back. If
// nothing else was wrong meanwhile, the primary has to have served all the time.
func (c *checker) storeAway() (back func()) {
	w, began := c.w, c.w.loop.now()
	p, struck, acked := w.store.state.Primary, w.struck, c.acked.Count()
	if p == nil || w.active > 1 || c.unsettled() != "" {
		return func() {}
	}
	s := w.server(p.Node)
	return func() {
		if w.struck != struck || w.loop.now()-began < time.Second {
			return
		}
		c.kept++
		if !s.writable() || c.acked.Count() == acked {
			c.violate("I9", "the primary %s did not serve while only the store was away", s.name)
		}
	}
}

// seen is the highest epoch that a member knows of: by a command that it has
// carried out, or by the record.
func (c *checker) seen(a *agent) topology.Epoch {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(a.obeyed, a.registry.Snapshot().State.Epoch)
}

// obeyed: a member has carried out a command, before which it knew of the
// promised epoch.
func (c *checker) obeyed(a *agent, what string, epoch, promised topology.Epoch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if epoch < promised {
		c.stale = append(c.stale, fmt.Sprintf("%s obeyed %q of epoch %d, and knew of epoch %d", a.name, what, epoch, promised))
	}
	a.obeyed = max(a.obeyed, epoch)
}

// opened: a server opens for clients.
func (c *checker) opened(s *server) {
	c.w.loop.trace.note(c.w.loop.now(), string(s.name), "opens")
}

// atEnd checks what must hold once everything has healed and settled.
func (c *checker) atEnd() {
	for _, what := range c.stale {
		c.violate("I5", "%s", what)
	}
	st := c.w.store.state
	for _, s := range c.w.servers {
		if lost := c.acked.Minus(s.executed); !lost.IsEmpty() {
			c.violate("I1", "in the end %s lacks acknowledged %s", s.name, short(lost))
		}
	}
	for e := topology.Epoch(1); e <= st.Epoch; e++ {
		raw, ok := c.w.store.reports[e]
		if !ok {
			c.violate("I7", "epoch %d of %d is not in the ledger", e, st.Epoch)
			continue
		}
		var r failover.Report
		if err := json.Unmarshal(raw, &r); err != nil || r.Outcome == failover.Unfinished || r.Outcome == "" {
			c.violate("I7", "the ledger entry of epoch %d has no outcome", e)
		}
		if r.RPO.LostCommits != nil && *r.RPO.LostCommits > 0 {
			c.violate("I1", "the report of epoch %d says that %d commits were lost", e, *r.RPO.LostCommits)
		}
	}
}

// unsettled says what is not yet as it should be in good times, or nothing.
func (c *checker) unsettled() string {
	st := c.w.store.state
	p := st.Primary
	switch {
	case p == nil:
		return "no primary is recorded"
	case st.Operation != nil:
		return fmt.Sprintf("%s of epoch %d is in flight at %s", st.Operation.Kind, st.Operation.Epoch, st.Operation.Step)
	case p.Phase != election.Open || st.Epoch != p.Epoch:
		return "the recorded primary is not open: " + describe(st)
	}
	for _, s := range c.w.servers {
		switch {
		case s.name == p.Node && !s.writable():
			return fmt.Sprintf("%s is the primary and does not take writes", s.name)
		case s.name == p.Node && !(s.armed && s.k >= st.Register.K):
			return fmt.Sprintf("%s is not armed", s.name)
		case s.name == p.Node:
		case s.writable():
			return fmt.Sprintf("%s is open too", s.name)
		case s.stream == nil || s.stream.from.name != p.Node || !s.applierOn:
			return fmt.Sprintf("%s does not follow %s", s.name, p.Node)
		case !st.Register.Has(s.name) || !s.stream.acker:
			return fmt.Sprintf("%s is no acker", s.name)
		case st.Sources[s.name] != p.Node:
			return fmt.Sprintf("%s is not confirmed at %s", s.name, p.Node)
		}
	}
	for _, a := range c.w.agents {
		if r := a.table.Current(); r.Epoch != p.Epoch || r.Primary == nil || r.Primary.Node != p.Node {
			return fmt.Sprintf("the route of %s leads elsewhere", a.name)
		}
	}
	return ""
}

// level tells whether all have executed the same.
func (c *checker) level() bool {
	return !slices.ContainsFunc(c.w.servers, func(s *server) bool {
		return len(s.commits) > 0 || !s.executed.Equal(c.w.servers[0].executed)
	})
}

func describe(s election.State) string {
	var b strings.Builder
	fmt.Fprintf(&b, "epoch %d", s.Epoch)
	if p := s.Primary; p != nil {
		fmt.Fprintf(&b, ", primary %s of epoch %d %s", p.Node, p.Epoch, p.Phase)
	}
	fmt.Fprintf(&b, ", ackers %v k %d", s.Register.Ackers, s.Register.K)
	if o := s.Operation; o != nil {
		fmt.Fprintf(&b, ", %s of epoch %d by %s at %s", o.Kind, o.Epoch, o.Leader, o.Step)
	}
	return b.String()
}

// short prints a set with the numbers of the servers in place of their uuids.
func short(s gtid.Set) string {
	return strings.ReplaceAll(s.String(), "00000000-0000-0000-0000-00000000000", "")
}

func (w *world) describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "record: %s, sources %v, leader %s\n", describe(w.store.state), w.store.state.Sources, w.store.leader)
	for _, s := range w.servers {
		src, conn := "nobody", false
		if s.source != nil {
			src, conn = string(s.source.name), s.stream != nil
		}
		fmt.Fprintf(&b, "%s: up %v, frozen %v, boot %d, super_read_only %v, read_only %v, armed %v k %d, from %s (receiver %v, connected %v, acker %v, applier %v), executed %s, received %s, %d commits under way\n",
			s.name, s.up, s.frozen, s.boot, s.superRO, s.readOnly, s.armed, s.k, src, s.receiverOn, conn, s.ackerFlag, s.applierOn, short(s.executed), short(s.received()), len(s.commits))
	}
	for _, a := range w.agents {
		fmt.Fprintf(&b, "%s: dead %v, frozen %v, route %d %s\n", a.name, a.proc.dead, a.proc.frozen, a.table.Current().Epoch, a.table.Current().Phase)
	}
	return b.String()
}
