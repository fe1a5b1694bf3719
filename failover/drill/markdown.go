package drill

import (
	"fmt"
	"strings"
)

// Markdown is the report as a page for people.
func (r Report) Markdown() string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# Drill %s of cluster %s\n", r.Drill, escape(r.Cluster))
	p("**%s.** %s, %d of %d rounds met the objectives.\n", verdict(r.Met), r.StartedAt.Format("2006-01-02 15:04:05 MST"), metRounds(r.Rounds), len(r.Rounds))
	p("| | objective | median | worst |\n|---|---|---|---|")
	p("| RTO as clients saw it | %s | %.0f ms | %.0f ms |", objectiveText(r.Objectives), r.RTO.Median, r.RTO.Worst)
	lost := 0
	for _, round := range r.Rounds {
		lost += len(round.Clients.Lost)
	}
	p("| RPO: acknowledged rows lost | %d in a round | | %d in all |\n", r.Objectives.RPO, lost)
	p("Writes went through %s.", escape(routesText(r.Routes)))
	for _, round := range r.Rounds {
		round.markdown(p)
	}
	return b.String()
}

func (r Round) markdown(p func(string, ...any)) {
	p("\n## Round %d: %s → %s: %s\n", r.Number, escape(string(r.Node)), escape(string(r.NewPrimary)), strings.ToLower(verdict(r.Met)))
	for _, why := range r.Missed {
		p("- missed: %s", escape(why))
	}
	if len(r.Missed) > 0 {
		p("")
	}
	c := r.Clients
	p("| | clients | cluster's report |\n|---|---|---|")
	if l := r.Ledger; l != nil {
		p("| writes out | %.0f ms | %.0f ms (%.0f to %.0f) |", c.RTOMillis, l.RTOMillis, l.RTOBounds[0], l.RTOBounds[1])
		p("| lost | %d rows | %s commits |", len(c.Lost), count(l.RPO.LostCommits))
		p("| in doubt | %d rows without an answer, %d of them there | %s commits |", c.Unknown, c.Settled, count(l.RPO.InDoubt))
	} else {
		p("| writes out | %.0f ms | no operation |", c.RTOMillis)
		p("| lost | %d rows | |", len(c.Lost))
	}
	p("\nThe longest time without an acknowledgement was %.0f ms before the fault, and %.0f ms after writes were restored. %d rows acknowledged, %d refused, %d without an answer.",
		c.QuietMillis, c.AfterMillis, c.Acknowledged, c.Refused, c.Unknown)
	if len(c.Errors) > 0 {
		p("\n| times | error |\n|---|---|")
		for _, e := range c.Errors {
			p("| %d | %s |", e.Count, escape(e.Text))
		}
	}
	p("\n| ms since the fault | |\n|---|---|")
	for _, e := range r.Timeline {
		p("| %.0f | %s |", e.AtMillis, escape(e.What))
	}
	if l := r.Ledger; l != nil {
		p("\nThe %s of epoch %d, led by %s, in its own time:\n\n| step | began, ms | took, ms | |\n|---|---|---|---|", l.Kind, l.Epoch, escape(string(l.Leader)))
		for _, s := range l.Steps {
			p("| %s | %.1f | %.1f | %s |", s.Name, s.BeganMS, s.TookMS, escape(strings.TrimSpace(s.Detail+" "+s.Error)))
		}
	}
}

func verdict(met bool) string {
	if met {
		return "Objectives met"
	}
	return "Objectives missed"
}

func metRounds(rounds []Round) int {
	n := 0
	for _, r := range rounds {
		if r.Met {
			n++
		}
	}
	return n
}

func objectiveText(o Objectives) string {
	if o.RTOMillis <= 0 {
		return "none"
	}
	return fmt.Sprintf("%.0f ms", o.RTOMillis)
}

// count prints a number that may not be known.
func count(n *uint64) string {
	if n == nil {
		return "not known"
	}
	return fmt.Sprint(*n)
}

// escape keeps a text within its table cell, as text.
func escape(text string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;", "`", "'").Replace(text)
}
