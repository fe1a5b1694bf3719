package dbrepl_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

func closeWrites(t *testing.T, c *cluster) {
	c.establish(t, 1)
	c.write(t, c.a, 5)
	// A table lock, which super_read_only waits behind: undone within the
	// limit, and nobody notices.
	locker, err := c.a.app.Conn(t.Context())
	require.NoError(t, err)
	_, err = locker.ExecContext(t.Context(), "LOCK TABLES app.t WRITE")
	require.NoError(t, err)
	began := time.Now()
	_, killed, err := c.a.CloseWrites(limited(t, patience), 50*time.Millisecond, 300*time.Millisecond)
	took := time.Since(began)
	require.ErrorIs(t, err, dbrepl.ErrCloseTimedOut)
	require.Zero(t, killed)
	require.Less(t, took, 5*time.Second)
	t.Logf("closing was undone after %v", took)
	s := c.a.status(t)
	require.True(t, s.Writable(), "%+v", s)
	_, err = locker.ExecContext(t.Context(), "UNLOCK TABLES")
	require.NoError(t, err)
	require.NoError(t, locker.Close())
	c.write(t, c.a, 1)
	time.Sleep(200 * time.Millisecond) // a statement given up on must not run after all
	require.True(t, c.a.status(t).Writable())

	// A transaction that ends in time, and one that does not.
	short, err := c.a.app.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = short.Exec("INSERT INTO app.t VALUES (100, 'in time')")
	require.NoError(t, err)
	long, err := c.a.app.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = long.Exec("INSERT INTO app.t VALUES (101, 'too long')")
	require.NoError(t, err)
	committed := make(chan error, 1)
	go func() {
		time.Sleep(30 * time.Millisecond)
		committed <- short.Commit()
	}()
	began = time.Now()
	executed, killed, err := c.a.CloseWrites(limited(t, patience), 2*time.Second, patience)
	require.NoError(t, err)
	t.Logf("closed after %v", time.Since(began))
	require.Equal(t, 1, killed)
	require.NoError(t, answer(t, committed))
	require.Error(t, long.Commit())
	s = c.a.status(t)
	require.True(t, s.ReadOnly && s.SuperReadOnly)
	require.True(t, s.Executed.Equal(executed))
	require.Equal(t, 7, c.a.rows(t))

	// The planned way on: the other one has the exact set, and becomes the
	// primary; the old one follows it at once.
	_, err = c.b.CatchUp(limited(t, patience), executed, patience)
	require.NoError(t, err)
	require.NoError(t, c.b.Arm(limited(t, patience), 1))
	began = time.Now()
	require.NoError(t, c.a.Follow(limited(t, patience), dbrepl.FollowSpec{Host: c.b.host, Port: c.b.port, Acker: true}))
	t.Logf("the old primary follows after %v", time.Since(began))
	_, err = c.b.WriteMarker(limited(t, patience), topology.Marker{Epoch: 2, Node: "b", At: time.Now()}, 1)
	require.NoError(t, err)
	require.NoError(t, c.b.OpenWrites(limited(t, patience), 1))
	require.NoError(t, c.b.Retire(limited(t, patience)))
	require.NoError(t, c.a.Follow(limited(t, patience), dbrepl.FollowSpec{Host: c.b.host, Port: c.b.port, Acker: true}), "no change")
	c.write(t, c.b, 1)
	a := c.a.until(t, "acknowledges", acking)
	require.False(t, a.SemiSync.SourceEnabled)
	require.Equal(t, c.b.status(t).ServerUUID, a.Source.ServerUUID)
	// No acker any more.
	require.NoError(t, c.a.Follow(limited(t, patience), dbrepl.FollowSpec{Host: c.b.host, Port: c.b.port}))
	c.a.until(t, "follows without acknowledging", func(s dbrepl.Status) bool {
		return s.Source.ReceiverOn && !s.SemiSync.ReplicaActive && !s.SemiSync.ReplicaEnabled
	})
}

// stalePrimary is an old primary with commits that wait: nothing that is done
// to it may answer one of them with success.
func stalePrimary(t *testing.T, c *cluster) {
	c.establish(t, 1)
	c.write(t, c.a, 5)
	before := c.a.status(t).Executed
	for _, n := range []*node{c.b, c.c} {
		n.until(t, "has what either acknowledged", func(s dbrepl.Status) bool { return s.Executed.Contains(before) })
		_, _, _, err := n.Freeze(limited(t, patience))
		require.NoError(t, err)
	}
	answers := c.waiting(t, c.a, 5)

	err := c.a.Follow(limited(t, 300*time.Millisecond), dbrepl.FollowSpec{Host: c.b.host, Port: c.b.port, Acker: true})
	time.Sleep(1500 * time.Millisecond) // switching semi-sync off would take the server a second
	silent(t, answers)
	require.ErrorIs(t, err, dbrepl.ErrCommitsWaiting)
	s := c.a.status(t)
	require.True(t, s.SemiSync.SourceEnabled)
	require.Nil(t, s.Source)

	err = c.a.Isolate(limited(t, 500*time.Millisecond))
	require.ErrorIs(t, err, dbrepl.ErrCommitsWaiting)
	for _, ch := range answers {
		require.Error(t, answer(t, ch), "a killed session's client is told of an error")
	}
	require.True(t, c.a.status(t).SemiSync.SourceEnabled)

	// New clients come and wait, too; then the service is stopped.
	answers = nil
	for range 3 {
		answers = append(answers, c.commit(t, c.a))
	}
	c.a.until(t, "8 commits wait", func(s dbrepl.Status) bool { return s.Committing.Count() == 8 })
	silent(t, answers)
	began := time.Now()
	require.NoError(t, c.a.StopServer(limited(t, patience), dbrepl.StopOptions{CloseLimit: 500 * time.Millisecond}))
	t.Logf("stopped after %v", time.Since(began))
	for _, ch := range answers {
		require.Error(t, answer(t, ch), "no waiting commit is answered with success")
	}
	code, err := c.a.server.Wait(limited(t, patience))
	require.NoError(t, err)
	require.Equal(t, -1, code, "ended by a signal")

	rejoin(t, c, before)
}

// rejoin brings the stale primary back: its tail is saved, it is rebuilt from
// the new primary, and follows it.
func rejoin(t *testing.T, c *cluster, before gtid.Set) {
	c.a.restart(c.t)
	errant := c.a.status(t).Executed.Minus(before)
	require.Equal(t, uint64(8), errant.Count(), "what waited is committed by the restart")
	file := filepath.Join(t.TempDir(), "errant.sql")
	require.NoError(t, c.a.SaveErrant(limited(t, patience), errant, file))
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	nowhere := gtid.MustParse(c.a.status(t).ServerUUID + ":1000")
	err = c.a.SaveErrant(limited(t, patience), errant.Union(nowhere), filepath.Join(t.TempDir(), "no.sql"))
	require.ErrorIs(t, err, dbrepl.ErrIncomplete)
	require.ErrorContains(t, err, nowhere.String())

	// b is the primary now; c follows it.
	require.NoError(t, c.b.Arm(limited(t, patience), 1))
	require.NoError(t, c.c.Follow(limited(t, patience), dbrepl.FollowSpec{Host: c.b.host, Port: c.b.port, Acker: true}))
	_, err = c.b.WriteMarker(limited(t, patience), topology.Marker{Epoch: 2, Node: "b", At: time.Now()}, 1)
	require.NoError(t, err)
	require.NoError(t, c.b.OpenWrites(limited(t, patience), 1))
	require.NoError(t, c.b.Retire(limited(t, patience)))

	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cloned := make(chan error, 1)
	uuid := c.a.status(t).ServerUUID
	var stages []dbrepl.CloneProgress
	go func() {
		cloned <- c.a.Clone(ctx, dbrepl.CloneSpec{
			Donor: c.b.server.Addr, User: accounts.Clone[0].User, Password: accounts.Clone[0].Password,
			Progress: func(p dbrepl.CloneProgress) { stages = append(stages, p) },
		})
	}()
	select { // as a supervisor
	case <-c.a.server.Done():
	case err := <-cloned:
		t.Fatalf("clone ended before the server did: %v", err)
	}
	code, err := c.a.server.Wait(ctx)
	require.NoError(t, err)
	require.Equal(t, 16, code)
	c.a.restart(c.t)
	require.NoError(t, <-cloned)
	t.Logf("progress: %+v", stages)
	s := c.a.status(t)
	require.Equal(t, uuid, s.ServerUUID)
	require.True(t, s.SuperReadOnly && s.ReadOnly)
	require.Nil(t, s.Source)
	require.Equal(t, topology.Epoch(2), s.Marker.Epoch)
	require.True(t, s.Executed.Minus(c.b.status(t).Executed).IsEmpty(), "nothing errant is left")
	require.NoError(t, c.a.Prepare(ctx))
	require.NoError(t, c.a.Follow(ctx, dbrepl.FollowSpec{Host: c.b.host, Port: c.b.port, Acker: true}))
	c.a.until(t, "acknowledges", acking)

	// What was saved can be replayed where somebody wants it, under its GTIDs.
	in, err := os.Open(file)
	require.NoError(t, err)
	defer in.Close()
	command := append(mysqlClient(t), "--no-defaults", "--user=root", "--socket="+c.b.server.Socket)
	replay := exec.CommandContext(ctx, command[0], command[1:]...)
	replay.Stdin = in
	out, err := replay.CombinedOutput()
	require.NoError(t, err, string(out))
	require.True(t, c.b.status(t).Executed.Contains(errant))
	require.Equal(t, 5+8, c.b.rows(t))
}

// stopServer is the stop of a healthy primary: clean, and nobody is told of a
// success that is none.
func stopServer(t *testing.T, c *cluster) {
	c.establish(t, 1)
	c.write(t, c.a, 1)
	stop := make(chan struct{})
	outcome := make(chan error, 1)
	acknowledged := 1
	go func() { // a client that goes on until it cannot
		for {
			select {
			case <-stop:
				outcome <- errors.New("was never stopped")
				return
			default:
			}
			if err := c.a.insert(context.Background(), acknowledged+1); err != nil {
				outcome <- err
				return
			}
			acknowledged++
		}
	}()
	c.a.until(t, "is written to", func(s dbrepl.Status) bool { return s.Executed.Count() > 50 })
	began := time.Now()
	require.NoError(t, c.a.StopServer(limited(t, patience), dbrepl.StopOptions{}))
	t.Logf("stopped after %v", time.Since(began))
	close(stop)
	t.Logf("the client was told: %v", answer(t, outcome))
	code, err := c.a.server.Wait(limited(t, patience))
	require.NoError(t, err)
	require.Zero(t, code, "a clean stop")
	_, received, _, err := c.b.Freeze(limited(t, patience))
	require.NoError(t, err)
	_, receivedC, _, err := c.c.Freeze(limited(t, patience))
	require.NoError(t, err)
	union := received.Union(receivedC)
	_, err = c.b.CatchUp(limited(t, patience), received, patience)
	require.NoError(t, err)
	c.a.restart(c.t)
	require.GreaterOrEqual(t, c.a.rows(t), acknowledged)
	if received.Equal(union) {
		require.GreaterOrEqual(t, c.b.rows(t), acknowledged)
	}
}
