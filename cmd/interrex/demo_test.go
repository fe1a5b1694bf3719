package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/alonetest"
)

// buildDemo builds what the demo needs, side by side.
func buildDemo(t *testing.T) string {
	t.Helper()
	bin := t.TempDir()
	build(t, bin, "interrex/cmd/interrex", "interrex/cmd/demoapp")
	return filepath.Join(bin, "interrex")
}

// build builds programs into a folder, as the release is built: with other
// flags, all that they are made of would be compiled once more.
func build(t *testing.T, folder string, programs ...string) {
	t.Helper()
	command := exec.Command("go", append([]string{"build", "-trimpath", "-buildvcs=false", "-tags", "nomsgpack", "-ldflags", "-s -w", "-o", folder + "/"}, programs...)...)
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	out, err := command.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// output keeps what a process prints, for several readers.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

var nginxPort = regexp.MustCompile(`nginx \S+ on (127\.0\.0\.1:\d+)`)

// requireNothingLeft finds any process that knows the folder, or nginx.
func requireNothingLeft(t *testing.T, dir, out string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/*")
	require.NoError(t, err)
	for _, file := range files {
		if name := filepath.Base(file); name != "cmdline" && name != "environ" {
			continue
		}
		text, err := os.ReadFile(file)
		if err == nil && bytes.Contains(text, []byte(dir)) && !strings.HasPrefix(file, "/proc/self") {
			t.Errorf("left running: %s: %s", file, bytes.ReplaceAll(text, []byte{0}, []byte{' '}))
		}
	}
	if m := nginxPort.FindStringSubmatch(out); m != nil {
		_, err := net.DialTimeout("tcp", m[1], time.Second)
		require.Error(t, err, "nginx is left running on %s", m[1])
	}
	require.NoDirExists(t, dir)
}

func TestDemoEndToEnd(t *testing.T) {
	alonetest.Alone(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	program, dir := buildDemo(t), filepath.Join(t.TempDir(), "demo")
	// Two writers: other packages are compiled and tested meanwhile, and replicas
	// do not keep up with eight at full speed then.
	command := exec.CommandContext(ctx, program, "demo", "--writers", "2", "--dir", dir)
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	text, err := command.CombinedOutput()
	out := string(text)
	require.NoError(t, err, "%s", out)
	t.Log(out)
	require.Equal(t, 3, strings.Count(out, "none lost"), "a server each")
	require.NotContains(t, out, "LOST")
	require.Equal(t, 2, strings.Count(out, "nginx: new connections to mysql_rw reach"), "the upstreams follow both moves")
	require.Regexp(t, `(?s)Failover db1 → db[23], epoch \d+\n.*RPO 0 acknowledged commits lost.*Switchover db[23] → db1, epoch \d+\n.*RPO 0 acknowledged commits lost`, out)
	requireNothingLeft(t, dir, out)
}

func TestDemoInterruptedLeavesNothing(t *testing.T) {
	program, dir := buildDemo(t), filepath.Join(t.TempDir(), "demo")
	var out output
	command := exec.Command(program, "demo", "--keep", "--dir", dir)
	command.Stdout, command.Stderr = &out, &out
	require.NoError(t, command.Start())
	exited := make(chan error, 1)
	go func() { exited <- command.Wait() }()
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "owns its upstream blocks") },
		3*time.Minute, 10*time.Millisecond, "%s", &out)
	require.NoError(t, command.Process.Signal(os.Interrupt))
	select {
	case err := <-exited:
		require.Error(t, err, "%s", &out)
	case <-time.After(time.Minute):
		require.NoError(t, command.Process.Kill())
		t.Fatalf("it does not end when interrupted: %s", &out)
	}
	require.Contains(t, out.String(), "interrupted")
	requireNothingLeft(t, dir, out.String())
}

func TestDemoNeedsItsService(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := findDemoapp(filepath.Join(t.TempDir(), "interrex"))
	require.ErrorContains(t, err, "make build")
}

func TestDemoKeepsOutOfAUsedFolder(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600))
	_, err := demoDir(dir)
	require.ErrorContains(t, err, "is not empty")
	require.Equal(t, exitUsage, exitCode(err))
}

func TestDemoSummary(t *testing.T) {
	zero, one := uint64(0), uint64(1)
	steps := []failover.Step{
		{Name: "detect", BeganMS: -29, TookMS: 29, Detail: "db1 is failed"},
		{Name: "claim", TookMS: 4.25, Detail: "epoch 2"},
		{Name: "verify", BeganMS: 120.1, TookMS: 8, Detail: "a write through the route was acknowledged"},
	}
	summary := demoSummary{
		SQL: demoClients{Through: "8 writers, db1's rw route", Acknowledged: 12345, Failed: 8, Unknown: 8, Found: 1,
			Failover: 187 * time.Millisecond, Switch: 62 * time.Millisecond, Longest: 187 * time.Millisecond, Errors: map[string]int{"invalid connection": 8}},
		HTTP: demoClients{Through: "4 clients, nginx, 2 Gin services", Acknowledged: 2345,
			Failover: 1195 * time.Millisecond, Switch: 70 * time.Millisecond, Longest: 1195 * time.Millisecond},
		Checks: []demoCheck{
			{Node: "db1", Primary: true, Rows: 14690},
			{Node: "db2", Rows: 14688, Lost: []string{"writer 1 row 7", "demo-0-3"}},
		},
		Moves: []api.Report{{Epoch: 2, Kind: election.Failover, Outcome: failover.Completed, From: "db1", To: "db2", Steps: steps,
			RTOMillis: 157, RTOBounds: [2]float64{141, 157},
			RPO: api.RPO{LostCommits: &zero, InDoubt: &one, Proof: api.Proof{Statement: "2 of 2 ackers were frozen."}}},
			{Epoch: 3, Kind: election.Switchover, Outcome: failover.Completed, From: "db2", To: "db1", Steps: steps[1:],
				RTOMillis: 61, RTOBounds: [2]float64{55.5, 61}, RPO: api.RPO{LostCommits: &zero, InDoubt: &zero}}},
		Took: 48250 * time.Millisecond,
	}
	var out strings.Builder
	printDemo(screen{out: &out}, summary)
	golden := filepath.Join("testdata", "demo_summary.golden")
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), out.String())
	require.Equal(t, 2, summary.lost())
}
