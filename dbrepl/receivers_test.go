package dbrepl_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
	"interrex/internal/topology"
)

// shutOutAndLetIn: an acker that is shut out acknowledges nothing more and does not
// come back by itself, also after the source restarted; let in again, it does.
func shutOutAndLetIn(t *testing.T, c *cluster) {
	c.establish(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c.write(t, c.a, 1)
	before := c.a.status(t).Executed

	// A connection that has not said yet whose it is.
	stranger, err := net.Dial("tcp", c.a.server.Addr)
	require.NoError(t, err)
	defer stranger.Close()
	_, err = stranger.Read(make([]byte, 1)) // the server has greeted
	require.NoError(t, err)

	require.NoError(t, c.a.ShutOut(ctx, "replication_c"))
	require.NoError(t, stranger.SetReadDeadline(time.Now().Add(patience)))
	for err == nil {
		_, err = stranger.Read(make([]byte, 1024))
	}
	require.NotErrorIs(t, err, context.DeadlineExceeded, "it was ended")
	require.Equal(t, before, c.a.status(t).Executed, "nothing of it is in the binary log")
	require.Equal(t, 1, c.a.status(t).SemiSync.Clients)
	c.c.until(t, "is refused", func(s dbrepl.Status) bool { return s.Source != nil && !s.Source.ReceiverOn })
	c.write(t, c.a, 1) // b acknowledges
	require.NoError(t, c.a.ShutOut(ctx, "replication_c"), "again")

	_, _, _, err = c.b.Freeze(ctx)
	require.NoError(t, err)
	waiting := c.waiting(t, c.a, 1)
	// Ordered to follow once more, it is refused as well.
	_ = c.c.Follow(ctx, dbrepl.FollowSpec{Host: c.a.host, Port: c.a.port, Acker: true})
	select {
	case err := <-waiting[0]:
		require.Fail(t, "somebody acknowledged", "%v", err)
	case <-time.After(2 * time.Second):
	}
	require.NoError(t, c.b.Follow(ctx, dbrepl.FollowSpec{Host: c.a.host, Port: c.a.port, Acker: true}))
	require.NoError(t, <-waiting[0])

	c.a.restart(c.t)
	c.a.exec(t, "SET GLOBAL super_read_only = OFF", "SET GLOBAL read_only = OFF")
	require.NoError(t, c.b.Follow(ctx, dbrepl.FollowSpec{Host: c.a.host, Port: c.a.port, Acker: true}))
	c.b.until(t, "is back", acking)
	require.NoError(t, c.a.LetIn(ctx, "replication_c"))
	require.NoError(t, c.a.LetIn(ctx, "replication_c"), "again")
	require.NoError(t, c.c.Follow(ctx, dbrepl.FollowSpec{Host: c.a.host, Port: c.a.port, Acker: true}))
	c.c.until(t, "is back", acking)

	require.NoError(t, c.a.ShutOut(ctx, "nobody"), "who has no account cannot receive")
	require.ErrorIs(t, c.a.ShutOut(ctx, ""), dbrepl.ErrNoAccount)
	require.ErrorIs(t, c.a.LetIn(ctx, "nobody"), dbrepl.ErrNoAccount)
}

// stuckAcknowledgement: a replica that received a commit while it was no acker
// never acknowledges that one, also when it has become one; the next commit's
// acknowledgement stands for all before it.
func stuckAcknowledgement(t *testing.T, c *cluster) {
	c.establish(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, _, _, err := c.c.Freeze(ctx)
	require.NoError(t, err)
	require.NoError(t, c.b.Follow(ctx, dbrepl.FollowSpec{Host: c.a.host, Port: c.a.port}))
	waiting := c.waiting(t, c.a, 2)
	want := c.a.status(t).Committing
	c.b.until(t, "has it", func(s dbrepl.Status) bool { return s.Received.Contains(want) })
	require.NoError(t, c.b.Follow(ctx, dbrepl.FollowSpec{Host: c.a.host, Port: c.a.port, Acker: true}))
	c.b.until(t, "is an acker", acking)
	select {
	case err := <-waiting[0]:
		require.Fail(t, "the server has learnt to do this by itself", "%v", err)
	case <-time.After(2 * time.Second):
	}
	require.NoError(t, c.a.Nudge(ctx, 1))
	for _, answer := range waiting {
		require.NoError(t, <-answer)
	}
}

// lateAcknowledgement: the server does not listen to an acker that connects
// after another one has acknowledged, for up to a second; nudges have it listen.
func lateAcknowledgement(t *testing.T, c *cluster) {
	c.establish(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, _, _, err := c.c.Freeze(ctx)
	require.NoError(t, err)
	marked := make(chan error, 1)
	go func() {
		_, err := c.a.WriteMarker(ctx, topology.Marker{Epoch: 2, Node: "a", At: time.Now()}, 2)
		marked <- err
	}()
	c.a.until(t, "commits", func(s dbrepl.Status) bool { return s.SemiSync.WaitSessions > 0 })
	want := c.a.status(t).Committing
	c.b.until(t, "has it", func(s dbrepl.Status) bool { return s.Received.Contains(want) })
	require.NoError(t, c.c.Follow(ctx, dbrepl.FollowSpec{Host: c.a.host, Port: c.a.port, Acker: true}))
	began := time.Now()
	require.NoError(t, <-marked)
	t.Logf("acknowledged %v after the second acker was told to follow", time.Since(began))
	var nudges int
	require.NoError(t, c.a.root.QueryRowContext(ctx, "SELECT COUNT(*) FROM interrex.nudge WHERE epoch = 2").Scan(&nudges))
	require.NotZero(t, nudges)
}
