package nginx

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func address(t require.TestingT, s string) Address {
	a, err := ParseAddress(s)
	require.NoError(t, err)
	return a
}

// servers reads "host:port" and "host:port down".
func servers(t require.TestingT, list ...string) []server {
	var out []server
	for _, s := range list {
		text, down := strings.CutSuffix(s, " down")
		out = append(out, server{address(t, text), down})
	}
	return out
}

func TestEdit(t *testing.T) {
	rw := &Upstream{Context: Stream, Name: "u", Role: RW, Via: Direct}
	web := &Upstream{Context: HTTP, Name: "u", Role: Members}
	for name, c := range map[string]struct {
		upstream  *Upstream
		src, want string
		servers   []string
		closed    bool
	}{
		"already right": {rw,
			"upstream u {\n  server a:1  max_fails=0 ;\n}", "upstream u {\n  server a:1  max_fails=0 ;\n}", []string{"a:1"}, false},
		"a plain line is given the new address": {rw,
			"upstream u {\n  server a:1 max_fails=0; # db\n}", "upstream u {\n  server b:2 max_fails=0; # db\n}", []string{"b:2"}, false},
		"a person's parameters stay, marked down": {rw,
			"upstream u {\n  server a:1 max_conns=9;\n}", "upstream u {\n  server a:1 max_conns=9 down;\n  server b:2 max_fails=0;\n}", []string{"b:2"}, false},
		"and come back": {rw,
			"upstream u {\n  server a:1 max_conns=9 down;\n  server b:2 max_fails=0;\n}", "upstream u {\n  server a:1 max_conns=9;\n}", []string{"a:1"}, false},
		"down in the middle": {rw,
			"upstream u { server a:1 down weight=2; }", "upstream u { server a:1 weight=2; }", []string{"a:1"}, false},
		"closed": {rw,
			"upstream u {\n  server a:1;\n  server b:2 down; # x\n}", "upstream u {\n  server a:1 down;\n  server b:2 down; # x\n}", nil, true},
		"insert keeps comment and indentation": {web,
			"http {\n\tupstream u {\n\t\tserver a:1; # first\n\t\tkeepalive 4;\n\t}\n}", "http {\n\tupstream u {\n\t\tserver a:1; # first\n\t\tserver b:2;\n\t\tserver c:3 down;\n\t\tkeepalive 4;\n\t}\n}",
			[]string{"a:1", "b:2", "c:3 down"}, false},
		"insert on one line": {web,
			"upstream u { server a:1; least_conn; }", "upstream u { server a:1; server b:2; least_conn; }", []string{"a:1", "b:2"}, false},
		"empty block": {web,
			"http {\n  upstream u {\n  }\n}", "http {\n  upstream u {\n      server a:1;\n  }\n}", []string{"a:1"}, false},
		"empty block on one line": {web, "upstream u {}", "upstream u { server a:1;}", []string{"a:1"}, false},
		"windows line ends": {web,
			"upstream u {\r\n  server a:1;\r\n}\r\n", "upstream u {\r\n  server a:1;\r\n  server b:2;\r\n}\r\n", []string{"a:1", "b:2"}, false},
		"plain lines go with their line": {web,
			"upstream u {\n  server a:1;\n  server b:2;\n  # why\n  server c:3; # trailing\n}", "upstream u {\n  server a:1;\n  # why\n   # trailing\n}", []string{"a:1"}, false},
		"a comment inside a line keeps it": {web,
			"upstream u {\n  server a:1; server b:2 # odd\n ;\n}", "upstream u {\n  server a:1; server b:2 down # odd\n ;\n}", []string{"a:1"}, false},
		"port 80 is meant in http": {web,
			"upstream u { server Web.Example.com; }", "upstream u { server Web.Example.com down; }", []string{"web.example.com:80 down"}, false},
		"quoted, twice, variables": {web,
			`upstream u { server "a:1" 'down'; server a:1; server $x; }`, `upstream u { server "a:1"; server a:1;  }`, []string{"a:1"}, false},
		"ipv6 and unix": {web,
			"upstream u { server [0:0::1]:80; server unix:/run/a.sock; }", "upstream u { server [0:0::1]:80; server unix:/run/a.sock down; }", []string{"[::1]:80", "unix:/run/a.sock down"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := []want{{upstream: c.upstream, closed: c.closed, servers: servers(t, c.servers...)}}
			got, err := edit([]byte(c.src), w)
			require.NoError(t, err)
			require.Equal(t, c.want, string(got))
			again, err := edit(got, w)
			require.NoError(t, err)
			require.Equal(t, string(got), string(again), "a second edit changes nothing")
		})
	}
}

func TestEditRefuses(t *testing.T) {
	u := &Upstream{Context: Stream, Name: "u", Role: RW}
	h := &Upstream{Context: HTTP, Name: "u", Role: Members}
	for name, c := range map[string]struct {
		src   string
		wants []want
		err   error
	}{
		"missing":           {"stream { }", []want{{upstream: u, keep: true}}, ErrUpstreamMissing},
		"broken file":       {"stream {", []want{{upstream: u}}, ErrSyntax},
		"twice":             {"upstream u { } stream { upstream u { } }", []want{{upstream: u}}, ErrUpstreamTwice},
		"one block for two": {"upstream u { }", []want{{upstream: u}, {upstream: h}}, ErrUpstreamTwice},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := edit([]byte(c.src), c.wants)
			require.ErrorIs(t, err, c.err)
		})
	}
}

// drawNoise draws a piece of configuration that is not owned, made to mislead.
func drawNoise(t *rapid.T) string {
	return rapid.SampledFrom([]string{
		"", "# upstream db { server 6.6.6.6:66; }\n", "a 'upstream db { server x:1; }';\n", "log_format x \"server y:2;\" ;\n",
		"upstream db2 {\n server h:1;\n}\n", "map $a $b { default \"}\"; ~^x\\{2\\} y; }\n", "set $x ${y}{\n z; }\n",
		"server { listen 1; server_name \"a;b\"; }\n", "\t \r\n", "x_by_lua_block { t = { '}' } -- }\n }\n", "b c\\;d;\n",
	}).Draw(t, "noise")
}

// drawLine draws what may stand inside the owned block.
func drawLine(t *rapid.T) (text string, isServer bool) {
	text = rapid.SampledFrom([]string{
		"  server 10.0.0.1:3306;\n", "server 10.0.0.2:3306 weight=5;", " server 10.0.0.3:3306 max_fails=0 down; # server x:1;\n",
		"\tserver '10.0.0.1:3306' backup;\n", "server $v;\n", "server h # ;}\n ;", "server unix:/a.sock max_fails=0;",
		"  least_conn;\n", "# server 10.0.0.9:1;\n", " zone db 64k; ", "hash \"server;\" consistent;\n", "\n",
	}).Draw(t, "line")
	return text, strings.HasPrefix(strings.TrimSpace(text), "server")
}

// TestEditTouchesOnlyOwnedLines: whatever stands around and inside an owned
// block, an edit changes nothing but its server lines, and those hold
// afterwards what is wanted.
func TestEditTouchesOnlyOwnedLines(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := drawNoise(t) + "stream {\n" + drawNoise(t) + "upstream db {"
		after := "}" + drawNoise(t) + "}\n" + drawNoise(t)
		var body strings.Builder
		var others []string
		for range rapid.IntRange(0, 6).Draw(t, "lines") {
			text, isServer := drawLine(t)
			body.WriteString(text)
			if !isServer {
				others = append(others, strings.TrimSpace(text))
			}
		}
		src := before + body.String() + after
		wanted := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"10.0.0.1:3306", "10.0.0.2:3306", "10.0.0.3:3306", "db:3306", "[::1]:3306"}),
			1, 4, rapid.ID[string]).Draw(t, "wanted")
		u := &Upstream{Context: Stream, Name: "db", Role: rapid.SampledFrom([]Role{RW, RO}).Draw(t, "role")}
		w := []want{{upstream: u, servers: servers(t, wanted...)}}
		got, err := edit([]byte(src), w)
		if err != nil {
			require.ErrorIs(t, err, ErrSyntax) // the noise has an unclosed block
			return
		}
		require.True(t, strings.HasPrefix(string(got), before), "before the block:\n%s", got)
		require.True(t, strings.HasSuffix(string(got), after), "after the block:\n%s", got)
		inside := string(got[len(before) : len(got)-len(after)])
		for _, o := range others {
			i := strings.Index(inside, o)
			require.GreaterOrEqual(t, i, 0, "%q is gone from %q", o, inside)
			inside = inside[i+len(o):]
		}
		requireUp(t, got, u, wanted)
		again, err := edit(got, w)
		require.NoError(t, err)
		require.Equal(t, string(got), string(again))
	})
}

// requireUp checks that exactly the wanted addresses are up in a block.
func requireUp(t require.TestingT, src []byte, u *Upstream, wanted []string) {
	file, err := parse(src)
	require.NoError(t, err)
	b, err := findUpstream(file, u.Context, u.Name)
	require.NoError(t, err)
	up := map[string]bool{}
	for _, d := range serverLines(b) {
		if d.words[len(d.words)-1].text != "down" {
			up[lineAddress(d.words[1].text, u.Context)] = true
		}
	}
	want := map[string]bool{}
	for _, s := range wanted {
		want[s] = true
	}
	require.Equal(t, want, up, "in\n%s", src)
}
