package election

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"interrex/election/embedded/etcdtest"
	"interrex/internal/topology"
)

func TestUpdate(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t, 1, zap.NewNop())
	a := leader(t, "a", etcd.Endpoints())
	b := follower(t, "b", etcd.Endpoints())
	ctx := t.Context()

	none, err := a.Read(ctx)
	require.NoError(t, err)
	require.Zero(t, none.Revision)
	require.Equal(t, State{Format: Format, Cluster: "test"}, none.State)

	one, err := a.Update(ctx, none, raise)
	require.NoError(t, err)
	require.EqualValues(t, 1, one.State.Epoch)
	require.Equal(t, one.Revision, a.Snapshot().Revision)

	_, err = a.Update(ctx, none, raise)
	require.ErrorIs(t, err, ErrConflict, "base does not exist any more")
	two, err := a.Update(ctx, one, raise)
	require.NoError(t, err)
	_, err = a.Update(ctx, one, raise)
	require.ErrorIs(t, err, ErrConflict)
	require.EqualValues(t, 2, a.Snapshot().State.Epoch)

	eventually(t, "b sees epoch 2", func() (any, bool) {
		s := b.Snapshot()
		return s, s.Revision == two.Revision
	})
	_, err = b.Update(ctx, b.Snapshot(), raise)
	require.ErrorIs(t, err, ErrNotLeader)

	stop := errors.New("no")
	_, err = a.Update(ctx, two, func(*State) error { return stop })
	require.ErrorIs(t, err, stop)
	_, err = a.Update(ctx, two, func(s *State) error { s.Epoch = 1; return nil })
	require.ErrorIs(t, err, ErrInvalidChange, "I5")
	require.EqualValues(t, 2, a.Snapshot().State.Epoch, "a refused change must not show")
}

func TestUpdateKeepsUnknownFields(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t, 1, zap.NewNop())
	a := leader(t, "a", etcd.Endpoints())
	_, err := rawClient(t, etcd.Endpoints()...).Put(t.Context(), a.keys.state,
		`{"format":1,"minor":7,"cluster":"test","epoch":4,"register":{"ackers":["b"],"k":1,"weights":{"b":2}},"charter":{"x":[1]}}`)
	require.NoError(t, err)
	base, err := a.Read(t.Context())
	require.NoError(t, err)
	_, err = a.Update(t.Context(), base, func(s *State) error {
		s.Epoch = 5
		s.Register.Ackers = append(s.Register.Ackers, "c")
		return nil
	})
	require.NoError(t, err)
	stored, err := rawClient(t, etcd.Endpoints()...).Get(t.Context(), a.keys.state)
	require.NoError(t, err)
	require.JSONEq(t,
		`{"format":1,"minor":7,"cluster":"test","epoch":5,"register":{"ackers":["b","c"],"k":1,"weights":{"b":2}},"charter":{"x":[1]}}`,
		string(stored.Kvs[0].Value))
}

func TestRacingCandidatesOneLeads(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t, 3, zap.NewNop())
	var nodes []*node
	for i, name := range []topology.NodeName{"a", "b", "c"} {
		n := follower(t, name, rotate(etcd.Endpoints(), i))
		sees(t, n, "")
		nodes = append(nodes, n)
	}
	for round := range 5 {
		for _, n := range nodes {
			n.SetCandidacy(always)
		}
		var holder *node
		eventually(t, "all agree on one leader", func() (any, bool) {
			var seen []Leadership
			mine := 0
			for _, n := range nodes {
				l := n.Leadership()
				seen = append(seen, l)
				if l.Mine {
					mine++
					holder = n
				}
			}
			if mine > 1 {
				t.Fatalf("%d leaders: %+v", mine, seen)
			}
			return seen, mine == 1 && seen[0].Revision == seen[1].Revision && seen[1].Revision == seen[2].Revision
		})
		for _, n := range nodes {
			n.SetCandidacy(never)
		}
		eventually(t, fmt.Sprint("resigned in round ", round), func() (any, bool) {
			err := holder.Resign(t.Context()) // etcd may have no time for it, on a slow machine
			return err, err == nil
		})
		eventually(t, "nobody leads", func() (any, bool) {
			free := true
			for _, n := range nodes {
				l := n.Leadership()
				if l.Mine { // it had begun to campaign before it was told not to
					_ = n.Resign(t.Context())
				}
				free = free && l.Holder == ""
			}
			return nodes[0].Leadership(), free
		})
	}
}

// Two members that both believe they lead race for one revision: the leader
// key decides, whatever their clocks say.
func TestTakeOverFencesTheFormerLeader(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t, 3, zap.NewNop())
	a := leader(t, "a", etcd.Endpoints())
	b := follower(t, "b", rotate(etcd.Endpoints(), 1))
	c := follower(t, "c", rotate(etcd.Endpoints(), 2))
	base, err := a.Update(t.Context(), a.Snapshot(), raise)
	require.NoError(t, err)
	sees(t, b, "a")
	sees(t, c, "a")
	former, _ := a.view.leaderNow()

	require.ErrorIs(t, b.TakeOver(t.Context(), "c"), ErrConflict, "c does not lead")
	begun := time.Now()
	require.NoError(t, b.TakeOver(t.Context(), "a"))
	t.Logf("take-over took %v", time.Since(begun))
	require.True(t, b.Leadership().Mine)
	require.NoError(t, b.TakeOver(t.Context(), "a"), "leads already")

	// What a sends as the leader it was does not land, whether or not it has
	// heard of its successor.
	_, err = a.commit(t.Context(), write{base: base.Revision, lead: former.revision, id: "late", value: []byte(`{}`)})
	require.ErrorIs(t, err, ErrNotLeader)
	eventually(t, "a knows", func() (any, bool) { l := a.Leadership(); return l, !l.Mine && l.Holder == "b" })
	_, err = a.Update(t.Context(), base, raise)
	require.ErrorIs(t, err, ErrNotLeader)

	_, err = b.Update(t.Context(), base, raise)
	require.NoError(t, err)
	require.ErrorIs(t, c.TakeOver(t.Context(), "a"), ErrConflict, "b leads now")
}

func TestTransferAndResign(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t, 1, zap.NewNop())
	a := leader(t, "a", etcd.Endpoints())
	b := follower(t, "b", etcd.Endpoints())
	sees(t, b, "a")
	require.ErrorIs(t, b.Transfer(t.Context(), "a"), ErrNotLeader)

	begun := time.Now()
	require.NoError(t, a.Transfer(t.Context(), "b"))
	eventually(t, "b leads", func() (any, bool) { l := b.Leadership(); return l, l.Mine })
	t.Logf("transfer took %v", time.Since(begun))
	require.False(t, a.Leadership().Mine)

	// To a member that is not there: the key is free again after its time.
	require.NoError(t, b.Transfer(t.Context(), "nobody"))
	sees(t, a, "nobody")
	eventually(t, "a leads", func() (any, bool) { l := a.Leadership(); return l, l.Mine })

	require.NoError(t, a.Resign(t.Context()))
	require.NoError(t, a.Resign(t.Context()), "nothing to resign")
	sees(t, b, "")
	eventually(t, "a leads again after its rest", func() (any, bool) { l := a.Leadership(); return l, l.Mine })
	a.stop()
	sees(t, b, "")
}

// An agent that was killed and is back at once finds the leader key with its own
// name: it takes it, and nobody has to wait for the lease of its former life.
func TestRestartedLeaderLeadsAtOnce(t *testing.T) {
	etcd := etcdtest.Start(t, 1, zap.NewNop())
	link := newRelay(t, etcd.Endpoints()[0])
	former := testConfig("a", []string{link.address()})
	former.LeaderTTL = 20 * time.Second
	killed := run(t, former)
	eventually(t, "a leads", func() (any, bool) { l := killed.Leadership(); return l, l.Mine })
	before := killed.Leadership()
	b := run(t, testConfig("b", etcd.Endpoints()))
	sees(t, b, "a")
	_ = link.listener.Close()
	link.cut()

	again := testConfig("a", etcd.Endpoints())
	again.LeaderTTL = former.LeaderTTL
	begun := time.Now()
	back := run(t, again)
	eventually(t, "it leads again", func() (any, bool) { l := back.Leadership(); return l, l.Mine })
	took := time.Since(begun)
	t.Logf("led again after %v", took)
	require.Less(t, took, former.LeaderTTL/2)
	require.Greater(t, back.Leadership().Revision, before.Revision, "the former life is fenced off")
	require.Equal(t, topology.NodeName("a"), b.Leadership().Holder)
}

// A holder that dies without a word loses the key when its lease runs out.
func TestLeaderKeyOutlivesItsHolderByTheTTLOnly(t *testing.T) {
	etcd := etcdtest.Start(t, 1, zap.NewNop())
	link := newRelay(t, etcd.Endpoints()[0])
	a := leader(t, "a", []string{link.address()})
	b := run(t, testConfig("b", etcd.Endpoints()))
	sees(t, b, "a")
	_ = link.listener.Close()
	link.cut() // for etcd this is the same as a SIGKILL of the holder
	begun := time.Now()
	var lapsed time.Duration
	eventually(t, "b leads", func() (any, bool) {
		if lapsed == 0 && !a.Leadership().Mine {
			lapsed = time.Since(begun)
		}
		l := b.Leadership()
		return l, l.Mine
	})
	took := time.Since(begun)
	t.Logf("holder stood down after %v, successor led after %v", lapsed, took)
	require.NotZero(t, lapsed, "the old holder must have stood down before")
	require.Less(t, lapsed, took)
	require.Greater(t, took, time.Second)
}

func TestMembersAndReports(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t, 1, zap.NewNop())
	a := follower(t, "a", etcd.Endpoints())
	b := follower(t, "b", etcd.Endpoints())
	ctx := t.Context()
	require.NoError(t, b.Register(ctx, topology.Member{Name: "b", API: "127.0.0.1:2"}))
	require.NoError(t, a.Register(ctx, topology.Member{Name: "a", API: "127.0.0.1:1"}))
	require.ErrorIs(t, a.Register(ctx, topology.Member{Name: "b"}), ErrInvalidChange)
	both := []topology.Member{{Name: "a", API: "127.0.0.1:1"}, {Name: "b", API: "127.0.0.1:2"}}
	for _, n := range []*node{a, b} {
		eventually(t, "both members", func() (any, bool) { m := n.Members(); return m, slices.Equal(m, both) })
	}
	_, err := rawClient(t, etcd.Endpoints()...).Delete(ctx, a.keys.member("a"))
	require.NoError(t, err)
	eventually(t, "a is gone", func() (any, bool) { m := b.Members(); return m, slices.Equal(m, both[1:]) })
	eventually(t, "a is registered again", func() (any, bool) { m := b.Members(); return m, slices.Equal(m, both) })
	b.stop()
	require.Equal(t, both, a.Members(), "a member that left stays registered")

	_, err = a.Report(ctx, 1)
	require.ErrorIs(t, err, ErrNotFound)
	for _, epoch := range []topology.Epoch{9, 10, 2, 100} {
		require.NoError(t, a.SaveReport(ctx, epoch, fmt.Appendf(nil, "%d", epoch)))
	}
	require.NoError(t, a.SaveReport(ctx, 10, []byte("10 completed")))
	newest, err := a.Reports(ctx, 3)
	require.NoError(t, err)
	require.Equal(t, [][]byte{[]byte("100"), []byte("10 completed"), []byte("9")}, newest)
	none, err := a.Reports(ctx, 0)
	require.NoError(t, err)
	require.Empty(t, none)
	one, err := a.Report(ctx, 2)
	require.NoError(t, err)
	require.Equal(t, "2", string(one))

	// The oldest make room.
	var ops []clientv3.Op
	for epoch := topology.Epoch(101); epoch < 101+LedgerKept; epoch++ {
		if ops = append(ops, clientv3.OpPut(a.keys.report(epoch), "x")); len(ops) == 100 {
			_, err = rawClient(t, etcd.Endpoints()...).Txn(ctx).Then(ops...).Commit()
			require.NoError(t, err)
			ops = nil
		}
	}
	require.Empty(t, ops)
	require.NoError(t, a.SaveReport(ctx, 1_000_000, []byte("after a leap")))
	all, err := a.Reports(ctx, 2*LedgerKept)
	require.NoError(t, err)
	require.Len(t, all, LedgerKept)
	require.Equal(t, "after a leap", string(all[0]))
	_, err = a.Report(ctx, 101)
	require.ErrorIs(t, err, ErrNotFound)
	_, err = a.Report(ctx, 102)
	require.NoError(t, err)
}

func TestSubscribersWake(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t, 1, zap.NewNop())
	a := leader(t, "a", etcd.Endpoints())
	b := follower(t, "b", etcd.Endpoints())
	changes, cancel := b.Subscribe()
	defer cancel()
	wrote, err := a.Update(t.Context(), a.Snapshot(), raise)
	require.NoError(t, err)
	begun := time.Now()
	deadline := time.After(limit)
	for b.Snapshot().Revision < wrote.Revision {
		select {
		case <-changes:
		case <-deadline:
			t.Fatalf("not woken; last state: %+v", b.Snapshot())
		}
	}
	t.Logf("change seen by another member after %v", time.Since(begun))
}

// The speed of a change in quiet times, three members, fsync on.
func TestUpdateLatency(t *testing.T) {
	etcd := etcdtest.Start(t, 3, zap.NewNop())
	a := leader(t, "a", etcd.Endpoints())
	snapshot := a.Snapshot()
	var took []time.Duration
	for range 200 {
		begun := time.Now()
		next, err := a.Update(t.Context(), snapshot, raise)
		require.NoError(t, err)
		snapshot = next
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	t.Logf("compare-and-swap: p50 %v, p99 %v", took[len(took)/2], took[len(took)*99/100])
}

func TestConcurrentUpdatesOfOneMember(t *testing.T) {
	etcd := etcdtest.Start(t, 1, zap.NewNop())
	a := leader(t, "a", etcd.Endpoints())
	base := a.Snapshot()
	var mu sync.Mutex
	var won, lost int
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			_, err := a.Update(t.Context(), base, raise)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
			case errors.Is(err, ErrConflict):
				lost++
			default:
				t.Errorf("update: %v", err)
			}
		})
	}
	all.Wait()
	require.Equal(t, 1, won)
	require.Equal(t, 7, lost)
	require.EqualValues(t, 1, a.Snapshot().State.Epoch)
}

func signalAll(t *testing.T, signal syscall.Signal, members ...*etcdtest.Member) {
	t.Helper()
	for _, m := range members {
		m.Signal(t, signal)
	}
}

func bounded(t *testing.T, cfg Config, what string, do func(context.Context) error) error {
	t.Helper()
	begun := time.Now()
	err := do(t.Context())
	// The slack is for a busy machine, not for the code.
	require.Less(t, time.Since(begun), cfg.CallTimeout+time.Second, what)
	return err
}
