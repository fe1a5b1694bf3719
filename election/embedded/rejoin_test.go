package embedded_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"interrex/election/embedded"
	"interrex/election/embedded/etcdtest"
	"interrex/internal/porttest"
)

// back is how long a member that lost its folder may take to vote again.
const back = time.Minute

// loseFolder stops a member and loses all that etcd wrote.
func loseFolder(t *testing.T, m *etcdtest.Member) {
	t.Helper()
	m.Stop()
	require.NoError(t, os.RemoveAll(m.Config.DataDir))
}

// members says how the cluster lists its members: name, identity, and whether
// it votes.
func members(ctx context.Context, client *clientv3.Client) (map[string]uint64, string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	list, err := client.MemberList(ctx)
	if err != nil {
		return nil, err.Error()
	}
	ids, text := map[string]uint64{}, ""
	for _, m := range list.Members {
		text += fmt.Sprintf("%s %x learner=%v; ", m.Name, m.ID, m.IsLearner)
		if !m.IsLearner {
			ids[m.Name] = m.ID
		}
	}
	return ids, text
}

// votesAgain waits until m is a voter under another identity than before.
func votesAgain(t *testing.T, through *clientv3.Client, m *etcdtest.Member, former uint64) (id uint64) {
	t.Helper()
	eventually(t, back, m.Config.Name+" votes again", func() (string, bool) {
		ids, text := members(t.Context(), through)
		id = ids[m.Config.Name]
		return text, len(ids) == 3 && id != 0 && id != former
	})
	m.WaitReady(t)
	return id
}

func TestLostFolderComesBack(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, 3, zap.NewNop())
	lost, others := c.Members[0], c.Members[1:]
	client := connect(t, others[0].Config.ClientURL)
	_, err := client.Put(t.Context(), "k", "kept")
	require.NoError(t, err)
	former, _ := members(t.Context(), client)
	id := former["e1"]
	loseFolder(t, lost)
	lost.Start()
	id = votesAgain(t, client, lost, id)

	// Now it is not the founder any more, and its agent lives.
	pid := lost.PID()
	require.NoError(t, os.RemoveAll(lost.Config.DataDir))
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	votesAgain(t, client, lost, id)

	// Its vote counts: with another one away it is half of the quorum.
	others[1].Stop()
	client = connect(t, lost.Config.ClientURL)
	eventually(t, back, "a write with its vote", func() (string, bool) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := client.Put(ctx, "k2", "v")
		return errorText(err), err == nil
	})
	answer, err := client.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, "kept", string(answer.Kvs[0].Value))

	// And it comes back from its folder like any other.
	lost.Signal(t, syscall.SIGKILL)
	lost.WaitReady(t)
}

func TestLostFolderWaitsForTheQuorum(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.WarnLevel)
	c := etcdtest.Start(t, 3, zap.New(core))
	lost, alive, away := c.Members[0], c.Members[1], c.Members[2]
	client := connect(t, alive.Config.ClientURL)
	_, err := client.Put(t.Context(), "k", "kept")
	require.NoError(t, err)
	former, _ := members(t.Context(), client)
	away.Stop()
	loseFolder(t, lost)
	lost.Start()
	eventually(t, back, "the reason why it waits", func() (string, bool) { return findLog(logs, "which needs its quorum") })
	require.NoDirExists(t, filepath.Join(lost.Config.DataDir, "data", "member", "wal"), "it founded something")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = client.Get(ctx, "k")
	require.Error(t, err, "a member that forgot everything gave the others their quorum")

	away.Start()
	votesAgain(t, client, lost, former["e1"])
	answer, err := client.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, "kept", string(answer.Kvs[0].Value))
}

// The folder of a former life is not taken up again: what it voted then and
// what it votes now could be two votes of one member.
func TestFormerLifeIsRefused(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.WarnLevel)
	c := etcdtest.Start(t, 3, zap.New(core))
	m := c.Members[0]
	client := connect(t, c.Members[1].Config.ClientURL)
	former, _ := members(t.Context(), client)
	m.Stop()
	kept := m.Config.DataDir + ".kept"
	require.NoError(t, os.Rename(m.Config.DataDir, kept))
	m.Start()
	votesAgain(t, client, m, former["e1"])
	loseFolder(t, m)
	require.NoError(t, os.Rename(kept, m.Config.DataDir))
	m.Start()
	eventually(t, back, "an explanation", func() (string, bool) { return findLog(logs, "of a former life of this member") })
	loseFolder(t, m)
	m.Start()
	votesAgain(t, client, m, former["e1"])
}

// Two nodes of one name: the second must not push the first one out.
func TestSecondOfOneNameStaysOut(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.WarnLevel)
	c := etcdtest.Start(t, 3, zap.New(core))
	client := connect(t, c.Members[1].Config.ClientURL)
	before, _ := members(t.Context(), client)
	second := c.Members[0].Config
	second.DataDir, second.LogFile = filepath.Join(t.TempDir(), "second"), filepath.Join(t.TempDir(), "log")
	second.ListenClient, second.ListenPeer = porttest.Address(t), porttest.Address(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- embedded.Supervise(ctx, second, zap.New(core)) }()
	eventually(t, back, "why it stays out", func() (string, bool) { return findLog(logs, "another process answers") })
	cancel()
	require.NoError(t, <-ended)
	after, _ := members(t.Context(), client)
	require.Equal(t, before, after)
	c.Members[0].WaitReady(t)
}

// A cluster that somebody changed by hand is left alone.
func TestUnknownMemberIsLeftAlone(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.WarnLevel)
	c := etcdtest.Start(t, 3, zap.New(core))
	client := connect(t, c.Members[1].Config.ClientURL)
	var added *clientv3.MemberAddResponse
	eventually(t, back, "a member is added by hand", func() (string, bool) {
		var err error
		added, err = client.MemberAddAsLearner(t.Context(), []string{"http://" + porttest.Address(t)})
		return errorText(err), err == nil
	})
	loseFolder(t, c.Members[0])
	c.Members[0].Start()
	eventually(t, back, "why it stays out", func() (string, bool) { return findLog(logs, "is not in the list of peers") })
	_, err := client.MemberRemove(t.Context(), added.Member.ID)
	require.NoError(t, err)
	_, text := members(t.Context(), client)
	require.Equal(t, 3, strings.Count(text, "learner=false"), text)
}
