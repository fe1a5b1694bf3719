package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/chaos"
)

// settle is how long after the first look at the servers the second one is.
const settle = 10 * time.Second

// conclude compares what clients were told with what is there.
func (r *chaosRun) conclude(ctx context.Context, h *chaos.History) error {
	r.report.Length = h.Length
	r.report.Operations = map[chaos.Outcome]int{
		chaos.Acknowledged: h.Count(chaos.Acknowledged), chaos.Refused: h.Count(chaos.Refused), chaos.Unknown: h.Count(chaos.Unknown),
	}
	r.report.Reads, r.report.ReadsFailed, r.report.Registers = len(h.Glances), h.Unread, chaos.Registers(h)
	if err := writeHistory(filepath.Join(r.o.folder, "history.jsonl"), h); err != nil {
		return err
	}
	fmt.Fprintf(r.out, "checking %d operations and %d reads\n", len(h.Ops), len(h.Glances))
	evidence, err := r.gather(ctx)
	if err != nil {
		// What cannot be looked at is not proven: the run has failed.
		r.report.Stopped = words(errors.Join(errors.New(r.report.Stopped), err))
		return nil
	}
	r.report.Checks = chaos.Check(h, evidence, maxLag+judging)
	ledger, err := r.checkLedger(ctx)
	if err != nil {
		r.report.Stopped = words(errors.Join(errors.New(r.report.Stopped), err))
		return nil
	}
	r.report.Checks = append(r.report.Checks, ledger)
	r.report.judge()
	return nil
}

// gather reads the log table of each server, twice.
func (r *chaosRun) gather(ctx context.Context) (chaos.Evidence, error) {
	v, _, err := r.c.healthy(ctx, time.Minute)
	if err != nil {
		return chaos.Evidence{}, err
	}
	e := chaos.Evidence{Primary: string(v.Primary.Node)}
	if e.First, err = r.readAll(ctx, e.Primary); err != nil {
		return e, err
	}
	if err := pause(ctx, settle); err != nil {
		return e, err
	}
	e.Second, err = r.readAll(ctx, e.Primary)
	return e, err
}

// readAll reads the log table of every server, as soon as it has executed all
// that the primary has.
func (r *chaosRun) readAll(ctx context.Context, primary string) (map[string]chaos.Committed, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var set string
	if err := r.c.node(primary).root.QueryRowContext(ctx, "SELECT @@global.gtid_executed").Scan(&set); err != nil {
		return nil, fmt.Errorf("read what %s has: %w", primary, err)
	}
	found := map[string]chaos.Committed{}
	for _, n := range r.c.nodes {
		var late int
		if err := n.root.QueryRowContext(ctx, "SELECT WAIT_FOR_EXECUTED_GTID_SET(?, 60)", set).Scan(&late); err != nil {
			return nil, fmt.Errorf("wait until %s has executed everything: %w", n.Name, err)
		}
		if late != 0 {
			return nil, fmt.Errorf("wait until %s has executed everything: it has not within a minute", n.Name)
		}
		var err error
		if found[n.Name], err = chaos.ReadCommitted(ctx, n.root, r.c.App.Database); err != nil {
			return nil, fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	return found, nil
}

// checkLedger: every epoch has an entry that says how its operation ended, and
// none that completed lost anything.
func (r *chaosRun) checkLedger(ctx context.Context) (chaos.Finding, error) {
	f := chaos.Finding{Name: "every operation is in the ledger, and says that nothing was lost", Of: "epochs"}
	v, _, err := r.c.healthy(ctx, time.Minute)
	if err != nil {
		return f, err
	}
	ended := []failover.Outcome{failover.Completed, failover.Undone, failover.Failure, failover.Superseded}
	for epoch := uint64(1); epoch <= uint64(v.Epoch); epoch++ {
		f.Checked++
		var entry api.Report
		if err := r.c.get(ctx, r.c.nodes[0], fmt.Sprintf("/api/v1/failovers/%d", epoch), &entry); err != nil {
			f.Violate("epoch %d: %v", epoch, err)
			continue
		}
		r.report.Ledger[fmt.Sprintf("%s %s", entry.Kind, entry.Outcome)]++
		if !slices.Contains(ended, entry.Outcome) || entry.EndedAt == nil {
			f.Violate("epoch %d: %s is %s", epoch, entry.Kind, entry.Outcome)
		}
		if lost := entry.RPO.LostCommits; entry.Outcome == failover.Completed && (lost == nil || *lost != 0) {
			f.Violate("epoch %d: %s says that %s commits are lost", epoch, entry.Kind, told(lost))
		}
	}
	return f, nil
}

// writeHistory writes all operations, a line for each.
func writeHistory(path string, h *chaos.History) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write history: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	encoder := json.NewEncoder(file)
	for _, op := range h.Ops {
		if err := encoder.Encode(op); err != nil {
			return fmt.Errorf("write history: %w", err)
		}
	}
	return nil
}
