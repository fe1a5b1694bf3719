package nginx

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1:3306":       "10.0.0.1:3306",
		"DB1.example.com:033": "db1.example.com:33",
		"[0:0::1]:80":         "[::1]:80",
		"unix:/run/a-b_c.1":   "unix:/run/a-b_c.1",
		"my_host.:1":          "my_host.:1",
	} {
		got, err := ParseAddress(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got.String())
	}
	for _, in := range []string{
		"", ":", ":1", "a", "a:", "a:0", "a:65536", "a:-1", "a:+1", "a: 1", "a:1 ", " a:1", "a:1;", "a:1}", "a:1\n", "a\n:1", "a;b:1", "a{b:1",
		"a}b:1", "a#b:1", "'a':1", "\"a\":1", "a\\b:1", "$a:1", "$(id):1", "`id`:1", "a b:1", "ä:1", "a:１", "-a:1", ".a:1", "[fe80::1%eth0]:1",
		"[::1]", "::1:80", "[a]:1;", "unix:", "unix:a", "unix:/", "unix:/a b", "unix:/a;b", "unix:/a\nb", "unix:/a:b", "unix:/a'", "unix:/é",
		"unix:/" + strings.Repeat("x", maxUnixPath), strings.Repeat("x", maxHost+1) + ":1", "a:1\x00", "a\u2028:1", ";reboot:1", "server:1 weight=2",
	} {
		_, err := ParseAddress(in)
		require.ErrorIs(t, err, ErrAddress, "%q", in)
	}
}

// requireInert checks that a text, if it passes for an address at all, adds one
// server line of two words to a block, and nothing else (A22).
func requireInert(t require.TestingT, s string) {
	a, err := ParseAddress(s)
	if err != nil {
		require.ErrorIs(t, err, ErrAddress)
		return
	}
	u := &Upstream{Context: HTTP, Name: "u", Role: Members}
	got, err := edit([]byte("a b;\nhttp { upstream u { server x:1 weight=2; } c d; }\n"), []want{{upstream: u, servers: []server{{a, true}, {address(t, "x:1"), false}}}})
	require.NoError(t, err)
	file, err := parse(got)
	require.NoError(t, err)
	var out strings.Builder
	tree(file, "", &out)
	want := "\"a\" \"b\"\n\"http\"\n    \"upstream\" \"u\"\n        \"server\" \"x:1\" \"weight=2\"\n"
	if a.text != "x:1" {
		want += "        \"server\" \"" + a.text + "\" \"down\"\n"
	} else {
		want = strings.Replace(want, "weight=2\"", "weight=2\" \"down\"", 1)
	}
	require.Equal(t, want+"    \"c\" \"d\"\n", out.String())
}

func TestAddressesAreInert(t *testing.T) {
	piece := rapid.SampledFrom([]string{"a", "1", ":", "80", ";", "}", "{", "#", "\n", "\r", "\t", " ", "\"", "'", "\\", "$", "unix:", "/", "[", "]", "::1", "%", "é", "\u2028", "\x00", "down", "."})
	rapid.Check(t, func(t *rapid.T) {
		requireInert(t, strings.Join(rapid.SliceOfN(piece, 0, 8).Draw(t, "pieces"), ""))
	})
}

func FuzzAddress(f *testing.F) {
	for _, s := range []string{"a:1", "unix:/a", "[::1]:80", "a:1;}", "a\n:1", "\"a\":1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { requireInert(t, s) })
}

// FuzzParse: the reader never fails but with ErrSyntax, and the spans of what
// it read lie in order inside the text.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"a b;", "a{b;}", "a 'b' \"c\\\"\";", "x_by_lua_block { [==[ } ]==] -- }\n}", "a ${b};#c\n", "a\\ b{c d;}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		file, err := parse(src)
		if err != nil {
			require.ErrorIs(t, err, ErrSyntax)
			return
		}
		requireOrdered(t, file, len(src))
	})
}

func requireOrdered(t *testing.T, b block, size int) {
	at := b.start
	for _, d := range b.directives {
		for _, w := range d.words {
			require.LessOrEqual(t, at, w.start)
			require.Less(t, w.start, w.end)
			at = w.end
		}
		if d.block != nil {
			require.Less(t, at, d.block.start)
			requireOrdered(t, *d.block, size)
			at = d.block.end
		}
		require.Less(t, at, d.end)
		at = d.end
	}
	require.LessOrEqual(t, at, b.end)
	require.LessOrEqual(t, b.end, size)
}
