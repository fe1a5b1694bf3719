package nginx

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"interrex/internal/sandbox/fetch"
	sandbox "interrex/internal/sandbox/nginx"
	"interrex/internal/topology"
	"interrex/router"
)

// patience is how long a test waits for what should take milliseconds.
const patience = 30 * time.Second

// checkedMember is a member with the health check of the configuration's defaults.
func checkedMember(address string) Member {
	return Member{
		Address: address, HealthPath: "/health",
		Interval: 500 * time.Millisecond, Timeout: 500 * time.Millisecond, MaxFails: 2, Rise: 2,
	}
}

// realNginx is a real nginx in a temporary folder.
type realNginx struct {
	t       testing.TB
	command []string // runs nginx with this folder's configuration
	file    string   // the main configuration
	pidFile string
	cmd     *exec.Cmd
}

// newNginx prepares an nginx that is not yet running: the installed one, else
// one from the distribution's packages. body is the configuration after the
// usual beginning; @HTTP@ in it is what an http block begins with.
func newNginx(t testing.TB, body string) *realNginx {
	t.Helper()
	dist, err := sandbox.Find(t.Context(), fetch.NewProgress(os.Stderr))
	require.NoError(t, err)
	dir := t.TempDir()
	n := &realNginx{t: t, file: filepath.Join(dir, "nginx.conf"), pidFile: filepath.Join(dir, "nginx.pid")}
	test := dist.TestCommand(dir, n.file)
	n.command = test[:len(test)-1] // without -t
	require.NoError(t, os.Mkdir(filepath.Join(dir, "tmp"), 0o700))
	n.write(n.file, dist.Main(dir)+"daemon off;\nworker_processes 2;\nevents { worker_connections 256; }\n"+
		strings.ReplaceAll(body, "@HTTP@", dist.HTTP(dir)))
	return n
}

// unpacked has it run from the distribution's packages even where one is
// installed: by their own loader, behind which it shows no titles.
func (n *realNginx) unpacked() *realNginx {
	tree, err := fetch.Nginx(n.t.Context(), fetch.NewProgress(os.Stderr))
	require.NoError(n.t, err)
	at := slices.Index(n.command, "-p")
	n.command = append(tree.Command("usr/sbin/nginx"), n.command[at:]...)
	rest := n.read(n.file)
	if strings.HasPrefix(rest, "load_module") { // the other's
		_, rest, _ = strings.Cut(rest, ";\n")
	}
	module := filepath.Join(tree.Root, "usr/lib/nginx/modules/ngx_stream_module.so")
	n.write(n.file, fmt.Sprintf("load_module %q;\n%s", module, rest))
	return n
}

func (n *realNginx) write(path, text string) {
	require.NoError(n.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(n.t, os.WriteFile(path, []byte(text), 0o640))
}

func (n *realNginx) read(path string) string {
	text, err := os.ReadFile(path)
	require.NoError(n.t, err)
	return string(text)
}

// start runs nginx until the test ends.
func (n *realNginx) start() {
	n.t.Helper()
	var out bytes.Buffer
	n.cmd = exec.Command(n.command[0], n.command[1:]...)
	n.cmd.Stdout, n.cmd.Stderr = &out, &out
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(n.t, n.cmd.Start())
	n.t.Cleanup(func() {
		_ = syscall.Kill(-n.cmd.Process.Pid, syscall.SIGKILL)
		_ = n.cmd.Wait()
	})
	eventually(n.t, func() string {
		m, err := findMaster(n.pidFile)
		if err != nil {
			return fmt.Sprintf("nginx does not start: %v", err)
		}
		defer func() { _ = m.process.Release() }()
		if len(m.workers()) != 2 {
			return "nginx has no workers yet"
		}
		return ""
	})
}

// config is a configuration that owns upstreams in the main file.
func (n *realNginx) config(upstreams ...Upstream) Config {
	cfg := DefaultConfig()
	cfg.File, cfg.PIDFile, cfg.Upstreams = n.file, n.pidFile, upstreams
	cfg.TestCommand = append(append([]string{}, n.command...), "-t")
	cfg.ReloadCommand = append(append([]string{}, n.command...), "-s", "reload")
	cfg.Recheck = 500 * time.Millisecond
	return cfg
}

// run runs a rewriter until stop is called or the test ends.
func run(t testing.TB, cfg Config, table Table) (r *Rewriter, stop func()) {
	t.Helper()
	r, err := New(cfg, table, zaptest.NewLogger(t, zaptest.Level(zap.InfoLevel)))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := r.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	stop = func() { cancel(); done.Wait() }
	t.Cleanup(stop)
	return r, stop
}

// eventually waits until check returns "", and fails with what it said last.
func eventually(t testing.TB, check func() string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		last := check()
		if last == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s still: %s", patience, last)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// applied waits until the rewriter lives by an epoch.
func applied(t testing.TB, r *Rewriter, epoch topology.Epoch) Status {
	t.Helper()
	eventually(t, func() string {
		if s := r.Status(); s.Epoch != epoch || s.Error != "" {
			return fmt.Sprintf("status %+v, want epoch %d", s, epoch)
		}
		return ""
	})
	return r.Status()
}

// failed waits until the rewriter reports an error with a text in it.
func failed(t *testing.T, r *Rewriter, text string) {
	t.Helper()
	eventually(t, func() string {
		if s := r.Status(); !strings.Contains(s.Error, text) {
			return fmt.Sprintf("status %+v, want an error with %q", s, text)
		}
		return ""
	})
}

// sayer is a TCP server that says its address to each client and holds on.
func sayer(t testing.TB) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address = l.Addr().String()
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				fmt.Fprintln(c, address)
				_, _ = io.Copy(io.Discard, c)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); conns.Wait() })
	return address
}

// ask connects to a port and returns what the server behind it says.
func ask(port string) (said string, conn net.Conn, err error) {
	conn, err = net.DialTimeout("tcp", port, patience)
	if err != nil {
		return "", nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	said, err = bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(said), conn, err
}

// says is who answers a new connection to a port.
func says(t testing.TB, port string) string {
	t.Helper()
	said, conn, err := ask(port)
	if conn != nil {
		defer conn.Close()
	}
	if err != nil {
		return err.Error()
	}
	return said
}

// webMember is an HTTP service whose health can be switched.
type webMember struct {
	address string
	mu      sync.Mutex
	status  int
}

func newWebMember(t *testing.T) *webMember {
	t.Helper()
	m := &webMember{status: http.StatusOK}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	m.address = l.Addr().String()
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/health" {
			m.mu.Lock()
			defer m.mu.Unlock()
			w.WriteHeader(m.status)
			return
		}
		fmt.Fprint(w, m.address)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { _ = s.Close(); serving.Wait() })
	return m
}

func (m *webMember) set(status int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status = status
}

// opened is a route to a primary.
func opened(epoch topology.Epoch, primary string, replicas ...string) router.Route {
	r := router.Route{Epoch: epoch, Phase: router.Open, Primary: &router.Backend{Node: "p", Address: primary}, Replicas: []router.Backend{}}
	for _, a := range replicas {
		r.Replicas = append(r.Replicas, router.Backend{Node: "r", Address: a})
	}
	return r
}

func obey(t testing.TB, table *router.Table, route router.Route) {
	t.Helper()
	_, err := table.Apply(route)
	require.NoError(t, err)
}
