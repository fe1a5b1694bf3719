package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/failover/api"
	"interrex/internal/chaos"
	"interrex/internal/nethost"
)

// clock tells the time on every line that it reads, and how much has passed
// since the last one.
const clock = `package main

import (
	"bufio"
	"fmt"
	"os"
	"time"
)

func main() {
	last := time.Now()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(time.Now().Unix(), time.Since(last).Seconds())
		last = time.Now()
	}
}
`

// TestClockThatCanBeSet builds a program as the one under test is built, and
// sets its clock.
func TestClockThatCanBeSet(t *testing.T) {
	dir := t.TempDir()
	overlay, err := writeOverlay(t.Context(), dir)
	require.NoError(t, err)
	source, program := filepath.Join(dir, "clock.go"), filepath.Join(dir, "clock")
	require.NoError(t, os.WriteFile(source, []byte(clock), 0o600))
	out, err := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay, "-o", program, source).CombinedOutput()
	require.NoError(t, err, string(out))
	require.NoError(t, os.WriteFile(filepath.Join(dir, skewFile), make([]byte, skewSize), 0o600))

	cmd := exec.CommandContext(t.Context(), program)
	cmd.Dir = dir
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	answers, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	lines := bufio.NewReader(answers)
	for _, off := range []time.Duration{0, time.Hour, -time.Hour, 0} {
		require.NoError(t, writeSkew(dir, off))
		_, err := io.WriteString(in, "\n")
		require.NoError(t, err)
		line, err := lines.ReadString('\n')
		require.NoError(t, err)
		var now int64
		var passed float64
		_, err = fmt.Sscan(line, &now, &passed)
		require.NoError(t, err, line)
		require.InDelta(t, time.Now().Add(off).Unix(), now, 60, "off by %s", off)
		require.InDelta(t, 30, passed, 30, "time passes as ever")
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions([]string{"-duration", "1h", "-seed", "7"}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, []any{time.Hour, uint64(7), 30 * time.Second}, []any{o.duration, o.seed, o.recover})
	for _, c := range []struct {
		args          []string
		faults, kinds int
	}{
		{nil, 0, 0},
		{[]string{"-duration", "59m"}, 0, 0},
		{[]string{"-duration", "1h"}, 300, 12},
		{[]string{"-duration", "2h", "-least-faults", "500", "-least-kinds", "0"}, 500, 0},
		{[]string{"-duration", "1h", "-only", "switchover"}, 0, 0},
		{[]string{"-duration", "1h", "-without", "switchover"}, 300, 12},
	} {
		o, err := parseOptions(c.args, io.Discard)
		require.NoError(t, err, c.args)
		faults, kinds := o.bars()
		require.Equal(t, []int{c.faults, c.kinds}, []int{faults, kinds}, c.args)
	}
	for ci, strict := range map[string]bool{"": false, "1": true} {
		t.Setenv("CI", ci)
		o, err := parseOptions(nil, io.Discard)
		require.NoError(t, err)
		require.Equal(t, strict, o.strict, ci)
	}
	for _, args := range [][]string{{"-duration", "0s"}, {"-recover", "-1s"}, {"more"}, {"-seed", "x"}, {"-least-kinds", "-1"}} {
		var told bytes.Buffer
		_, err := parseOptions(args, &told)
		require.Error(t, err, args)
		require.NotEmpty(t, told.String(), args)
	}
}

// TestKinds: each has a name of its own, and there are as many as are promised
// also where there are no hosts.
func TestKinds(t *testing.T) {
	names, needless := map[string]bool{}, 0
	for _, k := range kinds() {
		require.False(t, names[k.name], k.name)
		names[k.name] = true
		if k.needs == nothing {
			needless++
		}
	}
	require.GreaterOrEqual(t, needless, 12)
	require.NotContains(t, strings.Join(mapKeys(names), ""), ",", "options list them with commas")
}

func mapKeys(m map[string]bool) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

func TestWithoutHostsItIsSaidAndTheRestGoesOn(t *testing.T) {
	var told bytes.Buffer
	r := &chaosRun{out: &told, report: newReport(options{})}
	require.NoError(t, r.chooseKinds(t.Context(), nil, fmt.Errorf("%w: not root", nethost.ErrUnavailable)))
	require.Len(t, r.kinds, len(kinds())-len(r.report.LeftOut))
	require.Contains(t, told.String(), "LEFT OUT")
	require.Contains(t, r.report.LeftOut, "isolate the primary's node")
	require.NotContains(t, r.report.LeftOut, "kill the primary's server")
	r.o.only = "isolate the primary's node"
	r.kinds = nil
	require.ErrorContains(t, r.chooseKinds(t.Context(), nil, nethost.ErrUnavailable), "no kind of fault is left")
}

// TestInCINothingIsLeftOut: nor does the run go on without it.
func TestInCINothingIsLeftOut(t *testing.T) {
	var told bytes.Buffer
	r := &chaosRun{o: options{strict: true}, out: &told, report: newReport(options{})}
	err := r.chooseKinds(t.Context(), nil, fmt.Errorf("%w: not root", nethost.ErrUnavailable))
	require.ErrorIs(t, err, nethost.ErrUnavailable)
	require.ErrorContains(t, err, "kinds of faults cannot be made on this machine, and CI is set")
	// What nobody asked for is not missing.
	r.o.only, r.kinds, r.report = "switchover,crash an agent", nil, newReport(options{})
	require.NoError(t, r.chooseKinds(t.Context(), nil, nethost.ErrUnavailable))
	require.Len(t, r.kinds, 2)
}

// TestWhatDoesNotFitWaitsItsTurn: towards the end of a deck nothing in it may fit
// beside the other fault.
func TestWhatDoesNotFitWaitsItsTurn(t *testing.T) {
	var struck []string
	fits := false
	busy := kind{name: "busy", strike: func(context.Context, *round) (*strike, error) {
		if !fits {
			return nil, errUnfit
		}
		struck = append(struck, "busy")
		return nil, nil
	}}
	free := kind{name: "free", strike: func(context.Context, *round) (*strike, error) {
		struck = append(struck, "free")
		return nil, nil
	}}
	r := chaosRun{rng: rand.New(rand.NewPCG(1, 2)), kinds: []kind{busy, free}, deck: []kind{busy}}
	_, err := r.strike(t.Context(), nil)
	require.NoError(t, err)
	fits = true
	for range 2 {
		_, err = r.strike(t.Context(), nil)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"free", "busy", "busy"}, struck)
	r.kinds, r.deck, fits = []kind{busy}, nil, false
	_, err = r.strike(t.Context(), nil)
	require.ErrorContains(t, err, "no fault fits")
}

func TestFlaws(t *testing.T) {
	whole := func() api.Cluster {
		v := api.Cluster{Status: api.StatusHealthy, Primary: &api.Primary{Node: "db1"}, Leader: "db2"}
		v.Members = []api.Member{{Name: "db1", Role: api.RolePrimary}, {Name: "db2", Role: api.RoleReplica}, {Name: "db3", Role: api.RoleReplica}}
		v.Durability.Ackers = append(v.Durability.Ackers, "db2", "db3")
		v.Durability.Acknowledging = append(v.Durability.Acknowledging, "db2", "db3")
		return v
	}
	require.Empty(t, flaw(whole()))
	for name, spoil := range map[string]func(*api.Cluster){
		"not healthy":  func(v *api.Cluster) { v.Status = api.StatusDegraded },
		"no primary":   func(v *api.Cluster) { v.Primary = nil },
		"no leader":    func(v *api.Cluster) { v.Leader = "" },
		"one follows":  func(v *api.Cluster) { v.Members[1].Role = api.RoleClosed },
		"one acker":    func(v *api.Cluster) { v.Durability.Ackers = v.Durability.Ackers[1:] },
		"one is quiet": func(v *api.Cluster) { v.Durability.Acknowledging = nil },
	} {
		v := whole()
		spoil(&v)
		require.NotEmpty(t, flaw(v), name)
	}
}

func TestReport(t *testing.T) {
	r := newReport(options{seed: 7, revision: "abc"})
	r.add(roundResult{Strikes: []strike{{Kind: "a"}}, Outage: time.Second, Recovered: 3 * time.Second})
	r.add(roundResult{Strikes: []strike{{Kind: "a"}}, Outage: 2 * time.Second, Recovered: time.Second})
	r.add(roundResult{Strikes: []strike{{Kind: "a"}, {Kind: "b"}}, Outage: 9 * time.Second})
	r.Operations = map[chaos.Outcome]int{chaos.Acknowledged: 5}
	r.Checks = []chaos.Finding{{Name: "kept", Checked: 5, Of: "operations"}}
	r.judge()
	require.True(t, r.Passed)
	text := r.text()
	require.Regexp(t, `(?m)^a +3 +2\.00 / 2\.00 +3\.00 / 3\.00$`, text)
	require.Regexp(t, `(?m)^b +1 +- +-$`, text)
	require.Regexp(t, `(?m)^\(two at a time\) +1 +9\.00 / 9\.00`, text)
	require.Contains(t, text, "\n4 faults of 2 kinds in 3 rounds, 1 of them with two at a time\n")
	require.True(t, strings.HasSuffix(text, "\nPASSED\n"), text)
	dir := t.TempDir()
	require.NoError(t, r.write(dir, io.Discard))
	raw, err := os.ReadFile(filepath.Join(dir, "report.json"))
	require.NoError(t, err)
	var read map[string]any
	require.NoError(t, json.Unmarshal(raw, &read))
	require.Equal(t, true, read["passed"])
	require.EqualValues(t, []any{4.0, 2.0}, []any{read["faults"], read["kinds"]})

	for name, spoil := range map[string]func(*report){
		"a violation": func(r *report) {
			r.Checks = []chaos.Finding{{Name: "kept", Count: 1, Violations: []string{"one is lost"}}}
		},
		"an early end":          func(r *report) { r.Stopped = "not whole" },
		"nothing was struck":    func(r *report) { r.Faults = 0 },
		"nothing was committed": func(r *report) { r.Operations = nil },
	} {
		bad := r
		spoil(&bad)
		bad.judge()
		require.False(t, bad.Passed, name)
		require.True(t, strings.HasSuffix(bad.text(), "\nFAILED\n"), name)
	}
}

// TestStrikeInVain: where the moment of a fault did not come, none was struck.
func TestStrikeInVain(t *testing.T) {
	r := newReport(options{})
	r.Operations = map[chaos.Outcome]int{chaos.Acknowledged: 5}
	r.add(roundResult{Strikes: []strike{{Kind: "late", Missed: true}}, Outage: time.Second})
	r.judge()
	require.False(t, r.Passed, "nothing was struck")
	r.add(roundResult{Strikes: []strike{{Kind: "late", Missed: true}, {Kind: "a"}}, Outage: time.Second})
	r.add(roundResult{Strikes: []strike{{Kind: "late"}}, Outage: 2 * time.Second})
	r.judge()
	require.True(t, r.Passed)
	text := r.text()
	require.Contains(t, text, "\n2 faults of 2 kinds in 3 rounds, 0 of them with two at a time\n")
	require.Regexp(t, `(?m)^late +1 +2\.00 / 2\.00`, text)
	require.Contains(t, text, "its moment did not come, and is no fault: late, 2 times")
}

// TestRunOfAnHourHasToComeToSomething: to so many faults, and kinds of them.
func TestRunOfAnHourHasToComeToSomething(t *testing.T) {
	run := func(faults, kinds int) (passed bool, text string) {
		o, err := parseOptions([]string{"-duration", "1h"}, io.Discard)
		require.NoError(t, err)
		r := newReport(o)
		r.Operations = map[chaos.Outcome]int{chaos.Acknowledged: 5}
		for n := range faults {
			r.add(roundResult{Strikes: []strike{{Kind: fmt.Sprint("kind ", n%kinds)}}})
		}
		r.judge()
		return r.Passed, r.text()
	}
	passed, text := run(300, 12)
	require.True(t, passed, text)
	passed, text = run(299, 12)
	require.False(t, passed)
	require.Contains(t, text, "FAIL 299 faults were struck, and at least 300 are asked for")
	passed, text = run(1000, 11)
	require.False(t, passed)
	require.Contains(t, text, "FAIL they were of 11 kinds, and at least 12 are asked for")
}
