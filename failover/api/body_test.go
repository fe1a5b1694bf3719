package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestBadBodiesChangeNothing: a bad request gets a 4xx that names every fault,
// and nothing is done.
func TestBadBodiesChangeNothing(t *testing.T) {
	for _, c := range []struct {
		name, body string
		header     map[string]string
		status     int
		fields     []string
		says       string
	}{
		{name: "unknown fields, all named", body: `{"too":"n2","to":"n2","force":true}`, status: 400, fields: []string{"too", "force"}, says: "too: unknown field; force: unknown field"},
		{name: "field in other case", body: `{"To":"n2"}`, status: 400, fields: []string{"To"}},
		{name: "wrong types", body: `{"to":7,"wait":"yes"}`, status: 400, fields: []string{"to", "wait"}, says: "must be a bool"},
		{name: "null", body: `{"to":null}`, status: 400, fields: []string{"to"}},
		{name: "twice", body: `{"to":"n2","to":"n3"}`, status: 400, fields: []string{"to"}},
		{name: "text after it", body: `{"to":"n2"} {"to":"n3"}`, status: 400, fields: []string{""}},
		{name: "no object", body: `["n2"]`, status: 400, fields: []string{""}},
		{name: "no JSON", body: `to=n2`, status: 400, fields: []string{""}},
		{name: "cut", body: `{"to":"n`, status: 400, fields: []string{"to"}},
		{name: "cut after a value", body: `{"to":"n2"`, status: 400, fields: []string{""}},
		{name: "too large", body: `{"to":"` + strings.Repeat("a", bodyBytes) + `"}`, status: 413, says: "65536"},
		{name: "form", body: `to=n2`, header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, status: 415},
		{name: "text", body: `{}`, header: map[string]string{"Content-Type": "text/plain"}, status: 415},
		{name: "no type", body: `{}`, header: map[string]string{"Content-Type": ""}, status: 415},
		{name: "compressed", body: `{}`, header: map[string]string{"Content-Encoding": "gzip"}, status: 415},
		{name: "candidate that is no name", body: `{"to":"n2\n"}`, status: 400, fields: []string{"to"}},
		{name: "candidate too long", body: `{"to":"` + strings.Repeat("a", 200) + `"}`, status: 400, fields: []string{"to"}},
		{name: "bad key", body: `{}`, header: map[string]string{headerIdempotency: "a key"}, status: 400, fields: []string{headerIdempotency}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "n1")
			a := post("switchover", c.body)
			a.header = c.header
			got := b.do(a)
			require.Equal(t, c.status, got.status, "%s", got.body)
			p := got.problem(t)
			var fields []string
			for _, f := range p.Fields {
				fields = append(fields, f.Field)
			}
			require.Equal(t, c.fields, fields)
			require.Contains(t, p.Detail, c.says)
			require.Empty(t, b.backend.noted())
		})
	}
}

func TestTypeMayHaveParameters(t *testing.T) {
	b := newBench(t, "n1")
	a := post("resume", " ")
	a.header = map[string]string{"Content-Type": "Application/JSON; charset=utf-8"}
	require.Equal(t, http.StatusOK, b.do(a).status)
}

func FuzzDecodeStrict(f *testing.F) {
	for _, s := range []string{`{}`, `{"to":"a","wait":true}`, `{"to":1}`, `[`, `{"a":{"b":[1,2]}}`, `{"to":"x"}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var req SwitchoverRequest
		if faults := decodeStrict(data, &req); len(faults) > 0 {
			for _, fault := range faults {
				require.NotEmpty(t, fault.Message)
			}
		}
	})
}
