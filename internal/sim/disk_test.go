package sim

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// TestFullDisk (D2): a replica whose disk is full neither takes in nor
// acknowledges, its receiver cannot be stopped in the middle of a write, and
// commits wait for another acker.
func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(rand.Uint64(), shape{instances: 3}, &trace{}, t.TempDir(), doubles{}, zap.NewNop())
		source, full, other := w.servers[0], w.servers[1], w.servers[2]
		source.superRO, source.readOnly, source.armed, source.k = false, false, true, 1
		let := func(d time.Duration) {
			end := w.loop.now() + d
			w.loop.after(d, func() {})
			w.loop.run(func() bool { return w.loop.now() >= end })
		}
		commit := func() (answered *bool) {
			answered = new(bool)
			source.write(false, nil, func(err error) { *answered = err == nil })
			return answered
		}
		for _, s := range []*server{full, other} {
			s.source, s.ackerFlag = source, true
			s.startReplica()
		}
		let(time.Second)
		other.stopReceiver()
		alone := commit()
		let(time.Second)
		require.True(t, *alone, "it acknowledges")
		require.True(t, full.executed.Equal(source.executed))

		heal := w.strike(fault{kind: diskFull, a: 1})
		waits := commit()
		let(5 * time.Second)
		require.False(t, *waits)
		require.True(t, full.received().Equal(source.executed), "it has taken in nothing more")
		st := full.status()
		require.True(t, st.Source.ReceiverOn, "it says that it receives")
		require.False(t, full.executed.Contains(source.logged))
		other.startReplica()
		let(2 * time.Second)
		require.True(t, *waits, "another one acknowledges")

		full.stopReceiver() // that is waited for
		let(time.Second)
		require.True(t, full.stuck)
		full.startReplica()
		heal()
		let(time.Second)
		require.True(t, full.executed.Contains(source.executed), "it was in the middle of that")
		require.False(t, full.stuck || full.receiverOn, "then it stopped, whatever it was told since")
		full.startReplica()
		after := commit()
		let(2 * time.Second)
		require.True(t, *after)
		require.True(t, full.executed.Equal(source.executed))
	})
}
