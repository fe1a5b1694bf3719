package embedded_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"interrex/election/embedded"
	"interrex/election/embedded/etcdtest"
)

// write needs etcd's quorum.
func write(t *testing.T, client *clientv3.Client, key, value string) {
	t.Helper()
	eventually(t, back, "a write of "+key, func() (string, bool) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := client.Put(ctx, key, value)
		return errorText(err), err == nil
	})
}

// votes waits until the voters are those named.
func votes(t *testing.T, through *clientv3.Client, want ...string) {
	t.Helper()
	eventually(t, back, "voters "+strings.Join(want, " "), func() (string, bool) {
		ids, text := members(t.Context(), through)
		all := len(ids) == len(want)
		for _, name := range want {
			all = all && ids[name] != 0
		}
		return text, all
	})
}

// TestMemberJoinsAndLeaves: a member that is on the list joins the running
// cluster as a learner, votes once it is level, and counts; one that is removed
// counts no more and does not come back; those with the old list of peers come
// back from their folders, and join again without them.
func TestMemberJoinsAndLeaves(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.WarnLevel)
	c := etcdtest.Start(t, 3, zap.New(core))
	first, second, third := c.Members[0], c.Members[1], c.Members[2]
	client := connect(t, first.Config.ClientURL)
	write(t, client, "k", "kept")

	fourth := c.Joiner(t, "e4")
	fourth.Start()
	eventually(t, back, "that the peers know another cluster", func() (string, bool) { return findLog(logs, "cluster ID mismatch") })
	write(t, client, etcdtest.ListKey, "e1 e2 e3")
	eventually(t, back, "that it is no member", func() (string, bool) { return findLog(logs, "e4 is not on the list") })
	require.NoDirExists(t, filepath.Join(fourth.Config.DataDir, "data", "member", "wal"), "it founded something")
	votes(t, client, "e1", "e2", "e3")

	write(t, client, etcdtest.ListKey, "e1 e2 e3 e4")
	votes(t, client, "e1", "e2", "e3", "e4")
	fourth.WaitReady(t)
	asker := embedded.NewAsker(fourth.Config.ClientURL, nil)
	defer asker.Close()
	standing, err := asker.Ask(t.Context())
	require.NoError(t, err)
	require.False(t, standing.Learner)
	require.Positive(t, standing.Used)
	require.Less(t, standing.Used, 0.1)

	// Its vote counts: of four, three are a quorum with it.
	second.Stop()
	own := connect(t, fourth.Config.ClientURL)
	write(t, own, "k2", "v")
	answer, err := own.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, "kept", string(answer.Kvs[0].Value))

	// The one that is gone is removed, whoever leads; three are left, all of
	// which have the list of peers of before.
	list, err := embedded.Members(t.Context(), c.Endpoints(), nil)
	require.NoError(t, err)
	require.Len(t, list, 4)
	for _, m := range list {
		require.Equal(t, m.Name != "e2", m.Answers, m.Name)
	}
	write(t, client, etcdtest.ListKey, "e1 e3 e4")
	removed(t, c.Endpoints(), "e2")
	removed(t, c.Endpoints(), "e2") // once more is no error
	votes(t, client, "e1", "e3", "e4")
	leader := c.Leader(t)
	require.NotEqual(t, "e2", leader.Config.Name)

	// It does not come back, from its folder or without it.
	second.Start()
	eventually(t, back, "that it was removed", func() (string, bool) { return findLog(logs, "removed") })
	second.Stop()
	loseFolder(t, second)
	second.Start()
	eventually(t, back, "that it is no member any more", func() (string, bool) { return findLog(logs, "e2 is not on the list") })
	second.Stop()

	// A restart and a lost folder with the old list of peers.
	first.Stop()
	first.Start()
	first.WaitReady(t)
	former, _ := members(t.Context(), own)
	loseFolder(t, third)
	third.Start()
	votesAgain(t, own, third, former["e3"])
	third.WaitReady(t)
}

func removed(t *testing.T, endpoints []string, name string) {
	t.Helper()
	eventually(t, back, name+" removed", func() (string, bool) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		err := embedded.Remove(ctx, endpoints, nil, name, "")
		return errorText(err), err == nil
	})
}

// The one that leads etcd is removed like any other, and the last of two.
func TestLeaderIsRemoved(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.WarnLevel)
	c := etcdtest.Start(t, 3, zap.New(core))
	for range 2 {
		leader := c.Leader(t)
		name := leader.Config.Name
		removed(t, c.Endpoints(), name)
		eventually(t, back, name+" to end", func() (string, bool) { return findLog(logs, "removed") })
		leader.Stop()
		for i, m := range c.Members {
			if m == leader {
				c.Members = append(c.Members[:i:i], c.Members[i+1:]...)
				break
			}
		}
		write(t, connect(t, c.Members[0].Config.ClientURL), "after", name)
	}
	require.Len(t, c.Members, 1)
}

// Where the others are no quorum, nobody is removed.
func TestQuorumIsKept(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, 3, zap.NewNop())
	c.Members[2].Stop()
	eventually(t, back, "a refusal", func() (string, bool) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		err := embedded.Remove(ctx, c.Endpoints()[:2], nil, "e2", "")
		require.Error(t, err, "removed")
		return errorText(err), !errors.Is(err, context.DeadlineExceeded)
	})
	votes(t, connect(t, c.Endpoints()[0]), "e1", "e2", "e3")
	write(t, connect(t, c.Endpoints()[0]), "k", "v")
}
