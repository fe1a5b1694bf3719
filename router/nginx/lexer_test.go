package nginx

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// tree prints a configuration as it was understood, one directive a line.
func tree(b block, indent string, out *strings.Builder) {
	for _, d := range b.directives {
		out.WriteString(indent)
		for i, w := range d.words {
			if i > 0 {
				out.WriteByte(' ')
			}
			fmt.Fprintf(out, "%q", w.text)
		}
		out.WriteByte('\n')
		if d.block != nil {
			tree(*d.block, indent+"    ", out)
		}
	}
}

// TestLexerGolden reads configurations as found in the field and compares what
// was understood with the .tree file beside each. INTERREX_UPDATE_GOLDEN=1
// writes those anew.
func TestLexerGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/lexer/*.conf")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			src, err := os.ReadFile(file)
			require.NoError(t, err)
			b, err := parse(src)
			require.NoError(t, err)
			var got strings.Builder
			tree(b, "", &got)
			golden := strings.TrimSuffix(file, ".conf") + ".tree"
			if os.Getenv("INTERREX_UPDATE_GOLDEN") != "" {
				require.NoError(t, os.WriteFile(golden, []byte(got.String()), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			require.Equal(t, string(want), got.String())
		})
	}
}

func TestSyntaxErrors(t *testing.T) {
	for name, c := range map[string]struct{ src, want string }{
		"unclosed block":        {"http {\n server {\n }\n", "line 4: file ends before ; or }"},
		"extra brace":           {"http { }\n}", "line 2: unexpected '}'"},
		"unclosed quote":        {"a;\nb 'c;\n", "line 2: quote is not closed"},
		"brace after words":     {"http { a b }", "unexpected '}'"},
		"empty directive":       {"a;;", "unexpected ';'"},
		"block without name":    {"{ }", "unexpected '{'"},
		"no semicolon":          {"a b", "file ends inside a parameter"},
		"word after a quote":    {`a "b"c;`, `unexpected 'c' after a quoted word`},
		"comment after a quote": {"a 'b'# c\n;", `unexpected '#' after a quoted word`},
		"unclosed lua":          {"a_by_lua_block { x = '}' ", "Lua block is not closed"},
		"too deep":              {strings.Repeat("a {", maxDepth+2), "nested more than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse([]byte(c.src))
			require.ErrorIs(t, err, ErrSyntax)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestFindUpstream(t *testing.T) {
	const both = "http { upstream db { server h:1; } } stream { upstream db { server s:1; } }"
	for name, c := range map[string]struct {
		src     string
		context Context
		want    string
		err     error
	}{
		"same name in http":       {both, HTTP, "h:1", nil},
		"same name in stream":     {both, Stream, "s:1", nil},
		"included file":           {"upstream db { server i:1; }", Stream, "i:1", nil},
		"second stream block":     {"stream { } stream { upstream db { server t:1; } }", Stream, "t:1", nil},
		"only in the other":       {"http { upstream db { server h:1; } }", Stream, "", ErrUpstreamMissing},
		"only in a comment":       {"stream {\n# upstream db { server h:1; }\n}", Stream, "", ErrUpstreamMissing},
		"only in a string":        {"stream { a 'upstream db { }'; }", Stream, "", ErrUpstreamMissing},
		"twice":                   {"stream { upstream db { } upstream db { } }", Stream, "", ErrUpstreamTwice},
		"twice, once quoted":      {"stream { upstream db { } upstream 'db' { } }", Stream, "", ErrUpstreamTwice},
		"deeper than the context": {"stream { server { upstream db { } } }", Stream, "", ErrUpstreamMissing},
		"longer name":             {"stream { upstream db2 { } }", Stream, "", ErrUpstreamMissing},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := parse([]byte(c.src))
			require.NoError(t, err)
			b, err := findUpstream(file, c.context, "db")
			require.ErrorIs(t, err, c.err)
			if c.err == nil {
				require.Equal(t, c.want, serverLines(b)[0].words[1].text)
			}
		})
	}
}
