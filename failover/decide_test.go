package failover

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/topology"
	"interrex/router"
)

// quietView is a cluster of n1 (primary, epoch 5), n2 and n3 in quiet times,
// as its leader a1 sees it; change alters it.
func quietView(change ...func(*View)) View {
	v := View{
		Self: "a1", EtcdReachable: true, Leadership: election.Leadership{Holder: "a1", Mine: true},
		State: election.State{
			Epoch: 5, Primary: primaryOf("1:1-5"), Register: register(1, "n2", "n3"),
			Sources: map[topology.NodeName]topology.NodeName{"n2": "n1", "n3": "n1"},
		},
		Nodes: map[topology.NodeName]NodeStatus{}, Unreachable: map[topology.NodeName]string{},
		Primary: Judgement{Subject: "n1", Verdict: topology.Healthy, Explanation: "it answers"},
	}
	for _, n := range []topology.NodeName{"n1", "n2", "n3"} {
		m := topology.Member{Name: n, MySQL: "127.0.0.1:330" + string(n[1:])}
		v.Members = append(v.Members, m)
		st := dbrepl.Status{
			ServerUUID: uuidOf(string(n[1:])), Version: "8.4.5", BootID: string(n), SuperReadOnly: n != "n1", ReadOnly: n != "n1",
			Executed: gtids("1:1-9"), Received: gtids("1:1-9"),
		}
		if n != "n1" {
			st.Source = &dbrepl.SourceStatus{ServerUUID: uuidOf("1"), ReceiverOn: true, ReceiverState: "ON", ApplierOn: true}
			st.SemiSync = dbrepl.SemiSync{ReplicaEnabled: true, ReplicaActive: true}
		}
		v.Nodes[n] = NodeStatus{Member: m, Promised: 5, Instance: &st, Certified: true}
	}
	for _, c := range change {
		c(&v)
	}
	return v
}

// with changes the instance of a node in a copy of its status.
func with(n topology.NodeName, change func(*NodeStatus, *dbrepl.Status)) func(*View) {
	return func(v *View) {
		st := v.Nodes[n]
		inst := *st.Instance
		if inst.Source != nil {
			src := *inst.Source
			inst.Source = &src
		}
		st.Instance = &inst
		change(&st, &inst)
		v.Nodes[n] = st
	}
}

func gone(n topology.NodeName) func(*View) {
	return func(v *View) {
		delete(v.Nodes, n)
		v.Unreachable[n] = "connection refused"
	}
}

func mysqldGone(n topology.NodeName) func(*View) {
	return with(n, func(s *NodeStatus, _ *dbrepl.Status) { s.Instance, s.InstanceError = nil, "connection refused" })
}

func failed(v *View) {
	v.Primary = Judgement{Subject: "n1", Verdict: topology.Failed, Explanation: "n1: refused by 2 of 3"}
}

func closed(n topology.NodeName) func(*View) {
	return with(n, func(_ *NodeStatus, i *dbrepl.Status) { i.SuperReadOnly, i.ReadOnly = true, true })
}

func pausedByOperator(v *View) {
	v.State.Paused = &election.Pause{By: "kim", Reason: "moving racks", Since: time.Unix(0, 0)}
}

func inOperation(kind election.Kind, step string) func(*View) {
	return func(v *View) {
		v.State.Epoch = 6
		v.State.Operation = &election.Operation{Kind: kind, Epoch: 6, Leader: "a2", Step: step, From: "n1"}
	}
}

func TestDecideOperation(t *testing.T) {
	for _, c := range []struct {
		name   string
		change []func(*View)
		manual bool // failover.automatic is off
		want   election.Kind
		cause  string
	}{
		{name: "quiet"},
		{name: "no primary yet, all are there", change: []func(*View){func(v *View) { v.State = election.State{} }}, want: election.Bootstrap},
		{name: "no primary yet, one is missing", change: []func(*View){func(v *View) { v.State = election.State{} }, gone("n3")}},
		{name: "no primary yet, one server is down", change: []func(*View){func(v *View) { v.State = election.State{} }, mysqldGone("n3")}},
		{name: "failed, host gone", change: []func(*View){failed, gone("n1")}, want: election.Failover, cause: "refused by 2 of 3"},
		{name: "failed, server gone", change: []func(*View){failed, mysqldGone("n1")}, want: election.Failover},
		{name: "failed for the majority, not for the leader", change: []func(*View){failed}, want: election.Failover},
		{name: "failed, and paused", change: []func(*View){failed, gone("n1"), pausedByOperator}},
		{name: "failed, and not automatic", change: []func(*View){failed, gone("n1")}, manual: true},
		{name: "not answering the leader is no verdict", change: []func(*View){gone("n1")}},
		{name: "suspect is no verdict", change: []func(*View){gone("n1"), func(v *View) { v.Primary.Verdict = topology.Suspect }}},
		{name: "restarted in place: closed", change: []func(*View){closed("n1")}, want: election.Resume, cause: "is closed"},
		{name: "closed by hand, and paused: somebody works on it", change: []func(*View){closed("n1"), pausedByOperator}},
		{
			name: "restarted, and paused", want: election.Resume,
			change: []func(*View){closed("n1"), pausedByOperator, with("n1", func(s *NodeStatus, _ *dbrepl.Status) { s.Certified = false })},
		},
		{name: "restarted in place before the verdict turned", change: []func(*View){closed("n1"), failed}, want: election.Resume},
		{
			name:   "another server answers in its place",
			change: []func(*View){failed, with("n1", func(_ *NodeStatus, i *dbrepl.Status) { i.ServerUUID = uuidOf("9") })}, want: election.Failover,
		},
		{name: "claimed and left, primary lives", change: []func(*View){inOperation(election.Failover, stepRevoke)}, want: election.Resume, cause: "failover of epoch 6 was left at step revoke by a2"},
		{name: "claimed and left, primary dead", change: []func(*View){inOperation(election.Switchover, stepRevoke), failed, gone("n1")}, want: election.Failover},
		{name: "claimed and left, primary not judged yet", change: []func(*View){inOperation(election.Switchover, stepRevoke), gone("n1")}},
		{name: "unfinished operations are finished also while paused", change: []func(*View){inOperation(election.Failover, stepRevoke), failed, gone("n1"), pausedByOperator}, want: election.Failover},
		{name: "and when failover is not automatic", change: []func(*View){inOperation(election.Failover, stepRevoke), failed, gone("n1")}, manual: true, want: election.Failover},
		{
			name:   "recorded and left, it lives",
			change: []func(*View){inOperation(election.Failover, stepPromote), closed("n1"), func(v *View) { v.State.Primary.Phase, v.State.Primary.Epoch = election.Promoting, 6 }},
			want:   election.Resume, cause: "left at step promote",
		},
		{
			name:   "recorded and left, it died",
			change: []func(*View){inOperation(election.Failover, stepPromote), failed, mysqldGone("n1"), func(v *View) { v.State.Primary.Phase, v.State.Primary.Epoch = election.Promoting, 6 }},
			want:   election.Failover,
		},
		{name: "claimed and left, primary answers and is failed: its disk is full", change: []func(*View){inOperation(election.Failover, stepRevoke), failed}, want: election.Failover},
		{name: "the same, while paused", change: []func(*View){inOperation(election.Failover, stepRevoke), failed, pausedByOperator}, want: election.Resume},
		{name: "freed without a primary", change: []func(*View){func(v *View) { v.State.Epoch = 6 }}, want: election.Resume, cause: "an operation of epoch 6 ended without a primary"},
	} {
		t.Run(c.name, func(t *testing.T) {
			kind, cause, run := decideOperation(quietView(c.change...), Policy{Automatic: !c.manual, Acks: 1, Expected: 3})
			require.Equal(t, c.want != "", run)
			require.Equal(t, c.want, kind)
			require.Contains(t, cause, c.cause)
		})
	}
}

// openGates are the names of an operation's gates, open or closed.
func gatesOf(gates []Gate, op election.Kind, open bool) []string {
	var out []string
	for _, g := range gates {
		if g.Operation == op && g.Open == open {
			out = append(out, g.Name)
		}
	}
	return out
}

func TestDecideGates(t *testing.T) {
	for _, c := range []struct {
		name   string
		change []func(*View)
		op     election.Kind
		to     topology.NodeName
		closed []string
		reason string // of the last closed one
	}{
		{name: "quiet: nothing failed", op: election.Failover, closed: []string{gateFailed}, reason: "it answers"},
		{name: "failed", op: election.Failover, change: []func(*View){failed, gone("n1")}},
		{name: "etcd gone", op: election.Failover, change: []func(*View){failed, func(v *View) { v.EtcdReachable = false }}, closed: []string{gateEtcd, gateLeader}, reason: "no promotion possible: etcd has no quorum"},
		{name: "paused", op: election.Failover, change: []func(*View){failed, pausedByOperator}, closed: []string{gateNotPaused}, reason: "paused by kim since 1970"},
		{name: "in flight", op: election.Failover, change: []func(*View){failed, inOperation(election.Switchover, stepPromote)}, closed: []string{gateIdle}, reason: "switchover of epoch 6 is at step promote on a2"},
		{name: "an acker is down", op: election.Failover, change: []func(*View){failed, gone("n3")}, closed: []string{gateRevocable, gateCandidate}},
		{
			name: "an acker is amnesiac", op: election.Failover,
			change: []func(*View){failed, with("n3", func(s *NodeStatus, _ *dbrepl.Status) { s.Certified = false })},
			closed: []string{gateRevocable}, reason: "waiting for the old primary n1 itself",
		},
		{
			name: "an acker is amnesiac: what could be done is not told as done", op: election.Failover,
			change: []func(*View){failed, with("n3", func(s *NodeStatus, _ *dbrepl.Status) { s.Certified = false })},
			closed: []string{gateRevocable}, reason: "1 of 2 needed ackers can be frozen; not counted: n3",
		},
		{
			name: "an acker is being rebuilt", op: election.Failover,
			change: []func(*View){failed, with("n3", func(s *NodeStatus, _ *dbrepl.Status) { s.Rebuild = &RebuildProgress{Stage: "clone"} })},
			closed: []string{gateRevocable, gateCandidate},
		},
		{
			name: "what was once taken for errant is judged by its set", op: election.Failover,
			change: []func(*View){failed, with("n3", func(s *NodeStatus, _ *dbrepl.Status) { set := gtids("1:9"); s.Errant = &set })},
		},
		{name: "switchover in quiet times", op: election.Switchover},
		{name: "switchover while automatic failover is paused", op: election.Switchover, change: []func(*View){pausedByOperator}},
		{name: "switchover to nobody", op: election.Switchover, to: "n7", closed: []string{gateCandidate}, reason: `the cluster has no member "n7"`},
		{name: "switchover to the primary", op: election.Switchover, to: "n1", closed: []string{gateCandidate}, reason: "it is the primary already"},
		{
			name: "switchover to one that lags", op: election.Switchover, to: "n2",
			change: []func(*View){with("n2", func(_ *NodeStatus, i *dbrepl.Status) { i.Source.Lag, i.Source.Unapplied = 3*time.Second, 40 })},
			closed: []string{gateCaughtUp}, reason: "n2: it is 3s behind (40 transactions to apply), more than the limit of 1s",
		},
		{
			name: "switchover to one that replicates from somebody else", op: election.Switchover, to: "n2",
			change: []func(*View){with("n2", func(_ *NodeStatus, i *dbrepl.Status) { i.Source.ServerUUID = uuidOf("3") })},
			closed: []string{gateCaughtUp}, reason: "n2: it does not replicate from n1",
		},
		{
			name: "switchover to one that is not connected", op: election.Switchover, to: "n2",
			change: []func(*View){with("n2", func(_ *NodeStatus, i *dbrepl.Status) {
				i.Source.ReceiverOn, i.Source.ReceiverError = false, "access denied"
			})},
			closed: []string{gateCaughtUp}, reason: "its receiver is not connected: access denied",
		},
		{
			name: "switchover to an errant one", op: election.Switchover, to: "n2",
			change: []func(*View){with("n2", func(_ *NodeStatus, i *dbrepl.Status) { i.Received = gtids("1:1-9,2:4") })},
			closed: []string{gateCandidate}, reason: "it holds transactions that no primary gave it",
		},
		{name: "switchover from a closed primary", op: election.Switchover, change: []func(*View){closed("n1")}, closed: []string{gateHealthy}, reason: "n1 is not serving writes: it is closed"},
		{name: "switchover from a failed primary", op: election.Switchover, change: []func(*View){failed, mysqldGone("n1")}, closed: []string{gateHealthy}, reason: "its server does not answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			gates := decideGates(quietView(c.change...), Policy{Automatic: true, Acks: 1, MaxLag: time.Second}, c.to)
			require.Equal(t, c.closed, gatesOf(gates, c.op, false), "%+v", gates)
			for _, g := range gates {
				require.NotEmpty(t, g.Reason, "%s has no reason", g.Name)
			}
			if len(c.closed) > 0 {
				require.Contains(t, closedGate(gates, c.op).Reason, c.reason)
			}
		})
	}
}

func TestGatesBeforeBootstrap(t *testing.T) {
	v := quietView(func(v *View) { v.State = election.State{} }, gone("n2"))
	gates := decideGates(v, Policy{Expected: 3}, "")
	g := closedGate(gates, election.Bootstrap)
	require.Equal(t, gateMembers, g.Name)
	require.Equal(t, "no answer from n2", g.Reason)
	require.Contains(t, closedGate(decideGates(v, Policy{Expected: 5}, ""), election.Bootstrap).Reason, "3 of 5 configured members have registered")
}

func TestDecideRoute(t *testing.T) {
	n1 := &router.Backend{Node: "n1", Address: "127.0.0.1:3301"}
	for _, c := range []struct {
		name   string
		change []func(*View)
		want   router.Route
	}{
		{"no primary", []func(*View){func(v *View) { v.State = election.State{} }}, router.Route{Phase: router.Closed}},
		{"open", nil, router.Route{Epoch: 5, Phase: router.Open, Primary: n1}},
		{"failover: cut", []func(*View){inOperation(election.Failover, stepRevoke)}, router.Route{Epoch: 6, Phase: router.Closed}},
		{"switchover: still serving while it is prepared", []func(*View){inOperation(election.Switchover, stepPrepare)}, router.Route{Epoch: 5, Phase: router.Open, Primary: n1}},
		{"switchover: drain", []func(*View){inOperation(election.Switchover, stepRevoke)}, router.Route{Epoch: 6, Phase: router.Closed, Primary: n1}},
		{"resume: drain", []func(*View){inOperation(election.Resume, stepRevoke)}, router.Route{Epoch: 6, Phase: router.Closed, Primary: n1}},
		{
			"switchover past the point of no return: cut",
			[]func(*View){inOperation(election.Switchover, stepPromote), func(v *View) {
				v.State.Primary = &election.Primary{Node: "n2", Address: "127.0.0.1:3302", Epoch: 6, Phase: election.Promoting}
			}},
			router.Route{Epoch: 6, Phase: router.Closed},
		},
		{"ended without a primary: cut", []func(*View){func(v *View) { v.State.Epoch = 6 }}, router.Route{Epoch: 6, Phase: router.Closed}},
		{
			"promoting is not open", []func(*View){func(v *View) { v.State.Primary.Phase = election.Promoting }},
			router.Route{Epoch: 5, Phase: router.Closed},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := decideRoute(quietView(c.change...).State)
			require.Equal(t, got.Phase == router.Closed, got.Reason != "", "closed for a reason")
			got.Reason = ""
			require.Equal(t, c.want, got)
			_, err := router.NewTable().Apply(got)
			require.NoError(t, err)
		})
	}
}

// unheard is an instance that heard of its source last an hour ago.
func unheard(name topology.NodeName) func(*View) {
	return with(name, func(_ *NodeStatus, i *dbrepl.Status) { i.Source.ReceiverOn, i.Source.HeartbeatAge = false, time.Hour })
}

func TestReadableReplicas(t *testing.T) {
	for _, c := range []struct {
		name   string
		change []func(*View)
		want   names
	}{
		{"both", nil, names{"n2", "n3"}},
		{"one lags", []func(*View){with("n2", func(_ *NodeStatus, i *dbrepl.Status) { i.Source.Lag = time.Minute })}, names{"n3"}},
		{"one is open", []func(*View){with("n2", func(_ *NodeStatus, i *dbrepl.Status) { i.SuperReadOnly = false })}, names{"n3"}},
		{"one is errant", []func(*View){with("n2", func(s *NodeStatus, _ *dbrepl.Status) { set := gtids("2:1"); s.Errant = &set })}, names{"n3"}},
		{"one follows somebody else", []func(*View){with("n2", func(_ *NodeStatus, i *dbrepl.Status) { i.Source.ServerUUID = uuidOf("9") })}, names{"n3"}},
		{"one's applier stopped", []func(*View){with("n2", func(_ *NodeStatus, i *dbrepl.Status) { i.Source.ApplierOn = false })}, names{"n3"}},
		{"disconnected in a failover: level ones go on", []func(*View){inOperation(election.Failover, stepRevoke), with("n2", func(_ *NodeStatus, i *dbrepl.Status) { i.Source.ReceiverOn = false })}, names{"n2", "n3"}},
		{"one goes ahead behind the candidate", []func(*View){inOperation(election.Switchover, stepPrepare), with("n2", func(_ *NodeStatus, i *dbrepl.Status) { i.Source.ServerUUID = uuidOf("3") })}, names{"n2", "n3"}},
		{"one goes ahead behind the candidate, and both are a little behind", []func(*View){inOperation(election.Switchover, stepPrepare), with("n3", func(_ *NodeStatus, i *dbrepl.Status) { i.Source.Lag = 700 * time.Millisecond }), with("n2", func(_ *NodeStatus, i *dbrepl.Status) {
			i.Source.ServerUUID, i.Source.Lag = uuidOf("3"), 700*time.Millisecond
		})}, names{"n3"}},
		{"one goes ahead behind a candidate that hears nothing", []func(*View){inOperation(election.Switchover, stepPrepare), with("n3", func(_ *NodeStatus, i *dbrepl.Status) { i.Source.ReceiverOn = false }), with("n2", func(_ *NodeStatus, i *dbrepl.Status) { i.Source.ServerUUID = uuidOf("3") })}, nil},
		{"promoting, and the other one is not told yet", []func(*View){inOperation(election.Failover, stepPromote), mysqldGone("n1"), func(v *View) {
			v.State.Primary.Node, v.State.Primary.ServerUUID, v.State.Primary.Phase = "n2", uuidOf("2"), election.Promoting
		}, with("n3", func(_ *NodeStatus, i *dbrepl.Status) {
			i.Source.ReceiverOn, i.Executed, i.Received = false, gtids("1:1"), gtids("1:1")
		})}, names{"n3"}},
		{"one went ahead, and the candidate may be behind", []func(*View){inOperation(election.Switchover, stepRevoke), with("n2", func(_ *NodeStatus, i *dbrepl.Status) {
			i.Source.ServerUUID, i.Executed, i.Received = uuidOf("3"), gtids("1:1"), gtids("1:1")
		}), with("n3", func(_ *NodeStatus, i *dbrepl.Status) { i.Source.ReceiverOn = false })}, names{"n3"}},
		{"long disconnected in a failover, and the new primary had more", []func(*View){inOperation(election.Failover, stepRevoke), mysqldGone("n1"), mysqldGone("n2"), unheard("n3"), func(v *View) {
			v.State.Register, v.State.Primary.Base = register(1, "n3"), gtids("1:1-999")
		}}, nil},
		{"long disconnected in a failover, and nobody has more", []func(*View){inOperation(election.Failover, stepRevoke), mysqldGone("n1"), unheard("n2"), unheard("n3")}, names{"n2", "n3"}},
		{"long disconnected in a failover, and another one has more", []func(*View){inOperation(election.Failover, stepRevoke), mysqldGone("n1"), unheard("n2"), unheard("n3"), with("n3", func(_ *NodeStatus, i *dbrepl.Status) { i.Received = i.Received.Union(gtids("1:1-999")) })}, nil},
		{"long disconnected in a failover, and another one may have more", []func(*View){inOperation(election.Failover, stepRevoke), mysqldGone("n1"), mysqldGone("n3"), unheard("n2")}, nil},
		{"long disconnected in a failover, and the primary is asked", []func(*View){inOperation(election.Failover, stepRevoke), mysqldGone("n3"), unheard("n2")}, names{"n2"}},
		{"restarted in a failover, and another one may have more", []func(*View){inOperation(election.Failover, stepRevoke), mysqldGone("n1"), mysqldGone("n3"), with("n2", func(_ *NodeStatus, i *dbrepl.Status) { i.Source.ReceiverOn, i.Source.HeartbeatAge = false, -1 })}, nil},
		{"long disconnected in a failover, and another one commits more", []func(*View){inOperation(election.Failover, stepRevoke), mysqldGone("n1"), unheard("n2"), with("n3", func(_ *NodeStatus, i *dbrepl.Status) { i.Committing = gtids("1:10") })}, names{"n3"}},
		{"long disconnected in a failover, and another one may have forgotten more", []func(*View){inOperation(election.Failover, stepRevoke), mysqldGone("n1"), unheard("n2"), with("n3", func(s *NodeStatus, _ *dbrepl.Status) { s.Certified = false })}, names{"n3"}},
		{"filtered", []func(*View){with("n2", func(_ *NodeStatus, i *dbrepl.Status) { i.Source.Filters = "REPLICATE_IGNORE_DB" })}, names{"n3"}},
		{"before bootstrap", []func(*View){func(v *View) { v.State.Primary = nil }}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got names
			for _, b := range readableReplicas(quietView(c.change...), time.Second) {
				got = append(got, b.Node)
			}
			require.Equal(t, c.want, got)
		})
	}
}

func TestDecideTending(t *testing.T) {
	const self = topology.NodeName("n2")
	primary := func(change func(*dbrepl.SemiSync)) func(*View) {
		return func(v *View) {
			v.State.Primary.Node = self
			with(self, func(_ *NodeStatus, i *dbrepl.Status) {
				i.SuperReadOnly, i.ReadOnly = false, false
				i.SemiSync = dbrepl.SemiSync{SourceEnabled: true, WaitFor: 1, WaitNoReplica: true, WaitPoint: "AFTER_SYNC", TimeoutMillis: math.MaxUint32}
				if change != nil {
					change(&i.SemiSync)
				}
			})(v)
		}
	}
	for _, c := range []struct {
		name      string
		change    []func(*View)
		certified bool
		promised  topology.Epoch
		changed   bool // the register, since it was obeyed
		want      tending
	}{
		{name: "a good replica", certified: true, promised: 5, want: tendNothing},
		{name: "a replica that restarted", promised: 5, want: tendCertify},
		{name: "not by a primary of the past", promised: 6, want: tendNothing},
		{
			name: "not by a primary it does not follow", promised: 5, want: tendNothing,
			change: []func(*View){with(self, func(_ *NodeStatus, i *dbrepl.Status) { i.Source.ServerUUID = uuidOf("3") })},
		},
		{
			name: "not before it is connected", promised: 5, want: tendNothing,
			change: []func(*View){with(self, func(_ *NodeStatus, i *dbrepl.Status) { i.Source.ReceiverOn = false })},
		},
		{name: "not by a primary that is not open yet", promised: 5, want: tendNothing, change: []func(*View){func(v *View) { v.State.Primary.Phase = election.Promoting }}},
		{
			name: "open, and another is primary (I2)", certified: true, promised: 5, want: tendIsolate,
			change: []func(*View){with(self, func(_ *NodeStatus, i *dbrepl.Status) { i.SuperReadOnly = false })},
		},
		{
			name: "closed, and commits wait", certified: true, promised: 5, want: tendIsolate,
			change: []func(*View){with(self, func(_ *NodeStatus, i *dbrepl.Status) { i.SemiSync.WaitSessions = 3 })},
		},
		{name: "the recorded primary is left alone", certified: true, promised: 5, want: tendNothing, change: []func(*View){primary(nil)}},
		{name: "its register has changed", certified: true, promised: 5, changed: true, want: tendObey, change: []func(*View){primary(nil)}},
		{
			name: "it waits for more than the register says", certified: true, promised: 5, want: tendObey,
			change: []func(*View){primary(func(s *dbrepl.SemiSync) { s.WaitFor = 2 })},
		},
		{
			name: "it answers without acknowledgement (I2)", certified: true, promised: 5, want: tendObey,
			change: []func(*View){primary(func(s *dbrepl.SemiSync) { s.SourceEnabled = false })},
		},
		{
			name: "it would after a time", certified: true, promised: 5, want: tendObey,
			change: []func(*View){primary(func(s *dbrepl.SemiSync) { s.TimeoutMillis = 10000 })},
		},
		{
			name: "it would when its last acker goes (H5)", certified: true, promised: 5, want: tendObey,
			change: []func(*View){primary(func(s *dbrepl.SemiSync) { s.WaitNoReplica = false })},
		},
		{
			name: "it would show first what it waits for", certified: true, promised: 5, want: tendObey,
			change: []func(*View){primary(func(s *dbrepl.SemiSync) { s.WaitPoint = "AFTER_COMMIT" })},
		},
		{
			name: "it waits for fewer than the register says", certified: true, promised: 5, want: tendObey,
			change: []func(*View){primary(func(s *dbrepl.SemiSync) { s.WaitFor = 0 })},
		},
		{
			name: "an operation arms it itself", certified: true, promised: 5, want: tendNothing,
			change: []func(*View){primary(func(s *dbrepl.SemiSync) { s.SourceEnabled = false }), inOperation(election.Switchover, stepRevoke)},
		},
		{
			name: "a later epoch is promised", certified: true, promised: 6, want: tendNothing,
			change: []func(*View){primary(func(s *dbrepl.SemiSync) { s.SourceEnabled = false })},
		},
		{
			name: "a closed primary answers nobody", certified: true, promised: 5, want: tendNothing,
			change: []func(*View){
				primary(func(s *dbrepl.SemiSync) { s.SourceEnabled = false }),
				with(self, func(_ *NodeStatus, i *dbrepl.Status) { i.SuperReadOnly, i.ReadOnly = true, true }),
			},
		},
		{
			name: "so is everybody while the record is not known (I9)", want: tendNothing,
			change: []func(*View){func(v *View) { v.State = election.State{} }, with(self, func(_ *NodeStatus, i *dbrepl.Status) { i.SuperReadOnly = false })},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := quietView(c.change...)
			require.Equal(t, c.want, decideTending(self, v.State, *v.Nodes[self].Instance, c.certified, c.promised, !c.changed))
		})
	}
}

func TestDecideRemedy(t *testing.T) {
	const self = topology.NodeName("n2")
	inst := func(change func(*dbrepl.Status)) func(*View) {
		return with(self, func(_ *NodeStatus, i *dbrepl.Status) { change(i) })
	}
	unregistered := func(v *View) { v.State.Register = register(1, "n3") }
	purged := with("n1", func(_ *NodeStatus, i *dbrepl.Status) { i.Purged = gtids("1:1-5") })
	for _, c := range []struct {
		name    string
		change  []func(*View)
		rebuild bool
		want    remedy
	}{
		{name: "as it should be", want: remedyNone},
		{name: "replicates from nobody", change: []func(*View){inst(func(i *dbrepl.Status) { i.Source = nil })}, want: remedyFollow},
		{name: "from somebody else", change: []func(*View){inst(func(i *dbrepl.Status) { i.Source.ServerUUID = uuidOf("3") })}, want: remedyFollow},
		{name: "receiver frozen", change: []func(*View){inst(func(i *dbrepl.Status) { i.Source.ReceiverState, i.Source.ReceiverOn = "OFF", false })}, want: remedyFollow},
		{name: "connecting is left to go on", change: []func(*View){inst(func(i *dbrepl.Status) { i.Source.ReceiverState, i.Source.ReceiverOn = "CONNECTING", false })}, want: remedyNone},
		{name: "applier stopped", change: []func(*View){inst(func(i *dbrepl.Status) { i.Source.ApplierOn = false })}, want: remedyFollow},
		{name: "open", change: []func(*View){inst(func(i *dbrepl.Status) { i.SuperReadOnly = false })}, want: remedyFollow},
		{name: "registered and not acknowledging", change: []func(*View){inst(func(i *dbrepl.Status) { i.SemiSync.ReplicaActive = false })}, want: remedyFollow},
		{name: "with other times than it should have", change: []func(*View){inst(func(i *dbrepl.Status) { i.Source.Unfit = "its retry interval is 1m" })}, want: remedyRefit},
		{name: "that comes last", change: []func(*View){inst(func(i *dbrepl.Status) { i.Source.Unfit, i.SemiSync.ReplicaActive = "its retry interval is 1m", false })}, want: remedyFollow},
		{name: "caught up and not registered", change: []func(*View){unregistered}, want: remedyAdmit},
		{
			name: "inadmissible: it is not admitted (M11)", want: remedyNone,
			change: []func(*View){unregistered, inst(func(i *dbrepl.Status) { i.Inadmissible, i.SemiSync.ReplicaEnabled = "it is filtered", false })},
		},
		{
			name: "inadmissible, and could acknowledge (M11)", want: remedyFollow,
			change: []func(*View){unregistered, inst(func(i *dbrepl.Status) { i.Inadmissible = "it is filtered" })},
		},
		{
			name: "restarted, not registered, and could acknowledge (M11)", want: remedyFollow,
			change: []func(*View){unregistered, with(self, func(s *NodeStatus, _ *dbrepl.Status) { s.Certified = false })},
		},
		{
			name: "far behind is not admitted", want: remedyNone,
			change: []func(*View){unregistered, with("n1", func(_ *NodeStatus, i *dbrepl.Status) { i.Executed = gtids("1:1-900") }), inst(func(i *dbrepl.Status) { i.SemiSync.ReplicaEnabled = false })},
		},
		{name: "order seen to have arrived", change: []func(*View){func(v *View) { v.State.Sources[self] = anyPrimary }}, want: remedyConfirm},
		{
			name: "not confirmed by what it was before the epoch: it is to promise that first", want: remedyFollow,
			change: []func(*View){func(v *View) { v.State.Sources[self] = anyPrimary }, with(self, func(s *NodeStatus, _ *dbrepl.Status) { s.Promised = 4 })},
		},
		{name: "once taken for errant, and is not", change: []func(*View){with(self, func(s *NodeStatus, _ *dbrepl.Status) { set := gtids("1:9"); s.Errant = &set })}, want: remedyFollow},
		{name: "errant: report", change: []func(*View){inst(func(i *dbrepl.Status) { i.Received = gtids("1:1-9,2:1") })}, want: remedyReport},
		{name: "errant: rebuild", change: []func(*View){inst(func(i *dbrepl.Status) { i.Received = gtids("1:1-9,2:1") })}, rebuild: true, want: remedyRebuild},
		{
			name: "needs binary logs that the primary has purged (M13)", rebuild: true, want: remedyRebuild,
			change: []func(*View){purged, inst(func(i *dbrepl.Status) {
				i.Executed, i.Received, i.Source.ReceiverState, i.Source.ReceiverOn = gtids("1:1-4"), gtids("1:1-4"), "OFF", false
			})},
		},
		{
			name: "the same, to be left", want: remedyReport,
			change: []func(*View){purged, inst(func(i *dbrepl.Status) {
				i.Executed, i.Received, i.Source.ReceiverState, i.Source.ReceiverOn = gtids("1:1-4"), gtids("1:1-4"), "OFF", false
			})},
		},
		{
			name: "one without any history may hold data all the same: it is not overwritten", rebuild: true, want: remedyReport,
			change: []func(*View){purged, inst(func(i *dbrepl.Status) { i.Executed, i.Received, i.Source = gtids(""), gtids(""), nil })},
		},
		{
			name: "what it receives right now may have been purged since", rebuild: true, want: remedyNone,
			change: []func(*View){purged, inst(func(i *dbrepl.Status) { i.Executed, i.Received = gtids("1:1-4"), gtids("1:1-4") })},
		},
		{
			name: "has lost transactions of its own", rebuild: true, want: remedyRebuild,
			change: []func(*View){with("n1", func(_ *NodeStatus, i *dbrepl.Status) { i.Executed = gtids("1:1-9,2:1-3") }), inst(func(i *dbrepl.Status) { i.Executed, i.Received = gtids("1:1-9,2:1-2"), gtids("1:1-9,2:1-2") })},
		},
		{
			name: "was seen while it was the primary", rebuild: true, want: remedyFollow,
			change: []func(*View){with("n1", func(_ *NodeStatus, i *dbrepl.Status) { i.Executed = gtids("1:1-9,2:1-3") }), inst(func(i *dbrepl.Status) {
				i.Executed, i.Received, i.SuperReadOnly = gtids("1:1-9,2:1-2"), gtids("1:1-9,2:1-2"), false
			})},
		},
		{
			name: "what the primary is committing is not errant", want: remedyNone,
			change: []func(*View){inst(func(i *dbrepl.Status) { i.Received = gtids("1:1-10") }), with("n1", func(_ *NodeStatus, i *dbrepl.Status) { i.Committing = gtids("1:10") })},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := quietView(c.change...)
			got, errant := decideRemedy(v.State, v.Nodes[self], v.Nodes["n1"], Policy{Rebuild: c.rebuild})
			require.Equal(t, c.want, got)
			inst, primary := v.Nodes[self].Instance, v.Nodes["n1"].Instance
			require.Equal(t, inst.Received.Minus(primary.Executed.Union(primary.Committing)), errant)
		})
	}
}

// A receiver gets its times while every other acker is there, so that the
// primary's commits need not wait for it.
func TestOthersAcknowledge(t *testing.T) {
	silent := with("n3", func(_ *NodeStatus, i *dbrepl.Status) { i.SemiSync.ReplicaActive = false })
	require.True(t, othersAcknowledge(quietView(), "n2"))
	require.False(t, othersAcknowledge(quietView(silent), "n2"))
	require.True(t, othersAcknowledge(quietView(silent), "n3"))
	require.False(t, othersAcknowledge(quietView(gone("n3")), "n2"))
	require.False(t, othersAcknowledge(quietView(mysqldGone("n3")), "n2"))
}

func TestDecideAhead(t *testing.T) {
	inst := func(n topology.NodeName, change func(*dbrepl.Status)) func(*View) {
		return with(n, func(_ *NodeStatus, i *dbrepl.Status) { change(i) })
	}
	fourth := func(v *View) {
		n4 := v.Nodes["n3"]
		n4.Member.Name = "n4"
		v.Nodes["n4"] = n4
		v.State.Register.Ackers = append(v.State.Register.Ackers, "n4")
	}
	for _, c := range []struct {
		name   string
		change []func(*View)
		want   names
	}{
		{"the other replica", nil, names{"n3"}},
		{"all but the candidate, while it acknowledges alone", []func(*View){fourth}, names{"n3", "n4"}},
		{"as many acknowledge as are needed (I2)", []func(*View){fourth, func(v *View) { v.State.Register.K = 2 }}, names{"n3"}},
		{"none, where all are needed", []func(*View){func(v *View) { v.State.Register.K = 2 }}, names{}},
		{"none, where the candidate does not acknowledge", []func(*View){inst("n2", func(i *dbrepl.Status) { i.SemiSync.ReplicaActive = false })}, names{}},
		{"one that is no acker can always go", []func(*View){func(v *View) { v.State.Register.Ackers = []topology.NodeName{"n2"} }}, names{"n3"}},
		{"not one that does not stream", []func(*View){inst("n3", func(i *dbrepl.Status) { i.Source.ReceiverOn = false })}, names{}},
		{"not one whose applier stopped", []func(*View){inst("n3", func(i *dbrepl.Status) { i.Source.ApplierOn = false })}, names{}},
		{"not an errant one", []func(*View){with("n3", func(s *NodeStatus, _ *dbrepl.Status) { set := gtids("3:1"); s.Errant = &set })}, names{}},
		{"not one that does not answer", []func(*View){gone("n3")}, names{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := append(names{}, decideAhead(quietView(c.change...), Policy{}, "n2")...)
			require.Equal(t, c.want, got)
		})
	}
}
