package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"interrex/internal/porttest"
	"interrex/internal/sandbox/mysqld/mysqldtest"
)

// startMySQL starts a server that is open for writes.
func startMySQL(t *testing.T) config {
	t.Helper()
	server := mysqldtest.Start(t, []string{
		"CREATE DATABASE shop",
		"CREATE USER 'shop'@'%' IDENTIFIED BY 'it''s secret'",
		"GRANT ALL ON shop.* TO 'shop'@'%'",
		"GRANT CONNECTION_ADMIN, SYSTEM_VARIABLES_ADMIN ON *.* TO 'shop'@'%'",
	}, 1)
	cfg := config{rw: server.Addr, ro: server.Addr, user: "shop", password: "it's secret", database: "shop", requestLimit: 5 * time.Second}
	db, err := openRoute(cfg, server.Addr)
	require.NoError(t, err)
	defer db.Close()
	for _, statement := range []string{"SET GLOBAL super_read_only=OFF", "SET GLOBAL read_only=OFF"} {
		_, err = db.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	return cfg
}

// startApp serves on that server until the test ends.
func startApp(t *testing.T, cfg config) (*store, http.Handler) {
	t.Helper()
	log := zaptest.NewLogger(t)
	orders, err := openStore(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, orders.close()) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, orders.createTable(ctx, log))
	return orders, newHandler(orders, cfg.requestLimit, log)
}

// call makes one request and returns status and body.
func call(t *testing.T, h http.Handler, method, path, body string) (int, map[string]any) {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	var answer map[string]any
	if w.Body.Len() > 0 && strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer), w.Body.String())
	}
	return w.Code, answer
}

func TestOrders(t *testing.T) {
	cfg := startMySQL(t)
	orders, h := startApp(t, cfg)
	require.NoError(t, orders.createTable(t.Context(), zaptest.NewLogger(t)), "creating it again is harmless")

	status, answer := call(t, h, "GET", "/health", "")
	require.Equal(t, 200, status, answer)
	status, answer = call(t, h, "POST", "/orders", `{"id":"a-1"}`)
	require.Equal(t, 201, status, answer)
	require.Len(t, answer["server_uuid"], 36)
	status, again := call(t, h, "POST", "/orders", `{"id":"a-1"}`)
	require.Equal(t, 200, status)
	require.Equal(t, answer["server_uuid"], again["server_uuid"])
	status, answer = call(t, h, "GET", "/orders/a-1", "")
	require.Equal(t, 200, status)
	require.Equal(t, "ro", answer["route"])
	status, answer = call(t, h, "GET", "/orders/count", "")
	require.Equal(t, 200, status)
	require.Equal(t, 1.0, answer["count"])
	status, _ = call(t, h, "GET", "/orders/none", "")
	require.Equal(t, 404, status)
	for _, body := range []string{``, `{}`, `[]`, `{"id":7}`, `{"id":""}`, `{"id":"count"}`, `{"id":"a b"}`, `{"id":"';DROP TABLE orders"}`,
		`{"id":"` + strings.Repeat("x", maxID+1) + `"}`, `{"id":"x","y":"` + strings.Repeat("y", maxBody) + `"}`} {
		status, answer = call(t, h, "POST", "/orders", body)
		require.Equal(t, 400, status, body)
		require.NotEmpty(t, answer["error"])
	}
	status, _ = call(t, h, "DELETE", "/orders/a-1", "")
	require.Equal(t, 405, status)

	var created atomic.Int32
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			if status, _ := call(t, h, "POST", "/orders", `{"id":"race"}`); status == 201 {
				created.Add(1)
			}
		})
	}
	clients.Wait()
	require.Equal(t, int32(1), created.Load(), "of many who store the same order, one does")
}

// relay is a route that can lose the answer to an INSERT, as a failover does.
type relay struct {
	address string
	lose    atomic.Int32 // how many answers are still to be lost
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &relay{address: l.Addr().String()}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { r.join(client, to) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); conns.Wait() })
	return r
}

// join passes bytes both ways until either end closes.
func (r *relay) join(client net.Conn, to string) {
	defer client.Close()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	var deaf atomic.Bool // the server's answers are dropped
	var back sync.WaitGroup
	defer back.Wait()
	back.Go(func() {
		defer client.Close()
		buffer := make([]byte, 4096)
		for {
			n, err := server.Read(buffer)
			if err != nil || deaf.Load() { // the answer is there: the row is committed
				return
			}
			if _, err := client.Write(buffer[:n]); err != nil {
				return
			}
		}
	})
	buffer := make([]byte, 4096)
	for {
		n, err := client.Read(buffer)
		if err != nil {
			_ = server.Close()
			return
		}
		if bytes.Contains(buffer[:n], []byte("INSERT")) && r.lose.Add(-1) >= 0 {
			deaf.Store(true)
		}
		if _, err := server.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// TestLostAnswer: an INSERT whose answer is lost is asked again and found to be
// stored; if that is lost too the client is told to ask again, never that it
// failed.
func TestLostAnswer(t *testing.T) {
	cfg := startMySQL(t)
	direct := cfg
	route := newRelay(t, cfg.rw)
	cfg.rw = route.address
	orders, h := startApp(t, cfg)

	route.lose.Store(1)
	status, answer := call(t, h, "POST", "/orders", `{"id":"once"}`)
	require.Equal(t, 200, status, answer)
	route.lose.Store(2)
	status, answer = call(t, h, "POST", "/orders", `{"id":"twice"}`)
	require.Equal(t, 503, status, answer)
	require.Equal(t, true, answer["retry"])
	status, _ = call(t, h, "POST", "/orders", `{"id":"twice"}`)
	require.Equal(t, 200, status)
	n, _, err := orders.count(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(2), n)

	// Every pooled connection is killed, as at the end of a failover.
	db, err := openRoute(direct, direct.rw)
	require.NoError(t, err)
	defer db.Close()
	killOthers(t, db)
	status, answer = call(t, h, "POST", "/orders", `{"id":"after"}`)
	require.Equal(t, 201, status, answer)

	// A connection to a former primary, which is read-only, is given up.
	_, err = db.ExecContext(t.Context(), "SET GLOBAL super_read_only=ON")
	require.NoError(t, err)
	status, answer = call(t, h, "POST", "/orders", `{"id":"closed"}`)
	require.Equal(t, 503, status, answer)
	require.Equal(t, true, answer["retry"])
}

func killOthers(t *testing.T, db *sql.DB) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), "SELECT id FROM information_schema.processlist WHERE user='shop' AND id <> CONNECTION_ID()")
	require.NoError(t, err)
	defer rows.Close()
	var ids []int64
	for rows.Next() {
		var id int64
		require.NoError(t, rows.Scan(&id))
		ids = append(ids, id)
	}
	require.NoError(t, rows.Err())
	require.NotEmpty(t, ids)
	for _, id := range ids {
		_, err := db.ExecContext(t.Context(), fmt.Sprintf("KILL %d", id))
		require.NoError(t, err)
	}
}

// TestRoutesAway: reads go to the primary when no replica answers; the service
// is healthy while either route is there, and says so when neither is.
func TestRoutesAway(t *testing.T) {
	cfg := startMySQL(t)
	gone := porttest.Address(t)
	noReplicas := cfg
	noReplicas.ro = gone
	_, h := startApp(t, noReplicas)
	status, _ := call(t, h, "POST", "/orders", `{"id":"x"}`)
	require.Equal(t, 201, status)
	status, answer := call(t, h, "GET", "/orders/x", "")
	require.Equal(t, 200, status)
	require.Equal(t, "rw", answer["route"])
	_, answer = call(t, h, "GET", "/orders/count", "")
	require.Equal(t, "rw", answer["route"])
	status, _ = call(t, h, "GET", "/health", "")
	require.Equal(t, 200, status)

	// A route that accepts and never greets, as a proxy that holds.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	noPrimary := cfg
	noPrimary.rw, noPrimary.requestLimit = l.Addr().String(), 500*time.Millisecond
	held, err := openStore(noPrimary)
	require.NoError(t, err)
	defer func() { require.NoError(t, held.close()) }()
	h = newHandler(held, noPrimary.requestLimit, zaptest.NewLogger(t))
	status, _ = call(t, h, "GET", "/health", "")
	require.Equal(t, 200, status, "reads are served")
	status, answer = call(t, h, "POST", "/orders", `{"id":"y"}`)
	require.Equal(t, 503, status)
	require.Equal(t, true, answer["retry"])

	noPrimary.ro = gone
	alone, err := openStore(noPrimary)
	require.NoError(t, err)
	defer func() { require.NoError(t, alone.close()) }()
	start := time.Now()
	status, answer = call(t, newHandler(alone, time.Second, zaptest.NewLogger(t)), "GET", "/health", "")
	require.Equal(t, 503, status)
	require.Equal(t, "unavailable", answer["status"])
	require.Less(t, time.Since(start), 10*healthLimit)
}

// TestServeEndsGracefully: a request in flight is answered before serve
// returns.
func TestServeEndsGracefully(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	begun, finish := make(chan struct{}), make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-finish
		fmt.Fprint(w, "done")
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, l, handler) }()
	answered := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + l.Addr().String())
		if err != nil {
			answered <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		answered <- string(body)
	}()
	<-begun
	cancel()
	close(finish)
	require.Equal(t, "done", <-answered)
	require.NoError(t, <-ended)
}

func TestParseConfig(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(secret, []byte("hush\n"), 0o600))
	env := map[string]string{"DEMOAPP_RW": "h:1", "DEMOAPP_USER": "u", "DEMOAPP_PASSWORD": "from env"}
	getenv := func(name string) string { return env[name] }
	cfg, err := parseConfig([]string{"-database", "d", "-user", "v"}, getenv)
	require.NoError(t, err)
	require.Equal(t, config{listen: "127.0.0.1:8080", rw: "h:1", ro: "h:1", user: "v", password: "from env", database: "d", requestLimit: 12 * time.Second}, cfg)
	cfg, err = parseConfig([]string{"-database", "d", "-ro", "i:2", "-password-file", secret}, getenv)
	require.NoError(t, err)
	require.Equal(t, "hush", cfg.password)
	require.Equal(t, "i:2", cfg.ro)
	_, err = parseConfig([]string{"-listen", "x", "-request-limit", "-1s", "more"}, func(string) string { return "" })
	for _, text := range []string{`"more"`, "-listen: want host:port", "-rw: want", "-user and -database", "-request-limit"} {
		require.ErrorContains(t, err, text)
	}
	_, err = parseConfig([]string{"-password-file", secret + "x"}, getenv)
	require.ErrorContains(t, err, "read password")
}
