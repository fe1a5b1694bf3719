package api

import (
	"context"
	"fmt"
	"math"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/failover"
	"interrex/internal/gtid"
	"interrex/internal/topology"
	"interrex/router"
)

const (
	operatorToken = "operator-secret-0123456789"
	memberToken   = "member-secret-0123456789"
	patience      = 20 * time.Second
	n1UUID        = "11111111-1111-1111-1111-111111111111"
)

var began = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// clusterView is a healthy cluster of two instances and an arbiter, n1 primary,
// n2 leader, seen by self.
func clusterView(self topology.NodeName) failover.View {
	route := router.Route{Epoch: 3, Phase: router.Open, Primary: &router.Backend{Node: "n1", Address: "127.0.0.1:3306"}}
	executed := gtid.MustParse(n1UUID + ":1-100")
	return failover.View{
		Self: self, EtcdReachable: true,
		State: election.State{
			Format: 1, Cluster: "c", Epoch: 3,
			Primary:  &election.Primary{Node: "n1", ServerUUID: n1UUID, Address: "127.0.0.1:3306", Epoch: 3, Phase: election.Open, Since: began},
			Register: election.Register{Ackers: []topology.NodeName{"n2"}, K: 1},
		},
		Leadership: election.Leadership{Holder: "n2", Revision: 7, Mine: self == "n2"},
		Members: []topology.Member{
			{Name: "n3", API: "127.0.0.1:3", Version: "1.0.0"},
			{Name: "n1", API: "127.0.0.1:1", MySQL: "127.0.0.1:3306", Version: "1.0.0"},
			{Name: "n2", API: "127.0.0.1:2", MySQL: "127.0.0.1:3307", Version: "1.0.0"},
		},
		Nodes: map[topology.NodeName]failover.NodeStatus{
			"n1": {Promised: 3, Certified: true, Route: route, Instance: &dbrepl.Status{
				ServerUUID: n1UUID, Version: "8.4.6", Executed: executed, Received: executed,
				SemiSync: dbrepl.SemiSync{SourceEnabled: true, WaitFor: 1, Clients: 1, WaitNoReplica: true, WaitPoint: "AFTER_SYNC", TimeoutMillis: math.MaxUint32},
			}},
			"n2": {Promised: 3, Certified: true, Route: route, Instance: &dbrepl.Status{
				Version: "8.4.6", Executed: gtid.MustParse(n1UUID + ":1-97"), Received: executed, ReadOnly: true, SuperReadOnly: true,
				Source: &dbrepl.SourceStatus{
					Host: "127.0.0.1", Port: 3306, ServerUUID: n1UUID, ReceiverOn: true, ReceiverState: "ON",
					ApplierOn: true, Unapplied: 3, Lag: 20 * time.Millisecond,
				},
				SemiSync: dbrepl.SemiSync{ReplicaEnabled: true, ReplicaActive: true},
			}},
			"n3": {Promised: 3, Route: route},
		},
		Unreachable: map[topology.NodeName]string{},
		Primary:     failover.Judgement{Subject: "n1", Verdict: topology.Healthy, Explanation: "n1 answers", At: began},
	}
}

func sampleReport(epoch topology.Epoch) failover.Report {
	none := uint64(0)
	return failover.Report{
		Epoch: epoch, Kind: election.Failover, Outcome: failover.Completed, Leader: "n2", From: "n1", To: "n2",
		Cause: "process exited", StartedAt: began, EndedAt: began.Add(time.Second),
		Steps: []failover.Step{{Name: "claim", BeganMS: 0, TookMS: 3.5}},
		Evidence: failover.Judgement{
			Subject: "n1", Verdict: topology.Failed, LastGood: 120 * time.Millisecond, At: began,
			Votes: []failover.Vote{{Observer: "n2", Kind: "refused", Age: 1500 * time.Microsecond, Against: true}},
		},
		Gates: []failover.Gate{
			{Name: "primary_failed", Operation: election.Failover, Open: true},
			{Name: "primary_healthy", Operation: election.Switchover},
		},
		RTOMillis: 400, RTOBounds: [2]float64{380, 400},
		RPO: failover.RPO{LostCommits: &none, Proof: failover.Proof{Statement: "frozen", Ackers: []topology.NodeName{"n2"}, K: 1, Needed: 1}},
	}
}

// fakeBackend answers from its fields; the functions are optional.
type fakeBackend struct {
	memberErr  error
	mu         sync.Mutex
	view       failover.View
	gates      []failover.Gate
	health     Health
	ledger     []failover.Report
	ledgerErr  error
	switchover func(ctx context.Context, to topology.NodeName) (failover.Report, error)
	pauseErr   error
	forceErr   error
	drills     DrillState
	decisions  []failover.Decision
	faultErr   error
	orders     []string
}

func (b *fakeBackend) View() failover.View {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.view
}

func (b *fakeBackend) setView(v failover.View) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.view = v
}

func (b *fakeBackend) Gates() []failover.Gate { return b.gates }
func (b *fakeBackend) Health() Health         { return b.health }

func (b *fakeBackend) Evidence(name topology.NodeName) (failover.Judgement, bool) {
	return b.View().Primary, name == "n1"
}

func (b *fakeBackend) Decisions() []failover.Decision { return b.decisions }

func (b *fakeBackend) Reports(_ context.Context, n int) ([]failover.Report, error) {
	return b.ledger[:min(n, len(b.ledger))], b.ledgerErr
}

func (b *fakeBackend) Report(_ context.Context, epoch topology.Epoch) (failover.Report, error) {
	for _, r := range b.ledger {
		if r.Epoch == epoch {
			return r, nil
		}
	}
	if b.ledgerErr != nil {
		return failover.Report{}, b.ledgerErr
	}
	return failover.Report{}, election.ErrNotFound
}

func (b *fakeBackend) Objectives(context.Context) (failover.Attainment, error) {
	return failover.ComputeObjectives(began.Add(time.Hour), failover.Objectives{RTO: time.Second}, b.ledger, began.Add(-time.Hour)), b.ledgerErr
}

func (b *fakeBackend) note(order string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.orders = append(b.orders, order)
}

func (b *fakeBackend) noted() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string{}, b.orders...)
}

func (b *fakeBackend) Switchover(ctx context.Context, to topology.NodeName) (failover.Report, error) {
	b.note("switchover " + string(to))
	if b.switchover != nil {
		return b.switchover(ctx, to)
	}
	return sampleReport(4), nil
}

func (b *fakeBackend) PreviewForce(context.Context) (failover.LossPreview, error) {
	return failover.LossPreview{Cluster: "c", Epoch: 3, Old: "n1", Bound: sampleBound(), Gates: b.gates}, b.forceErr
}

func (b *fakeBackend) Force(_ context.Context, o failover.ForceOrder) (failover.Report, error) {
	b.note(fmt.Sprintf("force %s %d %s by %s", o.Cluster, o.Epoch, o.Confirm, o.By))
	if b.forceErr != nil {
		return failover.Report{}, b.forceErr
	}
	r := sampleReport(4)
	r.RPO.LostCommits = nil
	r.Forced = &failover.Forced{By: o.By, At: began, Accepted: o.Confirm, Lossy: true, Bound: sampleBound()}
	return r, nil
}

func sampleBound() failover.LossBound {
	told := began
	return failover.LossBound{
		Confirm: "3", Candidate: "n2", Missing: gtid.MustParse(n1UUID + ":98-100"), Count: 3, LastTold: &told, Ended: true,
		Needs: "1 of [n3]", Statement: "3 commits that members told of are not on n2",
	}
}

func (b *fakeBackend) Pause(_ context.Context, reason string) error {
	b.note("pause " + reason)
	return b.pauseErr
}

func (b *fakeBackend) Resume(context.Context) error {
	b.note("resume")
	return b.pauseErr
}

func (b *fakeBackend) AddMember(_ context.Context, name topology.NodeName, voter bool) (failover.MemberChange, error) {
	b.note(fmt.Sprintf("add %s %v", name, voter))
	return failover.MemberChange{
		Name: name, Done: true, Notes: []string{"4 members vote"}, Members: []topology.Member{{Name: "n1", API: "h:1", EtcdPeer: "h:2"}},
		Seats: map[topology.NodeName]election.Seat{"n1": {Voter: true, Since: began}, name: {Voter: voter, Since: began}},
	}, b.memberErr
}

func (b *fakeBackend) RemoveMember(_ context.Context, name topology.NodeName) (failover.MemberChange, error) {
	b.note("remove " + string(name))
	return failover.MemberChange{Name: name, Waiting: "its server"}, b.memberErr
}

func (b *fakeBackend) Drills() DrillState { return b.drills }

func (b *fakeBackend) Fault(_ context.Context, o FaultOrder) (FaultResult, error) {
	b.note(fmt.Sprintf("fault %s for %s by %s", o.Fault, o.Limit, o.By))
	until := began.Add(o.Limit)
	return FaultResult{Node: "n1", Fault: o.Fault, Detail: "done", Until: &until}, b.faultErr
}

// fakeNode returns what its fields say and notes what it was told.
type fakeNode struct {
	mu    sync.Mutex
	err   error
	wait  func(ctx context.Context) error // before answering
	calls []any
}

func (n *fakeNode) take(ctx context.Context, req any) error {
	n.mu.Lock()
	n.calls = append(n.calls, req)
	err, wait := n.err, n.wait
	n.mu.Unlock()
	if wait != nil {
		return wait(ctx)
	}
	return err
}

func (n *fakeNode) taken() []any {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]any{}, n.calls...)
}

func (n *fakeNode) fails(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err
}

func (n *fakeNode) Status(ctx context.Context) (failover.NodeStatus, error) {
	err := n.take(ctx, "status")
	return clusterView("n1").Nodes["n2"], err
}

func (n *fakeNode) Freeze(ctx context.Context, req failover.FreezeRequest) (failover.Frozen, error) {
	return failover.Frozen{Node: "n1", Executed: gtid.MustParse(n1UUID + ":1-5"), Unapplied: 2, Amnesiac: true}, n.take(ctx, req)
}

func (n *fakeNode) CatchUp(ctx context.Context, req failover.CatchUpRequest) (failover.CaughtUp, error) {
	return failover.CaughtUp{Executed: req.Set}, n.take(ctx, req)
}

func (n *fakeNode) Promote(ctx context.Context, req failover.PromoteRequest) (failover.Promoted, error) {
	return failover.Promoted{Opened: 3 * time.Millisecond}, n.take(ctx, req)
}

func (n *fakeNode) Follow(ctx context.Context, req failover.FollowRequest) error {
	return n.take(ctx, req)
}

func (n *fakeNode) Close(ctx context.Context, req failover.CloseRequest) (failover.Closed, error) {
	return failover.Closed{Killed: 2}, n.take(ctx, req)
}

func (n *fakeNode) Obey(ctx context.Context, req failover.ObeyRequest) (failover.Obeyed, error) {
	return failover.Obeyed{Revision: 7}, n.take(ctx, req)
}

func (n *fakeNode) Rebuild(ctx context.Context, req failover.RebuildRequest) error {
	return n.take(ctx, req)
}

func (n *fakeNode) Route(ctx context.Context, r router.Route) error { return n.take(ctx, r) }

// bench is a server with its fakes.
type bench struct {
	*Server
	backend *fakeBackend
	node    *fakeNode
	addr    string // once listening
}

type option func(*Config, *Parts)

// newBench makes the server of self. Peers finds members in the view.
func newBench(t testing.TB, self topology.NodeName, options ...option) *bench {
	t.Helper()
	b := &bench{backend: &fakeBackend{view: clusterView(self), ledger: []failover.Report{sampleReport(3), sampleReport(2)}}, node: &fakeNode{}}
	b.backend.gates = []failover.Gate{
		{Name: "etcd", Operation: election.Failover, Open: true, Reason: "etcd answers"},
		{Name: "failed", Operation: election.Failover, Reason: "n1 answers"},
	}
	cfg := DefaultConfig()
	cfg.Self, cfg.Cluster = self, "c"
	cfg.Security = Security{OperatorToken: operatorToken, MemberToken: memberToken, Reads: ReadsOpen}
	parts := Parts{
		Backend: b.backend, Node: b.node, Log: zap.NewNop(),
		Metrics: NewMetrics(MetricsConfig{Self: self, Cluster: "c", Version: "test", Backend: b.backend}),
	}
	for _, o := range options {
		o(&cfg, &parts)
	}
	parts.Peers = NewPeers(self, "c", b.node, func(name topology.NodeName) (topology.Member, bool) {
		for _, m := range b.backend.View().Members {
			if m.Name == name {
				return m, true
			}
		}
		return topology.Member{}, false
	}, memberToken, parts.TLS)
	t.Cleanup(parts.Peers.CloseIdle)
	var err error
	b.Server, err = New(cfg, parts)
	require.NoError(t, err)
	return b
}

// listen serves on a free port until the test ends.
func (b *bench) listen(t testing.TB) *bench {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b.serve(t, ln)
	return b
}

func (b *bench) serve(t testing.TB, ln net.Listener) {
	t.Helper()
	b.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			require.NoError(t, err)
		case <-time.After(patience):
			t.Error("the server did not stop")
		}
	})
}

func (b *bench) client(t testing.TB, node topology.NodeName) *Client {
	t.Helper()
	c := NewClient(node, b.addr, memberToken, nil)
	t.Cleanup(c.CloseIdle)
	return c
}

// eventually waits for ok and says what it last saw.
func eventually(t testing.TB, what string, ok func() (bool, any)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		done, seen := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: last seen %v", what, seen)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
