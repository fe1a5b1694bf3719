package main

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"interrex/failover"
	"interrex/failover/api"
)

func newObjectivesCommand() *cobra.Command {
	var flags clientFlags
	var output string
	command := &cobra.Command{
		Use:   "objectives",
		Short: "Show RTO and RPO against the objectives, and the downtime left",
		Long: `Show how the objectives of the configuration (objectives.rto, objectives.rpo)
were met in the last day, 30 days and 365 days, the availability, and how much
downtime each usual target leaves. Downtime is counted by its upper bound, and
only that which an operation ended: while there are no writes, it says so first.
` + clientHelp + exitHelp,
		Example: "  interrex objectives\n  interrex objectives -o json",
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			client, err := flags.open()
			if err != nil {
				return err
			}
			defer client.close()
			answer, err := client.read(command.Context(), "/api/v1/objectives")
			if err != nil {
				return err
			}
			if output == outputJSON {
				return printJSON(command.OutOrStdout(), answer)
			}
			var a api.Objectives
			if err := json.Unmarshal(answer, &a); err != nil {
				return fmt.Errorf("understand the objectives: %w", err)
			}
			printObjectives(newScreen(command.OutOrStdout()), a)
			return nil
		},
	}
	flags.register(command)
	outputFlag(command, &output)
	return command
}

func printObjectives(s screen, a api.Objectives) {
	if a.Status == api.StatusStarved || a.Status == api.StatusNoPrimary {
		s.field("now", s.statusWord(a.Status)+": not counted below before an operation has ended it")
	}
	objective := "none set"
	if a.RTOObjectiveMS > 0 {
		objective = millisText(a.RTOObjectiveMS)
	}
	s.field("objectives", fmt.Sprintf("RTO %s, RPO %d lost commits", objective, a.RPOObjective))
	s.field("ledger", "complete since "+s.when(a.Since))
	if l := a.Last; l != nil {
		s.field("last", fmt.Sprintf("%s of epoch %d, %s: RTO %s (%s), %s commits lost",
			l.Kind, l.Epoch, s.ago(l.EndedAt), millisText(l.RTOMillis), s.met(&l.RTOMet), countText(l.LostCommits)))
	} else {
		s.field("last", "no operation yet")
	}
	s.printf("\n")
	rows := make([]table.Row, len(a.Windows))
	header := []any{"window", "observed", "operations", "worst RTO", "RTO", "lost", "RPO", "downtime", "availability", "nines"}
	for i, w := range a.Windows {
		worst, nines := "-", "-"
		if w.WorstRTOMillis != nil {
			worst = fmt.Sprintf("%s (epoch %d)", millisText(*w.WorstRTOMillis), w.WorstEpoch)
		}
		if w.Nines != nil {
			nines = fmt.Sprintf("%.1f", *w.Nines)
		}
		lost := fmt.Sprint(w.LostCommits)
		if w.LossUnknown > 0 {
			lost += "+?"
		}
		rows[i] = table.Row{
			w.Window, secondsText(w.ObservedSeconds), w.Operations, worst, s.met(&w.RTOMet), lost, s.met(w.RPOMet),
			millisText(w.DowntimeSeconds * 1000), availabilityText(w.Availability), nines,
		}
	}
	s.table(rows, 0, []int{2, 3, 4, 6, 8, 9, 10}, header...)
	if len(a.Windows) > 0 && len(a.Windows[0].Budget) > 0 {
		s.printf("\n%s\n", s.bold("Downtime left in the whole window, by target"))
		printBudgets(s, a.Windows)
	}
}

func printBudgets(s screen, windows []failover.WindowAttainment) {
	header, rows := []any{"window"}, make([]table.Row, len(windows))
	numbers := []int{}
	for i, b := range windows[0].Budget {
		header = append(header, b.Target+" %")
		numbers = append(numbers, i+2)
	}
	for i, w := range windows {
		rows[i] = table.Row{w.Window}
		for _, b := range w.Budget {
			left := secondsText(b.Left)
			if b.Left < 0 {
				left = s.bad("overspent by " + secondsText(-b.Left))
			}
			rows[i] = append(rows[i], left)
		}
	}
	s.table(rows, 0, numbers, header...)
}

// met says whether an objective was met; nil is not known.
func (s screen) met(yes *bool) string {
	switch {
	case yes == nil:
		return s.warn("not known")
	case *yes:
		return s.good("met")
	}
	return s.bad("missed")
}

// availabilityText prints percent, rounded down: nothing but always is 100 %.
func availabilityText(share float64) string {
	const digits = 6
	scale := math.Pow10(digits)
	return strconv.FormatFloat(math.Floor(share*100*scale)/scale, 'f', -1, 64) + " %"
}

// secondsText prints seconds that may be a year.
func secondsText(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.1f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.1f h", d.Hours())
	}
	return fmt.Sprintf("%.1f days", d.Hours()/24)
}
