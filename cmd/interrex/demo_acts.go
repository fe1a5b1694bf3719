package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"

	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/demo"
	"interrex/internal/sandbox"
	"interrex/internal/topology"
)

const (
	// demoMoveLimit is how long a failover may take before the demo gives up.
	demoMoveLimit = time.Minute
	// demoRejoinLimit is how long a server may take to be a replica again,
	// being rebuilt included.
	demoRejoinLimit = 3 * time.Minute
	demoLook        = 50 * time.Millisecond
)

// awaitTier returns when the services answer through nginx and nginx leads to
// MySQL.
func (d *demoRun) awaitTier(ctx context.Context) error {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	return d.await(ctx, demoMoveLimit, "the Gin tier to answer", func(ctx context.Context) (bool, string) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.tier.URL()+"/orders/count", http.NoBody)
		if err != nil {
			return false, err.Error()
		}
		response, err := client.Do(request)
		if err != nil {
			return false, err.Error()
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK, response.Status
	})
}

// await looks again and again until done, or fails with what was seen last.
func (d *demoRun) await(ctx context.Context, limit time.Duration, what string, look func(context.Context) (done bool, seen string)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %s", limit))
	defer cancel()
	ticker := time.NewTicker(demoLook)
	defer ticker.Stop()
	last := "nothing"
	for {
		done, seen := look(ctx)
		if done {
			return nil
		}
		if ctx.Err() == nil {
			last = seen
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; last seen: %s", what, context.Cause(ctx), last)
		case <-ticker.C:
		}
	}
}

// killPrimary kills the primary and tells of the failover.
func (d *demoRun) killPrimary(ctx context.Context) error {
	d.line.Section("Failover")
	before, err := d.client.Cluster(ctx)
	if err != nil {
		return err
	}
	d.former = before.Primary.Node
	status, err := d.cluster.Status(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(status.Nodes, func(n sandbox.NodeStatus) bool { return n.Name == string(d.former) })
	pid := status.Nodes[i].MySQL.PID
	watch := d.watchClients(ctx)
	defer watch.stop()
	at := time.Now()
	d.line.Mark(at)
	d.line.At(at, "%s", d.screen.bad(fmt.Sprintf("kill -9 %d: mysqld of %s, the primary", pid, d.former)))
	if err := d.cluster.Kill(ctx, string(d.former)); err != nil {
		return err
	}
	report, err := d.awaitMove(ctx, before.Epoch, d.former)
	if err != nil {
		return err
	}
	return d.tellMove(ctx, watch, at, report, &d.killed)
}

// awaitMove waits until an operation of a later epoch than since has moved the
// primary away from a node, and returns its report.
func (d *demoRun) awaitMove(ctx context.Context, since topology.Epoch, from topology.NodeName) (api.Report, error) {
	var found api.Report
	err := d.await(ctx, demoMoveLimit, "a failover", func(ctx context.Context) (bool, string) {
		reports, err := d.client.Reports(ctx, 3)
		if err != nil {
			return false, err.Error()
		}
		for _, r := range reports {
			if r.Epoch > since && r.From == from && r.Outcome == failover.Completed {
				found = r
				return true, ""
			}
		}
		cluster, err := d.client.Cluster(ctx)
		if err != nil {
			return false, err.Error()
		}
		return false, string(cluster.Status) + ": " + strings.Join(cluster.Reasons, "; ")
	})
	return found, err
}

// tellMove tells of a move in the order things happened, when clients and
// nginx have noticed too.
func (d *demoRun) tellMove(ctx context.Context, watch *clientWatch, at time.Time, report api.Report, move *demoMove) error {
	led, err := d.awaitNginx(ctx, report.To)
	if err != nil {
		d.line.Tell(moveEvents(d.screen, report))
		return err
	}
	if err := pause(ctx, demoSettle/4); err != nil { // until the clients are back for sure
		return err
	}
	rows, orders := watch.stop()
	events := moveEvents(d.screen, report)
	events = append(events,
		demo.Event{At: led, Text: fmt.Sprintf("nginx: new connections to %s reach %s", demo.UpstreamRW, report.To)},
		demo.Event{At: rows.To, Text: d.screen.good(fmt.Sprintf("SQL:  first row acknowledged, %d ms after the last", rows.Length().Milliseconds()))},
		demo.Event{At: orders.To, Text: d.screen.good(fmt.Sprintf("HTTP: first order acknowledged, %d ms after the last", orders.Length().Milliseconds()))},
	)
	d.line.Tell(events)
	*move = demoMove{report: report, from: at, to: time.Now()}
	if err := pause(ctx, demoSettle/2); err != nil {
		return err
	}
	d.line.Mark(time.Time{})
	return nil
}

// moveEvents are the steps of an operation, each at the moment it ended, and
// the verdict before them.
func moveEvents(s screen, r api.Report) []demo.Event {
	words := map[string]string{
		"claim":   fmt.Sprintf("%s, the leader, claims", r.Leader),
		"revoke":  fmt.Sprintf("revoked: %s can acknowledge nothing any more;", r.From),
		"choose":  "chosen:",
		"promote": "promoted:",
		"route":   "routes: new connections go to",
		"verify":  "verified:",
	}
	var events []demo.Event
	if r.Evidence.At != nil && r.Evidence.Verdict == topology.Failed {
		events = append(events, demo.Event{At: *r.Evidence.At, Text: "verdict: " + r.Evidence.Explanation})
	}
	for _, step := range r.Steps {
		text, known := words[step.Name]
		ended := r.StartedAt.Add(time.Duration((step.BeganMS + step.TookMS) * float64(time.Millisecond)))
		switch {
		case step.Error != "":
			text = s.bad(step.Name + ": " + step.Error)
		case step.Name == "detect":
			continue // the verdict's time is its end
		case known:
			detail, _, _ := strings.Cut(step.Detail, ";") // the rest is in the summary
			text += " " + detail
		default:
			text = strings.ReplaceAll(step.Name, "_", " ") + ": " + step.Detail
		}
		events = append(events, demo.Event{At: ended, Text: text})
	}
	return events
}

// awaitNginx returns when a new connection through nginx's rw upstream reaches
// a node, and the ro upstream leads elsewhere only.
func (d *demoRun) awaitNginx(ctx context.Context, to topology.NodeName) (time.Time, error) {
	var led time.Time
	address := d.node(to).MySQL.Address
	err := d.await(ctx, demoMoveLimit, "nginx to lead to "+string(to), func(ctx context.Context) (bool, string) {
		if led.IsZero() {
			reached, err := d.askServer(ctx, sandbox.Addr(d.tier.RW))
			if err != nil {
				return false, err.Error()
			}
			if reached != address {
				return false, "it leads to " + reached
			}
			led = time.Now()
		}
		ro, err := d.tier.Upstream(demo.UpstreamRO)
		if err != nil {
			return false, err.Error()
		}
		return len(ro) > 0 && !slices.Contains(ro, address), fmt.Sprintf("%s has %v", demo.UpstreamRO, ro)
	})
	return led, err
}

// askServer asks which server answers on a route, by a new connection.
func (d *demoRun) askServer(ctx context.Context, route string) (string, error) {
	db, err := d.open(route)
	if err != nil {
		return "", err
	}
	defer db.Close() //nolint:errcheck // only read from
	var port int
	if err := db.QueryRowContext(ctx, "SELECT @@port").Scan(&port); err != nil {
		return "", fmt.Errorf("ask server behind %s: %w", route, err)
	}
	return sandbox.Addr(port), nil
}

// open opens MySQL at an address as the application.
func (d *demoRun) open(address string) (*sql.DB, error) {
	c := mysql.NewConfig()
	c.Net, c.Addr, c.User, c.Passwd, c.DBName = "tcp", address, d.cluster.App.User, d.cluster.App.Password, d.cluster.App.Database
	c.Timeout, c.ReadTimeout = 2*time.Second, time.Minute
	c.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	return db, nil
}

// bringBack starts the killed server and tells how it becomes a replica.
func (d *demoRun) bringBack(ctx context.Context) error {
	d.line.Section("The old primary comes back")
	at := time.Now()
	d.line.Mark(at)
	d.line.At(at, "%s's mysqld is started: it comes up closed, until its agent has read the record", d.former)
	if err := d.cluster.Start(ctx, string(d.former)); err != nil {
		return err
	}
	last := ""
	err := d.await(ctx, demoRejoinLimit, string(d.former)+" to be a replica that acknowledges", func(ctx context.Context) (bool, string) {
		cluster, err := d.client.Cluster(ctx)
		if err != nil {
			return false, err.Error()
		}
		i := slices.IndexFunc(cluster.Members, func(m api.Member) bool { return m.Name == d.former })
		if i < 0 {
			return false, "it is no member"
		}
		m := cluster.Members[i]
		if words := rejoinWords(m, cluster); words != "" && words != last {
			d.line.Say("%s", words)
			last = words
		}
		back := m.Role == api.RoleReplica && m.Acknowledging && cluster.Status == api.StatusHealthy
		return back && isLevel(m), string(cluster.Status) + ": " + strings.Join(cluster.Reasons, "; ")
	})
	if err != nil {
		return err
	}
	if err := d.tellErrant(ctx); err != nil {
		return err
	}
	d.line.Mark(time.Time{})
	return pause(ctx, demoSettle/2)
}

// rejoinWords tell how far a server is with coming back; empty if there is
// nothing to tell yet.
func rejoinWords(m api.Member, cluster api.Cluster) string {
	switch {
	case m.Rebuild != nil && m.Role == api.RoleRebuilding:
		return fmt.Sprintf("%s is being rebuilt: %s", m.Name, m.Rebuild.Stage)
	case m.Errant != "":
		return fmt.Sprintf("%s holds transactions that were never acknowledged: they are saved, then it is rebuilt", m.Name)
	case m.Role == api.RoleClosed:
		return fmt.Sprintf("%s answers; it is closed and follows nobody yet", m.Name)
	case m.Role == api.RoleReplica && m.Acknowledging && isLevel(m):
		return fmt.Sprintf("%s has caught up", m.Name)
	case m.Role == api.RoleReplica && m.Acknowledging:
		return fmt.Sprintf("%s has received everything: it acknowledges commits again", m.Name)
	case m.Role == api.RoleReplica:
		return fmt.Sprintf("%s follows %s", m.Name, cluster.Primary.Node)
	}
	return ""
}

// isLevel tells whether a replica has applied nearly all it received, as one
// must for a switchover to it.
func isLevel(m api.Member) bool {
	const near = 500 // milliseconds
	return m.LagMS != nil && *m.LagMS < near
}

// tellErrant tells what the comparison of the old primary with the new one
// added to the failover's report.
func (d *demoRun) tellErrant(ctx context.Context) error {
	err := d.await(ctx, 10*time.Second, "the failover's report to be completed", func(ctx context.Context) (bool, string) {
		r, err := d.client.Report(ctx, d.killed.report.Epoch)
		if err != nil {
			return false, err.Error()
		}
		d.killed.report = r
		return r.RPO.InDoubt != nil, "the old primary was not compared yet"
	})
	in := d.killed.report.RPO.InDoubt
	switch {
	case ctx.Err() != nil:
		return err
	case err != nil:
		d.line.Say("the ledger does not tell yet whether %s held transactions of its own", d.former)
	case *in == 0:
		d.line.Say("compared with %s: %s held nothing of its own, so nothing had to be saved or rebuilt", d.killed.report.To, d.former)
	default:
		d.line.Say("compared with %s: %s held %s nobody was told of as committed; saved in %s",
			d.killed.report.To, d.former, countOf(int(*in), "transaction"), orDash(d.killed.report.RPO.Proof.SavedFile))
	}
	return nil
}

// switchBack moves the primary back to where it was, with clients writing.
func (d *demoRun) switchBack(ctx context.Context) error {
	d.line.Section("Switchover")
	at := time.Now()
	d.line.Mark(at)
	d.line.At(at, "%s", d.screen.bold(fmt.Sprintf("interrex switchover --to %s", d.former)))
	var report api.Report
	var failed error
	var watch *clientWatch
	told := map[string]bool{}
	// The order itself is not bounded by await's limit, but by the leader's.
	err := d.await(ctx, demoRejoinLimit, "the switchover to be allowed", func(context.Context) (bool, string) {
		watch, at = d.watchClients(ctx), time.Now()
		report, failed = d.client.Switchover(ctx, d.former)
		var p *problemError
		if errors.As(failed, &p) && p.refused() {
			watch.stop()
			d.tellRefusal(p, told)
			return false, failed.Error()
		}
		return true, ""
	})
	defer watch.stop()
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	if len(told) > 0 {
		d.line.Mark(at)
		d.line.At(at, "asked again, and allowed")
	}
	return d.tellMove(ctx, watch, at, report, &d.moved)
}

// tellRefusal tells, once for each gate, why the switchover has to wait.
func (d *demoRun) tellRefusal(p *problemError, told map[string]bool) {
	name, why := p.name(), p.Detail
	if p.Gate != nil {
		name, why = p.Gate.Name, p.Gate.Reason
	}
	if !told[name] {
		d.line.Say("%s", d.screen.warn("not yet: "+name)+": "+why)
		told[name] = true
	}
}

// clientWatch looks for the longest time in which clients were told of no
// write.
type clientWatch struct {
	cancel       context.CancelFunc
	wg           sync.WaitGroup
	rows, orders demo.Gap
}

func (d *demoRun) watchClients(ctx context.Context) *clientWatch {
	ctx, cancel := context.WithCancel(ctx)
	w := &clientWatch{cancel: cancel}
	w.wg.Go(func() { w.rows = demo.LongestGap(ctx, d.sql.Acknowledged) })
	w.wg.Go(func() { w.orders = demo.LongestGap(ctx, d.http.Stored) })
	return w
}

// stop ends the watch and returns what it saw of SQL and HTTP clients.
func (w *clientWatch) stop() (rows, orders demo.Gap) {
	w.cancel()
	w.wg.Wait()
	return w.rows, w.orders
}
