package fetch

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func testProduct() product {
	return product{name: "thing", program: "usr/bin/thing", advice: "build it"}
}

// unpackThing is a fetcher that works.
func unpackThing(_ context.Context, p product, dir string, _ Progress) (string, error) {
	path := filepath.Join(dir, "root", p.program)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	return "1:2.0-1", os.WriteFile(path, []byte("x"), 0o600)
}

func TestInterruptedFetchLeavesNoBrokenCache(t *testing.T) {
	cache := t.TempDir()
	ctx, cancel := context.WithCancelCause(t.Context())
	halfWay := func(ctx context.Context, p product, dir string, progress Progress) (string, error) {
		version, err := unpackThing(ctx, p, dir, progress)
		require.NoError(t, err)
		cancel(errors.New("interrupted"))
		<-ctx.Done()
		return version, context.Cause(ctx)
	}
	_, err := getFrom(ctx, testProduct(), cache, Quiet{}, halfWay)
	require.ErrorContains(t, err, "interrupted")
	_, found := cached(cache, testProduct())
	require.False(t, found)

	// A process that was killed could not even remove its temporary folder.
	leftover := filepath.Join(cache, "tmp-thing-1")
	_, err = unpackThing(t.Context(), testProduct(), leftover, Quiet{})
	require.NoError(t, err)
	_, found = cached(cache, testProduct())
	require.False(t, found)
	tree, err := getFrom(t.Context(), testProduct(), cache, Quiet{}, unpackThing)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(cache, "thing-1_2.0-1"), tree.Root)
	require.NoDirExists(t, leftover)
	require.Equal(t, []string{filepath.Join(tree.Root, "usr/bin/thing")}, tree.Command("usr/bin/thing"))
}

func TestOneProcessFetchesAtATime(t *testing.T) {
	cache := t.TempDir()
	var fetches atomic.Int32
	slow := func(ctx context.Context, p product, dir string, progress Progress) (string, error) {
		fetches.Add(1)
		<-time.After(100 * time.Millisecond)
		return unpackThing(ctx, p, dir, progress)
	}
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			if _, err := getFrom(t.Context(), testProduct(), cache, Quiet{}, slow); err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	require.EqualValues(t, 1, fetches.Load())
}

func TestLockGivesUpWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(t.Context(), path)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 80*time.Millisecond)
	defer cancel()
	_, err = Lock(ctx, path)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	unlock()
	unlock, err = Lock(t.Context(), path)
	require.NoError(t, err)
	unlock()
}

func TestPackagesWithoutTheProgramAreRefused(t *testing.T) {
	empty := func(_ context.Context, _ product, dir string, _ Progress) (string, error) {
		return "1", os.Mkdir(filepath.Join(dir, "root"), 0o755)
	}
	_, err := getFrom(t.Context(), testProduct(), t.TempDir(), Quiet{}, empty)
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorContains(t, err, "usr/bin/thing")
	require.ErrorContains(t, err, "build it")
}

func TestProgressPrintsLinesWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	p := NewProgress(&out)
	p.Step("Downloading")
	for done := int64(0); done <= 40e6; done += 1e6 {
		p.Bytes(done, 40e6)
	}
	require.Equal(t, "Downloading\n  10.0 of 40.0 MB\n  20.0 of 40.0 MB\n  30.0 of 40.0 MB\n  40.0 of 40.0 MB\n", out.String())
}
