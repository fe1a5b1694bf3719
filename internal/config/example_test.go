package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"interrex/internal/config"
)

// TestExampleLoads: the example is a valid file, and says nothing but the
// defaults apart from names and secrets.
func TestExampleLoads(t *testing.T) {
	folder := t.TempDir()
	text, err := config.Example()
	require.NoError(t, err)
	file := write(t, folder, "agent.yaml", string(text), 0o644)
	for _, secret := range []string{"mysql.password", "replication.password", "operator.token", "member.token"} {
		write(t, folder, secret, "0123456789abcdef0123456789abcdef\n", 0o600)
	}
	write(t, folder, "gossip.key", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", 0o600)
	cfg, err := config.Load(file)
	require.NoError(t, err, string(text))

	want := config.Defaults()
	require.Equal(t, want.Detection, cfg.Detection)
	require.Equal(t, want.Failover, cfg.Failover)
	require.Equal(t, want.Routes, cfg.Routes)
	require.Equal(t, want.Listeners, cfg.Listeners)
	require.Equal(t, want.Objectives, cfg.Objectives)
	require.Equal(t, filepath.Join(folder, "mysql.password"), cfg.MySQL.PasswordFile)
	require.Len(t, cfg.Cluster.Members, 3)
}

// TestExampleUncommented: what the example shows commented out is valid too,
// so that it can be used by removing the comment sign.
func TestExampleUncommented(t *testing.T) {
	text, err := config.Example()
	require.NoError(t, err)
	nginx := strings.Builder{}
	inside := false
	for line := range strings.Lines(string(text)) {
		trimmed := strings.TrimPrefix(line, "  # ")
		inside = inside && trimmed != line || strings.HasPrefix(line, "  # nginx:")
		if inside {
			nginx.WriteString("  " + trimmed)
		}
	}
	require.NotEmpty(t, nginx.String())
	_, err = config.Parse("example.yaml", []byte(valid+"routes:\n"+nginx.String()))
	require.NoError(t, err, nginx.String())
}

// TestEveryKeyIsExplained: each key has a comment, and it is in the example
// and in the reference.
func TestEveryKeyIsExplained(t *testing.T) {
	example, err := config.Example()
	require.NoError(t, err)
	reference, err := config.Reference()
	require.NoError(t, err)
	walk(reflect.TypeFor[config.Config](), func(sf reflect.StructField) {
		key := sf.Tag.Get("yaml")
		require.NotEmpty(t, key, sf.Name)
		require.True(t, strings.Contains(string(example), key+":"), "%s is not in the example", key)
		require.True(t, strings.Contains(string(reference), key+"`") || strings.Contains(string(reference), "## "+key+"\n"), "%s is not in the reference", key)
	})
	for line := range strings.Lines(string(reference)) {
		require.NotContains(t, line, "|  |", "a key has no meaning or no kind")
	}
}

func walk(section reflect.Type, visit func(reflect.StructField)) {
	for i := range section.NumField() {
		sf := section.Field(i)
		visit(sf)
		inner := sf.Type
		if inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct {
			walk(inner, visit)
		}
	}
}

// TestReferenceIsCurrent compares docs/configuration.md with the code.
func TestReferenceIsCurrent(t *testing.T) {
	reference, err := config.Reference()
	require.NoError(t, err)
	file := filepath.Join("..", "..", "docs", "configuration.md")
	if *update {
		require.NoError(t, os.WriteFile(file, reference, 0o644))
	}
	committed, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(reference), string(committed), "run make docs")
}

func write(t *testing.T, folder, name, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(folder, name)
	require.NoError(t, os.WriteFile(path, []byte(text), mode))
	require.NoError(t, os.Chmod(path, mode))
	return path
}
