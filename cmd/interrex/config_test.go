package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// runConfig runs `interrex config ARGS` and returns what it printed.
func runConfig(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	command := newConfigCommand()
	command.SilenceUsage, command.SilenceErrors = true, true
	var out, errs bytes.Buffer
	command.SetOut(&out)
	command.SetErr(&errs)
	command.SetArgs(args)
	err = command.Execute()
	return out.String(), errs.String(), err
}

func TestConfigExampleIsValid(t *testing.T) {
	example, _, err := runConfig(t, "example")
	require.NoError(t, err)
	folder := t.TempDir()
	file := filepath.Join(folder, "agent.yaml")
	require.NoError(t, os.WriteFile(file, []byte(example), 0o600))
	_, stderr, err := runConfig(t, "check", file)
	require.ErrorContains(t, err, "5 faults")
	require.Contains(t, stderr, "mysql.password does not exist; create it")

	for _, secret := range []string{"mysql.password", "replication.password", "operator.token", "member.token"} {
		require.NoError(t, os.WriteFile(filepath.Join(folder, secret), []byte("0123456789abcdef"), 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(folder, "gossip.key"), []byte("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="), 0o600))
	stdout, stderr, err := runConfig(t, "check", file)
	require.NoError(t, err, stderr)
	require.Contains(t, stdout, "valid for member db1 of cluster shop, 0 warnings\n")
}

func TestConfigCheckTellsFaultsOnStandardError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.yaml")
	require.NoError(t, os.WriteFile(file, []byte("cluster: {nmae: shop}\nnode: {name: db1}\n"), 0o600))
	stdout, stderr, err := runConfig(t, "check", file)
	require.ErrorContains(t, err, "5 faults")
	require.Empty(t, stdout)
	require.Contains(t, stderr, file+":1:11: cluster.nmae: no such key; did you mean name?")
	_, _, err = runConfig(t, "check", filepath.Join(t.TempDir(), "none.yaml"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, _, err = runConfig(t, "check")
	require.Error(t, err)
}

func TestConfigReferenceIsMarkdown(t *testing.T) {
	stdout, _, err := runConfig(t, "reference")
	require.NoError(t, err)
	require.Contains(t, stdout, "# Configuration\n")
}

func TestConfigExplainTellsTheArithmetic(t *testing.T) {
	stdout, _, err := runConfig(t, "explain")
	require.NoError(t, err)
	require.Contains(t, stdout, "profile lan\n")
	require.Contains(t, stdout, "a silent or frozen host is declared after 500ms-650ms because the next probe begins within 100ms")
	require.Contains(t, stdout, "a replica has lost its source after 2s")
	_, _, err = runConfig(t, "explain", filepath.Join(t.TempDir(), "none.yaml"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
