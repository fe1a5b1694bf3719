// Package docs_test checks the manual: links lead somewhere, the commands it
// prints exist, and each dependency has its reason.
package docs_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
)

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`^#{1,6} +(.+)$`)
	marks   = regexp.MustCompile("`|\\*|\\[([^]]*)\\]\\([^)]*\\)")
	inline  = regexp.MustCompile("`(interrex [^`]+)`")
	// A command line in a block: perhaps as another user, perhaps in bin.
	line = regexp.MustCompile(`^\s*(?:\$ )?(?:sudo (?:-u \S+ )?)?(?:\./bin/)?(interrex .*)$`)
)

// pages are all Markdown files of the repository.
func pages(t *testing.T) []string {
	t.Helper()
	list, err := filepath.Glob("../*.md")
	require.NoError(t, err)
	err = filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".md" {
			list = append(list, path)
		}
		return err
	})
	require.NoError(t, err)
	require.Greater(t, len(list), 8)
	return list
}

// prose is a page's lines, with those inside code blocks apart.
func prose(t *testing.T, page string) (text, code []string) {
	t.Helper()
	raw, err := os.ReadFile(page)
	require.NoError(t, err)
	inCode := false
	for l := range strings.Lines(string(raw)) {
		l = strings.TrimRight(l, "\n")
		switch {
		case strings.HasPrefix(strings.TrimSpace(l), "```"):
			inCode = !inCode
		case inCode:
			code = append(code, l)
		default:
			text = append(text, l)
		}
	}
	require.False(t, inCode, "%s: a code block does not end", page)
	return text, code
}

// anchors are what a page's headings can be linked by, the way GitHub makes
// them.
func anchors(t *testing.T, page string) []string {
	t.Helper()
	var list []string
	text, _ := prose(t, page)
	for _, l := range text {
		if m := heading.FindStringSubmatch(l); m != nil {
			plain := marks.ReplaceAllString(strings.ToLower(m[1]), "$1")
			list = append(list, strings.Map(func(r rune) rune {
				switch {
				case r == ' ':
					return '-'
				case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
					return r
				}
				return -1
			}, plain))
		}
	}
	return list
}

// TestLinks: every relative link leads to a file, and its anchor to a heading.
func TestLinks(t *testing.T) {
	found := 0
	for _, page := range pages(t) {
		text, _ := prose(t, page)
		for _, m := range link.FindAllStringSubmatch(strings.Join(text, "\n"), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			found++
			file, anchor, _ := strings.Cut(m[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: link %s: %v", page, m[1], err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(t, target), anchor) {
				t.Errorf("%s: link %s: no such heading; there are %v", page, m[1], anchors(t, target))
			}
		}
	}
	require.Greater(t, found, 30)
}

// command is what a printed command line asks of the program: the subcommands
// it may name, and its flags.
func command(text string) (words, flags []string) {
	for _, w := range strings.Fields(text)[1:] {
		switch {
		case strings.HasPrefix(w, "-"):
			name, _, _ := strings.Cut(w, "=")
			flags = append(flags, name)
		case strings.ContainsAny(w, "|>;#&\\"):
			return words, flags
		case len(flags) == 0:
			words = append(words, w)
		}
	}
	return words, flags
}

// build builds the program, as the release is built: with other flags, all that
// it is made of would be compiled once more.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "interrex")
	command := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "nomsgpack", "-ldflags", "-s -w", "-o", program, "../cmd/interrex")
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	out, err := command.CombinedOutput()
	require.NoError(t, err, string(out))
	return program
}

// block is the one code block of a page that contains text.
func block(t *testing.T, page, text string) string {
	t.Helper()
	raw, err := os.ReadFile(page)
	require.NoError(t, err)
	var found []string
	for i, part := range strings.Split(string(raw), "\n```") {
		if i%2 == 1 && strings.Contains(part, text) {
			_, code, _ := strings.Cut(part, "\n") // after the language
			found = append(found, code+"\n")
		}
	}
	require.Len(t, found, 1, "%s: blocks with %q", page, text)
	return found[0]
}

// TestQuickStartFiles: the secrets and certificates that the quick start makes,
// and the configuration that it shows, are ones that an agent starts with.
func TestQuickStartFiles(t *testing.T) {
	dir := t.TempDir()
	recipe := exec.Command("bash", "-euc", block(t, "quick-start.md", "openssl rand")+"cp db1.pem cert.pem\ncp db1.key key.pem\n")
	recipe.Dir = dir
	out, err := recipe.CombinedOutput()
	require.NoError(t, err, string(out))
	config := filepath.Join(dir, "agent.yaml")
	require.NoError(t, os.WriteFile(config, []byte(block(t, "quick-start.md", "\nlisteners:")), 0o600))
	said, err := exec.Command(build(t), "config", "check", config).CombinedOutput()
	require.NoError(t, err, string(said))
	require.Contains(t, string(said), "valid for member db1 of cluster shop, 0 warnings")
}

// TestCommands: every command that the manual prints is one that the program
// knows, with each of its flags.
func TestCommands(t *testing.T) {
	program := build(t)
	commands := map[string]string{} // with the page that prints it
	for _, page := range pages(t) {
		text, code := prose(t, page)
		for _, m := range inline.FindAllStringSubmatch(strings.Join(text, "\n"), -1) {
			commands[m[1]] = page
		}
		for _, l := range code {
			if m := line.FindStringSubmatch(l); m != nil {
				commands[m[1]] = page
			}
		}
	}
	require.Greater(t, len(commands), 30)
	helps := map[string]string{}
	for text, page := range commands {
		words, flags := command(text)
		key := strings.Join(words, " ")
		help, asked := helps[key]
		if !asked {
			out, err := exec.Command(program, append(words, "--help")...).CombinedOutput()
			if err != nil {
				t.Errorf("%s: %s: %v: %s", page, text, err, out)
			}
			help = string(out)
			helps[key] = help
		}
		// Cobra shows a group's help for a subcommand it doesn't know.
		if len(words) > 1 && strings.Contains(help, "interrex "+words[0]+" [command]") {
			t.Errorf("%s: %s: there is no %s %s", page, text, words[0], words[1])
		}
		for _, f := range flags {
			if !regexp.MustCompile(`(?m)(^|[ ,])` + regexp.QuoteMeta(f) + `\b`).MatchString(help) {
				t.Errorf("%s: %s: no flag %s", page, text, f)
			}
		}
	}
}

// TestDependenciesHaveReasons: the page of decision 1 names every module that
// go.mod requires directly, and no other.
func TestDependenciesHaveReasons(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	require.NoError(t, err)
	page, err := os.ReadFile("decisions/0001-dependencies.md")
	require.NoError(t, err)
	text := strings.ReplaceAll(string(page), "go.etcd.io/etcd/client/v3, api/v3", "go.etcd.io/etcd/client/v3, go.etcd.io/etcd/api/v3")
	for l := range strings.Lines(string(mod)) {
		fields := strings.Fields(l)
		if !strings.HasPrefix(l, "\t") || len(fields) != 2 {
			continue // not a requirement, or an indirect one
		}
		name := strings.TrimPrefix(fields[0], "github.com/")
		require.Contains(t, text, name, "without a reason")
	}
	for _, row := range regexp.MustCompile(`(?m)^\| ((?:[a-z]+\.)+[a-z]+/\S+) \|`).FindAllStringSubmatch(text, -1) {
		require.Contains(t, string(mod), row[1]+" v", "no dependency any more")
	}
}
