package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"interrex/internal/chaos"
)

// report is what a run comes to, as JSON and as text.
type report struct {
	Revision string        `json:"revision"`
	Seed     uint64        `json:"seed"`
	Began    time.Time     `json:"began"`
	Asked    time.Duration `json:"asked_ns"`
	Length   time.Duration `json:"length_ns"` // of the load
	Passed   bool          `json:"passed"`
	// Stopped is why the run ended before its time or could not be judged.
	Stopped string `json:"stopped,omitempty"`
	// Faults were struck, of so many Kinds. Fewer than asked for fail the run.
	Faults      int `json:"faults"`
	Kinds       int `json:"kinds"`
	LeastFaults int `json:"least_faults"`
	LeastKinds  int `json:"least_kinds"`
	// Strikes counts them by kind, Missed those whose moment did not come.
	Strikes map[string]int `json:"strikes"`
	Missed  map[string]int `json:"missed"`
	Doubles int            `json:"doubles"` // rounds with two faults at a time
	// LeftOut are kinds of faults that this machine cannot make, and why.
	LeftOut     map[string]string     `json:"left_out"`
	Operations  map[chaos.Outcome]int `json:"operations"`
	Reads       int                   `json:"reads"` // through ro routes
	ReadsFailed int                   `json:"reads_failed"`
	Registers   string                `json:"registers"`
	// Ledger counts the entries by kind and outcome.
	Ledger map[string]int  `json:"ledger"`
	Checks []chaos.Finding `json:"checks"`
	Rounds []roundResult   `json:"rounds"`
}

// roundResult is one round.
type roundResult struct {
	Began   time.Time `json:"began"`
	Primary string    `json:"primary"` // before it
	Leader  string    `json:"leader"`
	Epoch   uint64    `json:"epoch"`
	Strikes []strike  `json:"strikes"`
	Healed  time.Time `json:"healed"`
	// Recovered is how long after that the cluster was whole.
	Recovered time.Duration `json:"recovered_ns"`
	// Outage is the longest time without an acknowledgement to any client.
	Outage time.Duration `json:"outage_ns"`
	Error  string        `json:"error,omitempty"`
}

func newReport(o options) report {
	r := report{
		Revision: o.revision, Seed: o.seed, Began: time.Now(), Asked: o.duration,
		Strikes: map[string]int{}, Missed: map[string]int{}, LeftOut: map[string]string{}, Ledger: map[string]int{},
	}
	r.LeastFaults, r.LeastKinds = o.bars()
	return r
}

func (r *report) add(one roundResult) {
	r.Rounds = append(r.Rounds, one)
	for _, s := range one.Strikes {
		if s.Missed {
			r.Missed[s.Kind]++
			continue
		}
		r.Faults++
		r.Strikes[s.Kind]++
	}
	r.Kinds = len(r.Strikes)
	if double(one) {
		r.Doubles++
	}
}

// short says in what the run came to too little.
func (r *report) short() (texts []string) {
	if r.Faults < r.LeastFaults {
		texts = append(texts, fmt.Sprintf("%d faults were struck, and at least %d are asked for", r.Faults, r.LeastFaults))
	}
	if r.Kinds < r.LeastKinds {
		texts = append(texts, fmt.Sprintf("they were of %d kinds, and at least %d are asked for", r.Kinds, r.LeastKinds))
	}
	return texts
}

// judge says whether all promises were kept, by a run that has tried them.
func (r *report) judge() {
	r.Passed = r.Stopped == "" && r.Faults > 0 && r.Operations[chaos.Acknowledged] > 0 && len(r.short()) == 0
	for _, f := range r.Checks {
		r.Passed = r.Passed && f.Count == 0
	}
}

// write writes the report to the folder, as text and as JSON, and to out.
func (r *report) write(folder string, out io.Writer) error {
	text := r.text()
	if _, err := io.WriteString(out, text); err != nil {
		return fmt.Errorf("print report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(folder, "report.txt"), []byte(text), 0o600); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, "report.json"), append(raw, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// text is the report for people.
func (r *report) text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("")
	line("interrex %s, seed %d, %s under load", r.Revision, r.Seed, r.Length.Round(time.Second))
	line("%d faults of %d kinds in %d rounds, %d of them with two at a time", r.Faults, r.Kinds, len(r.Rounds), r.Doubles)
	line("")
	line("%-46s %6s  %16s  %16s", "fault", "struck", "outage med/max s", "whole again s")
	for _, name := range slices.Sorted(maps.Keys(r.Strikes)) {
		alone := func(one roundResult) bool {
			return len(one.Strikes) == 1 && one.Strikes[0].Kind == name && !one.Strikes[0].Missed
		}
		line("%-46s %6d  %16s  %16s", name, r.Strikes[name], r.spread(alone, outage), r.spread(alone, recovered))
	}
	line("%-46s %6d  %16s  %16s", "(two at a time)", r.Doubles, r.spread(double, outage), r.spread(double, recovered))
	line("Outages and recoveries of a kind are of rounds in which it was alone. An outage is the longest time without an")
	line("acknowledgement to any client; the time until the cluster is whole counts from the healing of the last fault.")
	for _, name := range slices.Sorted(maps.Keys(r.Missed)) {
		line("its moment did not come, and is no fault: %s, %d times", name, r.Missed[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.LeftOut)) {
		line("LEFT OUT: %s: %s", name, r.LeftOut[name])
	}
	line("")
	line("operations: %d acknowledged, %d refused, %d without an answer; %s", r.Operations[chaos.Acknowledged],
		r.Operations[chaos.Refused], r.Operations[chaos.Unknown], r.Registers)
	line("reads on ro: %d, and %d that failed", r.Reads, r.ReadsFailed)
	for _, name := range slices.Sorted(maps.Keys(r.Ledger)) {
		line("ledger: %4d %s", r.Ledger[name], name)
	}
	line("")
	for _, f := range r.Checks {
		verdict := "ok  "
		if f.Count > 0 {
			verdict = "FAIL"
		}
		line("%s %s: %d violations in %d %s", verdict, f.Name, f.Count, f.Checked, f.Of)
		if f.Note != "" {
			line("       %s", f.Note)
		}
		for _, v := range f.Violations {
			line("       %s", v)
		}
	}
	for _, text := range r.short() {
		line("FAIL %s", text)
	}
	if r.Stopped != "" {
		line("STOPPED: %s", r.Stopped)
	}
	if r.Passed {
		line("PASSED")
	} else {
		line("FAILED")
	}
	return b.String()
}

// double tells whether a round had two faults.
func double(one roundResult) bool {
	struck := 0
	for _, s := range one.Strikes {
		if !s.Missed {
			struck++
		}
	}
	return struck > 1
}

func outage(one roundResult) time.Duration    { return one.Outage }
func recovered(one roundResult) time.Duration { return one.Recovered }

// spread is the median and the maximum of some rounds, in seconds.
func (r *report) spread(which func(roundResult) bool, of func(roundResult) time.Duration) string {
	var all []time.Duration
	for _, one := range r.Rounds {
		if which(one) {
			all = append(all, of(one))
		}
	}
	if len(all) == 0 {
		return "-"
	}
	slices.Sort(all)
	return fmt.Sprintf("%.2f / %.2f", all[len(all)/2].Seconds(), all[len(all)-1].Seconds())
}

// told is a number that may not be known.
func told(n *uint64) string {
	if n == nil {
		return "it is not known how many"
	}
	return fmt.Sprint(*n)
}
