package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/topology"
)

const (
	historyDefault = 20
	historyMax     = 1000
)

func newHistoryCommand() *cobra.Command {
	var flags clientFlags
	var output string
	var limit int
	command := &cobra.Command{
		Use:   "history [EPOCH]",
		Short: "Show past operations, or one of them in full",
		Long: `Show the ledger: every operation that moved the primary or tried to, newest
first. With an epoch, show that operation in full: its steps with milliseconds,
the evidence it was decided on, the gates, and the proof behind its RPO.

RTO is from the last moment the old primary was known to serve writes until a
write through the routes was acknowledged. Lost counts acknowledged commits that
are gone; in doubt counts commits that were never acknowledged and are on the
old primary only, "?" until that has come back and was compared. The cause is
shortened; with its epoch, and with -o json, it is whole.
` + clientHelp + exitHelp,
		Example: `  interrex history
  interrex history 12
  interrex history -o json | jq '.failovers[] | {epoch, rto_ms}'`,
		Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: func(command *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return completeEpochs(command, &flags)
		},
		RunE: func(command *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if limit < 1 || limit > historyMax {
				return usageError{fmt.Errorf("--limit must be from 1 to %d", historyMax)}
			}
			path := "/api/v1/failovers?limit=" + strconv.Itoa(limit)
			if len(args) == 1 {
				epoch, err := strconv.ParseUint(args[0], 10, 64)
				if err != nil {
					return usageError{fmt.Errorf("epoch %q is not a number", args[0])}
				}
				path = reportPath(topology.Epoch(epoch))
			}
			return showHistory(command, &flags, path, output, len(args) == 1)
		},
	}
	flags.register(command)
	outputFlag(command, &output)
	command.Flags().IntVarP(&limit, "limit", "n", historyDefault, "how many operations")
	return command
}

func showHistory(command *cobra.Command, flags *clientFlags, path, output string, one bool) error {
	client, err := flags.open()
	if err != nil {
		return err
	}
	defer client.close()
	answer, err := client.read(command.Context(), path)
	if err != nil {
		return err
	}
	if output == outputJSON {
		return printJSON(command.OutOrStdout(), answer)
	}
	s := newScreen(command.OutOrStdout())
	if one {
		var r api.Report
		if err := json.Unmarshal(answer, &r); err != nil {
			return fmt.Errorf("understand the report: %w", err)
		}
		printReport(s, r)
		return nil
	}
	var list api.ReportList
	if err := json.Unmarshal(answer, &list); err != nil {
		return fmt.Errorf("understand the ledger: %w", err)
	}
	printHistory(s, list.Failovers)
	return nil
}

func printHistory(s screen, reports []api.Report) {
	if len(reports) == 0 {
		s.printf("Nothing has happened yet.\n")
		return
	}
	rows := make([]table.Row, len(reports))
	for i, r := range reports {
		kind := string(r.Kind)
		if r.Forced != nil {
			kind += s.bad(", forced")
		}
		rows[i] = table.Row{
			r.Epoch, s.when(r.StartedAt), kind, s.outcome(r.Outcome), fromTo(r.From, r.To),
			rtoText(r), countText(r.RPO.LostCommits), countText(r.RPO.InDoubt), inShort(r.Cause),
		}
	}
	s.table(rows, 9, []int{1, 6, 7, 8}, "epoch", "when", "kind", "outcome", "from → to", "RTO", "lost", "in doubt", "cause")
}

// inShort is a cause without its evidence, which the operation in full shows.
func inShort(cause string) string {
	short, _, _ := strings.Cut(cause, ": ")
	return short
}

func (s screen) outcome(o failover.Outcome) string {
	switch o {
	case failover.Completed:
		return s.good(string(o))
	case failover.Failure:
		return s.bad(string(o))
	}
	return s.warn(string(o))
}

// rtoText is "-" for an operation after which nobody served.
func rtoText(r api.Report) string {
	if r.Outcome != failover.Completed && r.Outcome != failover.Undone {
		return "-"
	}
	return millisText(r.RTOMillis)
}

// countText prints a count; "?" where it is not known.
func countText(n *uint64) string {
	if n == nil {
		return "?"
	}
	return strconv.FormatUint(*n, 10)
}

// printReport prints one operation in full.
func printReport(s screen, r api.Report) {
	s.field("epoch", s.bold(fmt.Sprint(r.Epoch)))
	s.field("operation", fmt.Sprintf("%s, %s, led by %s", r.Kind, s.outcome(r.Outcome), r.Leader))
	s.field("from → to", fromTo(r.From, r.To))
	s.field("cause", r.Cause)
	if r.Reason != "" {
		s.field("reason", r.Reason)
	}
	s.field("began", s.when(r.StartedAt)+r.StartedAt.In(s.now.Location()).Format(" (.000 s)"))
	if r.EndedAt != nil {
		s.field("took", millisText(float64(r.EndedAt.Sub(r.StartedAt).Microseconds())/1000))
	}
	s.field("RTO", fmt.Sprintf("%s (between %s and %s)", rtoText(r), millisText(r.RTOBounds[0]), millisText(r.RTOBounds[1])))
	s.field("RPO", fmt.Sprintf("%s acknowledged commits lost, %s in doubt", countText(r.RPO.LostCommits), countText(r.RPO.InDoubt)))
	printForced(s, r)
	if len(r.Steps) > 0 {
		s.printf("\n%s\n", s.bold("Timeline"))
		printSteps(s, r.Steps)
	}
	printEvidence(s, r)
	if len(r.Gates) > 0 {
		s.printf("\n%s\n", s.bold("Gates"))
		printGates(s, r.Gates)
	}
	printProof(s, r.RPO.Proof)
}

// printSteps prints the timeline; it begins with the operation, so detection is
// before 0.
func printSteps(s screen, steps []failover.Step) {
	rows := make([]table.Row, len(steps))
	for i, step := range steps {
		detail := step.Detail
		if step.Error != "" {
			detail = s.bad(step.Error)
			if step.Detail != "" {
				detail = step.Detail + "; " + detail
			}
		}
		rows[i] = table.Row{fmt.Sprintf("%.1f", step.BeganMS), fmt.Sprintf("%.1f", step.TookMS), step.Name, detail}
	}
	s.table(rows, 4, []int{1, 2}, "began ms", "took ms", "step", "detail")
}

// printForced tells who accepted what may be lost.
func printForced(s screen, r api.Report) {
	f := r.Forced
	if f == nil {
		return
	}
	what := s.bad("lossy") + ": promoted without proof"
	if !f.Lossy {
		what = "with proof after all: nothing acknowledged is lost"
	}
	s.field("forced", fmt.Sprintf("by %s at %s, %s", f.By, s.when(f.At), what))
	if f.Bound.Statement == "" {
		s.field("accepted", f.Accepted)
		return
	}
	s.field("accepted", f.Accepted+": "+f.Bound.Statement)
	if !f.Bound.Missing.IsEmpty() {
		s.field("missing", f.Bound.Missing.String())
	}
}

func printEvidence(s screen, r api.Report) {
	e := r.Evidence
	if e.Subject == "" {
		return
	}
	s.printf("\n%s\n", s.bold("Evidence"))
	s.field("verdict", fmt.Sprintf("%s %s: %s", e.Subject, s.verdict(e.Verdict), orDash(e.Cause)))
	s.field("why", e.Explanation)
	if e.LastGoodMS > 0 {
		s.field("last good", millisText(e.LastGoodMS)+" before the verdict")
	}
	if e.FirstBadMS > 0 {
		s.field("first bad", millisText(e.FirstBadMS)+" before the verdict")
	}
	printVotes(s, e)
}

func printProof(s screen, p api.Proof) {
	s.printf("\n%s\n", s.bold("Proof"))
	s.field("statement", orDash(p.Statement))
	s.field("register", fmt.Sprintf("ackers [%s], %d acknowledging each commit", names(p.Ackers), p.K))
	s.field("frozen", fmt.Sprintf("[%s], %d needed", names(p.Frozen), p.Needed))
	s.field("union", orDash(p.Union.String()))
	s.field("promoted", orDash(p.Promoted.String()))
	if p.Errant != nil {
		s.field("errant", p.Errant.String())
	}
	if p.SavedFile != "" {
		s.field("saved in", p.SavedFile)
	}
}
