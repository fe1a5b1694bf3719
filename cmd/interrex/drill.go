package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"interrex/failover/api"
	"interrex/failover/drill"
	"interrex/internal/config"
	"interrex/internal/sandbox"
	"interrex/internal/topology"
	"interrex/internal/workload"
)

const drillHelp = `
Writes go through the members' read-write routes all the while, as an
application's would, to a table of the drill's own in --database, which is
dropped at the end: its account needs SELECT, INSERT, CREATE and DROP there. In
a sandbox all of that is known. A drill that was killed leaves its table
(interrex_drill_…) to the next one, which drops it when it is an hour old.

Every member concerned must say drills: enabled in its configuration, and the
cluster must be healthy. Whatever becomes of the drill, its fault is undone by
itself after 30 s at most: a frozen server is thawed, and a killed one started
with mysql.start_command, which may take a minute. Ctrl-C undoes it at once.
` + clientHelp + `

Exit codes: 0 objectives met, 1 could not be run, 2 wrong usage, 4 objectives
missed.`

// drillFlags say what is rehearsed and how.
type drillFlags struct {
	client             clientFlags
	count, writers     int
	duration, heal     time.Duration
	routes             []string
	user, passwordFile string
	database           string
	report, output     string
	yes                bool
}

// newDrillCommand rehearses failure.
func newDrillCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "drill",
		Short: "Rehearse a failure and measure it: RTO and RPO as clients see them",
		Long:  "Rehearse a failure on a healthy cluster and measure what clients saw of it,\nbeside what the cluster reports of itself and what its objectives are.\n" + drillHelp,
		Example: `  interrex drill kill-primary
  interrex drill switchover --count 5 --report switchovers.md`,
		Args: cobra.NoArgs,
		// With something to run, a drill there is none of is an error.
		RunE: func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	for _, k := range []struct {
		kind        drill.Kind
		short, long string
	}{
		{drill.KillPrimary, "Kill the primary's server (SIGKILL)", "Kill the server of the primary, wait for another primary, start the server again,\nand wait until it is back as a replica."},
		{drill.FreezePrimary, "Freeze the primary's server (SIGSTOP)", "Freeze the server of the primary, wait for another primary, thaw the server, and\nwait until it is back as a replica."},
		{drill.StopAgent, "Stop the agent on the primary's node", "Stop the agent of the primary's member; its supervisor must start it again. No\nfailover is expected, and no outage for clients of the other members' routes."},
		{drill.Switchover, "Move the primary, planned", "Move the primary to the best candidate and measure how long writes paused."},
	} {
		command.AddCommand(newDrillKindCommand(k.kind, k.short, k.long))
	}
	command.AddCommand(newDrillUndoCommand())
	return command
}

func newDrillKindCommand(kind drill.Kind, short, long string) *cobra.Command {
	var f drillFlags
	d := drill.DefaultConfig(kind)
	command := &cobra.Command{
		Use: string(kind), Short: short, Long: long + "\n" + drillHelp,
		Example: fmt.Sprintf("  interrex drill %[1]s\n  interrex drill %[1]s --count 10 --yes --report %[1]s.md\n"+
			"  interrex drill %[1]s --config agent.yaml --user app --password-file app.password --database app", kind),
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return runDrill(command, kind, f)
		},
	}
	f.client.register(command)
	outputFlag(command, &f.output)
	flags := command.Flags()
	flags.IntVar(&f.count, "count", d.Count, "how many rounds; each hits the primary of its time")
	flags.IntVar(&f.writers, "writers", 4, "how many connections write at the same time")
	flags.DurationVar(&f.duration, "duration", d.Duration, "how long writes are measured after the fault, at least")
	flags.DurationVar(&f.heal, "heal-limit", d.HealLimit, "how long the cluster may take to be healthy again")
	flags.StringSliceVar(&f.routes, "route", nil, "host:port of a read-write route to write through, or several (default those of the members)")
	flags.StringVar(&f.user, "user", "", "account to write with (default the sandbox's)")
	flags.StringVar(&f.passwordFile, "password-file", "", "file with its password")
	flags.StringVar(&f.database, "database", "", "database to write in (default the sandbox's)")
	flags.StringVar(&f.report, "report", "", "file to write the report to, .md or .json")
	flags.BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	return command
}

func (f drillFlags) check() error {
	switch ext := filepath.Ext(f.report); {
	case f.report != "" && ext != ".md" && ext != ".json":
		return usageError{fmt.Errorf("--report %s: the file must end in .md or .json", f.report)}
	case f.writers < 1 || f.writers > 200:
		return usageError{fmt.Errorf("--writers %d: it must be from 1 to 200", f.writers)}
	}
	return checkOutput(f.output)
}

func runDrill(command *cobra.Command, kind drill.Kind, f drillFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	c := drill.DefaultConfig(kind)
	c.Count, c.Duration, c.HealLimit, c.Routes = f.count, f.duration, f.heal, f.routes
	if err := c.Validate(); err != nil {
		return usageError{err}
	}
	client, err := f.client.open()
	if err != nil {
		return err
	}
	defer client.close()
	if client.token == "" {
		return &noTokenError{client.tokenHint}
	}
	load, err := f.workload()
	if err != nil {
		return err
	}
	s := newScreen(command.OutOrStdout())
	tell := func(drill.Event) {}
	if f.output == outputTable {
		tell = func(e drill.Event) { s.printf("%9.3f s  %s\n", e.AtMillis/1000, e.What) }
	}
	runner, err := drill.NewRunner(c, &drillAPI{apiClient: client}, drill.NewProber(load), tell)
	if err != nil {
		return err
	}
	ctx := command.Context()
	if err := confirmDrill(ctx, command, runner, f); err != nil {
		return notRun(err)
	}
	report, err := runner.Run(ctx)
	if err != nil && len(report.Rounds) == 0 {
		return notRun(err)
	}
	// Rounds that were run are worth reporting even if the last was not.
	if err := errors.Join(err, f.write(report), printDrill(s, f.output, report)); err != nil {
		return notRun(err)
	}
	if !report.Met {
		return exitError{exitMissed}
	}
	return nil
}

// notRun makes a refusal by a gate, too, a drill that could not be run.
func notRun(err error) error { return errors.New(err.Error()) } //nolint:errorlint // on purpose: the exit code is one

// workload is what writes, with the sandbox's account unless another is named.
func (f drillFlags) workload() (workload.Config, error) {
	c := workload.Config{
		User: f.user, Database: f.database, Writers: f.writers, Timeout: 5 * time.Second,
		// Often enough to see a pause of milliseconds, and no load test.
		Pause: 2 * time.Millisecond,
		Table: drill.TablePrefix + strings.ToLower(rand.Text()[:10]),
	}
	dir := f.client.dir
	if dir == "" {
		dir = defaultSandboxDir
	}
	if c.User == "" {
		info, err := sandbox.ReadInfo(dir)
		if err != nil || len(info.Nodes) == 0 {
			return c, usageError{errors.New("name the account to write with: --user, --password-file and --database (or --dir of a sandbox)")}
		}
		app := info.Nodes[0].MySQL
		c.User, c.Password = app.AppUser, app.AppPassword
		if c.Database == "" {
			c.Database = app.AppDatabase
		}
	}
	if c.Database == "" {
		return c, usageError{errors.New("name the database to write in: --database")}
	}
	if f.passwordFile != "" {
		password, err := config.ReadSecret(f.passwordFile)
		if err != nil {
			return c, err
		}
		c.Password = password
	}
	return c, nil
}

// confirmDrill says what will happen and, on a terminal, asks. A drill that
// cannot begin says so before anybody is asked.
func confirmDrill(ctx context.Context, command *cobra.Command, runner *drill.Runner, f drillFlags) error {
	plan, err := runner.Check(ctx)
	if err != nil {
		return err
	}
	if f.output == outputTable {
		fmt.Fprintf(command.OutOrStdout(), "Drill %s: %s\n", plan.Kind, plan)
	}
	if f.yes || !isTerminal(command.InOrStdin()) {
		return nil
	}
	question := "Begin?"
	if f.count > 1 {
		question = fmt.Sprintf("Begin, %d times?", f.count)
	}
	return confirm(command, question)
}

// write writes the report's file, if one is wanted.
func (f drillFlags) write(r drill.Report) error {
	if f.report == "" {
		return nil
	}
	text := []byte(r.Markdown())
	if filepath.Ext(f.report) == ".json" {
		var err error
		if text, err = json.MarshalIndent(r, "", "  "); err != nil {
			return fmt.Errorf("write report: %w", err)
		}
	}
	if err := os.WriteFile(f.report, text, 0o644); err != nil { //nolint:gosec // for others to read
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// drillAPI asks any agent, and for faults the one of the node.
type drillAPI struct{ *apiClient }

// Drills implements drill.API.
func (d *drillAPI) Drills(ctx context.Context, node topology.NodeName) (api.DrillState, error) {
	c, err := d.member(ctx, node)
	if err != nil {
		return api.DrillState{}, err
	}
	return get[api.DrillState](ctx, c, "/api/v1/drill")
}

// Fault implements drill.API.
func (d *drillAPI) Fault(ctx context.Context, node topology.NodeName, req api.FaultRequest) (api.FaultResult, error) {
	c, err := d.member(ctx, node)
	if err != nil {
		return api.FaultResult{}, err
	}
	result, err := post[api.FaultResult](ctx, c, "/api/v1/drill/faults", req)
	var answer *problemError
	if errors.As(err, &answer) && (answer.refused() || answer.Status < http.StatusConflict) {
		err = fmt.Errorf("%w: %w", drill.ErrNotRun, err)
	}
	return result, err
}

// member is a client of one node's agent, with the same credentials.
func (d *drillAPI) member(ctx context.Context, node topology.NodeName) (*apiClient, error) {
	cluster, err := d.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range cluster.Members {
		if m.Name == node {
			return d.at(m, cluster.Name), nil
		}
	}
	return nil, fmt.Errorf("find agent of %s: it is not registered", node)
}

func (d *drillAPI) at(m api.Member, cluster string) *apiClient {
	one := *d.apiClient
	for i, e := range d.endpoints {
		if e.address == m.API {
			one.endpoints, one.http = d.endpoints[i:i+1], d.http[i:i+1]
			return &one
		}
	}
	e := endpoint{address: m.API, secure: d.endpoints[0].secure}
	client := *d.http[0]
	if transport, ok := client.Transport.(*http.Transport); ok && e.secure {
		transport = transport.Clone()
		transport.TLSClientConfig.ServerName = api.MemberName(m.Name, cluster)
		transport.DisableKeepAlives = true // it is closed by nobody
		client.Transport = transport
	}
	one.endpoints, one.http = []endpoint{e}, []*http.Client{&client}
	return &one
}
