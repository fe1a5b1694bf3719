package main

import (
	"fmt"
	"strings"
)

// markdown renders the results as the page docs/benchmarks.md.
func (r results) markdown() string {
	var b strings.Builder
	m := r.machine
	fmt.Fprintf(&b, `# Benchmarks

Written by `+"`make bench OUT=docs/benchmarks.md`"+`: three real servers with an agent each on one machine,
%d clients that write one row per commit, durability as by default (every commit is on another server
before it is acknowledged).

interrex %s; MySQL %s; %s; Linux %s; %d cores, load average %s before the run.

All percentiles are measured values (nearest rank): of 20 rounds, p99 is the largest.

`, writers, m.revision, m.mysql, m.golang, m.kernel, m.cores, m.load)
	b.WriteString(r.quietTable())
	if len(r.kills) > 0 {
		fmt.Fprintf(&b, "## The primary is killed (SIGKILL)\n\n%s\n%s\n", killText, comparisonTable(r.kills, r.scripted))
	}
	if len(r.freezes) > 0 {
		fmt.Fprintf(&b, "## The primary is frozen (SIGSTOP)\n\nIt accepts connections and answers nothing.\n\n%s\n", table(r.freezes))
	}
	if len(r.switchovers) > 0 {
		fmt.Fprintf(&b, "## Switchover\n\nThe outage is how long writes pause. Preparing happens while clients still write;\nrevoking is closing the living primary.\n\n%s\n", table(r.switchovers))
	}
	b.WriteString(r.clientTable())
	return b.String()
}

const killText = `Beside interrex, the scripted limit: one program that sends the SIGKILL itself, to the same servers under
the same load, and does the same SQL steps on warm connections, in parallel where it can. It has nothing to
detect, nobody to agree with and keeps no record, so it is the least a failover of these servers takes.
Milliseconds; the ratio is that of the medians. Outages are from the last acknowledgement to any client
until the next one.
`

// quietTable compares writes through a route with writes straight to the
// primary.
func (r results) quietTable() string {
	direct, routed := mean(r.direct), mean(r.routed)
	lines := [][]string{{"", "commits/s", "ms per commit"}}
	for _, one := range []struct {
		name string
		rate float64
	}{{"straight to the primary", direct}, {"through the route of another node", routed}} {
		lines = append(lines, []string{one.name, fmt.Sprintf("%.0f", one.rate), millisText(writers * 1000 / one.rate)})
	}
	lines = append(lines, []string{"ratio", ratioText(routed, direct), ratioText(direct, routed)})
	return "## Writes in quiet times\n\n" + render(lines) + "\n"
}

// shown are the percentiles of a table.
func shown() []float64 { return []float64{50, 90, 99, 100} }

// comparisonTable sets interrex beside the scripted limit, without the rows
// that neither has anything for.
func comparisonTable(product, limit series) string {
	lines := [][]string{{
		"", "interrex p50", "p90", "p99", "max", "limit p50", "p90", "p99", "max", "ratio",
	}}
	for _, row := range rows() {
		have, least := product.of(row), limit.of(row)
		if len(have)+len(least) == 0 {
			continue
		}
		line := append([]string{row}, percentiles(have)...)
		line = append(line, percentiles(least)...)
		lines = append(lines, append(line, ratioText(percentile(have, 50), percentile(least, 50))))
	}
	return render(lines)
}

// table shows one series, without the rows it has nothing for.
func table(s series) string {
	lines := [][]string{{"", "p50", "p90", "p99", "max"}}
	for _, row := range rows() {
		if values := s.of(row); len(values) > 0 {
			lines = append(lines, append([]string{row}, percentiles(values)...))
		}
	}
	return render(lines)
}

func percentiles(values []float64) []string {
	var texts []string
	for _, p := range shown() {
		texts = append(texts, millisText(percentile(values, p)))
	}
	return texts
}

// clientTable is what clients were told of their rows.
func (r results) clientTable() string {
	lines := [][]string{{"", "rounds", "acknowledged", "refused", "no answer", "**lost**"}}
	for _, one := range []struct {
		name string
		series
	}{{"kills", r.kills}, {"freezes", r.freezes}, {"switchovers", r.switchovers}, {"scripted limit", r.scripted}} {
		line := []string{one.name, fmt.Sprint(len(one.series))}
		for _, count := range []func(round) int{
			func(o round) int { return o.acknowledged },
			func(o round) int { return o.refused },
			func(o round) int { return o.unanswered },
			func(o round) int { return o.lost },
		} {
			line = append(line, fmt.Sprint(one.total(count)))
		}
		lines = append(lines, line)
	}
	return "## What clients were told\n\n" +
		"Rows, over all rounds of a kind. Lost are rows that were acknowledged and are not there after the round.\n\n" +
		render(lines) +
		fmt.Sprintf("\nOperations that no round caused (tried again, or for no reason): %d.\n", r.unasked)
}

// render makes a Markdown table, padded so that it is a table without being
// rendered, too. The first line is the head; the first column is of words.
func render(lines [][]string) string {
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], len([]rune(cell)), 4)
		}
	}
	var b strings.Builder
	for n, line := range lines {
		for i, cell := range line {
			gap := strings.Repeat(" ", widths[i]-len([]rune(cell)))
			if i == 0 {
				b.WriteString("| " + cell + gap + " |")
			} else {
				b.WriteString(" " + gap + cell + " |")
			}
		}
		b.WriteString("\n")
		if n > 0 {
			continue
		}
		for i, width := range widths {
			if i == 0 {
				b.WriteString("|:" + strings.Repeat("-", width+1) + "|")
			} else {
				b.WriteString(strings.Repeat("-", width+1) + ":|")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
