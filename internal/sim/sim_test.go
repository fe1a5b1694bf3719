package sim

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"interrex/election"
)

var (
	seeds   = flag.Int("seeds", 20, "how many seeds TestSeeds runs")
	first   = flag.Uint64("seed", 0, "the first of them; 0: any")
	workers = flag.Int("workers", 0, "processes that share them; 0: this one runs them")
	replays = flag.Int("replays", 8, "how many seeds TestReplay runs twice")
	words   = flag.Bool("words", false, "print all that happens, and what the agents log")
	sums    = flag.String("sums", "", "a file for the totals, as JSON")
)

// totals are what a number of seeds come to.
type totals struct {
	Seeds    int                   `json:"seeds"`
	Failed   []uint64              `json:"failed"`
	Virtual  time.Duration         `json:"virtual"`
	Turns    int                   `json:"turns"`
	Roles    int                   `json:"roles"`
	Acked    int                   `json:"acked"`
	Bare     int                   `json:"bare"`    // acknowledged while degraded
	Kept     int                   `json:"kept"`    // times that the store alone was away for a second or more
	Slowest  time.Duration         `json:"slowest"` // until all had healed
	Kinds    map[election.Kind]int `json:"kinds"`
	Injected map[string]int        `json:"injected"`
}

func newTotals() totals { return totals{Kinds: map[election.Kind]int{}, Injected: map[string]int{}} }

func (t *totals) add(o outcome) {
	t.Seeds++
	if len(o.violations) > 0 {
		t.Failed = append(t.Failed, o.seed)
	}
	t.merge(totals{
		Virtual: o.virtual, Turns: o.turns, Roles: o.roles, Acked: o.acked, Bare: o.uncovered, Kept: o.kept, Slowest: o.healedIn, Kinds: o.kinds, Injected: o.injected,
	})
}

func (t *totals) merge(o totals) {
	t.Seeds += o.Seeds
	t.Failed = append(t.Failed, o.Failed...)
	t.Virtual += o.Virtual
	t.Turns += o.Turns
	t.Roles += o.Roles
	t.Acked += o.Acked
	t.Bare += o.Bare
	t.Kept += o.Kept
	t.Slowest = max(t.Slowest, o.Slowest)
	for k, n := range o.Kinds {
		t.Kinds[k] += n
	}
	for k, n := range o.Injected {
		t.Injected[k] += n
	}
}

func (t *totals) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d seeds, %d failed; %s of virtual time, %d acknowledged commits (%d more while degraded), %d changes of the primary, %d times the store alone away, operations %v, healed within %s\nfaults:",
		t.Seeds, len(t.Failed), t.Virtual.Round(time.Second), t.Acked, t.Bare, t.Roles, t.Kept, t.Kinds, t.Slowest.Round(time.Millisecond))
	for _, k := range slices.Sorted(maps.Keys(t.Injected)) {
		fmt.Fprintf(&b, " %s %d;", k, t.Injected[k])
	}
	return b.String()
}

// TestSeeds runs seeds, none of which may violate anything. One that does is
// shrunk, and printed with the command that runs it again.
func TestSeeds(t *testing.T) {
	if *first == 0 {
		*first = uint64(time.Now().UnixMilli()%1_000_000_000) * 1000
	}
	t.Logf("seeds %d to %d", *first, *first+uint64(*seeds)-1)
	if *workers > 0 {
		inProcesses(t, *seeds)
		return
	}
	sum := newTotals()
	for n := range uint64(*seeds) {
		out := runSeed(t, *first+n, options{keep: *words, log: logger()})
		sum.add(out)
		if *words {
			t.Logf("%s\n%s", strings.Join(out.lines, "\n"), out.state)
		}
		if len(out.violations) > 0 {
			t.Error(explain(t, out))
		}
	}
	t.Log(sum.String())
	save(t, sum)
}

// save tells the totals to the process that shares out the seeds.
func save(t *testing.T, sum totals) {
	if *sums == "" {
		return
	}
	raw, err := json.Marshal(sum)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(*sums, raw, 0o600))
}

func logger() *zap.Logger {
	if !*words {
		return zap.NewNop()
	}
	c := zap.NewDevelopmentConfig()
	c.DisableStacktrace, c.DisableCaller = true, true
	log, err := c.Build()
	if err != nil {
		panic(err)
	}
	return log
}

// inProcesses runs this test's seeds in processes with one processor each: handing
// goroutines from one to another is most of what a second one would do.
func inProcesses(t *testing.T, count int) {
	const share = 100
	began := time.Now()
	var (
		mu    sync.Mutex
		sum   = newTotals()
		next  = *first
		end   = *first + uint64(count)
		group sync.WaitGroup
	)
	take := func() (from, n uint64) {
		mu.Lock()
		defer mu.Unlock()
		from, n = next, min(share, end-next)
		next += n
		return from, n
	}
	for range *workers {
		group.Go(func() {
			for from, n := take(); n > 0; from, n = take() {
				part, output, err := inProcess(t, from, n)
				mu.Lock()
				sum.merge(part)
				if err != nil {
					t.Errorf("%v\n%s", err, output)
				}
				fmt.Printf("%d of %d seeds in %s, %d failed\n", sum.Seeds, count, time.Since(began).Round(time.Second), len(sum.Failed))
				mu.Unlock()
			}
		})
	}
	group.Wait()
	t.Logf("%s\nin %s", sum.String(), time.Since(began).Round(time.Second))
}

func inProcess(t *testing.T, from, n uint64) (totals, string, error) {
	file := filepath.Join(t.TempDir(), fmt.Sprintf("sums-%d", from))
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.timeout=1h",
		fmt.Sprint("-seeds=", n), fmt.Sprint("-replays=", n), fmt.Sprint("-seed=", from), "-sums="+file)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GOGC=400")
	output, err := cmd.CombinedOutput()
	part := newTotals()
	raw, rerr := os.ReadFile(file)
	if rerr == nil {
		rerr = json.Unmarshal(raw, &part)
	}
	if err == nil {
		err = rerr
	}
	return part, string(output), err
}

// explain shrinks a failing run and tells what is left of it.
func explain(t *testing.T, out outcome) string {
	short := shrink(t, out)
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d (%+v): %s\nrun it again: make sim SEEDS=1 SEED=%d WORDS=1\nfaults that are enough for it, of %d:\n%s",
		out.seed, out.shape, strings.Join(out.violations, "; "), out.seed, len(out.faults), describeFaults(short))
	again := runSeed(t, out.seed, options{keep: true, faults: short})
	fmt.Fprintf(&b, "what happens with those:\n")
	for _, line := range again.lines {
		if telling.MatchString(line) {
			b.WriteString(line + "\n")
		}
	}
	b.WriteString(again.state)
	return b.String()
}

// telling are the lines of a trace that tell the story.
var telling = regexp.MustCompile(`FAULT|HEAL|VIOLATION|record |opens|killed|starts|= \w+ \w+ (freeze|promote|follow|close|catch up|rebuild) ?\S* `)

// shrink leaves out one fault after another while the same thing is violated.
func shrink(t *testing.T, out outcome) []fault {
	left := out.faults
	what, _, _ := strings.Cut(out.violations[0], ":")
	for i := len(left) - 1; i >= 0; i-- {
		fewer := slices.Delete(slices.Clone(left), i, i+1)
		o := runSeed(t, out.seed, options{faults: fewer})
		if len(o.violations) > 0 && strings.HasPrefix(o.violations[0], what+":") {
			left = fewer
		}
	}
	return left
}

// TestReplay runs seeds twice and expects every single event to be the same.
func TestReplay(t *testing.T) {
	*first = max(*first, 1)
	if *workers > 0 {
		inProcesses(t, *replays)
		return
	}
	sum := newTotals()
	defer func() { save(t, sum) }()
	for seed := *first; seed < *first+uint64(*replays); seed++ {
		a, b := runSeed(t, seed, options{}), runSeed(t, seed, options{})
		sum.add(a)
		if a.sum == b.sum {
			continue
		}
		sum.Failed = append(sum.Failed, seed)
		c := runSeed(t, seed, options{keep: true})
		d := c
		for range 50 { // it may be rare
			if d = runSeed(t, seed, options{keep: true}); d.sum != c.sum {
				break
			}
		}
		i := 0
		for i < min(len(c.lines), len(d.lines)) && c.lines[i] == d.lines[i] {
			i++
		}
		cut := func(lines []string) string {
			return strings.Join(lines[max(0, i-10):min(i+5, len(lines))], "\n")
		}
		t.Errorf("seed %d: a second run is another; in more of them, line %d of the trace differs first (or none):\n%s\n---\n%s", seed, i, cut(c.lines), cut(d.lines))
	}
}
