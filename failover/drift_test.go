package failover

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/internal/topology"
)

// disarm has n1 answer a commit that no replica gets, and returns when the record
// says so.
func disarm(t *testing.T, c *cluster) {
	t.Helper()
	c.disarmed = true
	c.fleet.change(func() {
		c.server("n1").armed = false
		c.server("n2").stalled, c.server("n3").stalled = true, true
	})
	_, err := c.server("n1").commit(t.Context(), true)
	require.NoError(t, err, "answered, and on nobody else")
	c.eventually("the epoch is marked", func() bool { return c.state().Primary.Lossy != nil })
}

func unstall(c *cluster) {
	c.fleet.change(func() { c.server("n2").stalled, c.server("n3").stalled = false, false })
}

// M6: somebody has the primary answer commits that nobody acknowledged. Whoever
// fails over after that without them loses what clients were told is done.
func TestCommitsThatWereNotWaitedForHoldTheFailover(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		disarm(t, c)
		c.eventually("it waits again", func() bool { return !c.state().Primary.Lossy.Ongoing() })
		require.True(t, c.server("n1").armed)
		l := *c.state().Primary.Lossy
		require.EqualValues(t, 1, l.Commits)
		require.Contains(t, l.Reason, "rpl_semi_sync_source_enabled is OFF")
		require.True(t, l.Since.Before(l.Until))
		require.True(t, c.state().Primary.Base.Contains(c.fleet.acked))

		c.server("n1").kill()
		time.Sleep(20 * time.Second)
		require.Empty(t, c.writable(), "both ackers can be frozen, and neither has it")
		require.EqualValues(t, 1, c.state().Epoch)
		g := closedGate(c.agents["a1"].control.Gates(), election.Failover)
		require.Equal(t, gateRevocable, g.Name)
		require.Contains(t, g.Reason, "n2: it lacks commits that were answered without its acknowledgement")
		b := boundLoss(c.agents["a1"].watcher.View())
		require.False(t, b.Proven)
		require.EqualValues(t, 1, b.Count)

		c.server("n1").start(false)
		unstall(c)
		c.check()
		require.Equal(t, topology.NodeName("n1"), c.state().Primary.Node)
		require.Nil(t, c.state().Primary.Lossy, "that epoch is over")
	})
}

// With a replica that has all of it the proof is whole, and says what it covers.
func TestCommitsThatWereNotWaitedForAreProvenOnceReceived(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		disarm(t, c)
		c.eventually("it waits again", func() bool { return !c.state().Primary.Lossy.Ongoing() })
		unstall(c)
		c.server("n1").kill()
		c.check()
		r := c.report(c.state().Epoch)
		require.NotEqual(t, topology.NodeName("n1"), c.state().Primary.Node)
		require.Zero(t, *r.RPO.LostCommits)
		require.Contains(t, r.RPO.Proof.Statement, "up to 1 commits were answered without acknowledgement (rpl_semi_sync_source_enabled is OFF)")
	})
}

// As long as it cannot be made to wait, no replica's word proves anything: it may
// have answered one more than the last that was seen.
func TestPrimaryThatCannotBeArmedIsNotFailedOverByItself(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.fleet.change(func() { c.server("n1").unarmable = true })
		disarm(t, c)
		unstall(c)
		time.Sleep(5 * time.Second)
		require.True(t, c.state().Primary.Lossy.Ongoing())
		c.server("n1").kill()
		time.Sleep(20 * time.Second)
		require.EqualValues(t, 1, c.state().Epoch)
		require.Contains(t, closedGate(c.agents["a1"].control.Gates(), election.Failover).Reason, "commits are answered without its acknowledgement")

		c.fleet.change(func() { c.server("n1").unarmable = false })
		c.server("n1").start(false)
		c.check()
		require.Equal(t, topology.NodeName("n1"), c.state().Primary.Node)
		c.eventually("it waits again", func() bool { return !c.state().Primary.Lossy.Ongoing() })
		require.NotNil(t, c.state().Primary.Lossy, "carried into the epoch of the resume until then")
	})
}

// Its agent has found it, and its server dies before anybody asks.
func TestDriftOfADeadServerIsTold(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		ctx, n1 := t.Context(), c.server("n1")
		st, err := n1.Probe(ctx)
		require.NoError(t, err)
		w := c.agents["a1"].watcher
		w.refresh(ctx, "n1")
		require.Nil(t, unrecorded(w.View()))
		k("n1").beginDrift(c.state(), st, "a test says so")
		n1.kill()
		w.refresh(ctx, "n1")
		require.NotNil(t, unrecorded(w.View()))
		n1.start(false)
		c.record(func(s *election.State) { s.Epoch, s.Primary.Epoch = 6, 6 })
		require.Nil(t, unrecorded(w.View()), "of a past epoch")
		k("n1").beginDrift(c.state(), st, "a test says so")
		w.refresh(ctx, "n1")
		require.NotNil(t, unrecorded(w.View()), "told by the first answer in this epoch")
	})
}

// The old primary's agent tells of it while the candidate catches up.
func TestDriftThatIsToldLateEndsTheFailover(t *testing.T) {
	withCluster(t, 3, func(t *testing.T, c *cluster) {
		c.disarmed = true
		time.Sleep(2 * time.Second)
		n1 := c.server("n1")
		st, err := n1.Probe(t.Context())
		require.NoError(t, err)
		c.fleet.change(func() { c.server("n2").held, c.server("n3").held = true, true })
		_, err = n1.commit(t.Context(), true)
		require.NoError(t, err)
		n1.kill()
		c.eventually("it is failed over", func() bool { return c.state().Operation != nil })
		time.Sleep(time.Second)
		c.agents["n1"].keeper.beginDrift(c.state(), st, "a test says so")
		time.Sleep(time.Second)
		c.fleet.change(func() { c.server("n2").held, c.server("n3").held = false, false })
		c.eventually("it is recorded", func() bool { return c.state().Primary.Lossy != nil })
		time.Sleep(5 * time.Second)
		require.Equal(t, topology.NodeName("n1"), c.state().Primary.Node)
		require.Empty(t, c.writable())
		n1.start(false)
		c.check()
	})
}

func TestDriftsAreRecordedInTheirOrder(t *testing.T) {
	s := election.State{Epoch: 5, Primary: primaryOf("1:1-9")}
	told := func(seq, commits uint64, has string, until time.Time) *Drift {
		return &Drift{Epoch: s.Primary.Epoch, Lossy: election.Lossy{Seq: seq, Commits: commits, Until: until}, Has: gtids(has)}
	}
	ended := time.Unix(9, 0)
	require.True(t, (*Drift)(nil).recorded(s))
	one := told(1, 1, "1:1-10", time.Time{})
	require.False(t, one.recorded(s))
	one.record(s.Primary)
	require.True(t, one.recorded(s))
	two := told(2, 2, "1:1-11", ended)
	require.False(t, two.recorded(s))
	two.record(s.Primary)
	require.EqualValues(t, 2, s.Primary.Lossy.Commits, "the same, at its end")
	require.True(t, one.recorded(s), "told late")
	three := told(3, 4, "1:1-15", time.Time{})
	three.record(s.Primary)
	require.EqualValues(t, 6, s.Primary.Lossy.Commits)
	require.True(t, s.Primary.Lossy.Ongoing())
	require.True(t, two.recorded(s), "an older end does not end it")
	five := told(5, 5, "1:1-16", ended)
	require.False(t, five.recorded(s), "begun and ended again")
	require.Same(t, five, latest(three, five))
	require.Same(t, five, latest(five, three))
	require.Same(t, five, latest(five, nil))
	require.Same(t, three, latest(nil, three))
	next := &Drift{Epoch: s.Primary.Epoch + 1}
	require.Same(t, next, latest(five, next))
	require.True(t, next.recorded(s), "not of this epoch")
}

// A primary that is resumed while it is open may have been disarmed meanwhile.
func TestResumedPrimaryThatWasDisarmed(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		ctx, n1 := t.Context(), c.server("n1")
		c.fleet.change(func() { n1.armed = false })
		_, err := n1.commit(ctx, true)
		require.NoError(t, err)
		answered := c.fleet.acked
		c.record(func(s *election.State) {
			s.Epoch, s.Primary.Epoch, s.Primary.Phase = 6, 6, election.Promoting
			s.Operation = &election.Operation{Epoch: 6, Kind: election.Resume}
		})
		_, err = k("n1").Promote(ctx, PromoteRequest{Epoch: 6, K: 1, Limit: time.Second})
		require.NoError(t, err)
		st, err := k("n1").Status(ctx)
		require.NoError(t, err)
		require.NotNil(t, st.Drift)
		require.EqualValues(t, 6, st.Drift.Epoch)
		require.False(t, st.Drift.Ongoing())
		require.True(t, st.Drift.Has.Contains(answered))
		require.True(t, n1.armed)
	})
}

func TestKeeperFindsWhatWasNotWaitedFor(t *testing.T) {
	withKeepers(t, func(t *testing.T, c *cluster, k func(topology.NodeName) *Keeper) {
		ctx, n1 := t.Context(), c.server("n1")
		drift := func() *Drift {
			k("n1").tend(ctx)
			st, err := k("n1").Status(ctx)
			require.NoError(t, err)
			return st.Drift
		}
		require.Nil(t, drift())
		require.Nil(t, drift())
		c.fleet.change(func() { n1.lax = true })
		_, err := n1.commit(ctx, true)
		require.NoError(t, err)
		c.fleet.change(func() { n1.lax = false })
		d := drift()
		require.NotNil(t, d, "changed, and changed back before anybody looked")
		require.Contains(t, d.Reason, "1 commits were not waited for")
		require.False(t, d.Ongoing())
		require.True(t, d.Has.Contains(c.fleet.acked))
		require.NotNil(t, drift(), "told until it is recorded")
		c.record(func(s *election.State) { d.record(s.Primary) })
		require.Nil(t, drift())

		// An agent that starts anew ends what the one before it had begun.
		c.record(func(s *election.State) { s.Primary.Lossy.Until = time.Time{} })
		k("n1").drift, k("n1").obeyed, k("n1").waited = nil, obeyed{}, waited{}
		d = drift()
		require.NotNil(t, d)
		require.False(t, d.Ongoing())
		c.record(func(s *election.State) { d.record(s.Primary) })
		require.EqualValues(t, 1, c.state().Primary.Lossy.Commits, "none of them twice")

		// A record that says ongoing, and an agent that has nothing to say of it.
		c.record(func(s *election.State) { s.Primary.Lossy.Until = time.Time{} })
		d = drift()
		require.NotNil(t, d)
		require.False(t, d.Ongoing())
		c.record(func(s *election.State) { d.record(s.Primary) })
		require.Nil(t, drift())

		// Seen, and set back before anything was done about it.
		c.fleet.change(func() { n1.armed = false })
		st, err := n1.Probe(ctx)
		require.NoError(t, err)
		require.False(t, k("n1").keepsWaiting(c.state(), st, time.Now()))
		c.fleet.change(func() { n1.armed = true })
		k("n1").obeyByItself(ctx, c.state())
		d = drift()
		require.NotNil(t, d)
		require.Contains(t, d.Reason, "rpl_semi_sync_source_enabled is OFF")
		c.record(func(s *election.State) { d.record(s.Primary) })
		require.Nil(t, drift())

		// What may still come to nothing is demanded of nobody.
		st, err = n1.Probe(ctx)
		require.NoError(t, err)
		st.Committing = gtids("1:99")
		k("n1").beginDrift(c.state(), st, "test")
		require.False(t, k("n1").drift.Has.Contains(st.Committing))
		require.EqualValues(t, 1, k("n1").drift.Commits)
		seq := k("n1").drift.Seq
		st, err = n1.Probe(ctx)
		require.NoError(t, err)
		k("n1").endDrift(st, gtids("1:99"))
		require.True(t, k("n1").drift.Has.Contains(gtids("1:99")), "it may have been let through")
		require.EqualValues(t, 1, k("n1").drift.Commits, "counted when it began")
		require.Equal(t, seq+1, k("n1").drift.Seq)
		d = k("n1").drift
		c.record(func(s *election.State) { d.record(s.Primary) })

		// Begun, and what should have ended it went wrong.
		k("n1").beginDrift(c.state(), st, "test")
		k("n1").obeyByItself(ctx, c.state())
		require.False(t, k("n1").drift.Ongoing())
		d = k("n1").drift
		c.record(func(s *election.State) { d.record(s.Primary) })

		// A primary that is to wait for nobody drifts nowhere (I4).
		c.record(func(s *election.State) { s.Register.K = 0 })
		require.Nil(t, drift())
		require.False(t, n1.armed)
		_, err = n1.commit(ctx, true)
		require.NoError(t, err)
		require.Nil(t, drift())
		c.record(func(s *election.State) { s.Register.NextK = 1 })
		require.Nil(t, drift())
		c.record(func(s *election.State) { s.Register.K, s.Register.NextK = 1, 0 })
		require.Nil(t, drift())
		require.True(t, n1.armed)
	})
}
