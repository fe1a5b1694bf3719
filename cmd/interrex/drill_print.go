package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"interrex/failover/drill"
)

// printDrill prints the report.
func printDrill(s screen, output string, r drill.Report) error {
	if output == outputJSON {
		text, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("print report: %w", err)
		}
		return printJSON(s.out, text)
	}
	for _, round := range r.Rounds {
		printDrillRound(s, round)
	}
	if len(r.Rounds) > 1 {
		s.field("\nRTO", fmt.Sprintf("median %s, worst %s, of %d rounds", millisText(r.RTO.Median), millisText(r.RTO.Worst), len(r.Rounds)))
	}
	objective := "none"
	if r.Objectives.RTOMillis > 0 {
		objective = millisText(r.Objectives.RTOMillis)
	}
	verdict := s.good("objectives met")
	if !r.Met {
		verdict = s.bad("objectives MISSED")
	}
	s.printf("\n%s (RTO %s, RPO %d rows)\n", s.bold(verdict), objective, r.Objectives.RPO)
	return nil
}

func printDrillRound(s screen, r drill.Round) {
	c := r.Clients
	title := fmt.Sprintf("Round %d: %s was primary, now %s", r.Number, r.Node, r.NewPrimary)
	if r.Node == r.NewPrimary {
		title = fmt.Sprintf("Round %d: %s is primary as before", r.Number, r.Node)
	}
	s.printf("\n%s\n", s.bold(title))
	out, lost, doubt := "no operation", "-", "-"
	if l := r.Ledger; l != nil {
		out = fmt.Sprintf("%s (%s to %s)", millisText(l.RTOMillis), millisText(l.RTOBounds[0]), millisText(l.RTOBounds[1]))
		lost, doubt = known(l.RPO.LostCommits)+" commits", known(l.RPO.InDoubt)+" commits"
	}
	s.table([]table.Row{
		{"writes out (RTO)", millisText(c.RTOMillis), out},
		{"lost (RPO)", fmt.Sprintf("%d rows", len(c.Lost)), lost},
		{"in doubt", fmt.Sprintf("%d rows, %d there", c.Unknown, c.Settled), doubt},
		{"acknowledged", fmt.Sprintf("%d rows", c.Acknowledged), ""},
		{"refused", fmt.Sprintf("%d rows", c.Refused), ""},
	}, 0, nil, "", "clients saw", "the cluster says")
	s.printf("Writes were %s apart at most before the fault, %s after they were restored.\n", millisText(c.QuietMillis), millisText(c.AfterMillis))
	for _, e := range c.Errors {
		s.printf("%6d times  %s\n", e.Count, e.Text)
	}
	if l := r.Ledger; l != nil {
		var steps []string
		for _, step := range l.Steps {
			steps = append(steps, fmt.Sprintf("%s %s", step.Name, millisText(step.TookMS)))
		}
		s.printf("Steps of epoch %d: %s\n", l.Epoch, strings.Join(steps, ", "))
	}
	for _, why := range r.Missed {
		s.printf("%s %s\n", s.bad("missed:"), why)
	}
}

// known prints a number that may not be known.
func known(n *uint64) string {
	if n == nil {
		return "unknown"
	}
	return fmt.Sprint(*n)
}
