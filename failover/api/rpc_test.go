package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net"
	"net/http"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/failover"
	"interrex/internal/gtid"
	"interrex/internal/porttest"
	"interrex/internal/topology"
	"interrex/router"
)

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// everyCommand gives each command of failover.Node once, with requests in
// which every field is set.
func everyCommand(n failover.Node) map[string]func(context.Context) (any, error) {
	set := gtid.MustParse(n1UUID + ":1-5:9")
	silent := func(f func(context.Context) error) func(context.Context) (any, error) {
		return func(ctx context.Context) (any, error) { return nil, f(ctx) }
	}
	return map[string]func(context.Context) (any, error){
		commandStatus: func(ctx context.Context) (any, error) { return n.Status(ctx) },
		commandFreeze: func(ctx context.Context) (any, error) { return n.Freeze(ctx, failover.FreezeRequest{Epoch: 4}) },
		commandCatchUp: func(ctx context.Context) (any, error) {
			return n.CatchUp(ctx, failover.CatchUpRequest{Epoch: 4, Set: set, Limit: time.Second})
		},
		commandPromote: func(ctx context.Context) (any, error) {
			return n.Promote(ctx, failover.PromoteRequest{Epoch: 4, K: 1, Limit: time.Second})
		},
		commandClose: func(ctx context.Context) (any, error) {
			return n.Close(ctx, failover.CloseRequest{Epoch: 4, Drain: time.Second, Limit: 2 * time.Second})
		},
		commandFollow: silent(func(ctx context.Context) error {
			return n.Follow(ctx, failover.FollowRequest{Epoch: 4, Source: "n2", SourceUUID: n1UUID, Address: "h:1", SourceHas: set, Acker: true})
		}),
		commandRebuild: silent(func(ctx context.Context) error {
			return n.Rebuild(ctx, failover.RebuildRequest{Epoch: 4, Donor: "n2", Address: "h:1", Errant: set})
		}),
		commandRoute: silent(func(ctx context.Context) error {
			return n.Route(ctx, router.Route{Epoch: 4, Phase: router.Open, Primary: &router.Backend{Node: "n2", Address: "h:1"}})
		}),
	}
}

func TestCommandsArriveAsGiven(t *testing.T) {
	b := newBench(t, "n1").listen(t)
	direct := &fakeNode{}
	remote := everyCommand(b.client(t, "n1"))
	for name, give := range everyCommand(direct) {
		want, err := give(within(t, patience))
		require.NoError(t, err)
		got, err := remote[name](within(t, patience))
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
		sent, arrived := direct.taken(), b.node.taken()
		require.Equal(t, sent[len(sent)-1], arrived[len(arrived)-1], name)
	}
}

func TestRouteKeepsNilApartFromEmpty(t *testing.T) {
	b := newBench(t, "n1").listen(t)
	c := b.client(t, "n1")
	require.NoError(t, c.Route(within(t, patience), router.Route{Epoch: 1}))
	require.NoError(t, c.Route(within(t, patience), router.Route{Epoch: 1, Replicas: []router.Backend{}}))
	got := b.node.taken()
	require.Nil(t, got[0].(router.Route).Replicas, "nil keeps what the member judged")
	require.NotNil(t, got[1].(router.Route).Replicas, "empty takes it away")
}

// TestErrorsKeepTheirIdentity sends every sentinel through every command,
// plain, wrapped and joined with another.
func TestErrorsKeepTheirIdentity(t *testing.T) {
	b := newBench(t, "n1").listen(t)
	for name, give := range everyCommand(b.client(t, "n1")) {
		for _, k := range codedErrors() {
			for _, sent := range []error{
				k.err, fmt.Errorf("stop receiver: %w", k.err), errors.Join(errors.New("x"), fmt.Errorf("y: %w", k.err), failover.ErrBusy),
			} {
				b.node.fails(sent)
				_, err := give(within(t, patience))
				for _, other := range codedErrors() {
					require.Equal(t, errors.Is(sent, other.err), errors.Is(err, other.err), "%s: %v: %s", name, sent, other.code)
				}
				require.Equal(t, fmt.Sprintf("%s n1: %v", name, sent), err.Error())
				require.NotErrorIs(t, err, ErrNotExecuted)
				require.NotErrorIs(t, err, ErrOutcomeUnknown)
			}
		}
		b.node.fails(errors.New("disk full"))
		_, err := give(within(t, patience))
		var remote *RemoteError
		require.ErrorAs(t, err, &remote)
		require.Equal(t, topology.NodeName("n1"), remote.Node)
		require.Equal(t, "disk full", remote.Message)
	}
}

func TestTypedErrorsKeepTheirDetails(t *testing.T) {
	b := newBench(t, "n1").listen(t)
	c := b.client(t, "n1")
	give := func(err error) error {
		b.node.fails(fmt.Errorf("freeze: %w", err))
		_, got := c.Freeze(within(t, patience), failover.FreezeRequest{Epoch: 2})
		return got
	}
	stale := &failover.StaleEpochError{Node: "n1", Asked: 2, Promised: 5}
	err := give(stale)
	var gotStale *failover.StaleEpochError
	require.ErrorAs(t, err, &gotStale)
	require.Equal(t, stale, gotStale)
	require.ErrorIs(t, err, failover.ErrStaleEpoch)
	require.NotErrorIs(t, err, failover.ErrErrant)

	errant := &failover.ErrantError{Node: "n1", Set: gtid.MustParse(n1UUID + ":7-9")}
	err = give(errant)
	var gotErrant *failover.ErrantError
	require.ErrorAs(t, err, &gotErrant)
	require.Equal(t, errant.Set.String(), gotErrant.Set.String())
	require.ErrorIs(t, err, failover.ErrErrant)

	gate := &failover.GateError{Gate: failover.Gate{Name: "idle", Operation: election.Failover, Reason: "busy"}}
	err = give(gate)
	var gotGate *failover.GateError
	require.ErrorAs(t, err, &gotGate)
	require.Equal(t, gate, gotGate)
	require.ErrorIs(t, err, failover.ErrGateClosed)
}

// TestEverySentinelHasACode reads the sources: a sentinel that is added to one
// of these packages must be given a code too.
func TestEverySentinelHasACode(t *testing.T) {
	var want []string
	for _, file := range []string{"../errors.go", "../../election/errors.go", "../../dbrepl/errors.go"} {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		require.NoError(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, "Err") {
				return true
			}
			if call, ok := spec.Values[0].(*ast.CallExpr); ok {
				want = append(want, strings.Trim(call.Args[0].(*ast.BasicLit).Value, `"`))
			}
			return true
		})
	}
	codes, got := map[string]bool{}, []string{}
	for _, k := range codedErrors() {
		require.False(t, codes[k.code], "code %s is given twice", k.code)
		codes[k.code] = true
		if !errors.Is(k.err, context.Canceled) && !errors.Is(k.err, context.DeadlineExceeded) {
			got = append(got, k.err.Error())
		}
	}
	sort.Strings(want)
	sort.Strings(got)
	require.NotEmpty(t, want)
	require.Equal(t, want, got)
}

func TestUnknownCodeLeavesTheText(t *testing.T) {
	err := (&wireError{Message: "from the future", Codes: []string{"quantum", "busy"}}).decode("n1", "freeze")
	require.EqualError(t, err, "freeze n1: from the future")
	require.ErrorIs(t, err, failover.ErrBusy)
}

func TestTimeLimitReachesTheNode(t *testing.T) {
	b := newBench(t, "n1").listen(t)
	left := make(chan time.Duration, 1)
	b.node.wait = func(ctx context.Context) error {
		deadline, _ := ctx.Deadline()
		left <- time.Until(deadline)
		<-ctx.Done()
		return ctx.Err()
	}
	_, err := b.client(t, "n1").Status(within(t, 300*time.Millisecond))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	got := <-left
	require.Greater(t, got, time.Duration(0))
	require.LessOrEqual(t, got, 300*time.Millisecond)
}

func TestLongCommandIsNotCut(t *testing.T) {
	b := newBench(t, "n1").listen(t)
	release := make(chan struct{})
	b.node.wait = func(ctx context.Context) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	time.AfterFunc(500*time.Millisecond, func() { close(release) })
	_, err := b.client(t, "n1").Status(context.Background())
	require.NoError(t, err, "no limit but the caller's")
}

func TestNodeStopsWhenTheClientGoes(t *testing.T) {
	b := newBench(t, "n1").listen(t)
	began, ended := make(chan struct{}), make(chan struct{})
	b.node.wait = func(ctx context.Context) error {
		close(began)
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(within(t, patience))
	go func() {
		<-began
		cancel()
	}()
	_, err := b.client(t, "n1").Status(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, ErrOutcomeUnknown, "it had been sent")
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the node was not told that nobody waits")
	}
}

func rawCommand(body string, header ...string) string {
	return "POST " + commandPath + commandFreeze + " HTTP/1.1\r\nHost: n1\r\nAuthorization: Bearer " + memberToken +
		"\r\nContent-Type: application/json\r\n" + fmt.Sprintf("Content-Length: %d\r\n", len(body)) + strings.Join(append(header, "\r\n"), "\r\n")
}

// TestLateCommandIsNotExecuted: the body arrives when the time has passed.
func TestLateCommandIsNotExecuted(t *testing.T) {
	b := newBench(t, "n1").listen(t)
	conn, err := net.Dial("tcp", b.addr)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	body := `{"epoch":4}`
	_, err = conn.Write([]byte(rawCommand(body, headerTimeout+": 50000")))
	require.NoError(t, err)
	time.Sleep(150 * time.Millisecond)
	_, err = conn.Write([]byte(body)) // the server may have closed already
	_ = err
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
		require.NotEqual(t, http.StatusOK, resp.StatusCode)
		_ = resp.Body.Close()
	}
	require.Empty(t, b.node.taken())
}

// TestDeadlineIsCheckedAfterDecoding: the time passes between arrival and the
// moment the command would begin.
func TestDeadlineIsCheckedAfterDecoding(t *testing.T) {
	b := newBench(t, "n1")
	a := ask{method: "POST", path: commandPath + commandFreeze, host: "n1", token: memberToken, body: `{"epoch":4}`, header: map[string]string{headerTimeout: "1"}}
	p := b.do(a).problem(t)
	require.Equal(t, ProblemType+problemDeadline, p.Type)
	require.Equal(t, http.StatusGatewayTimeout, p.Status)
	require.Empty(t, b.node.taken())
	for _, bad := range []string{"0", "-1", "x", "1.5", "99999999999999999999", "86400000001"} {
		a.header[headerTimeout] = bad
		require.Equal(t, http.StatusBadRequest, b.do(a).status, bad)
	}
	require.Empty(t, b.node.taken())
}

// TestAbandonedCommandIsNotExecuted is a process that was frozen: the command
// waits in its socket, its sender gives up and goes, then the process thaws.
func TestAbandonedCommandIsNotExecuted(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	body := `{"epoch":4}`
	for range 20 {
		conn, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		_, err = conn.Write([]byte(rawCommand(body, headerTimeout+": 10000000") + body))
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
	b := newBench(t, "n1")
	b.serve(t, ln) // thaws: until now nobody accepted
	for range 5 {
		_, err := b.client(t, "n1").Status(within(t, patience))
		require.NoError(t, err)
	}
	require.Equal(t, []any{"status", "status", "status", "status", "status"}, b.node.taken())
}

func TestNothingSentIsNotExecuted(t *testing.T) {
	c := NewClient("n1", porttest.Address(t), memberToken, nil)
	_, err := c.Status(within(t, patience))
	require.ErrorIs(t, err, ErrNotExecuted)

	b := newBench(t, "n1").listen(t)
	passed, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer cancel()
	_, err = b.client(t, "n1").Status(passed)
	require.ErrorIs(t, err, ErrNotExecuted)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	_, err = NewClient("n1", b.addr, "wrong", nil).Status(within(t, patience))
	require.ErrorIs(t, err, ErrNotExecuted, "refused before it began")
	_, err = b.client(t, "n2").Status(within(t, patience))
	require.ErrorIs(t, err, ErrNotExecuted, "another member lives at that address now")
	require.ErrorContains(t, err, `the command is for "n2", this is "n1"`)
	require.Empty(t, b.node.taken())
}

// TestBrokenAnswerIsUnknown: the server takes the command and breaks off.
func TestBrokenAnswerIsUnknown(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing":     "",
		"half":        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
		"no JSON":     "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n<",
		"foreign 500": "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 1\r\n\r\n<",
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			var requests int
			var served sync.WaitGroup
			served.Go(func() {
				for {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
						requests++
					}
					_, _ = conn.Write([]byte(answer))
					_ = conn.Close()
				}
			})
			_, err = NewClient("n1", ln.Addr().String(), memberToken, nil).Freeze(within(t, patience), failover.FreezeRequest{})
			require.NoError(t, ln.Close())
			served.Wait()
			require.ErrorIs(t, err, ErrOutcomeUnknown)
			require.NotErrorIs(t, err, ErrNotExecuted)
			require.Equal(t, 1, requests, "a command is never repeated by itself")
		})
	}
}

func TestConnectionsStayWarm(t *testing.T) {
	b := newBench(t, "n1")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	counted := &countingListener{Listener: ln}
	b.serve(t, counted)
	c := b.client(t, "n1")
	for range 50 {
		_, err := c.Status(within(t, patience))
		require.NoError(t, err)
	}
	require.Equal(t, 1, counted.count())
}

type countingListener struct {
	net.Listener
	mu sync.Mutex
	n  int
}

func (l *countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		l.n++
		l.mu.Unlock()
	}
	return c, err
}

func (l *countingListener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

func TestPeersFindNodes(t *testing.T) {
	b := newBench(t, "n1").listen(t)
	own := &fakeNode{}
	member := topology.Member{Name: "n1", API: b.addr}
	peers := NewPeers("me", "c", own, func(name topology.NodeName) (topology.Member, bool) { return member, name == "n1" }, memberToken, nil)
	t.Cleanup(peers.CloseIdle)
	n, err := peers.Node("me")
	require.NoError(t, err)
	require.Same(t, own, n)
	_, err = peers.Node("n9")
	require.ErrorIs(t, err, ErrUnknownMember)
	first, err := peers.Node("n1")
	require.NoError(t, err)
	_, err = first.Status(within(t, patience))
	require.NoError(t, err)
	again, err := peers.Node("n1")
	require.NoError(t, err)
	require.Same(t, first, again)
	member.API = "127.0.0.1:1"
	moved, err := peers.Node("n1")
	require.NoError(t, err)
	require.NotSame(t, first, moved)
}

// An address that is another cluster's by now, with a member of the same name and
// even the same tokens, obeys nothing (O4).
func TestO4CommandForAnotherCluster(t *testing.T) {
	b := newBench(t, "n1").listen(t)
	lookup := func(topology.NodeName) (topology.Member, bool) { return topology.Member{Name: "n1", API: b.addr}, true }
	peers := NewPeers("me", "another", &fakeNode{}, lookup, memberToken, nil)
	t.Cleanup(peers.CloseIdle)
	n, err := peers.Node("n1")
	require.NoError(t, err)
	_, err = n.Freeze(within(t, patience), failover.FreezeRequest{Epoch: 9})
	require.ErrorIs(t, err, ErrNotExecuted)
	require.ErrorContains(t, err, `the command is for cluster "another", this is a member of "c"`)
	require.Empty(t, b.node.taken())
}

// FuzzCommands feeds any bytes to the decoder of every command: no panic, and
// what is not understood is a 400 that the node never sees.
func FuzzCommands(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"epoch":4}`, `{"epoch":-1}`, `{"epoch":18446744073709551616}`, `{"set":"` + n1UUID + `:1-5"}`, `{"set":"x"}`,
		`{"replicas":null,"primary":{"node":"n1"}}`, `[]`, `null`, `{"limit_ns":1e3}`, `{"epoch":4}{}`, "\xff",
	} {
		f.Add(s)
	}
	b := newBench(f, "n1")
	f.Fuzz(func(t *testing.T, body string) {
		for name := range b.commands() {
			before := len(b.node.taken())
			got := b.do(ask{method: "POST", path: commandPath + name, host: "n1", token: memberToken, body: body})
			reached := len(b.node.taken()) - before
			switch got.status {
			case http.StatusOK:
				require.Equal(t, 1, reached)
			case http.StatusBadRequest, http.StatusRequestEntityTooLarge:
				require.Zero(t, reached)
			default:
				t.Fatalf("%s %q: %d %s", name, body, got.status, got.body)
			}
		}
	})
}

func BenchmarkCommand(bench *testing.B) {
	b := newBench(bench, "n1").listen(bench)
	c := b.client(bench, "n1")
	for bench.Loop() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if _, err := c.Freeze(ctx, failover.FreezeRequest{Epoch: 4}); err != nil {
			bench.Fatal(err)
		}
		cancel()
	}
}

// TestIdleSocketsDoNotBlockCommands: connections that say nothing, or half of
// something, cost no command its answer.
func TestIdleSocketsDoNotBlockCommands(t *testing.T) {
	b := newBench(t, "n1").listen(t)
	for i := range 300 {
		conn, err := net.Dial("tcp", b.addr)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		if i%2 == 0 {
			_, err = conn.Write([]byte("POST /api/v1/pause HTTP/1.1\r\nHost: n1\r\nContent-"))
			require.NoError(t, err)
		}
	}
	c := b.client(t, "n1")
	for range 20 {
		_, err := c.Status(within(t, patience))
		require.NoError(t, err)
	}
}
