//go:build deploy

// Package deploy_test runs the deployment files through the programs that will
// read them: systemd-analyze, and a real supervisord. It is built with the tag
// deploy, where both are installed.
package deploy_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// maxExposure is the most that systemd may hold against the unit, in tenths.
const maxExposure = 20

// built is the program the units start, made by the first test that needs it.
var built struct {
	once    sync.Once
	program string
	out     []byte
	err     error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.program != "" {
		os.RemoveAll(filepath.Dir(built.program))
	}
	os.Exit(code)
}

// buildAgent builds the program the units start, as the Makefile does.
func buildAgent(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		folder, err := os.MkdirTemp("", "interrex-deploy-")
		require.NoError(t, err)
		built.program = filepath.Join(folder, "interrex")
		build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "nomsgpack", "-ldflags", "-s -w", "-o", built.program, "../../cmd/interrex")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		built.out, built.err = build.CombinedOutput()
	})
	require.NoError(t, built.err, string(built.out))
	return built.program
}

// install copies a deployment file, with the programs it names replaced.
func install(t *testing.T, file, to string, replace ...string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o755))
	require.NoError(t, os.WriteFile(to, []byte(strings.NewReplacer(replace...).Replace(string(text))), 0o644))
	return to
}

// TestUnitsAreValid: systemd reads both files without a word, and finds the
// programs and subcommands they start.
func TestUnitsAreValid(t *testing.T) {
	program := buildAgent(t)
	folder := t.TempDir()
	agent := install(t, "interrex-agent.service", filepath.Join(folder, "interrex-agent.service"), "/usr/local/bin/interrex", program)
	server := filepath.Join(folder, "mysql.service")
	require.NoError(t, os.WriteFile(server, []byte("[Service]\nType=notify\nUser=mysql\nExecStart="+program+" --version\n"), 0o644))
	install(t, "mysql.service.d/interrex.conf", server+".d/interrex.conf", "/usr/local/bin/interrex", program)

	for _, unit := range []string{agent, server} {
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", unit).CombinedOutput()
		require.NoError(t, err, string(out))
		for line := range strings.Lines(string(out)) {
			require.NotContains(t, line, folder, "systemd has something to say")
		}
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--no-pager", fmt.Sprintf("--threshold=%d", maxExposure), agent).CombinedOutput()
	require.NoError(t, err, string(out))
}

// TestCommandsExist: every command of the product that a deployment file names
// is one that the program knows, with the flags it is given.
func TestCommandsExist(t *testing.T) {
	program := buildAgent(t)
	command := regexp.MustCompile(`(?m)^(?:ExecStart|ExecStop|command|; +)=? *(?:/usr/local/bin/)?interrex (.+) --config`)
	found := 0
	for _, file := range []string{"interrex-agent.service", "mysql.service.d/interrex.conf", "supervisord.conf"} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for _, match := range command.FindAllStringSubmatch(string(text), -1) {
			found++
			args := append(strings.Fields(match[1]), "--help")
			out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
			require.NoError(t, err, string(out))
			require.Contains(t, string(out), "interrex "+match[1], file)
			require.Contains(t, string(out), "--config", file)
		}
	}
	require.Equal(t, 4, found)
}

// supervisor is a running supervisord.
type supervisor struct {
	config string
	log    *bytes.Buffer
}

// startSupervisor runs a real supervisord with the product's file included, the
// programs replaced by stand-ins that live as long as they are let.
func startSupervisor(t *testing.T) supervisor {
	t.Helper()
	folder := t.TempDir()
	agent, server := filepath.Join(folder, "agent"), filepath.Join(folder, "mysqld")
	// Each writes down what it was asked to do, so that signals can be told
	// apart afterwards; the agent has a child in its group.
	script := "#!/bin/sh\necho started >>%[1]s.seen\ntrap 'echo asked >>%[1]s.seen; exit 0' TERM\nsleep 300 & echo $! >>%[1]s.children\nwhile :; do wait $!; done\n"
	for _, p := range []string{agent, server} {
		require.NoError(t, os.WriteFile(p, fmt.Appendf(nil, script, p), 0o755))
	}
	user, err := exec.CommandContext(t.Context(), "id", "-un").Output()
	require.NoError(t, err)
	included := install(t, "supervisord.conf", filepath.Join(folder, "interrex.conf"),
		"/usr/local/bin/interrex agent", agent, "/usr/sbin/mysqld", server,
		"user=mysql", "user="+strings.TrimSpace(string(user)),
		"/var/log/interrex/", folder+"/", "/var/log/mysql/", folder+"/")
	main := filepath.Join(folder, "main.conf")
	require.NoError(t, os.WriteFile(main, fmt.Appendf(nil, `[supervisord]
nodaemon=true
logfile=/dev/null
logfile_maxbytes=0
pidfile=%[1]s/supervisord.pid
[unix_http_server]
file=%[1]s/sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://%[1]s/sock
[include]
files=%[2]s
`, folder, included), 0o644))
	s := supervisor{config: main, log: &bytes.Buffer{}}
	daemon := exec.Command("supervisord", "-n", "-c", main)
	daemon.Stdout, daemon.Stderr = s.log, s.log
	require.NoError(t, daemon.Start())
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		_ = daemon.Wait()
		for _, p := range []string{agent, server} { // those of a killed one are nobody's
			endChildren(p + ".children")
		}
		if t.Failed() {
			t.Log(s.log.String())
		}
	})
	return s
}

// endChildren ends the processes whose ids the file holds.
func endChildren(file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 1 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// ctl runs supervisorctl and returns what it says. Its exit code tells of the
// programs' state, so it is not looked at.
func (s supervisor) ctl(ctx context.Context, args ...string) string {
	out, _ := exec.CommandContext(ctx, "supervisorctl", append([]string{"-c", s.config}, args...)...).CombinedOutput()
	return string(out)
}

// await asks for the state until each pattern is seen in it.
func (s supervisor) await(t *testing.T, patterns ...string) string {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		state := s.ctl(t.Context(), "status")
		missing := ""
		for _, p := range patterns {
			if !regexp.MustCompile(p).MatchString(state) {
				missing = p
			}
		}
		if missing == "" {
			return state
		}
		require.True(t, time.Now().Before(deadline), "never saw %q; last state:\n%s", missing, state)
		time.Sleep(100 * time.Millisecond)
	}
}

// TestSupervisordRunsBoth: a real supervisord takes the file, runs both
// programs, starts each again when it was killed, and never asks the server
// politely to stop.
func TestSupervisordRunsBoth(t *testing.T) {
	s := startSupervisor(t)
	s.await(t, `interrex-agent +RUNNING`, `mysqld +RUNNING`)
	for _, program := range []string{"interrex-agent", "mysqld"} {
		before := strings.TrimSpace(s.ctl(t.Context(), "pid", program))
		var pid int
		_, err := fmt.Sscan(before, &pid)
		require.NoError(t, err, before)
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		deadline := time.Now().Add(60 * time.Second)
		for {
			now := strings.TrimSpace(s.ctl(t.Context(), "pid", program))
			if now != before && now != "0" {
				break
			}
			require.True(t, time.Now().Before(deadline), "%s was not started again: pid %s", program, now)
			time.Sleep(100 * time.Millisecond)
		}
		s.await(t, program+` +RUNNING`)
	}
	s.ctl(t.Context(), "stop", "all")
	s.await(t, `interrex-agent +STOPPED`, `mysqld +STOPPED`)

	folder := filepath.Dir(s.config)
	agent, err := os.ReadFile(filepath.Join(folder, "agent.seen"))
	require.NoError(t, err)
	require.Equal(t, "started\nstarted\nasked\n", string(agent), "the agent is stopped in order")
	server, err := os.ReadFile(filepath.Join(folder, "mysqld.seen"))
	require.NoError(t, err)
	require.Equal(t, "started\nstarted\n", string(server), "the server is never sent SIGTERM")
}
