package gtid

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	uuidA = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
	uuidB = "4e11fa47-71ca-11e1-9e33-c80aa9429562"
)

func TestParseAndPrint(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"empty":                        {"", ""},
		"white space only":             {" \n\t", ""},
		"single":                       {uuidA + ":1", uuidA + ":1"},
		"range":                        {uuidA + ":1-5", uuidA + ":1-5"},
		"range of one":                 {uuidA + ":5-5", uuidA + ":5"},
		"touching intervals are one":   {uuidA + ":1-5:6-7", uuidA + ":1-7"},
		"overlapping and out of order": {uuidA + ":8:3-5:1-4", uuidA + ":1-5:8"},
		"backward interval is empty":   {uuidA + ":5-1", ""},
		"backward interval among":      {uuidA + ":5-1:9", uuidA + ":9"},
		"interval ending in 0":         {uuidA + ":5-0", ""},
		"upper case":                   {strings.ToUpper(uuidA) + ":TAG:1", uuidA + ":tag:1"},
		"the server's line breaks":     {uuidB + ":1-2,\n" + uuidA + ":3", uuidA + ":3," + uuidB + ":1-2"},
		"spaces everywhere":            {" " + uuidA + " : 1 - 2 : tag : 3 , ", uuidA + ":1-2:tag:3"},
		"untagged first, tags ordered": {uuidA + ":b:1:a:2-3," + uuidA + ":7", uuidA + ":7:a:2-3:b:1"},
		"same uuid twice":              {uuidA + ":1," + uuidA + ":2-3", uuidA + ":1-3"},
		"same tag twice":               {uuidA + ":t:1:u:5:t:2", uuidA + ":t:1-2:u:5"},
		"largest number":               {uuidA + ":9223372036854775806", uuidA + ":9223372036854775806"},
		"empty parts between commas":   {"," + uuidA + ":1,,", uuidA + ":1"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Parse(c.in)
			require.NoError(t, err)
			require.Equal(t, c.want, s.String())
		})
	}
}

func TestParseNamesTheOffendingPart(t *testing.T) {
	for name, c := range map[string]struct{ in, names string }{
		"no uuid":               {"hello", `server uuid "hello"`},
		"short uuid":            {uuidA[1:] + ":1", "server uuid"},
		"uuid with wrong dash":  {strings.Replace(uuidA, "-", "0", 1) + ":1", "server uuid"},
		"uuid alone":            {uuidA, `interval ""`},
		"uuid and colon":        {uuidA + ":", `interval ""`},
		"tag alone":             {uuidA + ":tag", `interval ""`},
		"tag after tag":         {uuidA + ":a:b:1", `interval "b"`},
		"tag starting in digit": {uuidA + ":1a:1", `interval "1a"`},
		"tag too long":          {uuidA + ":" + strings.Repeat("x", 33) + ":1", "interval"},
		"zero":                  {uuidA + ":0", `interval "0"`},
		"zero start":            {uuidA + ":0-5", `interval "0-5"`},
		"negative":              {uuidA + ":-5", `interval "-5"`},
		"three ends":            {uuidA + ":1-2-3", `interval "1-2-3"`},
		"open range":            {uuidA + ":1-", `interval "1-"`},
		"plus sign":             {uuidA + ":+1", `interval "+1"`},
		"too large":             {uuidA + ":9223372036854775807", "9223372036854775807"},
		"second part bad":       {uuidA + ":1,nonsense:2", `server uuid "nonsense"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(c.in)
			require.ErrorIs(t, err, ErrMalformed)
			require.ErrorContains(t, err, c.names)
		})
	}
	require.Panics(t, func() { MustParse("x") })
}

func TestAlgebra(t *testing.T) {
	for name, c := range map[string]struct{ a, b, union, minus, intersect string }{
		"hole punched":       {uuidA + ":1-10", uuidA + ":4-6", uuidA + ":1-10", uuidA + ":1-3:7-10", uuidA + ":4-6"},
		"one cut, many runs": {uuidA + ":1-2:4-5:7-8", uuidA + ":2-7", uuidA + ":1-8", uuidA + ":1:8", uuidA + ":2:4-5:7"},
		"disjoint uuids":     {uuidA + ":1", uuidB + ":1", uuidA + ":1," + uuidB + ":1", uuidA + ":1", ""},
		"tag is its own":     {uuidA + ":1-3", uuidA + ":t:1-3", uuidA + ":1-3:t:1-3", uuidA + ":1-3", ""},
		"with empty":         {uuidA + ":1", "", uuidA + ":1", uuidA + ":1", ""},
		"from empty":         {"", uuidA + ":1", uuidA + ":1", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := MustParse(c.a), MustParse(c.b)
			require.Equal(t, c.union, a.Union(b).String())
			require.Equal(t, c.minus, a.Minus(b).String())
			require.Equal(t, c.intersect, a.Intersect(b).String())
			require.Equal(t, c.a, a.String(), "operands never change")
			require.Equal(t, c.b, b.String(), "operands never change")
		})
	}
}

func TestCountAndUUIDs(t *testing.T) {
	s := MustParse(uuidB + ":1-3:t:9," + uuidA + ":5")
	require.Equal(t, uint64(5), s.Count())
	require.Equal(t, []string{uuidA, uuidB}, s.UUIDs())
	require.Zero(t, Set{}.Count())
	require.Empty(t, Set{}.UUIDs())
	huge := MustParse(uuidA + ":1-9223372036854775806:t:1-9223372036854775806:u:1-9223372036854775806")
	require.Equal(t, uint64(math.MaxUint64), huge.Count())
}

func TestJSON(t *testing.T) {
	type doc struct {
		Set Set  `json:"set"`
		Ptr *Set `json:"ptr,omitempty"`
	}
	in := doc{Set: MustParse(uuidA + ":1-5")}
	text, err := json.Marshal(in)
	require.NoError(t, err)
	require.JSONEq(t, `{"set":"`+uuidA+`:1-5"}`, string(text))
	var out doc
	require.NoError(t, json.Unmarshal(text, &out))
	require.True(t, in.Set.Equal(out.Set))
	require.Error(t, json.Unmarshal([]byte(`{"set":"x"}`), &out))
}
