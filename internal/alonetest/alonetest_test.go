package alonetest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestTakeTurns: who is Alone waits for all that are Beside, however often they
// asked, and those that come later wait for it.
func TestTakeTurns(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // the real locks may be in use
	turn := func(name string, how int) <-chan struct{} {
		got := make(chan struct{})
		go func() {
			f := lock(t, name, how)
			close(got)
			_ = f.Close()
		}()
		return got
	}
	waits := func(c <-chan struct{}) {
		t.Helper()
		select {
		case <-c:
			t.Error("it did not wait")
		case <-time.After(50 * time.Millisecond):
		}
	}
	var alone, later <-chan struct{}
	t.Run("beside", func(t *testing.T) {
		Beside(t)
		Beside(t)
		<-turn("gate", unix.LOCK_SH) // another one that is beside gets in
		<-turn("machine", unix.LOCK_SH)
		alone = turn("machine", unix.LOCK_EX)
		waits(alone)
	})
	<-alone
	require.Zero(t, shared)
	t.Run("alone", func(t *testing.T) {
		Alone(t)
		later = turn("gate", unix.LOCK_SH)
		waits(later)
	})
	<-later
}
