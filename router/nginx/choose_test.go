package nginx

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/topology"
	"interrex/router"
)

func backend(address string) *router.Backend { return &router.Backend{Node: "n", Address: address} }

func TestChoose(t *testing.T) {
	rw := Upstream{Context: Stream, Name: "rw", Role: RW, Via: Direct}
	ro := Upstream{Context: Stream, Name: "ro", Role: RO, Via: Direct}
	proxied := Upstream{Context: Stream, Name: "p", Role: RW, Via: Proxy, Proxies: []string{"p1:1", "p2:1"}}
	web := Upstream{Context: HTTP, Name: "web", Role: Members, Members: []Member{checkedMember("m1:80"), checkedMember("m2:80")}}
	opened := router.Route{Epoch: 2, Phase: router.Open, Primary: backend("a:1")}
	closed := router.Route{Epoch: 3, Phase: router.Closed, Reason: "failover"}
	reading := opened
	reading.Replicas = []router.Backend{*backend("c:1"), *backend("b:1")}
	m1, m2 := memberKey{"web", "m1:80"}, memberKey{"web", "m2:80"}
	for name, c := range map[string]struct {
		upstream Upstream
		facts    facts
		want     want
	}{
		"rw open":                    {rw, facts{route: opened}, want{servers: servers(t, "a:1")}},
		"rw unknown":                 {rw, facts{route: router.Route{Phase: router.Closed}, closedLong: true}, want{keep: true}},
		"rw closed just now":         {rw, facts{route: closed}, want{keep: true}},
		"rw closed":                  {rw, facts{route: closed, closedLong: true}, want{closed: true}},
		"rw by proxies, closed":      {proxied, facts{route: closed, closedLong: true}, want{servers: servers(t, "p1:1", "p2:1")}},
		"ro":                         {ro, facts{route: reading}, want{servers: servers(t, "b:1", "c:1")}},
		"ro while writes are closed": {ro, facts{route: router.Route{Epoch: 3, Phase: router.Closed, Replicas: reading.Replicas}}, want{servers: servers(t, "b:1", "c:1")}},
		"ro falls back":              {ro, facts{route: opened, readsFallBack: true}, want{servers: servers(t, "a:1")}},
		"ro may not fall back":       {ro, facts{route: opened}, want{closed: true}},
		"ro has nowhere to go":       {ro, facts{route: closed, readsFallBack: true}, want{keep: true}},
		"members healthy":            {web, facts{}, want{servers: servers(t, "m1:80", "m2:80")}},
		"one member fails":           {web, facts{unhealthy: map[memberKey]bool{m2: true}}, want{servers: servers(t, "m1:80", "m2:80 down")}},
		"all members fail":           {web, facts{unhealthy: map[memberKey]bool{m1: true, m2: true}}, want{servers: servers(t, "m1:80", "m2:80")}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := choose([]Upstream{c.upstream}, c.facts)
			require.NoError(t, err)
			require.Equal(t, c.want.keep || c.want.closed || len(c.facts.unhealthy) > 0 || c.facts.readsFallBack, got[0].note != "", "note: %q", got[0].note)
			got[0].upstream, got[0].note = nil, ""
			require.Equal(t, c.want, got[0])
		})
	}
	_, err := choose([]Upstream{rw}, facts{route: router.Route{Epoch: 1, Phase: router.Open, Primary: backend("a:1;}")}})
	require.ErrorIs(t, err, ErrAddress)
}

func TestRoutesNeverGoBack(t *testing.T) {
	r := func(epoch topology.Epoch, p router.Phase) router.Route { return router.Route{Epoch: epoch, Phase: p} }
	require.True(t, isOlder(r(1, router.Open), r(2, router.Closed)))
	require.True(t, isOlder(r(2, router.Closed), r(2, router.Open)))
	require.False(t, isOlder(r(2, router.Open), r(2, router.Closed)))
	require.False(t, isOlder(r(2, router.Open), r(2, router.Open)))
	require.False(t, isOlder(r(3, router.Closed), r(2, router.Open)))
}

func TestJudgeMember(t *testing.T) {
	m := Member{MaxFails: 2, Rise: 3}
	bad := errors.New("refused")
	s := MemberStatus{Healthy: true}
	for i, step := range []struct {
		err     error
		healthy bool
	}{{bad, true}, {nil, true}, {bad, true}, {bad, false}, {nil, false}, {nil, false}, {bad, false}, {nil, false}, {nil, false}, {nil, true}} {
		s = judgeMember(s, m, step.err, time.Unix(int64(i), 0))
		require.Equal(t, step.healthy, s.Healthy, "step %d: %+v", i, s)
		require.Equal(t, step.err != nil, s.Error != "")
	}
	require.Equal(t, time.Unix(9, 0), s.Since)
}

func TestValidate(t *testing.T) {
	good := DefaultConfig()
	good.File = "/etc/nginx/nginx.conf"
	good.Upstreams = []Upstream{
		{Context: Stream, Name: "db", Role: RW, Via: Direct},
		{Context: HTTP, Name: "db", Role: Members, Members: []Member{checkedMember("a:1")}},
		{Context: Stream, Name: "ro", Role: RO, Via: Proxy, Proxies: []string{"a:1"}},
	}
	require.NoError(t, good.Validate())

	bad := good
	bad.File, bad.PIDFile, bad.TestCommand, bad.ReloadCommand = "nginx.conf", "pid", nil, []string{""}
	bad.Recheck = 0
	bad.Upstreams = []Upstream{
		{Context: HTTP, Name: "x", Role: RW, Via: Direct},
		{Context: Stream, Name: "x;y", Role: RO, Via: "tunnel"},
		{Context: Stream, Name: "p", Role: RO, Via: Proxy},
		{Context: Stream, Name: "p", Role: RO, Via: Direct, Members: []Member{{}}},
		{Context: "mail", Name: "z", Role: "both"},
		{Context: HTTP, Name: "w", Role: Members},
		{Context: HTTP, Name: "v", Role: Members, Members: []Member{checkedMember("a"), checkedMember("b:1"), checkedMember("B:1"),
			{Address: "unix:/a", HealthPath: "x", Interval: 1, Timeout: 2}}},
	}
	err := bad.Validate()
	for _, text := range []string{
		"file: want an absolute path", "pid_file: want an absolute path", "test_command: must name a program", "reload_command: must name",
		"recheck must be above 0", "(http x): role rw belongs in context stream", "(stream x;y): name: want letters", "via: want direct or proxy",
		"via proxy needs at least one", "named twice", "members: only for role http", "context: want http or stream", "role: want rw, ro or http",
		"role http needs at least one", "members[0]: not an address", "B:1 is there twice", "health_path: want a path", "checked over TCP",
		"timeout must be above 0", "max_fails and rise must be at least 1",
	} {
		require.ErrorContains(t, err, text)
	}
	_, err = New(bad, router.NewTable(), nil)
	require.Error(t, err)
}
