package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/porttest"
)

const testToken = "operator-token-of-the-tests"

// agentAt is a server that answers like an agent: with the given value, or
// problem, for each "METHOD /path".
func agentAt(t *testing.T, answers map[string]any) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, ok := answers[r.Method+" "+r.URL.Path]
		status, kind := http.StatusOK, "application/json"
		if !ok {
			answer = problemWith("not-found", http.StatusNotFound, "There is no such thing here", "no "+r.URL.Path)
		}
		if r.Method == http.MethodPost && r.Header.Get("Authorization") != "Bearer "+testToken {
			answer = problemWith("unauthorized", http.StatusUnauthorized, "A valid token is required; nothing changed", "the bearer token is missing or wrong")
		}
		if p, is := answer.(api.Problem); is {
			status, kind = p.Status, "application/problem+json"
		}
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func problemWith(name string, status int, title, detail string) api.Problem {
	return api.Problem{Type: api.ProblemType + name, Status: status, Title: title, Detail: detail, Instance: "urn:interrex:request:r1"}
}

// deadAddress is one where nobody listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	return porttest.Address(t)
}

// run runs the program in an empty folder with no environment of ours.
func run(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	return runWith(t, nil, args...)
}

func runWith(t *testing.T, in io.Reader, args ...string) (code int, out, errOut string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for _, name := range []string{envAgent, envTokenFile} {
		if _, set := os.LookupEnv(name); !set {
			t.Setenv(name, "")
		}
	}
	var stdout, stderr bytes.Buffer
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	if in != nil {
		root.SetIn(in)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	code = execute(ctx, root, &stderr)
	return code, stdout.String(), stderr.String()
}

func tokenFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(testToken+"\n"), 0o600))
	return file
}

func TestExitCodesAndWhatIsSaid(t *testing.T) {
	gate := problemWith("gate-closed", http.StatusConflict, "The operation is refused by a gate; nothing changed", "")
	gate.Gate = &failover.Gate{Name: "candidate_available", Operation: election.Switchover, Reason: `the cluster has no member "db9"`}
	undone := problemWith("undone", http.StatusConflict, "The operation was undone; the former primary serves again", "too slow")
	undone.Report = &api.Report{Epoch: 9, Steps: []failover.Step{{Name: "revoke", Error: "limit passed"}}}
	sound := agentAt(t, map[string]any{
		"GET /api/v1/cluster": soundStatus(), "GET /api/v1/gates": api.GateList{Gates: []failover.Gate{{Name: "candidate_available", Operation: election.Switchover, Open: true}}},
		"POST /api/v1/pause": api.PauseState{Paused: true}, "POST /api/v1/resume": api.PauseState{},
		"POST /api/v1/switchover": gate,
	})
	quorum := problemWith("no-quorum", http.StatusServiceUnavailable, "Refused for want of etcd's quorum; nothing changed", "")
	quorum.Gate = &failover.Gate{Name: "etcd_quorum", Operation: election.Switchover, Reason: "etcd has no quorum: no change is possible; writes go on"}
	mute := agentAt(t, map[string]any{"POST /api/v1/switchover": quorum, "POST /api/v1/pause": quorum, "POST /api/v1/resume": quorum})
	busy := agentAt(t, map[string]any{"POST /api/v1/switchover": problemWith("busy", http.StatusConflict, "Another operation is in flight; nothing changed", "")})
	slow := agentAt(t, map[string]any{"POST /api/v1/switchover": undone})
	token, dead := tokenFile(t), deadAddress(t)
	for _, c := range []struct {
		name string
		args []string
		code int
		says []string
	}{
		{"status", []string{"status", "--agent", sound}, 0, nil},
		{"next agent", []string{"status", "--agent", dead + "," + sound}, 0, nil},
		{"nobody", []string{"status", "--agent", dead}, 1, []string{"no agent answers", dead, "refused", "fix:"}},
		{"no token", []string{"pause", "--reason", "x", "--agent", sound}, 1, []string{"operator's token", "--token-file"}},
		{"wrong token", []string{"resume", "--agent", sound, "--token-file", otherToken(t)}, 1, []string{"valid token", "where:", sound, "request_id r1", "fix:"}},
		{"pause", []string{"pause", "--reason", "x", "--agent", sound, "--token-file", token}, 0, nil},
		{"resume", []string{"resume", "--agent", dead + "," + sound, "--token-file", token}, 0, nil},
		{"no reason", []string{"pause", "--agent", sound, "--token-file", token}, 2, []string{"--reason", "pause --help"}},
		{"gate", []string{"switchover", "--to", "db9", "--agent", sound, "--token-file", token}, 3,
			[]string{"refused by a gate", "candidate_available", `no member "db9"`, "fix:"}},
		{"no quorum", []string{"switchover", "--agent", mute, "--token-file", token}, 3,
			[]string{"nothing changed", "etcd_quorum", "writes go on", "fix:"}},
		{"pause without quorum", []string{"pause", "--reason", "x", "--agent", mute, "--token-file", token}, 3, []string{"etcd_quorum"}},
		{"resume without quorum", []string{"resume", "--agent", mute, "--token-file", token}, 3, []string{"etcd_quorum"}},
		{"busy", []string{"switchover", "--agent", busy, "--token-file", token}, 3, []string{"in flight"}},
		{"undone", []string{"switchover", "--agent", slow, "--token-file", token}, 1, []string{"undone", "too slow"}},
		{"no such epoch", []string{"history", "77", "--agent", sound}, 1, []string{"/failovers/77", "fix:"}},
		{"epoch is a word", []string{"history", "last", "--agent", sound}, 2, []string{`"last"`}},
		{"unknown flag", []string{"status", "--frob"}, 2, []string{"--frob", "See interrex status --help"}},
		{"unknown command", []string{"frob"}, 2, []string{"frob"}},
		{"too many arguments", []string{"gates", "x"}, 2, []string{"x"}},
		{"output", []string{"gates", "-o", "yaml"}, 2, []string{"yaml"}},
		{"agent", []string{"status", "--agent", "http://:x"}, 2, []string{"host:port"}},
		{"no sandbox", []string{"status", "--dir", "nowhere"}, 1, []string{"nowhere"}},
		{"cert without key", []string{"status", "--agent", sound, "--cert", "x"}, 2, []string{"--key"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, out, errOut := run(t, c.args...)
			require.Equal(t, c.code, code, "%s%s", out, errOut)
			for _, words := range c.says {
				require.Contains(t, errOut, words)
			}
			require.NotContains(t, out+errOut, testToken)
			if c.code == 0 {
				require.Empty(t, errOut)
			}
		})
	}
}

func otherToken(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "other")
	require.NoError(t, os.WriteFile(file, []byte("another token of 32 characters.."), 0o600))
	return file
}

// An order whose answer is lost may have been carried out: it is given to
// nobody else.
func TestOrderIsGivenOnce(t *testing.T) {
	var orders atomic.Int32
	count := func(w http.ResponseWriter, r *http.Request) {
		orders.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	}
	one, two := httptest.NewServer(http.HandlerFunc(count)), httptest.NewServer(http.HandlerFunc(count))
	defer one.Close()
	defer two.Close()
	code, _, errOut := run(t, "switchover", "--token-file", tokenFile(t),
		"--agent", one.Listener.Addr().String(), "--agent", two.Listener.Addr().String())
	require.Equal(t, 1, code)
	require.Contains(t, errOut, "may have been carried out")
	require.EqualValues(t, 1, orders.Load())
}

// The token goes to the agent alone, not where something redirects to.
func TestTokenIsNotRedirected(t *testing.T) {
	var leaked atomic.Bool
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { leaked.Store(true) }))
	defer thief.Close()
	redirect := httptest.NewServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
	defer redirect.Close()
	code, _, errOut := run(t, "resume", "--token-file", tokenFile(t), "--agent", redirect.Listener.Addr().String())
	require.Equal(t, 1, code)
	require.Contains(t, errOut, "no agent's answer")
	require.False(t, leaked.Load())
}

func TestTLSMistakesAreNamed(t *testing.T) {
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	code, _, errOut := run(t, "status", "--agent", secure.Listener.Addr().String())
	require.Equal(t, 1, code)
	require.Contains(t, errOut, "it speaks TLS: give --ca")

	plain := agentAt(t, nil)
	code, _, errOut = run(t, "status", "--agent", "https://"+plain)
	require.Equal(t, 1, code)
	require.Contains(t, errOut, "does not speak TLS")
}

func TestWhichAgentIsAsked(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sandbox.json"),
		[]byte(`{"cluster":"s","operator_token":"of-the-sandbox","nodes":[{"name":"db1","agent":{"api":"127.0.0.1:1001"}},{"name":"db2","agent":{"api":"127.0.0.1:1002"}}]}`), 0o600))
	first := func(t *testing.T, f clientFlags) (string, string) {
		t.Helper()
		c, err := f.open()
		require.NoError(t, err)
		return c.endpoints[0].address, c.token
	}
	t.Chdir(t.TempDir())
	t.Setenv(envTokenFile, "")
	t.Setenv(envAgent, "")
	address, token := first(t, clientFlags{})
	require.Equal(t, defaultAgent, address)
	require.Empty(t, token)

	address, token = first(t, clientFlags{dir: dir})
	require.Equal(t, "127.0.0.1:1001", address)
	require.Equal(t, "of-the-sandbox", token)

	address, token = first(t, clientFlags{dir: dir, agents: []string{"db3"}})
	require.Equal(t, "db3:8460", address)
	require.Equal(t, "of-the-sandbox", token)

	require.NoError(t, os.Symlink(dir, defaultSandboxDir))
	address, _ = first(t, clientFlags{})
	require.Equal(t, "127.0.0.1:1001", address, "the sandbox that is here")

	t.Setenv(envAgent, "10.0.0.9:1,[::1]:2")
	address, _ = first(t, clientFlags{})
	require.Equal(t, "10.0.0.9:1", address)
	address, _ = first(t, clientFlags{dir: dir})
	require.Equal(t, "127.0.0.1:1001", address, "the command line goes before the environment")

	t.Setenv(envTokenFile, tokenFile(t))
	_, token = first(t, clientFlags{dir: dir})
	require.Equal(t, testToken, token)
}

func TestTokenFileMustBePrivate(t *testing.T) {
	file := tokenFile(t)
	require.NoError(t, os.Chmod(file, 0o644))
	code, _, errOut := run(t, "resume", "--agent", "127.0.0.1:1", "--token-file", file)
	require.Equal(t, 1, code)
	require.Contains(t, errOut, "chmod 600")
}

func TestCompletion(t *testing.T) {
	agent := agentAt(t, map[string]any{
		"GET /api/v1/cluster":   soundStatus(),
		"GET /api/v1/failovers": api.ReportList{Failovers: []api.Report{{Epoch: 12, Kind: election.Failover, From: "db1", To: "db2"}}},
	})
	code, out, _ := run(t, cobra.ShellCompRequestCmd, "switchover", "--agent", agent, "--to", "")
	require.Equal(t, 0, code)
	require.Equal(t, []string{"db2\treplica, healthy", "db3\treplica, suspect", ":4"}, strings.Split(strings.TrimSpace(out), "\n"))
	_, out, _ = run(t, cobra.ShellCompRequestCmd, "history", "--agent", agent, "")
	require.Contains(t, out, "12\tfailover db1 → db2")
	code, out, _ = run(t, "completion", "bash")
	require.Equal(t, 0, code)
	require.Contains(t, out, "interrex")
}

func TestEveryCommandHelps(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			return
		}
		require.NotEmpty(t, c.Short, c.CommandPath())
		if c.Runnable() {
			require.NotEmpty(t, c.Example, c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRootCommand())
}
