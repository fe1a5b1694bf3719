package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"interrex/election"
	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/demo"
	"interrex/internal/sandbox"
	"interrex/internal/topology"
	"interrex/internal/workload"
)

// demoSummary is what the demo ends with.
type demoSummary struct {
	SQL, HTTP demoClients
	Checks    []demoCheck
	// Moves are the failover, the switchover, and any other that there was.
	Moves []api.Report
	Took  time.Duration
}

// demoClients is what one kind of client saw.
type demoClients struct {
	Through      string
	Acknowledged int
	Failed       int
	// Unknown counts writes without an answer, and Found those of them that
	// are in the table.
	Unknown, Found int
	// The longest outages: after the kill, at the switchover, and of all.
	Failover, Switch, Longest time.Duration
	Errors                    map[string]int
}

// demoCheck is the comparison of one server's rows with what clients were told.
type demoCheck struct {
	Node    topology.NodeName
	Primary bool
	Rows    int // acknowledged ones, of both kinds
	Lost    []string
}

// lost is how many acknowledged rows are missing somewhere.
func (s demoSummary) lost() int {
	n := 0
	for _, c := range s.Checks {
		n += len(c.Lost)
	}
	return n
}

// conclude ends the load, checks every row on every server, and prints what
// came of it all.
func (d *demoRun) conclude(ctx context.Context) error {
	if err := pause(ctx, demoSettle/2); err != nil {
		return err
	}
	rows, orders := d.sql.Stop(), d.http.Stop()
	d.sql, d.http = nil, nil
	healthy := d.await(ctx, demoRejoinLimit, "a healthy cluster", func(ctx context.Context) (bool, string) {
		cluster, err := d.client.Cluster(ctx)
		if err != nil {
			return false, err.Error()
		}
		return cluster.Status == api.StatusHealthy, string(cluster.Status) + ": " + strings.Join(cluster.Reasons, "; ")
	})
	if ctx.Err() != nil {
		return healthy
	}
	summary, err := d.check(ctx, rows, orders)
	if err != nil {
		return errors.Join(healthy, err)
	}
	printDemo(d.screen, summary)
	if n := summary.lost(); n > 0 {
		return errors.Join(healthy, fmt.Errorf("%d acknowledged rows are missing", n))
	}
	return healthy
}

// check compares what clients were told with every server, the primary first,
// each caught up with it.
func (d *demoRun) check(ctx context.Context, rows *workload.Result, orders demo.Seen) (demoSummary, error) {
	s := demoSummary{
		SQL: demoClients{
			Through:      fmt.Sprintf("%d writers, %s's rw route", d.options.writers, d.former),
			Acknowledged: rows.Acknowledged(), Failed: rows.Refused() + rows.Unknown(), Unknown: rows.Unknown(),
			Failover: rows.LongestOutage(d.killed.from, d.killed.to).Length(),
			Switch:   rows.LongestOutage(d.moved.from, d.moved.to).Length(),
			Longest:  rows.LongestOutage(time.Time{}, time.Time{}).Length(), Errors: rows.Errors,
		},
		HTTP: demoClients{
			Through:      fmt.Sprintf("%d clients, nginx, 2 Gin services", demoHTTPClients),
			Acknowledged: orders.Stored(), Failed: orders.Failed(), Unknown: orders.Attempts() - orders.Stored(),
			Failover: orders.LongestOutage(d.killed.from, d.killed.to),
			Switch:   orders.LongestOutage(d.moved.from, d.moved.to),
			Longest:  orders.LongestOutage(d.began, time.Now()), Errors: orders.Errors,
		},
	}
	if err := d.readMoves(ctx, &s); err != nil {
		return s, err
	}
	primary := d.moved.report.To
	executed, err := d.executed(ctx, primary)
	if err != nil {
		return s, err
	}
	nodes := slices.Clone(d.info.Nodes)
	slices.SortStableFunc(nodes, func(a, b sandbox.NodeInfo) int {
		return order(a.Name == string(primary)) - order(b.Name == string(primary))
	})
	for _, n := range nodes {
		c, err := d.checkNode(ctx, n, executed, rows, orders, &s)
		if err != nil {
			return s, fmt.Errorf("check rows on %s: %w", n.Name, err)
		}
		c.Primary = n.Name == string(primary)
		s.Checks = append(s.Checks, c)
	}
	s.Took = time.Since(d.began)
	return s, nil
}

// readMoves reads every operation since the first primary, oldest first: also
// one that nobody asked for is told of.
func (d *demoRun) readMoves(ctx context.Context, s *demoSummary) error {
	const most = 100
	reports, err := d.client.Reports(ctx, most)
	if err != nil {
		return err
	}
	for _, r := range slices.Backward(reports) {
		if r.Kind != election.Bootstrap {
			s.Moves = append(s.Moves, r)
		}
	}
	return nil
}

func order(first bool) int {
	if first {
		return 0
	}
	return 1
}

// executed is all that a server has executed.
func (d *demoRun) executed(ctx context.Context, name topology.NodeName) (string, error) {
	db, err := d.open(d.node(name).MySQL.Address)
	if err != nil {
		return "", err
	}
	defer db.Close() //nolint:errcheck // only read from
	var set string
	if err := db.QueryRowContext(ctx, "SELECT @@GLOBAL.gtid_executed").Scan(&set); err != nil {
		return "", fmt.Errorf("read what %s has executed: %w", name, err)
	}
	return set, nil
}

// checkNode waits until a server has executed a set, then reads it row by row.
func (d *demoRun) checkNode(ctx context.Context, n sandbox.NodeInfo, executed string, rows *workload.Result, orders demo.Seen, s *demoSummary) (demoCheck, error) {
	c := demoCheck{Node: topology.NodeName(n.Name)}
	db, err := d.open(n.MySQL.Address)
	if err != nil {
		return c, err
	}
	defer db.Close() //nolint:errcheck // only read from
	const limit = 30 // seconds
	var late bool
	if err := db.QueryRowContext(ctx, "SELECT WAIT_FOR_EXECUTED_GTID_SET(?, ?)", executed, limit).Scan(&late); err != nil {
		return c, fmt.Errorf("wait until it has caught up: %w", err)
	}
	if late {
		return c, fmt.Errorf("it has not caught up with the primary after %d s", limit)
	}
	found, err := rows.Verify(ctx, n.MySQL.Address)
	if err != nil {
		return c, err
	}
	missing, settled, err := orders.Missing(ctx, db)
	if err != nil {
		return c, err
	}
	s.SQL.Found, s.HTTP.Found = found.Settled, settled
	c.Lost = append(found.Lost, missing...)
	c.Rows = s.SQL.Acknowledged + s.HTTP.Acknowledged - len(c.Lost)
	return c, nil
}

// printDemo prints what the demo came to.
func printDemo(s screen, d demoSummary) {
	s.printf("\n%s\n", s.bold("What clients saw"))
	row := func(name string, of func(demoClients) any) table.Row { return table.Row{name, of(d.SQL), of(d.HTTP)} }
	s.table([]table.Row{
		row("through", func(c demoClients) any { return c.Through }),
		row("writes acknowledged", func(c demoClients) any { return c.Acknowledged }),
		row("longest outage, failover", func(c demoClients) any { return durationText(c.Failover) }),
		row("longest outage, switchover", func(c demoClients) any { return durationText(c.Switch) }),
		row("longest outage, all in all", func(c demoClients) any { return durationText(c.Longest) }),
		row("failed requests", func(c demoClients) any { return c.Failed }),
		row("writes without an answer", func(c demoClients) any {
			if c.Unknown == 0 {
				return "0"
			}
			return fmt.Sprintf("%d, of which %d are stored", c.Unknown, c.Found)
		}),
	}, 0, nil, "", "SQL", "HTTP")
	printDemoErrors(s, "SQL", d.SQL.Errors)
	printDemoErrors(s, "HTTP", d.HTTP.Errors)
	printDemoChecks(s, d)
	for _, r := range d.Moves {
		printDemoMove(s, r)
	}
	s.printf("\nIt took %.1f s.\n", d.Took.Seconds())
}

func printDemoErrors(s screen, kind string, errs map[string]int) {
	for _, text := range slices.Sorted(maps.Keys(errs)) {
		s.printf("  %s %d × %s\n", kind, errs[text], text)
	}
}

// printDemoChecks says for each server whether every acknowledged row is there.
func printDemoChecks(s screen, d demoSummary) {
	s.printf("\n%s\n", s.bold("Lost rows, checked row by row"))
	for _, c := range d.Checks {
		role := "replica"
		if c.Primary {
			role = "primary"
		}
		words := s.good("none lost")
		if len(c.Lost) > 0 {
			words = s.bad(fmt.Sprintf("%d LOST: %s", len(c.Lost), strings.Join(c.Lost[:min(5, len(c.Lost))], ", ")))
		}
		s.printf("  %-4s %s  %d of %d acknowledged rows are there: %s\n", c.Node, role, c.Rows, c.Rows+len(c.Lost), words)
	}
}

// printDemoMove prints one entry of the ledger in short.
func printDemoMove(s screen, r api.Report) {
	title := strings.ToUpper(string(r.Kind[:1])) + string(r.Kind[1:])
	s.printf("\n%s\n", s.bold(fmt.Sprintf("%s %s, epoch %d", title, fromTo(r.From, r.To), r.Epoch)))
	if r.Outcome != failover.Completed {
		s.printf("%s: %s\n", s.outcome(r.Outcome), r.Reason)
	}
	printSteps(s, r.Steps)
	s.printf("RTO %s (between %s and %s)\n", s.bold(rtoText(r)), millisText(r.RTOBounds[0]), millisText(r.RTOBounds[1]))
	s.printf("RPO %s acknowledged commits lost, %s in doubt\n", s.bold(countText(r.RPO.LostCommits)), countText(r.RPO.InDoubt))
	if r.RPO.Proof.Statement != "" {
		s.printf("    %s\n", r.RPO.Proof.Statement)
	}
}

// countOf prints "1 row", "2 rows".
func countOf(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func durationText(d time.Duration) string {
	return millisText(float64(d) / float64(time.Millisecond))
}

// printKept says where everything is and how to end it.
func (d *demoRun) printKept() {
	s := d.screen
	s.printf("\n%s\n", s.bold("It stays up (--keep)"))
	for _, n := range d.info.Nodes {
		s.printf("  %s    mysql %s   rw %s   ro %s   api http://%s\n", n.Name, n.MySQL.Address, n.Agent.RW, n.Agent.RO, n.Agent.API)
	}
	s.printf("  nginx  %s/orders/count   mysql rw %s   ro %s\n", d.tier.URL(), sandbox.Addr(d.tier.RW), sandbox.Addr(d.tier.RO))
	s.printf("  user %s, database %s; passwords in %s/sandbox.json, operator's token in %s\n",
		d.cluster.App.User, d.cluster.App.Database, d.dir, d.cluster.OperatorTokenFile())
	s.printf("Look:  %s status --dir %s\n", d.program, d.dir)
	s.printf("       %s history --dir %s\n", d.program, d.dir)
	s.printf("Stop:  %s sandbox down --dir %s && rm -r %s\n", d.program, d.dir, d.dir)
}
