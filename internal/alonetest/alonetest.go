package alonetest

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// What this process holds, and for how many tests: the tests of a package run
// one after the other, and one may ask more than once.
var (
	mu     sync.Mutex
	shared int
	held   *os.File
)

// Beside says that the test has a cluster under load: it waits for one that is
// Alone, and none such begins until it has ended.
func Beside(t testing.TB) {
	t.Helper()
	mu.Lock()
	defer mu.Unlock()
	if shared++; shared == 1 {
		// Who wants to be alone holds the gate while it waits, so that it need
		// not wait for all that come after it.
		gate := lock(t, "gate", unix.LOCK_SH)
		held = lock(t, "machine", unix.LOCK_SH)
		_ = gate.Close()
	}
	t.Cleanup(func() {
		mu.Lock()
		defer mu.Unlock()
		if shared--; shared == 0 {
			_ = held.Close()
		}
	})
}

// Alone waits until the tests that are Beside one another have ended, and keeps
// others from beginning until this one has. A test that is Beside must not ask.
func Alone(t testing.TB) {
	t.Helper()
	gate := lock(t, "gate", unix.LOCK_EX)
	machine := lock(t, "machine", unix.LOCK_EX)
	t.Cleanup(func() {
		_ = machine.Close()
		_ = gate.Close()
	})
}

// lock locks a file, which ends with its being closed, or with the process.
func lock(t testing.TB, name string, how int) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprintf("interrex-tests-%d.%s", os.Getuid(), name)), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatalf("open lock of tests: %v", err)
	}
	for {
		switch err := unix.Flock(int(f.Fd()), how); err {
		case nil:
			return f
		case unix.EINTR:
		default:
			t.Fatalf("lock %s: %v", f.Name(), err)
		}
	}
}
