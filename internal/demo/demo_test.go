package demo

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	_ "interrex/internal/onecore"
)

func TestTimelineReadsAsAPersonLikes(t *testing.T) {
	began := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	var out strings.Builder
	line := NewTimeline(&out, began, 80)
	line.Section("Failover")
	line.At(at(900), "load runs")
	line.Mark(at(27431))
	line.At(at(27431), "kill -9 %d", 4711)
	line.Tell([]Event{
		{at(27618), "first row acknowledged"},
		{at(27460), "verdict: db1 is failed, as db1 saw its process exit, and db2 and db3 are refused"},
	})
	line.Mark(time.Time{})
	line.At(at(30000), "on it goes")
	require.Equal(t, `
Failover
    900 ms              load runs
  27431 ms        +0    kill -9 4711
  27460 ms       +29    verdict: db1 is failed, as db1 saw its process exit, and
                        db2 and db3 are refused
  27618 ms      +187    first row acknowledged
  30000 ms              on it goes
`, out.String())
}

func TestTimelineTellsWhatOthersPrintByLines(t *testing.T) {
	var out strings.Builder
	line := NewTimeline(&out, time.Now(), 80)
	for _, part := range []string{"db1 ", "is up\ndb2", " is up\n"} {
		_, err := line.Write([]byte(part))
		require.NoError(t, err)
	}
	require.Equal(t, 2, strings.Count(out.String(), " is up\n"))
	require.Contains(t, out.String(), "db1 is up\n")
}

func TestServersOfAnUpstreamBlock(t *testing.T) {
	text := "stream {\n\tupstream mysql_rw {\n\t\tserver 127.0.0.1:3306;\n\t}\n\tupstream mysql_ro {\n\t\tserver 127.0.0.1:3307 max_fails=0;\n\t\tserver 127.0.0.1:3308 down;\n\t}\n}\n"
	require.Equal(t, []string{"127.0.0.1:3306"}, serversOf(text, UpstreamRW))
	require.Equal(t, []string{"127.0.0.1:3307"}, serversOf(text, UpstreamRO))
	require.Empty(t, serversOf(text, UpstreamHTTP))
}

func TestLongestGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var count atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		found := make(chan Gap)
		go func() { found <- LongestGap(ctx, func() int { return int(count.Load()) }) }()
		for _, rest := range []time.Duration{10, 20, 300, 10} {
			time.Sleep(rest * time.Millisecond) // of the bubble's clock
			count.Add(1)
		}
		time.Sleep(50 * time.Millisecond)
		cancel()
		require.InDelta(t, 300, (<-found).Length().Milliseconds(), 4)
	})
}

func TestOutageIsCountedWhole(t *testing.T) {
	began := time.Now()
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	s := Seen{began: began, ended: at(2000), orders: []orderOutcome{
		{id: "a", stored: true, ended: at(100)}, {id: "b", ended: at(400)}, {id: "c", stored: true, ended: at(700)},
		{id: "d", stored: true, ended: at(1900)},
	}}
	require.Equal(t, 600*time.Millisecond, s.LongestOutage(at(200), at(300)), "it began before and ends after")
	require.Equal(t, 1200*time.Millisecond, s.LongestOutage(at(0), at(2000)))
	require.Equal(t, 3, s.Stored())
}

func TestLoadCountsWhatItWasTold(t *testing.T) {
	var posts atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost && posts.Add(1)%3 == 0:
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"error":"database is not available","retry":true}`))
		case r.Method == http.MethodPost:
			w.WriteHeader(http.StatusCreated)
		}
	}))
	defer server.Close()
	load := StartLoad(t.Context(), LoadConfig{URL: server.URL, Prefix: "t", Clients: 2, Pause: time.Millisecond, Timeout: 5 * time.Second})
	require.Eventually(t, func() bool { return load.Stored() >= 20 }, 30*time.Second, time.Millisecond)
	seen := load.Stop()
	require.Equal(t, int(posts.Load()), seen.Attempts())
	require.Equal(t, seen.Attempts()-seen.Stored(), seen.Failed())
	require.Equal(t, map[string]int{"POST: 503 Service Unavailable database is not available": seen.Failed()}, seen.Errors)
	require.Positive(t, seen.Reads)
}

func TestStopWithoutATier(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, Stop(t.Context(), dir))
	_, err := NewTier(dir, "demoapp", 2)
	require.NoError(t, err)
	require.NoError(t, Stop(t.Context(), dir), "planned and never started")
}

func TestOrderToEndIsAnsweredByTheEnd(t *testing.T) {
	dir := t.TempDir()
	_, err := NewTier(dir, "demoapp", 1)
	require.NoError(t, err)
	socket, err := tierSocket(dir)
	require.NoError(t, err)
	ended := make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		conn, err := awaitOrder(t.Context(), socket)
		if err != nil {
			failed <- err
			return
		}
		close(ended)
		failed <- errors.Join(err, conn.Close())
	}()
	require.Eventually(t, func() bool {
		require.NoError(t, Stop(t.Context(), dir))
		select {
		case <-ended:
			return true
		default:
			return false // it did not listen yet
		}
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, <-failed)
}
