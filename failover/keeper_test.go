package failover

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/gtid"
	_ "interrex/internal/onecore"
	"interrex/internal/topology"
	"interrex/router"
)

// withKeepers runs f with n1 as the recorded and open primary of epoch 5 and
// n2 and n3 as its ackers. The keepers obey; nothing else runs.
func withKeepers(t *testing.T, f func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.store.revision = 1
		c.store.state = election.State{
			Cluster: "c", Epoch: 5, Primary: primaryOf(""), Register: register(1, "n2", "n3"),
			Sources: map[topology.NodeName]topology.NodeName{"n2": "n1", "n3": "n1"},
		}
		ctx := t.Context()
		n1 := c.server("n1")
		require.NoError(t, n1.Arm(ctx, 1))
		for _, n := range []topology.NodeName{"n2", "n3"} {
			require.NoError(t, c.server(n).Follow(ctx, dbrepl.FollowSpec{Host: "127.0.0.1", Port: 3301, Acker: true}))
		}
		require.NoError(t, n1.OpenWrites(ctx, 1))
		for _, a := range c.agents {
			a.keeper.nodes = linkedNodes{c, a.member.Name}
			if s := c.server(a.member.Name); s != nil {
				require.NoError(t, a.keeper.promises.promise(5))
				require.NoError(t, a.keeper.promises.certify(s.bootID()))
			}
		}
		_, err := n1.commit(ctx, true)
		require.NoError(t, err)
		f(t, c, func(n topology.NodeName) *Keeper { return c.agents[n].keeper })
		c.end()
	})
}

// record changes the record as a leader would.
func (c *cluster) record(change func(*election.State)) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	change(&c.store.state)
	c.store.revision++
}

func recordPrimary(n topology.NodeName, epoch topology.Epoch) func(*election.State) {
	return func(s *election.State) {
		s.Epoch = epoch
		s.Primary = &election.Primary{Node: n, ServerUUID: uuidOf(string(n[1:])), Address: "127.0.0.1:330" + string(n[1:]), Epoch: epoch, Phase: election.Open}
	}
}

func followRequest(epoch topology.Epoch, source *server, acker bool) FollowRequest {
	return FollowRequest{Epoch: epoch, Source: source.name, SourceUUID: source.uuid, Address: source.address, SourceHas: source.has(), Acker: acker}
}

func TestKeeperRefusesAStaleEpoch(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		ctx := t.Context()
		f, err := k("n2").Freeze(ctx, FreezeRequest{Epoch: 7})
		require.NoError(t, err)
		require.False(t, f.Amnesiac)
		for name, order := range map[string]func() error{
			"freeze":  func() error { _, err := k("n2").Freeze(ctx, FreezeRequest{Epoch: 6}); return err },
			"catchup": func() error { _, err := k("n2").CatchUp(ctx, CatchUpRequest{Epoch: 6}); return err },
			"promote": func() error { _, err := k("n2").Promote(ctx, PromoteRequest{Epoch: 6}); return err },
			"follow":  func() error { return k("n2").Follow(ctx, followRequest(6, c.server("n1"), true)) },
			"close":   func() error { _, err := k("n2").Close(ctx, CloseRequest{Epoch: 6}); return err },
			"rebuild": func() error { return k("n2").Rebuild(ctx, RebuildRequest{Epoch: 6}) },
		} {
			err := order()
			require.ErrorIs(t, err, ErrStaleEpoch, name)
			var stale *StaleEpochError
			require.ErrorAs(t, err, &stale, name)
			require.Equal(t, StaleEpochError{Node: "n2", Asked: 6, Promised: 7}, *stale)
		}
		st, err := k("n2").Status(ctx)
		require.NoError(t, err)
		require.False(t, st.Instance.Source.ReceiverOn, "n2 stays frozen")
		require.EqualValues(t, 7, st.Promised)

		c.record(func(s *election.State) { s.Epoch = 9 })
		_, err = k("n3").Freeze(ctx, FreezeRequest{Epoch: 8})
		require.ErrorIs(t, err, ErrStaleEpoch, "the record is as good as a promise")
	})
}

func TestKeeperThatLostItsPromisesAsksFirst(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		a := c.agents["n2"]
		file := filepath.Join(t.TempDir(), "promises")
		require.NoError(t, os.WriteFile(file, []byte(`{"epoch":`), 0o600))
		old := a.registry.Snapshot()
		c.record(func(s *election.State) { s.Epoch = 7 })
		a.registry.pinned = &old // the watch has not delivered yet
		fresh, err := NewKeeper(KeeperConfig{Member: a.member, PromiseFile: file}, c.server("n2"), nil, a.registry, a.table, zap.NewNop())
		require.NoError(t, err)

		c.store.down = true
		_, err = fresh.Freeze(t.Context(), FreezeRequest{Epoch: 7})
		require.ErrorIs(t, err, election.ErrUnreachable)
		c.store.down = false
		require.ErrorIs(t, fresh.Follow(t.Context(), followRequest(6, c.server("n1"), true)), ErrStaleEpoch)
		f, err := fresh.Freeze(t.Context(), FreezeRequest{Epoch: 7})
		require.NoError(t, err)
		require.True(t, f.Amnesiac, "with the promises the certificate is lost")
	})
}

func TestKeeperPromotesOnlyWhatIsRecorded(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		c.server("n1").kill()
		for _, n := range []topology.NodeName{"n2", "n3"} {
			_, err := k(n).Freeze(t.Context(), FreezeRequest{Epoch: 6})
			require.NoError(t, err)
		}
		promote := PromoteRequest{Epoch: 6, K: 1, Limit: time.Second}
		_, err := k("n2").Promote(t.Context(), promote)
		require.ErrorIs(t, err, ErrNotRecorded, "the record names n1")
		c.record(recordPrimary("n3", 6))
		_, err = k("n2").Promote(t.Context(), promote)
		require.ErrorIs(t, err, ErrNotRecorded, "the record names n3")
		require.Empty(t, c.writable())
		require.False(t, c.server("n2").armed)

		_, err = k("n3").Promote(t.Context(), promote)
		require.ErrorIs(t, err, dbrepl.ErrOutcomeUnknown, "nobody acknowledges its marker")
		require.Empty(t, c.writable(), "so it does not open")
		require.NoError(t, k("n2").Follow(t.Context(), followRequest(6, c.server("n3"), false)), "not registered: it follows without a voice")
		_, err = k("n3").Promote(t.Context(), promote)
		require.Error(t, err)
		c.record(func(s *election.State) { s.Register = register(1, "n2") })
		require.NoError(t, k("n2").Follow(t.Context(), followRequest(6, c.server("n3"), true)))
		p, err := k("n3").Promote(t.Context(), promote)
		require.NoError(t, err, "every step can be repeated (I7)")
		require.Equal(t, names{"n3"}, c.writable())
		require.True(t, p.Executed.Equal(c.server("n3").has()))
		require.EqualValues(t, 6, c.server("n2").marker.Epoch)
	})
}

func TestKeeperInterruptsAPromotionOfALowerEpoch(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		c.record(recordPrimary("n2", 6))
		_, err := k("n2").Freeze(t.Context(), FreezeRequest{Epoch: 6})
		require.NoError(t, err)
		promoted := make(chan error, 1)
		go func() {
			_, err := k("n2").Promote(t.Context(), PromoteRequest{Epoch: 6, K: 1, Limit: time.Hour})
			promoted <- err
		}()
		synctest.Wait() // its marker waits for an acknowledgement
		_, err = k("n2").Freeze(t.Context(), FreezeRequest{Epoch: 7})
		require.NoError(t, err)
		require.Error(t, <-promoted)
		require.Equal(t, names{"n1"}, c.writable(), "n2 did not open")
	})
}

func TestKeeperFollows(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		ctx := t.Context()
		c.record(recordPrimary("n2", 6))
		c.record(func(s *election.State) { s.Register = register(1, "n3") })
		n1, n2, n3 := c.server("n1"), c.server("n2"), c.server("n3")

		require.ErrorIs(t, k("n1").Follow(ctx, followRequest(6, n2, true)), ErrNotRecorded, "it is not a registered acker")
		require.Equal(t, names{"n1"}, c.writable(), "and nothing was done to it")

		before := followRequest(6, n2, true)
		c.fleet.change(func() { n3.received, n3.executed = n3.received.Union(gtids("3:1")), n3.executed.Union(gtids("3:1")) })
		err := k("n3").Follow(ctx, before)
		require.ErrorIs(t, err, ErrErrant)
		var errant *ErrantError
		require.ErrorAs(t, err, &errant)
		require.True(t, errant.Set.Equal(gtids("3:1")))
		require.Equal(t, n1, n3.source, "it is left as it was (I8)")
		st, err := k("n3").Status(ctx)
		require.NoError(t, err)
		require.True(t, st.Errant.Equal(gtids("3:1")))

		// A replica that is yet to receive it has no say where the primary has it.
		ahead := before
		ahead.By, ahead.ByUUID = "n1", n1.uuid
		require.ErrorIs(t, k("n3").Follow(ctx, ahead), ErrErrant, "the primary lacks it, too")
		c.fleet.change(func() {
			n2.stalled = true
			n1.received, n1.executed = n1.received.Union(gtids("3:1")), n1.executed.Union(gtids("3:1"))
		})
		require.NoError(t, k("n3").Follow(ctx, ahead))
		require.Equal(t, n2, n3.source)
		require.NoError(t, n3.Follow(ctx, dbrepl.FollowSpec{Host: "127.0.0.1", Port: 3301, Acker: true}))
		require.ErrorIs(t, k("n3").Follow(ctx, before), ErrErrant)

		// The source has it by now, though the order does not know: not errant.
		c.fleet.change(func() { n2.received, n2.executed = n2.received.Union(gtids("3:1")), n2.executed.Union(gtids("3:1")) })
		require.NoError(t, k("n3").Follow(ctx, before))
		require.Equal(t, n2, n3.source)
		st, err = k("n3").Status(ctx)
		require.NoError(t, err)
		require.Nil(t, st.Errant)

		n2.kill()
		c.fleet.change(func() { n3.received = n3.received.Union(gtids("3:2")) })
		again := followRequest(6, n1, false)
		again.SourceHas = gtid.Set{}
		n1.kill()
		require.NotErrorIs(t, k("n3").Follow(ctx, again), ErrErrant, "a source that cannot be asked makes nobody errant")
	})
}

func TestKeeperCertifiesWhatThePrimaryHasAfterTheBoot(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		ctx, n1, n2 := t.Context(), c.server("n1"), c.server("n2")
		c.fleet.change(func() { n2.held = true })
		_, err := n1.commit(ctx, true)
		require.NoError(t, err)
		n2.kill()
		n2.start(true)
		certified := func() bool {
			st, err := k("n2").Status(ctx)
			require.NoError(t, err)
			return st.Certified
		}
		k("n2").tend(ctx)
		require.False(t, certified(), "it restarted and follows nobody")
		c.fleet.change(func() { n2.stalled, n2.held = true, false })
		require.NoError(t, k("n2").Follow(ctx, followRequest(5, n1, true)))
		k("n2").tend(ctx)
		require.False(t, certified(), "it follows and lacks what it had acknowledged")
		f, err := k("n2").Freeze(ctx, FreezeRequest{Epoch: 5})
		require.NoError(t, err)
		require.True(t, f.Amnesiac)

		require.NoError(t, k("n2").Follow(ctx, followRequest(5, n1, true)))
		c.fleet.change(func() { n2.stalled = false })
		k("n2").tend(ctx)
		require.True(t, certified())
		c.record(func(s *election.State) { s.Epoch = 6 })
		f, err = k("n2").Freeze(ctx, FreezeRequest{Epoch: 6})
		require.NoError(t, err)
		require.False(t, f.Amnesiac)
	})
}

func TestKeeperArmsAPrimaryThatSomebodyDisarmed(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		n1 := c.server("n1")
		c.fleet.change(func() { n1.armed = false })
		late := c.agents["n1"].registry.Snapshot()
		c.agents["n1"].registry.pinned = &late
		require.NoError(t, k("n1").promises.promise(6))
		k("n1").tend(t.Context())
		require.False(t, n1.armed, "a later epoch has the say")
		c.agents["n1"].registry.pinned = nil
		c.record(recordPrimary("n1", 6))
		k("n1").tend(t.Context())
		require.True(t, n1.armed)
		require.Equal(t, 1, n1.k)
	})
}

func TestKeeperIsolatesByRestartWhereCommitsWait(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		ctx, n1 := t.Context(), c.server("n1")
		for _, n := range []topology.NodeName{"n2", "n3"} {
			_, err := k(n).Freeze(ctx, FreezeRequest{Epoch: 6})
			require.NoError(t, err)
		}
		answer := make(chan error, 1)
		go func() {
			_, err := n1.commit(context.WithoutCancel(ctx), true)
			answer <- err
		}()
		synctest.Wait()
		k("n1").tend(ctx)
		require.Equal(t, names{"n1"}, c.writable(), "the record still names it: it blocks, and is left to (I9)")
		c.record(recordPrimary("n2", 6))
		acked := c.fleet.acked
		k("n1").tend(ctx)
		require.ErrorContains(t, <-answer, "outcome unknown", "no OK for a commit nobody else has (I2)")
		require.Equal(t, 2, n1.boot, "ended, not stopped")
		require.Empty(t, c.writable())
		require.True(t, c.fleet.acked.Equal(acked))
		require.False(t, n1.has().Minus(c.server("n2").has()).IsEmpty(), "its tail is on it alone")
	})
}

func TestKeeperIsolatesByWhatEtcdSaysNow(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		a := c.agents["n1"]
		late := a.registry.Snapshot()
		late.State.Epoch = 6
		recordPrimary("n2", 6)(&late.State)
		c.record(recordPrimary("n1", 6))
		a.registry.pinned = &late
		k("n1").tend(t.Context())
		require.Equal(t, names{"n1"}, c.writable(), "what was seen late is no reason")
	})
}

func TestKeeperIsolatesNobodyWithoutEtcd(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		c.store.down = true
		k("n1").tend(t.Context())
		require.Equal(t, names{"n1"}, c.writable())
	})
}

// succeeding is n2, recorded as the primary of epoch 6 after n1, which is dead.
func succeeding(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) *server {
	t.Helper()
	n2 := c.server("n2")
	c.server("n1").kill()
	c.record(recordPrimary("n2", 6))
	c.record(func(s *election.State) { s.Register = register(1, "n3") })
	require.NoError(t, k("n3").Follow(t.Context(), followRequest(6, n2, true)))
	return n2
}

func TestKeeperRetiresInItsTurn(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		n2 := succeeding(t, c, k)
		c.agents["n2"].keeper.life = t.Context()
		// The server stands still right after opening, and a higher epoch comes.
		c.agents["n2"].keeper.inst = hangsAfterOpening{n2}
		go func() { _, _ = k("n2").Promote(t.Context(), PromoteRequest{Epoch: 6, K: 1, Limit: time.Second}) }()
		synctest.Wait()
		ordered := make(chan error, 1)
		go func() { _, err := k("n2").Freeze(t.Context(), FreezeRequest{Epoch: 7}); ordered <- err }()
		synctest.Wait()
		c.fleet.change(func() { n2.hung = false })
		require.NoError(t, <-ordered)
		synctest.Wait()
		require.Zero(t, n2.retires, "what it was ordered since is not undone")
	})
}

// TestKeeperRetiresOnceARollbackIsOver: other commands get their turn meanwhile.
func TestKeeperRetiresOnceARollbackIsOver(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		n2 := succeeding(t, c, k)
		c.agents["n2"].keeper.life = t.Context()
		c.agents["n2"].keeper.inst = &rollsBack{server: n2, left: 3}
		_, err := k("n2").Promote(t.Context(), PromoteRequest{Epoch: 6, K: 1, Limit: time.Second})
		require.NoError(t, err)
		time.Sleep(2 * retireAgain)
		c.fleet.change(func() { require.Zero(t, n2.retires) })
		time.Sleep(2 * retireAgain)
		c.fleet.change(func() { require.Equal(t, 1, n2.retires) })
	})
}

// TestKeeperRetiresWhatAnotherPromoted: the agent that promoted it ended too soon;
// what an operator sets up later is left alone.
func TestKeeperRetiresWhatAnotherPromoted(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		n2 := succeeding(t, c, k)
		_, err := k("n2").Freeze(t.Context(), FreezeRequest{Epoch: 6})
		require.NoError(t, err)
		_, err = k("n2").Promote(t.Context(), PromoteRequest{Epoch: 6, K: 1, Limit: time.Second})
		require.NoError(t, err)
		c.fleet.change(func() { require.Zero(t, n2.retires, "the agent has ended") })

		c.agents["n2"].keeper.life = t.Context()
		tend := func() {
			for range 3 { // it has to obey first
				k("n2").tend(t.Context())
				time.Sleep(time.Second)
			}
		}
		tend()
		c.fleet.change(func() { require.Equal(t, 1, n2.retires) })
		c.fleet.change(func() { n2.source = c.server("n3") })
		tend()
		c.fleet.change(func() { require.Equal(t, 1, n2.retires) })
	})
}

// rollsBack is a server whose first times to retire are in the middle of a
// rollback.
type rollsBack struct {
	*server
	left int
}

func (r *rollsBack) Retire(ctx context.Context) error {
	if r.left > 0 {
		r.left--
		return dbrepl.ErrRollingBack
	}
	return r.server.Retire(ctx)
}

// hangsAfterOpening is a server that stands still once it is open.
type hangsAfterOpening struct{ *server }

func (h hangsAfterOpening) OpenWrites(ctx context.Context, k int) error {
	err := h.server.OpenWrites(ctx, k)
	h.fleet.change(func() { h.hung = true })
	return err
}

// copying is a Rebuilder that takes until it is let go.
type copying struct{ done chan error }

func (c copying) Restart(context.Context) error { return nil }

func (c copying) Rebuild(ctx context.Context, _ string, _ gtid.Set, progress func(string, string)) error {
	progress("clone", "/saved/errant.sql")
	select {
	case err := <-c.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestKeeperObeysNothingWhileItRebuilds(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		ctx, job := t.Context(), copying{make(chan error)}
		a := c.agents["n3"]
		a.keeper.rebuild = job
		require.ErrorIs(t, k("n3").Rebuild(ctx, RebuildRequest{Epoch: 5}), ErrBusy, "it does not run yet")
		stopped := make(chan struct{})
		go func() { defer close(stopped); _ = a.keeper.Run(a.ctx, linkedNodes{c, "n3"}) }()
		synctest.Wait()
		require.NoError(t, k("n3").Rebuild(ctx, RebuildRequest{Epoch: 5, Errant: gtids("3:1")}))
		synctest.Wait()
		_, err := k("n3").Freeze(ctx, FreezeRequest{Epoch: 6})
		require.ErrorIs(t, err, ErrBusy)
		st, err := k("n3").Status(ctx)
		require.NoError(t, err)
		require.True(t, st.Rebuild.Underway())
		require.ErrorIs(t, k("n3").attest("boot", looking{}), ErrBusy, "nor does a look that has begun before")
		require.ErrorIs(t, k("n3").attest("boot", k("n3").beginLook()), ErrBusy)
		require.False(t, st.Certified, "the relay log is gone, with what it acknowledged")
		require.Equal(t, "/saved/errant.sql", st.Rebuild.SavedFile)
		job.done <- nil
		synctest.Wait()
		_, err = k("n3").Freeze(ctx, FreezeRequest{Epoch: 6})
		require.NoError(t, err)

		require.NoError(t, k("n3").Rebuild(ctx, RebuildRequest{Epoch: 6}))
		a.stop()
		<-stopped // it waits for the rebuild, which its own end has ended
		st, err = k("n3").Status(ctx)
		require.NoError(t, err)
		require.Equal(t, stageFailed, st.Rebuild.Stage)
		require.ErrorIs(t, k("n3").Rebuild(ctx, RebuildRequest{Epoch: 6}), ErrBusy, "it has ended")
	})
}

func TestKeeperWithoutAnInstance(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		_, err := k("a1").Freeze(t.Context(), FreezeRequest{Epoch: 5})
		require.ErrorIs(t, err, ErrNoInstance)
		require.ErrorIs(t, k("a1").Follow(t.Context(), followRequest(5, c.server("n1"), false)), ErrNoInstance)
		st, err := k("a1").Status(t.Context())
		require.NoError(t, err)
		require.Nil(t, st.Instance)

		open := router.Route{Epoch: 5, Phase: router.Open, Primary: &router.Backend{Node: "n1", Address: "127.0.0.1:3301"}}
		require.NoError(t, k("a1").Route(t.Context(), open))
		require.ErrorIs(t, k("a1").Route(t.Context(), router.Route{Epoch: 4, Phase: router.Closed}), ErrStaleEpoch)
	})
}
