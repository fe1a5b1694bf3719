package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"interrex/failover"
)

// TestRouteTokenVerb asks every route with every verb and every token. Only
// what its access allows may get past the guard.
func TestRouteTokenVerb(t *testing.T) {
	tokens := map[string]string{"none": "", "wrong": "wrong-secret-0123456789ab", "operator": operatorToken, "member": memberToken}
	verbs := []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"}
	for _, reads := range []Reads{ReadsOpen, ReadsToken} {
		b := newBench(t, "n1", func(c *Config, _ *Parts) { c.Security.Reads = reads })
		for _, r := range b.routes() {
			path := strings.NewReplacer(":name", "n1", ":epoch", "3").Replace(r.path)
			for name, token := range tokens {
				b.guesses = newGuesses()
				orders, commands := len(b.backend.noted()), len(b.node.taken())
				for _, verb := range verbs {
					a := ask{method: verb, path: path, token: token, body: "{}", host: "n1", header: map[string]string{"Content-Type": contentTypeJSON}}
					got := b.do(a)
					about := fmt.Sprintf("reads %s: %s %s with %s token: %s", reads, verb, path, name, got.body)
					if !slices.Contains(r.methods, verb) {
						if slices.ContainsFunc(b.routes(), func(o route) bool { return o.path == r.path && slices.Contains(o.methods, verb) }) {
							continue // another route of that path, with its own access
						}
						require.Equal(t, http.StatusMethodNotAllowed, got.status, about)
						require.NotEmpty(t, got.header.Get("Allow"), about)
						require.Equal(t, ProblemType+problemMethod, got.problem(t).Type, about)
						continue
					}
					if mayCall(r.access, reads, name) {
						require.NotContains(t, []int{401, 403, 429}, got.status, about)
						continue
					}
					require.Equal(t, http.StatusUnauthorized, got.status, about)
					require.NotEmpty(t, got.header.Get("WWW-Authenticate"), about)
					require.Equal(t, ProblemType+problemUnauthorized, got.problem(t).Type, about)
				}
				if r.access >= accessOperate && !mayCall(r.access, reads, name) {
					require.Len(t, b.backend.noted(), orders, "a refused order did something")
					require.Len(t, b.node.taken(), commands, "a refused command did something")
				}
			}
		}
	}
}

func mayCall(a access, reads Reads, token string) bool {
	switch a {
	case accessProbe:
		return true
	case accessRead:
		return reads == ReadsOpen || token == "operator" || token == "member"
	case accessOperate:
		return token == "operator"
	case accessMember:
		return token == "member"
	}
	return false
}

func TestNothingConfiguredAllowsNothing(t *testing.T) {
	b := newBench(t, "n1", func(c *Config, _ *Parts) { c.Security = Security{Reads: ReadsToken} })
	for _, a := range []ask{
		{method: "GET", path: "/api/v1/cluster"},
		{method: "GET", path: "/api/v1/cluster", header: map[string]string{"Authorization": "Bearer "}},
		{method: "POST", path: "/api/v1/resume"},
		{method: "POST", path: "/api/v1/resume", header: map[string]string{"Authorization": "Bearer "}},
		{method: "POST", path: "/api/v1/resume", header: map[string]string{headerForwardedBy: "n2"}},
		{method: "POST", path: commandPath + commandStatus},
		{method: "POST", path: commandPath + commandStatus, header: map[string]string{"Authorization": "bearer\t"}},
	} {
		require.Equal(t, http.StatusUnauthorized, b.do(a).status, "%+v", a)
	}
	require.Empty(t, b.backend.noted())
	require.Empty(t, b.node.taken())
}

func TestForwardedHeaderNeedsMemberToken(t *testing.T) {
	b := newBench(t, "n1")
	forwarded := map[string]string{headerForwardedBy: "n2"}
	require.Equal(t, 401, b.do(ask{method: "POST", path: "/api/v1/resume", header: forwarded}).status)
	require.Equal(t, 401, b.do(ask{method: "POST", path: "/api/v1/resume", token: memberToken}).status, "not forwarded")
	require.Equal(t, 200, b.do(ask{method: "POST", path: "/api/v1/resume", header: forwarded, token: memberToken}).status)
}

func TestGuessingIsBounded(t *testing.T) {
	b := newBench(t, "n1")
	statuses := map[int]int{}
	for i := range 10000 {
		a := post("resume", "")
		a.token = fmt.Sprintf("guess-%d", i)
		a.header = map[string]string{"X-Forwarded-For": fmt.Sprintf("10.0.%d.%d", i/256, i%256)}
		statuses[b.do(a).status]++
	}
	require.Equal(t, 10000, statuses[401]+statuses[429])
	require.Less(t, statuses[401], 2*guessBurst, "forwarding headers must not open new accounts")
	require.Equal(t, 429, b.do(post("resume", "")).status, "the right token counts no more from there")
	require.Empty(t, b.backend.noted())

	member := ask{method: "POST", path: commandPath + commandStatus, host: "n1", token: memberToken, body: "{}"}
	require.Equal(t, 200, b.do(member).status, "a guesser must not lock members out")
	require.Equal(t, 200, b.do(ask{method: "GET", path: "/api/v1/cluster"}).status, "open reads stay open")
}

func TestGuessesForgetInBoundedMemory(t *testing.T) {
	g := newGuesses()
	now := time.Unix(1000, 0)
	for i := range 5 * guessersLimit {
		g.wrong(fmt.Sprint("peer", i), now)
	}
	require.LessOrEqual(t, len(g.by), guessersLimit)
	for range guessBurst {
		g.wrong("x", now)
	}
	require.False(t, g.allowed("x", now))
	require.True(t, g.allowed("x", now.Add(3*time.Second)), "after a while one may try again")
}

func TestForeignHosts(t *testing.T) {
	b := newBench(t, "n1", func(c *Config, _ *Parts) { c.Hosts = []string{"db1.example.org:8080"} }).listen(t)
	for host, ok := range map[string]bool{
		"":                       true, // the address itself
		"localhost":              true,
		"LOCALHOST:8080":         true,
		"localhost.":             true,
		"[::1]:8080":             true,
		"n1":                     true,
		"db1.example.org":        true,
		"db1.example.org:99":     true,
		"evil.example":           false,
		"evil.example:8080":      false,
		"127.0.0.1.evil.example": false,
		"10.1.2.3":               false,
		"localhost.evil.example": false,
		"n1.evil.example":        false,
	} {
		for _, path := range []string{"/health", "/api/v1/cluster", "/nowhere"} {
			got := b.dial(t, ask{method: "GET", path: path, host: host})
			require.Equal(t, !ok, got.status == 403, "host %q path %s: %d", host, path, got.status)
			if !ok {
				require.Equal(t, ProblemType+problemForeignHost, got.problem(t).Type)
			}
		}
		a := post("resume", "")
		a.host = host
		require.Equal(t, !ok, b.dial(t, a).status == 403)
	}
}

func TestCrossSite(t *testing.T) {
	b := newBench(t, "n1")
	for _, c := range []struct {
		name   string
		header map[string]string
		ok     bool
	}{
		{"command line", nil, true},
		{"typed address", map[string]string{"Sec-Fetch-Site": "none"}, true},
		{"own page", map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1"}, true},
		{"other site", map[string]string{"Sec-Fetch-Site": "cross-site"}, false},
		{"sister site", map[string]string{"Sec-Fetch-Site": "same-site"}, false},
		{"other origin", map[string]string{"Origin": "http://evil.example"}, false},
		{"other port", map[string]string{"Origin": "http://127.0.0.1:8081"}, false},
		{"opaque origin", map[string]string{"Origin": "null"}, false},
		{"malformed origin", map[string]string{"Origin": "http://[::1"}, false},
	} {
		for _, a := range []ask{{method: "GET", path: "/api/v1/cluster"}, post("resume", "{}")} {
			a.header = c.header
			got := b.do(a)
			require.Equal(t, c.ok, got.status == 200, "%s: %s %d", c.name, a.path, got.status)
			if !c.ok {
				require.Equal(t, ProblemType+problemCrossSite, got.problem(t).Type, c.name)
			}
		}
	}
	require.Len(t, b.backend.noted(), 3)
}

func TestLogAndRequestID(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	b := newBench(t, "n1", func(_ *Config, p *Parts) { p.Log = zap.New(core) })
	a := post("pause", `{"reason":"x"}`)
	a.header = map[string]string{headerRequestID: "abc-1", "X-Forwarded-For": "6.6.6.6"}
	require.Equal(t, "abc-1", b.do(a).header.Get(headerRequestID))

	b.backend.pauseErr = fmt.Errorf("broken")
	require.Equal(t, 500, b.do(a).status)
	bad := b.do(ask{method: "GET", path: "/nowhere", header: map[string]string{headerRequestID: "a b\x7f"}})
	require.Len(t, bad.header.Get(headerRequestID), 16, "an unfit id is replaced")
	require.Contains(t, bad.problem(t).Instance, bad.header.Get(headerRequestID))

	requests := logs.FilterMessage("request").All()
	require.Len(t, requests, 3)
	require.Equal(t, zapcore.DebugLevel, requests[0].Level)
	require.Equal(t, zapcore.WarnLevel, requests[1].Level, "a 500 is a warning")
	require.Equal(t, "none", requests[2].ContextMap()["route"], "a path that anybody chose is no label")
	for _, e := range logs.All() {
		text := fmt.Sprint(e.Message, e.ContextMap())
		require.NotContains(t, text, operatorToken)
		require.NotContains(t, text, "6.6.6.6", "forwarding headers are not believed")
	}
}

func TestPanicIsAnswered(t *testing.T) {
	b := newBench(t, "n1")
	b.Server.backend = panicking{b.backend}
	p := b.do(ask{method: "GET", path: "/api/v1/gates"}).problem(t)
	require.Equal(t, ProblemType+problemInternal, p.Type)
	require.Empty(t, p.Detail, "what went wrong is for the log")
}

type panicking struct{ *fakeBackend }

func (panicking) Gates() []failover.Gate { panic("secret state") }
