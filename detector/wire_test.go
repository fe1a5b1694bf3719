package detector

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/topology"
)

func TestWireRoundTrip(t *testing.T) {
	ev := Evidence{
		Observer: "n2", Subject: "n1", Kind: Refused, Age: 12 * ms, Since: 3 * time.Second, LastGood: 4 * time.Second,
		Misses: 3, Round: 99, Slow: true, Boot: 1<<64 - 1, Seq: 1 << 60, Detail: "connection refused",
	}
	never := ev
	never.LastGood, never.Kind = -1, Alive
	packets, err := encodeEvidence(envelope{From: "n2", Boot: ev.Boot, Clock: 5, Slow: true}, []wireItem{toWire(ev), toWire(never)})
	require.NoError(t, err)
	require.Len(t, packets, 1)
	env, err := decodeEvidence(packets[0][1:])
	require.NoError(t, err)
	require.Len(t, env.Items, 2)
	for i, want := range []Evidence{ev, never} {
		got, ok := fromWire(env, env.Items[i])
		require.True(t, ok)
		require.Equal(t, want, got)
	}
}

// The worst names, numbers and details still make datagrams that fit, and
// nothing is lost in the splitting.
func TestDatagramBound(t *testing.T) {
	long := topology.NodeName(strings.Repeat("n", maxName))
	worst := toWire(Evidence{
		Subject: long, Kind: ConnectionBroken, Age: maxAge * 2, Since: maxAge * 2, LastGood: maxAge * 2,
		Misses: 1 << 62, Round: 1<<64 - 1, Seq: 1<<64 - 1, Detail: strings.Repeat("\x00<>&\"\\é", 100),
	})
	require.Len(t, worst.Detail, maxDetail)
	items := make([]wireItem, 100)
	for i := range items {
		items[i] = worst
		items[i].Seq -= uint64(i)
	}
	packets, err := encodeEvidence(envelope{From: long, Boot: 1<<64 - 1, Clock: 1<<63 - 1, Slow: true}, items)
	require.NoError(t, err)
	n := 0
	for _, p := range packets {
		require.LessOrEqual(t, len(p), maxDatagram)
		env, err := decodeEvidence(p[1:])
		require.NoError(t, err)
		for _, it := range env.Items {
			_, ok := fromWire(env, it)
			require.True(t, ok)
			require.Equal(t, items[n].Seq, it.Seq)
			n++
		}
	}
	require.Equal(t, len(items), n)

	packets, err = encodeEvidence(envelope{From: "n1"}, nil)
	require.NoError(t, err)
	require.Len(t, packets, 1, "an empty one says: I live")
}

func TestFromWireRefuses(t *testing.T) {
	good := wireItem{Subject: "n1", Kind: Alive, LastGood: -1}
	env := envelope{From: "n2"}
	_, ok := fromWire(env, good)
	require.True(t, ok)
	for name, spoil := range map[string]func(*wireItem){
		"unknown kind":            func(i *wireItem) { i.Kind = "brand_new" },
		"no subject":              func(i *wireItem) { i.Subject = "" },
		"negative age":            func(i *wireItem) { i.Age = -1 },
		"endless age":             func(i *wireItem) { i.Since = 1 << 62 },
		"last good in the future": func(i *wireItem) { i.LastGood = -2 },
		"another's process":       func(i *wireItem) { i.Kind = ProcessExited },
	} {
		it := good
		spoil(&it)
		_, ok := fromWire(env, it)
		require.False(t, ok, name)
	}
}

func TestStoreKeepsTheNewest(t *testing.T) {
	start := time.Now()
	s := newStore(start)
	item := func(seq uint64, k Kind) wireItem { return wireItem{Subject: "n1", Kind: k, Seq: seq, LastGood: -1} }
	at := func(d time.Duration, boot uint64, items ...wireItem) []change {
		return s.accept(envelope{From: "n2", Boot: boot, Clock: d.Microseconds(), Items: items}, start.Add(d))
	}
	require.Len(t, at(0, 1, item(5, Refused)), 1)
	require.Empty(t, at(ms, 1, item(5, Alive)), "a duplicate")
	require.Empty(t, at(ms, 1, item(4, Alive)), "overtaken")
	got := at(2*ms, 1, item(6, Refused))
	require.Len(t, got, 1)
	require.False(t, got[0].turned)
	require.True(t, at(3*ms, 2, item(1, Alive))[0].turned, "a new boot begins anew")
	require.Empty(t, at(4*ms, 1, item(9, Refused)), "replayed from an earlier boot")
	require.Len(t, s.about("n1", false), 1)
}

// What lay in a queue while we were stopped is as old as it is.
func TestDelayMeter(t *testing.T) {
	start := time.Now()
	var m delayMeter
	sent := func(clock, arrives time.Duration) time.Duration { return m.extra(start, start.Add(arrives), clock) }
	for i := range 50 {
		at := time.Duration(i) * 100 * ms
		require.LessOrEqual(t, sent(at, at+time.Hour+ms), ms)
	}
	base := time.Hour + 65*time.Second // we slept for a minute
	require.InDelta(t, float64(60*time.Second), float64(sent(5*time.Second, base)), float64(2*ms))
	require.InDelta(t, float64(30*time.Second), float64(sent(35*time.Second, base)), float64(2*ms))
	require.LessOrEqual(t, sent(65*time.Second, base+ms), 2*ms)
	// The sender's clock stands still for a minute: believed again in seconds.
	clock, now := 65*time.Second, base+60*time.Second
	var until time.Duration
	for d := time.Duration(0); d < 10*time.Second; d += 100 * ms {
		if sent(clock+d, now+d) > 100*ms {
			until = d
		}
	}
	require.Less(t, until, 2*delayPeriod+200*ms)
}

func FuzzDecode(f *testing.F) {
	packets, err := encodeEvidence(envelope{From: "n2", Boot: 3, Clock: 4}, []wireItem{{Subject: "n1", Kind: Refused, Seq: 1, LastGood: -1}})
	require.NoError(f, err)
	f.Add(packets[0][1:])
	app, err := encodeMessage(wireApp{From: "n2", Kind: "route", Payload: []byte("x")})
	require.NoError(f, err)
	f.Add(app[1:])
	f.Add([]byte(`{"f":"n2","e":[{"s":"n1","k":"alive","a":-9}]}`))
	f.Add([]byte("\x00\xff{"))
	f.Fuzz(func(t *testing.T, body []byte) {
		_, _ = decodeMessage(body)
		start := time.Now()
		s := newStore(start)
		env, err := decodeEvidence(body)
		if err != nil {
			require.ErrorIs(t, err, errMalformed)
			return
		}
		for _, c := range s.accept(env, start) {
			require.True(t, validName(c.evidence.Observer) && validName(c.evidence.Subject))
			require.GreaterOrEqual(t, c.evidence.Age, time.Duration(0))
			require.LessOrEqual(t, c.evidence.Age, maxAge)
			_, err := json.Marshal(c.evidence)
			require.NoError(t, err)
		}
		j := judge(start, Windows{Freshness: time.Second, Misses: 1}, []topology.NodeName{"n1", "n2", "n3"}, "n1", s.about("n1", false))
		require.NotEqual(t, topology.Failed, j.Verdict, "one sender is one vote, whatever it says")
	})
}
