package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/failover"
	"interrex/internal/porttest"
	"interrex/internal/topology"
)

// pair is n1, which does not lead, and n2, which leads, both listening.
func pair(t *testing.T, options ...option) (follower, leader *bench) {
	t.Helper()
	leader = newBench(t, "n2").listen(t)
	follower = newBench(t, "n1", options...).listen(t)
	for _, b := range []*bench{follower, leader} {
		v := b.backend.View()
		v.Members = []topology.Member{{Name: "n1", API: follower.addr}, {Name: "n2", API: leader.addr}}
		b.backend.setView(v)
	}
	notLeader(follower)
	return follower, leader
}

func notLeader(b *bench) {
	b.backend.pauseErr = fmt.Errorf("pause: %w", failover.ErrNotLeader)
	b.backend.switchover = func(context.Context, topology.NodeName) (failover.Report, error) {
		return failover.Report{}, failover.ErrNotLeader
	}
}

func TestOrdersAreForwardedToTheLeader(t *testing.T) {
	follower, leader := pair(t)
	a := post("switchover", `{"to":"n2"}`)
	a.header = map[string]string{headerRequestID: "req-7"}
	got := follower.dial(t, a)
	require.Equal(t, 200, got.status, "%s", got.body)
	var r Report
	require.NoError(t, json.Unmarshal(got.body, &r))
	require.Equal(t, topology.Epoch(4), r.Epoch)
	require.Equal(t, 200, follower.dial(t, post("pause", `{"reason":"x"}`)).status)
	require.Equal(t, 200, follower.dial(t, post("resume", ``)).status)
	require.Equal(t, []string{"switchover n2", "pause x", "resume"}, leader.backend.noted())

	leader.backend.switchover = func(context.Context, topology.NodeName) (failover.Report, error) {
		return failover.Report{}, &failover.GateError{Gate: failover.Gate{Name: "idle", Operation: "switchover", Reason: "busy"}}
	}
	p := follower.dial(t, a).problem(t)
	require.Equal(t, ProblemType+problemGateClosed, p.Type, "a refusal arrives as the leader gave it")
	require.Equal(t, "idle", p.Gate.Name)
	require.Equal(t, "urn:interrex:request:req-7", p.Instance, "one id for both members")
}

// What a forced failover would lose is asked of the leader, too: it remembers
// most of those that are gone.
func TestForceIsTheLeadersToTell(t *testing.T) {
	follower, leader := pair(t)
	follower.backend.forceErr = failover.ErrNotLeader
	got := follower.dial(t, ask{method: "GET", path: "/api/v1/failover/force"})
	require.Equal(t, 200, got.status, "%s", got.body)
	var p ForcePreview
	require.NoError(t, json.Unmarshal(got.body, &p))
	require.Equal(t, "3", p.Bound.Confirm)
	body := `{"cluster":"c","epoch":3,"confirm":"3","by":"ann"}`
	require.Equal(t, 200, follower.dial(t, post("failover/force", body)).status)
	require.Equal(t, []string{"force c 3 3 by ann"}, leader.backend.noted())

	leader.backend.forceErr = &failover.ConfirmationError{Field: "confirm", Given: "3", Want: "4", Bound: sampleBound()}
	refused := follower.dial(t, post("failover/force", body)).problem(t)
	require.Equal(t, ProblemType+problemNotConfirmed, refused.Type)
	require.EqualValues(t, 3, refused.Loss.Count)
}

func TestForwardingDoesNotLoop(t *testing.T) {
	follower, leader := pair(t)
	notLeader(leader)
	v := leader.backend.View()
	v.Leadership.Holder = "n1" // each takes the other for the leader
	leader.backend.setView(v)
	p := follower.dial(t, post("switchover", `{}`)).problem(t)
	require.Equal(t, ProblemType+problemNotLeader, p.Type)
	require.Contains(t, p.Detail, "n1 forwarded this to n2")
	require.Len(t, follower.backend.noted(), 1)
	require.Len(t, leader.backend.noted(), 1)
}

func TestForwardingFailures(t *testing.T) {
	change := func(b *bench, f func(*failover.View)) {
		v := b.backend.View()
		f(&v)
		b.backend.setView(v)
	}
	for _, c := range []struct {
		name  string
		given func(t *testing.T, follower, leader *bench)
		want  string
	}{
		{"nobody leads", func(_ *testing.T, f, _ *bench) { change(f, func(v *failover.View) { v.Leadership.Holder = "" }) }, problemNoLeader},
		{"leadership arrives", func(_ *testing.T, f, _ *bench) { change(f, func(v *failover.View) { v.Leadership.Holder = "n1" }) }, problemNotLeader},
		{"nobody leads for want of etcd", func(_ *testing.T, f, _ *bench) {
			change(f, func(v *failover.View) { v.Leadership.Holder, v.EtcdReachable = "", false })
		}, problemNoQuorum},
		{"own leadership ran out for want of etcd", func(_ *testing.T, f, _ *bench) {
			change(f, func(v *failover.View) { v.Leadership.Holder, v.EtcdReachable = "n1", false })
		}, problemNoQuorum},
		{"leader is silent for want of etcd", func(_ *testing.T, f, _ *bench) {
			change(f, func(v *failover.View) {
				v.EtcdReachable, v.Unreachable = false, map[topology.NodeName]string{"n2": "no answer"}
			})
		}, problemNoQuorum},
		{"leader is not registered", func(_ *testing.T, f, _ *bench) { change(f, func(v *failover.View) { v.Members = nil }) }, problemLeaderGone},
		{"leader is dead", func(t *testing.T, f, _ *bench) {
			change(f, func(v *failover.View) { v.Members = []topology.Member{{Name: "n2", API: porttest.Address(t)}} })
		}, problemLeaderGone},
		{"leader has another member token", func(_ *testing.T, _, l *bench) { l.cfg.Security.MemberToken = "another-secret-9876543210" }, problemLeaderGone},
		{"leader does not answer", func(t *testing.T, f, _ *bench) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			t.Cleanup(func() { _ = ln.Close() })
			f.cfg.OperationLimit = 300 * time.Millisecond
			change(f, func(v *failover.View) { v.Members = []topology.Member{{Name: "n2", API: ln.Addr().String()}} })
		}, problemOutcomeUnknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			follower, leader := pair(t)
			c.given(t, follower, leader)
			p := follower.dial(t, post("switchover", `{}`)).problem(t)
			require.Equal(t, ProblemType+c.want, p.Type, p.Detail)
			require.Empty(t, leader.backend.noted())
		})
	}
}

// TestNoQuorumIsARefusal: without etcd every member refuses every order at
// once, with the gate, and says what becomes of writes.
func TestNoQuorumIsARefusal(t *testing.T) {
	doc := loadDoc(t, specYAML)
	follower, leader := pair(t)
	notLeader(leader)
	for _, b := range []*bench{follower, leader} {
		v := b.backend.View()
		v.EtcdReachable = false
		b.backend.setView(v)
	}
	refused := func(t *testing.T, b *bench, a ask, operation election.Kind) Problem {
		t.Helper()
		got := b.dial(t, a)
		conform(t, doc, a.path, a, got)
		p := got.problem(t)
		require.Equal(t, ProblemType+problemNoQuorum, p.Type, p.Detail)
		require.Equal(t, 503, got.status)
		require.Equal(t, "1", got.header.Get("Retry-After"))
		require.Equal(t, &failover.Gate{Name: "etcd_quorum", Operation: operation, Reason: p.Detail}, p.Gate)
		require.Contains(t, p.Detail, "no change is possible")
		return p
	}
	for name, b := range map[string]*bench{"n1": follower, "n2": leader} {
		t.Run(name, func(t *testing.T) {
			require.Contains(t, refused(t, b, post("switchover", `{}`), election.Switchover).Detail, "writes go on")
			// A pause reads the record before it finds out who leads.
			b.backend.pauseErr = fmt.Errorf("read cluster: %w: no answer within 500ms", election.ErrUnreachable)
			refused(t, b, post("pause", `{"reason":"x"}`), election.Failover)
			refused(t, b, post("resume", ``), election.Failover)
		})
	}
	v := follower.backend.View()
	v.Primary.Verdict = topology.Failed
	follower.backend.setView(v)
	require.Contains(t, refused(t, follower, post("resume", ``), election.Failover).Detail, "no writes")

	leader.backend.switchover = func(context.Context, topology.NodeName) (failover.Report, error) {
		return failover.Report{}, &failover.GateError{Gate: failover.Gate{Name: gateQuorum, Operation: election.Switchover}}
	}
	refused(t, follower, post("switchover", `{}`), election.Switchover)

	leader.backend.switchover = func(context.Context, topology.NodeName) (failover.Report, error) {
		return sampleReport(4), fmt.Errorf("promote: %w", election.ErrUnreachable)
	}
	got := leader.dial(t, post("switchover", `{}`)).problem(t)
	require.Equal(t, ProblemType+problemOperationFailed, got.Type, "what was begun is no refusal")
	require.NotNil(t, got.Report)
}

func keyed(body, key string) ask {
	a := post("switchover", body)
	a.header = map[string]string{headerIdempotency: key}
	return a
}

func TestIdempotencyKeyReplaysTheFirstAnswer(t *testing.T) {
	follower, leader := pair(t)
	for name, b := range map[string]*bench{"at the leader": leader, "forwarded": follower} {
		t.Run(name, func(t *testing.T) {
			before := len(leader.backend.noted())
			first := b.dial(t, keyed(`{"to":"n2"}`, name[:3]))
			require.Equal(t, 200, first.status)
			require.Empty(t, first.header.Get(headerIdempotencyReplay))
			again := b.dial(t, keyed(`{"to":"n2"}`, name[:3]))
			require.Equal(t, first.body, again.body)
			require.Equal(t, "true", again.header.Get(headerIdempotencyReplay))
			require.Len(t, leader.backend.noted(), before+1)
			require.Equal(t, 422, b.dial(t, keyed(`{"to":"n1"}`, name[:3])).status)
			require.Len(t, leader.backend.noted(), before+1)
		})
	}
}

func TestConcurrentReplaysWaitForOneOperation(t *testing.T) {
	b := newBench(t, "n2").listen(t)
	release := make(chan struct{})
	b.backend.switchover = func(context.Context, topology.NodeName) (failover.Report, error) {
		<-release
		return sampleReport(4), nil
	}
	var asked sync.WaitGroup
	replies := make([]reply, 8)
	for i := range replies {
		asked.Go(func() { replies[i] = b.do(keyed(`{}`, "k")) })
	}
	eventually(t, "the operation begins", func() (bool, any) { return len(b.backend.noted()) == 1, b.backend.noted() })
	close(release)
	asked.Wait()
	for _, r := range replies {
		require.Equal(t, 200, r.status)
	}
	require.Len(t, b.backend.noted(), 1)
}

func TestAnswersAreKeptInBoundedMemory(t *testing.T) {
	a := newAnswers()
	for i := range 3 * answersKept {
		got, first := a.claim(fmt.Sprint(i), [32]byte{})
		require.True(t, first)
		a.settle(fmt.Sprint(i), got, outcome{status: 200})
	}
	require.LessOrEqual(t, len(a.by), answersKept)
	require.LessOrEqual(t, len(a.order), answersKept)
	_, first := a.claim(fmt.Sprint(3*answersKept-1), [32]byte{})
	require.False(t, first)

	got, _ := a.claim("no leader", [32]byte{})
	a.settle("no leader", got, outcome{status: http.StatusServiceUnavailable})
	_, first = a.claim("no leader", [32]byte{})
	require.True(t, first, "an order that reached nobody may be given again")
}

// TestOperationOutlivesItsClient: a connection that breaks does not cut a
// switchover short; the agent's end does, and waits for it.
func TestOperationOutlivesItsClient(t *testing.T) {
	b := newBench(t, "n2")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan error, 1)
	b.backend.switchover = func(ctx context.Context, _ topology.NodeName) (failover.Report, error) {
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return failover.Report{}, ctx.Err()
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- b.Serve(ctx, ln) }()
	b.addr = ln.Addr().String()

	asking, leave := context.WithCancel(context.Background())
	req := post("switchover", `{}`).request().WithContext(asking)
	req.URL.Host = b.addr
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
			_ = resp.Body.Close()
		}
	}()
	eventually(t, "the operation begins", func() (bool, any) { return len(b.backend.noted()) == 1, b.backend.noted() })
	leave()
	<-gone
	select {
	case err := <-ended:
		t.Fatalf("the operation ended with its client: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	stop()
	select {
	case err := <-served:
		require.NoError(t, err)
	case <-time.After(patience):
		t.Fatal("the server did not stop")
	}
	select {
	case err := <-ended:
		require.ErrorContains(t, err, "the agent stops")
	default:
		t.Fatal("Serve returned before the operation had ended")
	}
	require.Equal(t, 503, b.do(post("switchover", `{}`)).status, "nothing is begun any more")
}
