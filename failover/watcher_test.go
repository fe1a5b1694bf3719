package failover

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/topology"
)

// stuckNode never answers a question about its status, whatever the context
// says, once it is stuck.
type stuckNode struct {
	Node
	stuck chan struct{} // closed to let it answer again; nil: it fails at once
	asked *atomic.Int64
}

func (n stuckNode) Status(context.Context) (NodeStatus, error) {
	n.asked.Add(1)
	if n.stuck != nil {
		<-n.stuck
	}
	return NodeStatus{}, errors.New("the server does not answer")
}

type onlyNode struct{ node Node }

func (n onlyNode) Node(topology.NodeName) (Node, error) { return n.node, nil }

// TestStalledWatcher: a server that does not answer, and a store that is gone,
// are not the agent's fault; a part of the agent that never comes back is.
func TestStalledWatcher(t *testing.T) {
	const limit = 300 * time.Millisecond
	run := func(t *testing.T, stuck chan struct{}) (w *Watcher, asked *atomic.Int64) {
		t.Helper()
		asked = &atomic.Int64{}
		store := &store{members: []topology.Member{{Name: "n1"}}, down: true}
		w = NewWatcher("n1", &fakeRegistry{store: store, self: "n1"}, onlyNode{stuckNode{stuck: stuck, asked: asked}}, nil, 5*time.Millisecond)
		require.Empty(t, w.Stalled(0), "it has not begun")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			require.NoError(t, <-done)
		})
		return w, asked
	}
	t.Run("all around it fails", func(t *testing.T) {
		w, asked := run(t, nil)
		require.Eventually(t, func() bool { return asked.Load() > 20 }, 20*time.Second, time.Millisecond)
		require.Empty(t, w.Stalled(10*time.Second))
	})
	t.Run("the own member hangs", func(t *testing.T) {
		stuck := make(chan struct{})
		w, _ := run(t, stuck)
		t.Cleanup(func() { // before the watcher is stopped, which waits for it
			select {
			case <-stuck:
			default:
				close(stuck)
			}
		})
		require.Eventually(t, func() bool { return w.Stalled(limit) != "" }, 20*time.Second, 10*time.Millisecond)
		require.Contains(t, w.Stalled(limit), "has not answered")
		close(stuck)
		require.Eventually(t, func() bool { return w.Stalled(limit) == "" }, 20*time.Second, 10*time.Millisecond)
	})
	t.Run("it does not go round", func(t *testing.T) {
		w := NewWatcher("n1", nil, nil, nil, 0)
		w.turn()
		require.Eventually(t, func() bool { return w.Stalled(limit) != "" }, 20*time.Second, 10*time.Millisecond)
		require.Contains(t, w.Stalled(limit), "has not looked")
	})
}
