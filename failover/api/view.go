package api

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/failover"
	"interrex/internal/topology"
)

// judge finds the verdict on a member; false if there is none.
type judge func(topology.NodeName) (failover.Judgement, bool)

// newCluster tells v at a glance. It is pure.
func newCluster(now time.Time, name string, v failover.View, gates []failover.Gate, judged judge) Cluster {
	c := Cluster{
		Name: name, Self: v.Self, Epoch: v.State.Epoch, Leader: v.Leadership.Holder,
		EtcdReachable: v.EtcdReachable, Paused: v.State.Paused,
		Members: newMembers(v, judged), Durability: newDurability(v), GatesClosed: []failover.Gate{},
	}
	if p := v.State.Primary; p != nil {
		c.Primary = &Primary{
			Node: p.Node, Address: p.Address, Epoch: p.Epoch, Phase: p.Phase, Since: p.Since,
			Verdict: v.Primary.Verdict, Cause: v.Primary.Cause, Explanation: v.Primary.Explanation, Forced: p.Forced,
		}
	}
	if o := v.State.Operation; o != nil {
		c.Operation = &Operation{
			Kind: o.Kind, Epoch: o.Epoch, Step: o.Step, From: o.From, To: o.To, Leader: o.Leader, Cause: o.Cause,
			StartedAt: o.StartedAt, ElapsedMS: millis(now.Sub(o.StartedAt)),
		}
	}
	for _, g := range gates {
		if !g.Open {
			c.GatesClosed = append(c.GatesClosed, g)
		}
	}
	c.Status, c.Reasons = judgeStatus(c, v, now)
	return c
}

// serves tells whether the record names a primary that routes lead to.
func serves(s election.State) bool {
	return s.Primary != nil && s.Operation == nil && s.Primary.Epoch == s.Epoch && s.Primary.Phase == election.Open
}

// judgeStatus finds the worst word that fits, and every reason.
func judgeStatus(c Cluster, v failover.View, now time.Time) (Status, []string) {
	hungry := starved(c, v)
	weak := weaknesses(c, v, now, hungry)
	if v.State.WasRemoved(v.Self) {
		weak = append(weak, fmt.Sprintf("%s was removed from the cluster: its routes are closed, and its server follows nobody", v.Self))
	}
	if v.Isolated != nil {
		return StatusNoPrimary, append([]string{v.Isolated.String()}, weak...)
	}
	switch p := c.Primary; {
	case c.Operation != nil:
		o := c.Operation
		return StatusFailingOver, append([]string{fmt.Sprintf("%s of epoch %d is at step %s", o.Kind, o.Epoch, o.Step)}, weak...)
	case p == nil:
		return StatusNoPrimary, append([]string{"the cluster has no primary yet"}, weak...)
	case !serves(v.State):
		return StatusNoPrimary, append([]string{fmt.Sprintf("epoch %d was begun and has no open primary", c.Epoch)}, weak...)
	case p.Verdict == topology.Failed:
		return StatusNoPrimary, append([]string{fmt.Sprintf("the primary %s has failed: %s", p.Node, p.Explanation)}, weak...)
	case hungry:
		return StatusStarved, weak
	case len(weak) > 0 || p.Verdict == topology.Suspect:
		if p.Verdict == topology.Suspect {
			weak = append([]string{fmt.Sprintf("the primary %s is suspect: %s", p.Node, p.Explanation)}, weak...)
		}
		return StatusDegraded, weak
	}
	return StatusHealthy, []string{}
}

// starved tells whether commits wait for acknowledgements that cannot come: the
// primary itself counts too few replicas that acknowledge, or too few ackers
// are left that might. One whose agent is silent but whose server is judged
// healthy might: replication does not need the agent.
func starved(c Cluster, v failover.View) bool {
	k := c.Durability.K
	if c.Primary == nil {
		return false
	}
	n, ok := v.Nodes[c.Primary.Node]
	if !ok || n.Instance == nil || !n.Instance.Writable() || !n.Instance.SemiSync.SourceEnabled || k == 0 {
		return false // it does not wait, or is not known to
	}
	might := 0
	for _, m := range c.Members {
		if m.Acker && (m.Acknowledging || m.Role == RoleUnreachable && m.Verdict == topology.Healthy) {
			might++
		}
	}
	return n.Instance.SemiSync.Clients < k || might < k
}

// weaknesses are what would make the next failure worse than it must be.
func weaknesses(c Cluster, v failover.View, now time.Time, hungry bool) []string {
	reasons := []string{}
	add := func(format string, args ...any) { reasons = append(reasons, fmt.Sprintf(format, args...)) }
	if d := v.State.Degraded; d != nil {
		add("commits are not lossless since %s: %s; they are on the primary alone", d.Since.Format(time.RFC3339), d.Reason)
	}
	if why := atRisk(v); why != "" {
		reasons = append(reasons, why)
	}
	switch seen, k := len(c.Durability.Acknowledging), c.Durability.K; {
	case hungry && seen >= k: // they believe so
		add("commits wait: the primary has fewer than the %d replicas it needs that acknowledge", k)
	case hungry:
		add("commits wait: %d of the %d needed ackers acknowledge", seen, k)
	case c.Primary != nil && seen < k:
		add("%d of the %d needed ackers are seen to acknowledge", seen, k)
	}
	if !c.EtcdReachable {
		add("etcd cannot be reached: no promotion possible")
	}
	if c.Leader == "" {
		add("no member leads: no promotion possible")
	}
	if c.Paused != nil {
		add("paused by %s: %s", c.Paused.By, c.Paused.Reason)
	}
	for _, g := range c.GatesClosed {
		switch {
		case g.Name == failover.GateFlapping:
			add("automatic failover has stopped: %s", g.Reason)
		case g.Name == failover.GateCurrent && g.Operation == election.Failover:
			add("no promotion possible: %s", g.Reason)
		}
	}
	if c.Primary != nil && !c.Durability.Lossless {
		add("commits are not lossless")
	}
	for _, m := range c.Members {
		if why := weaknessOf(m); why != "" {
			reasons = append(reasons, why)
		}
		reasons = append(reasons, weaknessesOfNginx(m)...)
		reasons = append(reasons, runningOut(m, now)...)
	}
	for name := range v.Nodes {
		if !slices.ContainsFunc(v.Members, func(m topology.Member) bool { return m.Name == name }) {
			add("%s answers and is not registered", name)
		}
	}
	return reasons
}

// atRisk says which commits were answered without acknowledgement and may be on
// the primary alone; empty if each of them is known to be on enough ackers.
func atRisk(v failover.View) string {
	p := v.State.Primary
	if p == nil || p.Lossy == nil {
		return ""
	}
	since := p.Lossy.Since.UTC().Format(time.RFC3339)
	if p.Lossy.Ongoing() {
		return fmt.Sprintf("commits are answered without acknowledgement since %s: %s; no promotion possible", since, p.Lossy.Reason)
	}
	have := 0
	for _, a := range v.State.Register.Ackers {
		if n, ok := v.Nodes[a]; ok && n.Instance != nil && n.Instance.Received.Contains(p.Base) {
			have++
		}
	}
	if have >= v.State.Register.Needed() {
		return ""
	}
	return fmt.Sprintf("up to %d commits were answered without acknowledgement from %s on (%s), and are not on enough ackers yet: no promotion possible", p.Lossy.Commits, since, p.Lossy.Reason)
}

// lagTold is how far a replica may be behind before that is a weakness of the
// cluster, whatever its routes accept.
const lagTold = 10 * time.Second

// weaknessOf is what of a member would make the next failure worse; empty if
// nothing would.
func weaknessOf(m Member) string {
	switch {
	case m.Role == RoleStray:
		return fmt.Sprintf("%s would take writes but is not the recorded primary", m.Name)
	case m.Role == RoleUnreachable:
		return fmt.Sprintf("%s cannot be reached: %s", m.Name, m.Error)
	case m.Errant != "":
		return fmt.Sprintf("%s holds transactions the primary lacks and is left closed", m.Name)
	case m.Role == RoleRebuilding:
		return fmt.Sprintf("%s is being rebuilt", m.Name)
	case m.Role == RoleClosed:
		return fmt.Sprintf("%s is closed and follows nobody", m.Name)
	case m.Error != "":
		return fmt.Sprintf("%s: %s", m.Name, m.Error)
	case m.Role == RoleReplica && !m.Acker:
		return fmt.Sprintf("%s is no acker yet: %s", m.Name, behindText(m.Missing))
	case m.Acker && !m.Acknowledging:
		return fmt.Sprintf("%s is an acker and does not acknowledge", m.Name)
	case m.Acker && !m.Certified:
		return fmt.Sprintf("%s restarted and has not caught up since: it would prove nothing in a failover", m.Name)
	case m.LagMS != nil && *m.LagMS > millis(lagTold):
		return fmt.Sprintf("%s is %.0f s behind: a failover to it would have to apply that first", m.Name, *m.LagMS/1000)
	}
	return ""
}

// EtcdFilling (of its database's quota) and certificateEnds are from when on what
// runs out is a weakness of the cluster.
const (
	EtcdFilling     = 0.6
	certificateEnds = 7 * 24 * time.Hour
)

// runningOut is what will stop the cluster one day if nobody acts.
func runningOut(m Member, now time.Time) (reasons []string) {
	if m.EtcdUsed >= EtcdFilling {
		reasons = append(reasons, fmt.Sprintf("etcd's database is %.0f %% full, as %s knows: once it is full nobody is promoted", 100*m.EtcdUsed, m.Name))
	}
	if u := m.CertificateUntil; u != nil && u.Sub(now) < certificateEnds {
		reasons = append(reasons, fmt.Sprintf("the certificate of %s, or its authority's, ends at %s: renew it, or members will refuse each other", m.Name, u.UTC().Format(time.RFC3339)))
	}
	return reasons
}

// behindText says what a replica has before it until it is an acker.
func behindText(missing *uint64) string {
	if missing == nil || *missing == 0 {
		return "it is about to be registered"
	}
	return fmt.Sprintf("it lacks %d transactions of the primary", *missing)
}

// newDurability compares the register with what the servers say. The primary's
// own settings are believed only while it answers.
func newDurability(v failover.View) Durability {
	r := v.State.Register
	d := Durability{Ackers: list(r.Ackers), K: r.K, Shut: r.Shut, Acknowledging: []topology.NodeName{}}
	if v.State.Degraded != nil {
		d.DegradedSince = &v.State.Degraded.Since
	}
	if p := v.State.Primary; p != nil {
		d.Lossy = p.Lossy
	}
	if r.K > 0 {
		d.Needed = max(0, r.Needed())
	}
	for _, a := range r.Ackers {
		if acknowledges(v, a) {
			d.Acknowledging = append(d.Acknowledging, a)
		}
	}
	d.Lossless = v.State.Primary != nil && r.K > 0 && len(r.Ackers) >= r.K && !d.Lossy.Ongoing()
	if p := v.State.Primary; p != nil {
		if n, ok := v.Nodes[p.Node]; ok && n.Instance != nil && serves(v.State) {
			d.Unacknowledged = n.Instance.SemiSync.NoTx
			d.Lossless = d.Lossless && n.Instance.SemiSync.Lossless(r.K)
		}
	}
	return d
}

// acknowledges tells whether a node's receiver acknowledges commits of the
// recorded primary now.
func acknowledges(v failover.View, name topology.NodeName) bool {
	n, ok := v.Nodes[name]
	if !ok || n.Instance == nil || v.State.Primary == nil {
		return false
	}
	return n.Instance.SemiSync.ReplicaActive && follows(n.Instance, v.State.Primary) && n.Instance.Source.ReceiverOn && !n.Instance.Source.Deaf
}

// follows tells whether the instance replicates from the recorded primary. A
// receiver that was never connected does not know its source's UUID.
func follows(s *dbrepl.Status, p *election.Primary) bool {
	return s.Source != nil && (s.Source.ServerUUID == "" || s.Source.ServerUUID == p.ServerUUID)
}

// newMembers tells of all members, registered or not yet, by name.
func newMembers(v failover.View, judged judge) []Member {
	members := make([]Member, 0, len(v.Members))
	for _, m := range v.Members {
		members = append(members, newMember(v, m, judged))
	}
	for name := range v.State.Members {
		if !slices.ContainsFunc(v.Members, func(m topology.Member) bool { return m.Name == name }) {
			members = append(members, Member{Name: name, Role: RoleJoining, Leaving: v.State.Leaving(name)})
		}
	}
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return members
}

func newMember(v failover.View, m topology.Member, judged judge) Member {
	out := Member{
		Name: m.Name, Leader: m.Name == v.Leadership.Holder, API: m.API, MySQL: m.MySQL, RW: m.RW, RO: m.RO,
		AgentVersion: m.Version, Priority: m.Priority, Site: m.Site, Acker: v.State.Register.Has(m.Name),
		Leaving: v.State.Leaving(m.Name),
	}
	n, answers := v.Nodes[m.Name]
	if why, silent := v.Unreachable[m.Name]; silent {
		answers, out.Error = false, why
	} else if !answers {
		out.Error = "not asked yet"
	}
	if answers {
		out.Promised, out.Certified, out.Error, out.Etcd = n.Promised, n.Certified, n.InstanceError, string(n.Etcd)
		out.Route, out.Nginx, out.EtcdUsed = newMemberPath(n), newNginx(n.Nginx), n.EtcdUsed
		if !n.CertificateUntil.IsZero() {
			out.CertificateUntil = &n.CertificateUntil
		}
		out.describeTrouble(n)
		if n.Instance != nil {
			out.describeInstance(v, n.Instance)
			out.Acknowledging = acknowledges(v, m.Name)
		}
	}
	out.Role = chooseRole(v, m, n, answers)
	out.Verdict = memberVerdict(v, out, judged)
	if j, ok := judged(m.Name); ok && out.Error == "" && strings.HasPrefix(j.Cause, "disk_") {
		// Its server answers everything meanwhile.
		out.Error = fmt.Sprintf("its disk takes no writes (%s)", j.Cause)
	}
	return out
}

func newMemberPath(n failover.NodeStatus) MemberPath {
	p := MemberPath{Epoch: n.Route.Epoch, Phase: string(n.Route.Phase), Reason: n.Route.Reason}
	if n.Route.Primary != nil {
		p.Primary = n.Route.Primary.Node
	}
	return p
}

func (m *Member) describeTrouble(n failover.NodeStatus) {
	if n.Errant != nil {
		m.Errant = n.Errant.String()
	}
	if r := n.Rebuild; r != nil {
		m.Rebuild = &Rebuild{Stage: r.Stage, Since: r.Since, Errant: r.Errant.String(), SavedFile: r.SavedFile, Error: r.Error}
	}
}

func (m *Member) describeInstance(v failover.View, s *dbrepl.Status) {
	m.ServerVersion, m.Writable, m.Executed = s.Version, s.Writable(), s.Executed.String()
	isPrimary := v.State.Primary != nil && v.State.Primary.Node == m.Name
	if v.State.Primary != nil && !isPrimary {
		if p, ok := v.Nodes[v.State.Primary.Node]; ok && p.Instance != nil {
			missing := p.Instance.Executed.Minus(s.Executed).Count()
			m.Missing = &missing
		}
	}
	src := s.Source
	if src == nil || isPrimary {
		return
	}
	m.Source = fmt.Sprintf("%s:%d", src.Host, src.Port)
	if src.ApplierOn && (src.ReceiverOn || src.Unapplied > 0) {
		lag := millis(src.Lag)
		m.LagMS = &lag
	}
	switch {
	case m.Error != "":
	case !src.ReceiverOn:
		m.Error = fmt.Sprintf("receiver is %s: %s", src.ReceiverState, cmp.Or(src.ReceiverError, "no error"))
	case src.Deaf:
		m.Error = fmt.Sprintf("receiver is connected and has taken in nothing for %.0f s: it waits for its disk, or for the rest of a large transaction",
			src.HeartbeatAge.Seconds())
	case !src.ApplierOn:
		m.Error = "applier is stopped: " + cmp.Or(src.ApplierError, "no error")
	case s.Inadmissible != "":
		m.Error = "it may neither acknowledge nor be promoted: " + s.Inadmissible
	}
}

func chooseRole(v failover.View, m topology.Member, n failover.NodeStatus, answers bool) Role {
	primary := v.State.Primary
	switch {
	case m.HasInstance() && primary != nil && primary.Node == m.Name:
		return RolePrimary // as recorded, whether it answers or not
	case !answers:
		return RoleUnreachable
	case !m.HasInstance():
		return RoleArbiter
	case n.Rebuild.Underway():
		return RoleRebuilding
	case n.Instance == nil:
		return RoleUnreachable
	case n.Instance.Writable():
		return RoleStray
	case n.Instance.Source != nil && n.Errant == nil:
		return RoleReplica
	}
	return RoleClosed
}

// memberVerdict is the detector's where it has one; for others it is what the
// member says of itself.
func memberVerdict(v failover.View, m Member, judged judge) topology.Verdict {
	if v.State.Primary != nil && v.State.Primary.Node == m.Name {
		return v.Primary.Verdict
	}
	if j, ok := judged(m.Name); ok {
		return j.Verdict
	}
	switch {
	case m.Role == RoleUnreachable:
		return topology.Unknown
	case m.Error != "" || m.Errant != "":
		return topology.Suspect
	}
	return topology.Healthy
}
