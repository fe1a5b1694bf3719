package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"interrex/internal/topology"
)

// How much a journal keeps. The newest of each subject stay: a replica that
// comes and goes all day must not push out what was decided about the primary.
const (
	journalPerSubject = 50
	journalSubjects   = 50
)

// Journal remembers what this member decided about instances that were suspect
// or failed, and that no operation ended: those that recovered, and failovers
// that a gate held back. What an operation did is in the ledger. Every member
// keeps its own, in a file and bounded: it must be there when etcd is not, and
// whoever did not lead saw the same instance with other eyes.
type Journal struct {
	file string
	self topology.NodeName
	log  *zap.Logger
	// What is asked at each look.
	view  func() View
	judge func(topology.NodeName) Judgement
	gates func() []Gate

	mu       sync.Mutex
	episodes episodes
	past     []Decision // oldest first
	changed  bool       // since it was written
}

// NewJournal reads the journal of an earlier run. One that cannot be read is
// begun anew: nothing that is decided rests on it.
func NewJournal(file string, self topology.NodeName, view func() View, det Detector, gates func() []Gate, log *zap.Logger) *Journal {
	j := &Journal{file: file, self: self, log: log.Named("journal"), view: view, judge: det.Judge, gates: gates}
	raw, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(raw, &j.past)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		j.log.Warn("journal of past decisions cannot be read and is begun anew", zap.String("file", file), zap.Error(err))
		j.past = nil
	}
	for i, d := range j.past {
		j.episodes.next = max(j.episodes.next, decisionNumber(d.ID))
		if d.Outcome == DecisionOpen {
			j.past[i].Outcome = DecisionLapsed
		}
	}
	j.episodes.self, j.episodes.open = self, map[topology.NodeName]*Decision{}
	return j
}

func decisionID(by topology.NodeName, n int) string { return string(by) + "-" + strconv.Itoa(n) }

func decisionNumber(id string) int {
	n, _ := strconv.Atoi(id[strings.LastIndexByte(id, '-')+1:]) // 0 for one that is none of ours
	return n
}

// journalTick is how often episodes that go on are looked at, and at most the
// file written.
const journalTick = 500 * time.Millisecond

// Run follows the verdicts until ctx ends; changes has a value whenever one may
// have changed.
func (j *Journal) Run(ctx context.Context, changes <-chan struct{}) error {
	tick := time.NewTicker(journalTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			j.save()
			return nil
		case <-changes:
			j.look(time.Now())
		case <-tick.C:
			if j.following() {
				j.look(time.Now())
			}
			j.save()
		}
	}
}

func (j *Journal) following() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.episodes.open) > 0
}

func (j *Journal) look(now time.Time) {
	v := j.view()
	var judged []Judgement
	for _, m := range v.Members {
		if m.HasInstance() {
			judged = append(judged, j.judge(m.Name))
		}
	}
	var gates []Gate // of no use while nothing failed, and not cheap
	if slices.ContainsFunc(judged, func(g Judgement) bool { return g.Verdict == topology.Failed }) {
		gates = j.gates()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	before := len(j.episodes.open)
	over := j.episodes.observe(now, v, judged, gates)
	j.past = bounded(append(j.past, over...))
	j.changed = j.changed || len(over) > 0 || len(j.episodes.open) != before
}

// bounded keeps the newest decisions of each subject, and of the subjects that
// were decided about last.
func bounded(past []Decision) []Decision {
	of, subjects := map[topology.NodeName]int{}, 0
	kept := make([]Decision, 0, len(past))
	for _, d := range slices.Backward(past) {
		if of[d.Subject] == 0 {
			subjects++
		}
		of[d.Subject]++
		if of[d.Subject] <= journalPerSubject && subjects <= journalSubjects {
			kept = append(kept, d)
		}
	}
	slices.Reverse(kept)
	return kept
}

// Decisions are those that are known, the ones that go on first, then newest
// first. It shares nothing with the journal.
func (j *Journal) Decisions() []Decision {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make([]Decision, 0, len(j.past)+len(j.episodes.open))
	for _, d := range j.past {
		out = append(out, d.clone())
	}
	for _, d := range j.episodes.open {
		out = append(out, d.clone())
	}
	slices.SortStableFunc(out, func(a, b Decision) int {
		if aOpen, bOpen := a.Outcome == DecisionOpen, b.Outcome == DecisionOpen; aOpen != bOpen {
			if aOpen {
				return -1
			}
			return 1
		}
		return decisionNumber(b.ID) - decisionNumber(a.ID)
	})
	return out
}

func (d Decision) clone() Decision {
	d.Held = slices.Clone(d.Held)
	d.Worst.Votes = slices.Clone(d.Worst.Votes)
	return d
}

// save writes the file if something changed. It is no promise: it is not
// flushed, and a fault is told and otherwise without effect.
func (j *Journal) save() {
	j.mu.Lock()
	changed := j.changed
	j.changed = false
	j.mu.Unlock()
	if !changed {
		return
	}
	if err := j.write(j.Decisions()); err != nil {
		j.log.Warn("journal of past decisions cannot be written", zap.Error(err))
	}
}

func (j *Journal) write(all []Decision) error {
	slices.Reverse(all)
	raw, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("encode journal: %w", err)
	}
	tmp := filepath.Join(filepath.Dir(j.file), "."+filepath.Base(j.file)+".new")
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if err := os.Rename(tmp, j.file); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return nil
}
