package election

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"interrex/election/embedded/etcdtest"
	"interrex/internal/topology"
)

func seats(names ...topology.NodeName) map[topology.NodeName]Seat {
	out := map[topology.NodeName]Seat{}
	for _, name := range names {
		out[name] = Seat{}
	}
	return out
}

func remove(s *State, name topology.NodeName) {
	delete(s.Members, name)
	s.Removed = map[topology.NodeName]time.Time{name: {}}
}

func TestCheckMembers(t *testing.T) {
	three := State{Members: seats("a", "b", "c"), Primary: &Primary{Node: "a"}}
	with := func(change func(*State)) State {
		s := three.clone()
		change(&s)
		return s
	}
	for name, test := range map[string]struct {
		from, to State
		want     string // empty: allowed
	}{
		"nothing":         {three, three, ""},
		"the first list":  {State{}, three, ""},
		"one joins":       {three, with(func(s *State) { s.Members["d"] = Seat{} }), ""},
		"one leaves":      {three, with(func(s *State) { remove(s, "c") }), ""},
		"forgotten":       {three, with(func(s *State) { s.Members = nil }), "forgotten"},
		"two join":        {three, with(func(s *State) { s.Members["d"], s.Members["e"] = Seat{}, Seat{} }), "2 members change at once"},
		"one for another": {three, with(func(s *State) { delete(s.Members, "c"); s.Members["d"] = Seat{} }), "2 members change at once"},
		"the primary":     {three, with(func(s *State) { remove(s, "a") }), "is the primary"},
		"an acker": {three, with(func(s *State) {
			remove(s, "c")
			s.Register.Ackers = []topology.NodeName{"b", "c"}
		}), "registered acker"},
		"without a trace": {three, with(func(s *State) { delete(s.Members, "c") }), "without a trace"},
		"during an operation": {
			with(func(s *State) { s.Operation = &Operation{} }), with(func(s *State) { s.Members["d"] = Seat{} }), "operation is in flight",
		},
		"with a claim": {three, with(func(s *State) { s.Members["d"] = Seat{}; s.Operation = &Operation{} }), "operation is in flight"},
	} {
		t.Run(name, func(t *testing.T) {
			why := checkMembers(test.from, test.to)
			if test.want == "" {
				require.Empty(t, why)
				return
			}
			require.Contains(t, why, test.want)
		})
	}
}

// begin writes a first record with three members, all of which have registered.
func begin(t *testing.T, lead *node, others ...*node) {
	t.Helper()
	for _, n := range append(others, lead) {
		require.NoError(t, n.Register(t.Context(), topology.Member{Name: n.cfg.Self}))
	}
	change(t, lead, func(s *State) error {
		s.Members = map[topology.NodeName]Seat{}
		for _, n := range append(others, lead) {
			s.Members[n.cfg.Self] = Seat{Voter: n == lead}
		}
		return nil
	})
}

func change(t *testing.T, lead *node, f func(*State) error) {
	t.Helper()
	base, err := lead.Read(t.Context())
	require.NoError(t, err)
	_, err = lead.Update(t.Context(), base, f)
	require.NoError(t, err)
}

func names(members []topology.Member) (out []topology.NodeName) {
	for _, m := range members {
		out = append(out, m.Name)
	}
	return out
}

func seesMembers(t *testing.T, n *node, want ...topology.NodeName) {
	t.Helper()
	eventually(t, string(n.cfg.Self)+" sees the members", func() (any, bool) {
		got := names(n.Members())
		return got, len(got) == len(want) && names(n.Members())[len(want)-1] == want[len(want)-1]
	})
	require.Equal(t, want, names(n.Members()))
}

// A member counts from the moment it has registered, which it can only once it
// was added; one that was removed can neither register nor lead.
func TestMembersAreWhoIsListed(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, 1, zap.NewNop())
	a := leader(t, "a", c.Endpoints())
	b, d := follower(t, "b", c.Endpoints()), follower(t, "d", c.Endpoints())
	begin(t, a, b)
	require.ErrorIs(t, d.Register(t.Context(), topology.Member{Name: "d"}), ErrNotMember)

	change(t, a, func(s *State) error { s.Members["d"] = Seat{}; return nil })
	require.Equal(t, []topology.NodeName{"a", "b"}, names(a.Members()), "it was never started")
	require.NoError(t, d.Register(t.Context(), topology.Member{Name: "d", API: "new"}))
	seesMembers(t, a, "a", "b", "d")

	change(t, a, func(s *State) error { remove(s, "d"); return nil })
	require.Equal(t, []topology.NodeName{"a", "b"}, names(a.Members()))
	seesMembers(t, d, "a", "b")
	require.ErrorIs(t, d.Register(t.Context(), topology.Member{Name: "d"}), ErrNotMember)
	require.ErrorIs(t, d.TakeOver(t.Context(), "a"), ErrNotMember)
	d.SetCandidacy(always)
	b.SetCandidacy(always)
	a.stop()
	sees(t, b, "b")

	// What it had registered before is forgotten when it is added anew.
	change(t, b, func(s *State) error { s.Members["d"] = Seat{}; return nil })
	require.Equal(t, []topology.NodeName{"a", "b"}, names(b.Members()))
	// It had asked to be registered, and now may be.
	seesMembers(t, b, "a", "b", "d")
}

// A leader that is removed from the members does not go on leading.
func TestRemovedLeaderResigns(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, 1, zap.NewNop())
	a := leader(t, "a", c.Endpoints())
	b := run(t, testConfig("b", c.Endpoints()))
	begin(t, a, b)
	change(t, a, func(s *State) error { remove(s, "a"); return nil })
	sees(t, b, "b")
	sees(t, a, "b")
}

func TestMayVote(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, 1, zap.NewNop())
	store := rawClient(t, c.Endpoints()...)
	put := func(record string) {
		_, err := store.Put(t.Context(), newKeys("test", "").state, record)
		require.NoError(t, err)
	}
	for _, test := range []struct {
		name, record string
		listed       bool
		want         string
	}{
		{"nothing is written down", "", false, ""},
		{"no list of members", `{"format":1,"cluster":"test"}`, false, ""},
		{"a voter", `{"format":1,"members":{"a":{"voter":true},"b":{"voter":true}}}`, true, ""},
		{"no vote", `{"format":1,"members":{"a":{"voter":false}}}`, false, "without a vote"},
		{"no member", `{"format":1,"members":{"b":{"voter":true}}}`, false, "interrex member add --name a"},
		{"leaving", `{"format":1,"members":{"a":{"voter":true,"leaving":"2026-01-01T00:00:00Z"}}}`, false, "being removed"},
		{"a newer record", `{"format":2,"members":7}`, false, "newer than this build"},
	} {
		if test.record != "" {
			put(test.record)
		}
		listed, err := MayVote(t.Context(), store, "test", "a")
		require.Equal(t, test.listed, listed, test.name)
		if test.want == "" {
			require.NoError(t, err, test.name)
		} else {
			require.ErrorContains(t, err, test.want, test.name)
		}
	}
}

// A record of a newer build's minor version is used, with all that this build
// does not know of it; one of a newer format is neither acted on nor changed.
func TestRecordsOfTheFuture(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, 1, zap.NewNop())
	a := leader(t, "a", c.Endpoints())
	begin(t, a)
	raw := rawClient(t, c.Endpoints()...)
	put := func(record string) {
		_, err := raw.Put(t.Context(), a.keys.state, record)
		require.NoError(t, err)
	}
	put(`{"format":1,"minor":7,"cluster":"test","epoch":4,"weather":"fine","members":{"a":{"voter":true,"rack":"r1"}}}`)
	change(t, a, func(s *State) error { s.Epoch++; s.Members["b"] = Seat{}; return nil })
	answer, err := raw.Get(t.Context(), a.keys.state)
	require.NoError(t, err)
	for _, want := range []string{`"minor":7`, `"epoch":5`, `"weather":"fine"`, `"rack":"r1"`} {
		require.Contains(t, string(answer.Kvs[0].Value), want)
	}

	before := a.Snapshot()
	put(`{"format":2,"minor":0,"cluster":{"this":"was a string"},"epoch":"six"}`)
	_, err = a.Read(t.Context())
	require.ErrorIs(t, err, ErrNewerFormat)
	require.ErrorContains(t, err, "it is of format 2, this build knows 1")
	require.Equal(t, before.State, a.Snapshot().State, "what was known stays known")
	_, err = a.Update(t.Context(), before, raise)
	require.ErrorIs(t, err, ErrNewerFormat)
	require.ErrorIs(t, a.Register(t.Context(), topology.Member{Name: "a"}), ErrNewerFormat)
	eventually(t, "it stops leading", func() (any, bool) { l := a.Leadership(); return l, l.Holder == "" })
	answer, err = raw.Get(t.Context(), a.keys.state)
	require.NoError(t, err)
	require.Contains(t, string(answer.Kvs[0].Value), `"format":2`)

	put(`{"format":1,"cluster":"test","epoch":9}`)
	eventually(t, "it leads again", func() (any, bool) { l := a.Leadership(); return l, l.Mine })
	change(t, a, raise)
}

// The endpoints may become others while everything runs.
func TestEndpointsChange(t *testing.T) {
	t.Parallel()
	c := etcdtest.Start(t, 3, zap.NewNop())
	all := c.Endpoints()
	a := leader(t, "a", all[:1])
	a.SetEndpoints(nil)
	require.NoError(t, a.Healthy(t.Context()), "none is no change")
	a.SetEndpoints(all)
	c.Members[0].Stop()
	eventually(t, "an answer by another", func() (any, bool) { err := a.Healthy(t.Context()); return err, err == nil })
	a.SetEndpoints(all[1:])
	eventually(t, "it leads on", func() (any, bool) { l := a.Leadership(); return l, l.Mine })
	change(t, a, raise)
	require.NoError(t, a.Healthy(t.Context()))
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	watch := rawClient(t, all[1])
	_, err := watch.Put(ctx, a.keys.member("z"), `{"name":"z"}`)
	require.NoError(t, err)
	eventually(t, "the watch goes on", func() (any, bool) { m := names(a.Members()); return m, len(m) == 1 })
}
