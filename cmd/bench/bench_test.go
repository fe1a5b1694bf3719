package main

import (
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/gtid"
)

func TestPercentileIsAMeasuredValue(t *testing.T) {
	twenty := make([]float64, 20)
	for i := range twenty {
		twenty[len(twenty)-1-i] = float64(i + 1) // from 20 down
	}
	for _, tc := range []struct {
		name   string
		values []float64
		p      float64
		want   float64
	}{
		{"median of one", []float64{7}, 50, 7},
		{"median of an even number is the lower one", []float64{4, 1, 3, 2}, 50, 2},
		{"median of an odd number", []float64{3, 1, 2}, 50, 2},
		{"nine of ten", twenty, 90, 18},
		{"p99 of twenty is the largest", twenty, 99, 20},
		{"maximum", twenty, 100, 20},
		{"minimum", twenty, 0, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			require.InDelta(t, tc.want, percentile(tc.values, tc.p), 0)
		})
	}
	require.True(t, math.IsNaN(percentile(nil, 50)))
	require.InDelta(t, 20.0, twenty[0], 0, "the values are left in their order")
}

func TestTexts(t *testing.T) {
	for ms, want := range map[float64]string{0: "0.00", 0.034: "0.03", 1.26: "1.3", 99.94: "99.9", 326.4: "326", -3: "-3.0"} {
		require.Equal(t, want, millisText(ms))
	}
	require.Equal(t, none, millisText(math.NaN()))
	require.Equal(t, "1.50", ratioText(3, 2))
	require.Equal(t, none, ratioText(3, 0))
	require.Equal(t, none, ratioText(3, math.NaN()))
	require.Equal(t, none, ratioText(math.NaN(), 3))
}

// sample has one round of everything.
func sample() results {
	killed := round{acknowledged: 900, refused: 2, unanswered: 8, values: map[string]float64{rowOutage: 210}}
	killed.addReport(api.Report{
		RTOMillis: 212, RTOBounds: [2]float64{190, 212}, Steps: []failover.Step{
			{Name: rowDetect, BeganMS: -100, TookMS: 100},
			{Name: rowClaim, BeganMS: 0, TookMS: 4},
			{Name: rowRevoke, BeganMS: 4, TookMS: 9.5},
			{Name: rowVerify, BeganMS: 100, TookMS: 3},
		},
	})
	moved := round{acknowledged: 700, values: map[string]float64{rowOutage: 61, rowRTO: 60}}
	return results{
		machine: machine{revision: "v1.2.3", mysql: "9.7.4", kernel: "6.1.0", golang: "go1.26.0", cores: 2, load: "0.10"},
		direct:  []float64{2000, 3000}, routed: []float64{2400, 2400},
		kills:       series{killed},
		switchovers: series{moved},
		scripted: series{{acknowledged: 910, values: map[string]float64{
			rowOutage: 105, rowRevoke: 9.5, rowOperation: 80,
		}}},
	}
}

func TestMarkdown(t *testing.T) {
	want, err := os.ReadFile(filepath.Join("testdata", "page.md"))
	require.NoError(t, err)
	require.Equal(t, string(want), sample().markdown())
}

func TestTablesHaveAsManyCellsInEveryLine(t *testing.T) {
	page := sample().markdown()
	cells := 0
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, "|") {
			cells = 0
			continue
		}
		if cells > 0 {
			require.Equal(t, cells, strings.Count(line, "|"), line)
		}
		cells = strings.Count(line, "|")
	}
}

func TestReportOfARound(t *testing.T) {
	r := sample().kills[0]
	require.InDelta(t, 103, r.values[rowOperation], 1e-9, "from the beginning of claim to the end of verify")
	require.InDelta(t, 212, r.values[rowRTO], 0)
	require.InDelta(t, 190, r.values[rowRTOLow], 0)
	_, promoted := r.values[rowPromote]
	require.False(t, promoted, "a step that was not taken has no time")
}

func TestLostRowsAreCountedOverAll(t *testing.T) {
	r := sample()
	require.Zero(t, r.lost())
	r.freezes = series{{lost: 1}, {lost: 2}}
	r.scripted[0].lost = 4
	require.Equal(t, 7, r.lost())
}

func TestChoose(t *testing.T) {
	const source = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
	replica := func(name, received string, unapplied uint64) frozen {
		set, err := gtid.Parse(source + received)
		require.NoError(t, err)
		return frozen{server: &server{name: name}, received: set, unapplied: unapplied}
	}
	for _, tc := range []struct {
		name string
		a, b frozen
		want string // empty for an error
	}{
		{"more received", replica("a", ":1-9", 9), replica("b", ":1-8", 0), "a"},
		{"more received, second", replica("a", ":1-8", 0), replica("b", ":1-9", 9), "b"},
		{"less to apply", replica("a", ":1-9", 5), replica("b", ":1-9", 4), "b"},
		{"equal", replica("a", ":1-9", 5), replica("b", ":1-9", 5), "a"},
		{"neither has all", replica("a", ":1-5:7", 0), replica("b", ":1-6", 0), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			candidate, other, err := choose([]frozen{tc.a, tc.b})
			if tc.want == "" {
				require.ErrorContains(t, err, "each received what the other lacks")
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, candidate.name)
			require.NotEqual(t, candidate.name, other.name)
		})
	}
}

func TestUnwell(t *testing.T) {
	whole := func() api.Cluster {
		none := uint64(0)
		c := api.Cluster{Status: api.StatusHealthy, Primary: &api.Primary{Node: "db1", Phase: election.Open}}
		c.Members = []api.Member{
			{Name: "db1", Role: api.RolePrimary},
			{Name: "db2", Role: api.RoleReplica, Certified: true, Missing: &none},
			{Name: "db3", Role: api.RoleReplica, Certified: true, Missing: &none},
		}
		c.Durability.Ackers = append(c.Durability.Ackers, "db2", "db3")
		c.Durability.Acknowledging = append(c.Durability.Acknowledging, "db2", "db3")
		return c
	}
	require.Empty(t, unwell(whole(), 3))
	behind := uint64(3)
	for name, spoil := range map[string]func(*api.Cluster){
		"degraded: db3 is away": func(c *api.Cluster) {
			c.Status, c.Reasons = api.StatusDegraded, []string{"db3 is away"}
		},
		"the primary is not open": func(c *api.Cluster) { c.Primary.Phase = election.Promoting },
		"1 ackers are registered and 2 acknowledge": func(c *api.Cluster) {
			c.Durability.Ackers = c.Durability.Ackers[:1]
		},
		"db3 has not caught up": func(c *api.Cluster) { c.Members[2].Missing = &behind },
		"db2 has not caught up": func(c *api.Cluster) { c.Members[1].Certified = false },
		"1 replicas":            func(c *api.Cluster) { c.Members[2].Role = api.RoleRebuilding },
	} {
		c := whole()
		spoil(&c)
		require.Equal(t, name, unwell(c, 3))
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions(nil, io.Discard)
	require.NoError(t, err)
	require.Equal(t, options{interrex: "bin/interrex", revision: "unknown", kills: 20, freezes: 3, switchovers: 20}, o)
	for _, args := range [][]string{{"-kills", "-1"}, {"now"}, {"-x"}} {
		var said strings.Builder
		_, err = parseOptions(args, &said)
		require.Error(t, err)
		require.NotEmpty(t, said.String())
	}
	_, err = parseOptions([]string{"-h"}, io.Discard)
	require.ErrorIs(t, err, flag.ErrHelp)
}
