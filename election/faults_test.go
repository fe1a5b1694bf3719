package election

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"interrex/election/embedded/etcdtest"
)

// The answer to a change is lost on its way: the client must find out that the
// change was made, and not make it twice.
func TestUnknownOutcomeIsSettled(t *testing.T) {
	etcd := etcdtest.Start(t, 1, zap.NewNop())
	link := newRelay(t, etcd.Endpoints()[0])
	a := leader(t, "a", []string{link.address()})
	base, err := a.Update(t.Context(), a.Snapshot(), raise)
	require.NoError(t, err)

	link.muteAnswers(true)
	healed := make(chan struct{})
	time.AfterFunc(700*time.Millisecond, func() {
		defer close(healed)
		link.cut()
		link.muteAnswers(false)
	})
	begun := time.Now()
	next, err := a.Update(t.Context(), base, raise)
	<-healed
	require.NoError(t, err)
	t.Logf("settled after %v", time.Since(begun))
	require.EqualValues(t, 2, next.State.Epoch)
	stored, err := a.Read(t.Context())
	require.NoError(t, err)
	require.Equal(t, next.Revision, stored.Revision, "made once")

	link.muteAnswers(true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = a.Update(ctx, stored, raise)
	require.ErrorIs(t, err, ErrOutcomeUnknown)
	require.NotErrorIs(t, err, ErrUnreachable, "that would promise that nothing changed")
	link.cut()
	link.muteAnswers(false)
	eventually(t, "the change shows after all", func() (any, bool) {
		s := a.Snapshot()
		return s, s.State.Epoch == 3
	})
}

func TestKilledEtcdLeaderDelaysAnUpdateOnly(t *testing.T) {
	etcd := etcdtest.Start(t, 3, zap.NewNop())
	a := leader(t, "a", etcd.Endpoints())
	snapshot := a.Snapshot()
	for round := range 2 {
		victim := etcd.Leader(t)
		victim.Signal(t, syscall.SIGKILL)
		begun := time.Now()
		next, err := a.Update(t.Context(), snapshot, raise)
		t.Logf("round %d: change made %v after the kill of etcd's leader", round, time.Since(begun))
		require.NoError(t, err)
		require.Less(t, time.Since(begun), a.cfg.SettleTimeout+time.Second)
		snapshot = next
		for range 20 {
			_ = bounded(t, a.cfg, "read while a member is down", func(ctx context.Context) error {
				_, err := a.Read(ctx)
				return err
			})
		}
		etcd.WaitReady(t)
		eventually(t, "a leads", func() (any, bool) { l := a.Leadership(); return l, l.Mine })
	}
}

func TestFrozenMemberIsHedged(t *testing.T) {
	etcd := etcdtest.Start(t, 3, zap.NewNop())
	frozen := 0 // a member that does not lead etcd, and that the clients prefer
	for etcd.Members[frozen] == etcd.Leader(t) {
		frozen++
	}
	endpoints := rotate(etcd.Endpoints(), frozen)
	a := leader(t, "a", endpoints)
	b := follower(t, "b", endpoints)
	sees(t, b, "a")
	etcd.Members[frozen].Signal(t, syscall.SIGSTOP)

	update := func() (Snapshot, time.Duration) {
		begun := time.Now()
		wrote, err := a.Update(t.Context(), a.Snapshot(), raise)
		require.NoError(t, err)
		return wrote, time.Since(begun)
	}
	_, first := update()
	var slowest time.Duration
	for i := range 40 {
		_, took := update()
		slowest = max(slowest, took)
		if i == 20 {
			// The frozen member stays avoided after it was probed again.
			time.Sleep(2 * a.cfg.ProbeEvery)
		}
	}
	t.Logf("preferred member frozen: first change %v, slowest of the next 40 %v", first, slowest)
	require.Less(t, max(first, slowest), a.cfg.CallTimeout+time.Second)
	wrote, _ := update()
	eventually(t, "the watch moves off the frozen member", func() (any, bool) {
		s := b.Snapshot()
		return s, s.Revision == wrote.Revision
	})

	etcd.Members[frozen].Signal(t, syscall.SIGCONT)
	eventually(t, "the preferred member is used again", func() (any, bool) {
		best := a.pool.best().address
		return best, best == endpoints[0]
	})
	for range 5 {
		_, _ = update() // what the frozen member still had queued must not disturb
	}
}

func TestLostQuorum(t *testing.T) {
	etcd := etcdtest.Start(t, 3, zap.NewNop())
	a := leader(t, "a", etcd.Endpoints())
	b := follower(t, "b", etcd.Endpoints())
	known, err := a.Update(t.Context(), a.Snapshot(), raise)
	require.NoError(t, err)
	sees(t, b, "a")

	signalAll(t, syscall.SIGSTOP, etcd.Members[1:]...)
	for _, n := range []*node{a, b} {
		// For so long that every call which was under way has ended: the answer to
		// an old one may be noted after the loss was noticed first.
		var since time.Time
		eventually(t, "loss noticed", func() (any, bool) {
			err := bounded(t, n.cfg, "healthy", n.Healthy)
			if !errors.Is(err, ErrUnreachable) || n.pool.anyHealthy() {
				since = time.Time{}
			} else if since.IsZero() {
				since = time.Now()
			}
			return err, !since.IsZero() && time.Since(since) > 2*n.cfg.CallTimeout
		})
	}
	err = bounded(t, a.cfg, "update", func(ctx context.Context) error {
		_, err := a.Update(ctx, known, raise)
		return err
	})
	require.ErrorIs(t, err, ErrUnreachable)
	require.NotErrorIs(t, err, ErrOutcomeUnknown)
	err = bounded(t, b.cfg, "take over", func(ctx context.Context) error { return b.TakeOver(ctx, "a") })
	require.ErrorIs(t, err, ErrUnreachable)
	_, err = a.Reports(t.Context(), 1)
	require.ErrorIs(t, err, ErrUnreachable)
	require.Equal(t, known.Revision, a.Snapshot().Revision, "still served")
	eventually(t, "a stands down by its own clock", func() (any, bool) { l := a.Leadership(); return l, !l.Mine })
	require.Equal(t, known.State, a.Snapshot().State)

	signalAll(t, syscall.SIGCONT, etcd.Members[1:]...)
	eventually(t, "a leads again", func() (any, bool) { l := a.Leadership(); return l, l.Mine })
	next, err := a.Update(t.Context(), a.Snapshot(), raise)
	require.NoError(t, err)
	eventually(t, "b follows", func() (any, bool) { s := b.Snapshot(); return s, s.Revision == next.Revision })
}

// Everything is down from the start and comes up later.
func TestStartBeforeEtcd(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.New(t, 3, zap.NewNop())
	a := run(t, testConfig("a", etcd.Endpoints()))
	require.ErrorIs(t, a.Healthy(t.Context()), ErrUnreachable)
	require.Zero(t, a.Snapshot().ReadAt)
	begun := time.Now()
	for _, m := range etcd.Members {
		m.Start()
	}
	eventually(t, "a leads", func() (any, bool) { l := a.Leadership(); return l, l.Mine })
	t.Logf("three members formed and a leader was elected after %v", time.Since(begun))
}

// A watch that was cut misses nothing, compaction included.
func TestLostWatchIsMadeUp(t *testing.T) {
	t.Parallel()
	etcd := etcdtest.Start(t, 1, zap.NewNop())
	link := newRelay(t, etcd.Endpoints()[0])
	a := leader(t, "a", etcd.Endpoints())
	b := follower(t, "b", []string{link.address()})
	snapshot, err := a.Update(t.Context(), a.Snapshot(), raise)
	require.NoError(t, err)
	eventually(t, "b sees the first change", func() (any, bool) { s := b.Snapshot(); return s, s.Revision == snapshot.Revision })

	link.muteAnswers(true)
	for range 5 {
		snapshot, err = a.Update(t.Context(), snapshot, raise)
		require.NoError(t, err)
	}
	_, err = rawClient(t, etcd.Endpoints()...).Compact(t.Context(), snapshot.Revision)
	require.NoError(t, err)
	link.cut()
	link.muteAnswers(false)
	eventually(t, "b sees the last change", func() (any, bool) { s := b.Snapshot(); return s, s.Revision == snapshot.Revision })
}
