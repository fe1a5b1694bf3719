package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"interrex/election"
	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/topology"
)

// watchEvery is how often --watch looks again.
const watchEvery = time.Second

func newStatusCommand() *cobra.Command {
	var flags clientFlags
	var output string
	var watch bool
	command := &cobra.Command{
		Use:   "status",
		Short: "Show the cluster: primary, durability, members, what is wrong",
		Long: `Show the cluster as an agent sees it: who is primary and since when, what an
acknowledged commit is worth now, who leads, what is in flight, and each member.

The status word is healthy, degraded (writes are served, but the next failure
would be worse than it must be), failing_over (an operation moves the primary),
starved (no writes: the primary is well, and commits wait for replicas that do
not acknowledge) or no_primary (no writes: nobody serves them). Missing counts
transactions of the primary that a member has not executed; lag is how long ago
the last one it has executed was committed.
` + clientHelp + exitHelp,
		Example: `  interrex status
  interrex status --watch
  interrex status --config /etc/interrex/agent.yaml --agent 10.0.0.2:8460
  interrex status -o json | jq -r .primary.node`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			client, err := flags.open()
			if err != nil {
				return err
			}
			defer client.close()
			s := newScreen(command.OutOrStdout())
			if watch {
				return watchStatus(command.Context(), s, client, output)
			}
			return showStatus(command.Context(), s, client, output)
		},
	}
	flags.register(command)
	outputFlag(command, &output)
	command.Flags().BoolVarP(&watch, "watch", "w", false, "show it again every second until interrupted")
	return command
}

func showStatus(ctx context.Context, s screen, client *apiClient, output string) error {
	answer, err := client.read(ctx, "/api/v1/cluster")
	if err != nil {
		return err
	}
	if output == outputJSON {
		return printJSON(s.out, answer)
	}
	var c api.Cluster
	if err := json.Unmarshal(answer, &c); err != nil {
		return fmt.Errorf("understand the cluster's status: %w", err)
	}
	printStatus(s, c)
	return nil
}

// watchStatus shows the status until ctx ends. An agent that does not answer
// is told of and asked again.
func watchStatus(ctx context.Context, s screen, client *apiClient, output string) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		var page bytes.Buffer
		on := s
		on.out, on.now = &page, time.Now()
		if err := showStatus(ctx, on, client, output); err != nil && ctx.Err() == nil {
			fmt.Fprintf(&page, "%s  %v\n", on.now.Format(time.TimeOnly), err)
		}
		if ctx.Err() != nil {
			return nil
		}
		if s.terminal && output != outputJSON {
			// Overwritten, not cleared: a cleared screen flickers.
			s.printf("\x1b[H%s\x1b[J", strings.ReplaceAll(page.String(), "\n", "\x1b[K\n"))
		} else {
			s.printf("%s", page.String())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func printStatus(s screen, c api.Cluster) {
	s.field("cluster", s.bold(c.Name)+"  "+s.statusWord(c.Status))
	for _, r := range c.Reasons {
		s.field("", s.warn("! ")+r)
	}
	s.field("primary", primaryLine(s, c.Primary))
	if c.Primary != nil {
		s.field("durability", durabilityLine(s, c.Durability))
	}
	leader := orDash(string(c.Leader))
	if !c.EtcdReachable {
		leader += s.bad("  etcd cannot be reached")
	}
	s.field("leader", leader)
	s.field("paused", pausedLine(s, c.Paused))
	s.field("operation", operationLine(s, c.Operation))
	for i, line := range gateLines(s, c) {
		name := ""
		if i == 0 {
			name = "gates"
		}
		s.field(name, line)
	}
	s.printf("\n")
	printMembers(s, c.Members)
	for _, m := range c.Members {
		if m.Errant != "" {
			s.printf("%s holds transactions the primary lacks: %s\n", m.Name, m.Errant)
		}
		if m.Rebuild != nil {
			s.printf("%s\n", rebuildLine(m))
		}
	}
	s.printf("as seen by %s at %s\n", c.Self, s.when(s.now))
}

func (s screen) statusWord(status api.Status) string {
	switch status {
	case api.StatusHealthy:
		return s.good(string(status))
	case api.StatusDegraded:
		return s.warn(string(status))
	case api.StatusFailingOver:
		return s.warn(string(status) + ", " + status.Writes())
	}
	return s.bad(string(status) + ", " + status.Writes())
}

func (s screen) verdict(v topology.Verdict) string {
	switch v {
	case topology.Healthy:
		return s.good(v.String())
	case topology.Failed:
		return s.bad(v.String())
	}
	return s.warn(v.String())
}

func primaryLine(s screen, p *api.Primary) string {
	if p == nil {
		return "none yet"
	}
	line := fmt.Sprintf("%s at %s, epoch %d, since %s (%s)", s.bold(string(p.Node)), p.Address, p.Epoch, s.when(p.Since), s.ago(p.Since))
	if f := p.Forced; f != nil {
		line += ", " + s.bad("forced") + fmt.Sprintf(" by %s in epoch %d, who accepted what may be lost (%s)", f.By, f.Epoch, f.Accepted)
	}
	if p.Phase != election.Open {
		line += ", " + s.warn(string(p.Phase))
	}
	return line
}

func durabilityLine(s screen, d api.Durability) string {
	word := s.good("lossless")
	if !d.Lossless {
		word = s.bad("not lossless")
	}
	now := names(d.Acknowledging)
	if len(d.Acknowledging) < d.K {
		now = s.bad(now)
	}
	line := fmt.Sprintf("%s: acks %d of [%s], acknowledging now: %s", word, d.K, names(d.Ackers), now)
	if len(d.Shut) > 0 {
		line += fmt.Sprintf(", shut out: %s", names(d.Shut))
	}
	if d.DegradedSince != nil {
		line += s.bad(" since " + d.DegradedSince.Local().Format(time.DateTime))
	}
	if l := d.Lossy; l == nil {
		if d.Unacknowledged > 0 {
			line += s.bad(fmt.Sprintf(", %d commits did not wait", d.Unacknowledged))
		}
	} else {
		until := "now"
		if !l.Ongoing() {
			until = s.when(l.Until)
		}
		line += s.warn(fmt.Sprintf(", up to %d commits were not waited for from %s to %s", l.Commits, s.when(l.Since), until))
	}
	return line
}

func pausedLine(s screen, p *election.Pause) string {
	if p == nil {
		return "no"
	}
	return s.warn("yes") + fmt.Sprintf(", by %s since %s: %s", p.By, s.when(p.Since), p.Reason)
}

func operationLine(s screen, o *api.Operation) string {
	if o == nil {
		return "none"
	}
	return fmt.Sprintf("%s of epoch %d %s: step %s on %s, %s so far; %s",
		s.warn(string(o.Kind)), o.Epoch, fromTo(o.From, o.To), o.Step, o.Leader, millisText(o.ElapsedMS), o.Cause)
}

// fromTo prints "db1 → db2".
func fromTo(from, to topology.NodeName) string {
	return orDash(string(from)) + " → " + orDash(string(to))
}

// gateLines tell what would refuse an operation now. That the primary has not
// failed is no reason to tell: it is how things should be.
func gateLines(s screen, c api.Cluster) []string {
	var closed []failover.Gate
	for _, g := range c.GatesClosed {
		if g.Name == "primary_failed" && c.Primary != nil && c.Primary.Verdict == topology.Healthy {
			continue
		}
		closed = append(closed, g)
	}
	if len(closed) == 0 {
		if c.Primary == nil {
			return []string{s.good("open")}
		}
		return []string{s.good("open") + fmt.Sprintf(": a failover runs if %s fails, a switchover when asked for", c.Primary.Node)}
	}
	lines := make([]string, len(closed))
	for i, g := range closed {
		lines[i] = s.warn(fmt.Sprintf("%s refuses a %s", g.Name, g.Operation)) + ": " + g.Reason
	}
	if forceWouldHelp(c) {
		lines = append(lines, "bring back who is waited for; if they are gone for good: "+s.bold("interrex failover")+" shows what would be lost without them")
	}
	return lines
}

// forceWouldHelp tells whether the primary is gone, the others cannot prove that
// they hold everything, and one of them could be promoted all the same.
func forceWouldHelp(c api.Cluster) bool {
	if c.Primary == nil || c.Primary.Verdict == topology.Healthy {
		return false
	}
	stuck := false
	for _, g := range c.GatesClosed {
		if g.Operation == failover.Force {
			return false
		}
		stuck = stuck || g.Operation == election.Failover && (g.Name == "ackers_revocable" || g.Name == "candidate_available")
	}
	return stuck
}

func printMembers(s screen, members []api.Member) {
	rows := make([]table.Row, len(members))
	for i, m := range members {
		lag, missing := "-", "-"
		if m.LagMS != nil {
			lag = millisText(*m.LagMS)
		}
		if m.Missing != nil {
			missing = fmt.Sprint(*m.Missing)
		}
		rows[i] = table.Row{
			m.Name, s.role(m), s.verdict(m.Verdict), lag, missing,
			orDash(m.ServerVersion), orDash(m.MySQL), memberNotes(m),
		}
	}
	s.table(rows, 8, []int{4, 5}, "member", "role", "verdict", "lag", "missing", "version", "mysql", "notes")
}

func (s screen) role(m api.Member) string {
	switch m.Role {
	case api.RolePrimary:
		return s.bold(string(m.Role))
	case api.RoleStray, api.RoleUnreachable:
		return s.bad(string(m.Role))
	case api.RoleClosed, api.RoleRebuilding:
		return s.warn(string(m.Role))
	}
	return string(m.Role)
}

func memberNotes(m api.Member) string {
	var notes []string
	if m.Leader {
		notes = append(notes, "leader")
	}
	if m.Acker {
		note := "acker"
		if !m.Acknowledging {
			note = "acker, not acknowledging"
		}
		notes = append(notes, note)
	}
	switch m.Etcd {
	case string(failover.EtcdLearner):
		notes = append(notes, "no vote in etcd yet")
	case string(failover.EtcdSilent):
		notes = append(notes, "its etcd does not answer")
	}
	if m.Leaving {
		notes = append(notes, "leaving")
	}
	if slices.ContainsFunc(m.Nginx, func(n api.Nginx) bool { return n.Error != "" }) {
		notes = append(notes, "nginx not in step")
	}
	if m.Priority < 0 {
		notes = append(notes, "never promoted")
	}
	if m.Site != "" {
		notes = append(notes, "site "+m.Site)
	}
	if m.Error != "" {
		notes = append(notes, m.Error)
	}
	return strings.Join(notes, "; ")
}

func rebuildLine(m api.Member) string {
	r, since := m.Rebuild, m.Rebuild.Since.Format(time.TimeOnly)
	var line string
	switch {
	case m.Role == api.RoleRebuilding:
		line = fmt.Sprintf("%s is rebuilt since %s: %s", m.Name, since, r.Stage)
	case r.Error != "" && (m.Acker || m.Role == api.RolePrimary):
		line = fmt.Sprintf("%s was to be rebuilt at %s, and has come back since", m.Name, since)
	case r.Error != "":
		line = fmt.Sprintf("%s was to be rebuilt at %s, and that failed: %s", m.Name, since, r.Error)
	default:
		line = fmt.Sprintf("%s was rebuilt at %s", m.Name, since)
	}
	if r.SavedFile != "" {
		line += "; its own transactions are saved in " + r.SavedFile
	}
	return line
}
