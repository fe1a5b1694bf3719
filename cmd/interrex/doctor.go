package main

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"interrex/election"
	"interrex/internal/config"
	"interrex/internal/topology"
)

const (
	// examineLimit is how long one server may take to tell its settings.
	examineLimit = 10 * time.Second
	// etcdLimit is how long one etcd member may take to answer.
	etcdLimit = 3 * time.Second
)

func newDoctorCommand() *cobra.Command {
	var file, output string
	var all bool
	command := &cobra.Command{
		Use:   "doctor --config FILE",
		Short: "Check the settings that detection and durability depend on, with fixes",
		Long: `Look at every server of the cluster, at etcd and at the clocks, and judge each
setting that detection or durability depends on: what it is, what it should be,
why, and the fix as SQL or as a line of my.cnf. Changes nothing.

It logs in to every server with the agent's account, and so needs the agent's
configuration; run it as the agent's user. wrong means that a promise does not
hold with it, advice that something else would be worse than it must be.

Exit codes: 0 nothing is wrong, 1 something is, 2 wrong usage.`,
		Example: `  sudo -u mysql interrex doctor
  sudo -u mysql interrex doctor --all
  sudo -u mysql interrex doctor -o json | jq '.[] | select(.state == "wrong")'`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			facts, err := examine(command.Context(), file)
			if err != nil {
				return err
			}
			findings := judgeCluster(facts)
			if output == outputJSON {
				if err := writeJSON(command.OutOrStdout(), findings); err != nil {
					return err
				}
			} else {
				printFindings(newScreen(command.OutOrStdout()), findings, all)
			}
			if countState(findings, stateWrong) > 0 {
				return exitError{exitFailed}
			}
			return nil
		},
	}
	outputFlag(command, &output)
	command.Flags().StringVar(&file, "config", defaultConfigFile, "configuration file of an agent with a server")
	command.Flags().BoolVar(&all, "all", false, "also show what is as it should be")
	_ = command.MarkFlagFilename("config") // fails only for a flag that does not exist
	return command
}

func countState(findings []finding, state findingState) int {
	n := 0
	for _, f := range findings {
		if f.State == state {
			n++
		}
	}
	return n
}

// printFindings prints what is not right in full, and the rest as a table if
// all is wanted.
func printFindings(s screen, findings []finding, all bool) {
	if all {
		rows := make([]table.Row, len(findings))
		for i, f := range findings {
			rows[i] = table.Row{f.Subject, f.Check, s.state(f.State), f.Value, f.Wanted}
		}
		s.table(rows, 4, nil, "subject", "check", "state", "value", "wanted")
		s.printf("\n")
	}
	for _, f := range findings {
		if f.State == stateOK {
			continue
		}
		s.printf("%s  %s: %s is %s, wanted %s\n", s.state(f.State), s.bold(f.Subject), f.Check, f.Value, f.Wanted)
		s.printf("        why: %s\n", f.Why)
		s.printf("        fix: %s\n", f.Fix)
	}
	s.printf("%s, %s wrong, %s to advise\n", count(len(findings), "check"),
		fmt.Sprint(countState(findings, stateWrong)), fmt.Sprint(countState(findings, stateAdvice)))
}

func (s screen) state(state findingState) string {
	switch state {
	case stateOK:
		return s.good(string(state))
	case stateWrong:
		return s.bad(string(state))
	}
	return s.warn(string(state))
}

// examine reads all that is judged. What cannot be read is a fact, too.
func examine(ctx context.Context, file string) (clusterFacts, error) {
	cfg, err := config.Load(file)
	if err != nil {
		return clusterFacts{}, err
	}
	if cfg.MySQL == nil {
		return clusterFacts{}, fmt.Errorf("%s: member %s has no mysql section, so no account to look with; use the file of one that has", file, cfg.Node.Name)
	}
	s, err := readSecrets(cfg)
	if err != nil {
		return clusterFacts{}, err
	}
	instance := instanceConfig(cfg, s)
	f := clusterFacts{NetTimeout: instance.NetTimeout, Heartbeat: instance.HeartbeatPeriod}
	var wg sync.WaitGroup
	var members []config.Member
	for _, m := range cfg.Cluster.Members {
		if m.MySQL != "" {
			members = append(members, m)
		}
	}
	f.Servers = make([]serverFacts, len(members))
	for i, m := range members {
		wg.Go(func() { f.Servers[i] = examineServer(ctx, m, instance.User, instance.Password, instance.TLS) })
	}
	endpoints := etcdEndpoints(cfg)
	f.Etcd = make([]etcdFact, len(endpoints))
	for i, e := range endpoints {
		wg.Go(func() { f.Etcd[i] = examineEtcd(ctx, cfg, s, e) })
	}
	wg.Go(func() { f.Record = readRecord(ctx, cfg, s) })
	wg.Wait()
	return f, ctx.Err()
}

func examineEtcd(ctx context.Context, cfg config.Config, s secrets, endpoint string) etcdFact {
	f := etcdFact{Endpoint: endpoint}
	client, err := patientClient(cfg, s, endpoint)
	if err == nil {
		err = client.Healthy(ctx)
	}
	if err != nil {
		f.Error = err.Error()
	}
	return f
}

// readRecord reads the cluster record; nil if etcd does not tell it.
func readRecord(ctx context.Context, cfg config.Config, s secrets) *election.State {
	client, err := patientClient(cfg, s, etcdEndpoints(cfg)...)
	if err != nil {
		return nil
	}
	snapshot, err := client.Read(ctx)
	if err != nil {
		return nil
	}
	return &snapshot.State
}

// patientClient only reads, so it can wait longer than an agent that leads.
func patientClient(cfg config.Config, s secrets, endpoints ...string) (*election.Client, error) {
	c, err := electionConfig(cfg, s)
	if err != nil {
		return nil, err
	}
	c.Endpoints, c.CallTimeout, c.LeaderTTL = endpoints, etcdLimit, 2*etcdLimit
	return election.New(c, zap.NewNop())
}

// examineServer reads one server with the agent's account, through its
// administrative listener where one is known.
func examineServer(ctx context.Context, m config.Member, user, password string, secure *tls.Config) serverFacts {
	f := serverFacts{Node: topology.NodeName(m.Name), Admin: m.MySQLAdmin != "", Heartbeat: -1, Retry: -1}
	ctx, cancel := context.WithTimeout(ctx, examineLimit)
	defer cancel()
	c := mysql.NewConfig()
	c.Net, c.Addr, c.User, c.Passwd, c.TLS = "tcp", m.MySQL, user, password, secure
	if m.MySQLAdmin != "" {
		c.Addr = m.MySQLAdmin
	}
	c.AllowNativePasswords, c.ParseTime, c.Timeout = false, true, connectPatience
	c.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		f.Error = err.Error()
		return f
	}
	db := sql.OpenDB(connector)
	defer func() { _ = db.Close() }()
	db.SetMaxOpenConns(1)
	if err := f.read(ctx, db); err != nil {
		return serverFacts{Node: f.Node, Error: fmt.Sprintf("%s: %v", c.Addr, err)}
	}
	return f
}

func (f *serverFacts) read(ctx context.Context, db *sql.DB) error {
	if err := db.PingContext(ctx); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	began := time.Now()
	var now time.Time
	if err := db.QueryRowContext(ctx, "SELECT UTC_TIMESTAMP(6)").Scan(&now); err != nil {
		return fmt.Errorf("read clock: %w", err)
	}
	took := time.Since(began)
	f.Clock, f.ClockError = now.Sub(began.Add(took/2)), took/2
	plugins, status := map[string]string{}, map[string]string{}
	for _, q := range []struct {
		into  *map[string]string
		query string
	}{
		{&f.Variables, "SELECT variable_name, variable_value FROM performance_schema.global_variables"},
		{&f.Persisted, "SELECT variable_name, variable_value FROM performance_schema.persisted_variables"},
		{&f.Sources, "SELECT variable_name, variable_source FROM performance_schema.variables_info"},
		{&plugins, "SELECT plugin_name, plugin_status FROM information_schema.plugins"},
		{&status, "SELECT variable_name, variable_value FROM performance_schema.global_status WHERE variable_name = 'Max_used_connections'"},
	} {
		pairs, err := readPairs(ctx, db, q.query)
		if err != nil {
			return err
		}
		*q.into = pairs
	}
	f.Plugins = map[string]bool{}
	for name, state := range plugins {
		f.Plugins[name] = state == "ACTIVE"
	}
	f.MaxUsed, _ = strconv.Atoi(status["max_used_connections"]) // 0 when not told
	var heartbeat, retry float64
	err := db.QueryRowContext(ctx, "SELECT heartbeat_interval, connection_retry_interval FROM performance_schema.replication_connection_configuration WHERE channel_name = ''").Scan(&heartbeat, &retry)
	switch {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return fmt.Errorf("read the receiver's times: %w", err)
	default:
		f.Heartbeat = time.Duration(heartbeat * float64(time.Second)).Round(time.Millisecond)
		f.Retry = time.Duration(retry * float64(time.Second))
	}
	return readFilters(ctx, db, f)
}

// readFilters reads what is left out of the binary log, and by the applier, and
// how long that waits.
func readFilters(ctx context.Context, db *sql.DB, f *serverFacts) error {
	var seconds int64
	var do, ignore string
	err := db.QueryRowContext(ctx, `SELECT COALESCE((SELECT desired_delay FROM performance_schema.replication_applier_configuration WHERE channel_name = ''), 0),
		COALESCE((SELECT GROUP_CONCAT(DISTINCT name ORDER BY name SEPARATOR ', ') FROM (
			SELECT filter_name AS name FROM performance_schema.replication_applier_filters WHERE filter_rule <> ''
			UNION ALL SELECT filter_name FROM performance_schema.replication_applier_global_filters WHERE filter_rule <> '') AS f), '')`).Scan(&seconds, &f.Filters)
	if err != nil {
		return fmt.Errorf("read replication filters: %w", err)
	}
	f.Delay = time.Duration(seconds) * time.Second
	statement := "SHOW BINARY LOG STATUS"
	if v := f.Variables["version"]; strings.HasPrefix(v, "8.0.") || strings.HasPrefix(v, "8.1.") {
		statement = "SHOW MASTER STATUS"
	}
	var skip sql.RawBytes
	rows, err := db.QueryContext(ctx, statement)
	if err != nil {
		return fmt.Errorf("read the filters of the binary log: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() { // none without a binary log
		if err := rows.Scan(&skip, &skip, &do, &ignore, &skip); err != nil {
			return fmt.Errorf("read the filters of the binary log: %w", err)
		}
	}
	for _, filter := range []struct{ name, value string }{{"binlog-do-db", do}, {"binlog-ignore-db", ignore}} {
		if filter.value != "" {
			f.Filters = strings.TrimPrefix(f.Filters+", "+filter.name+" of the binary log", ", ")
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the filters of the binary log: %w", err)
	}
	return nil
}

// readPairs reads names, in lower case, and values.
func readPairs(ctx context.Context, db *sql.DB, query string) (map[string]string, error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	defer func() { _ = rows.Close() }()
	pairs := map[string]string{}
	for rows.Next() {
		var name string
		var value sql.NullString
		if err := rows.Scan(&name, &value); err != nil {
			return nil, fmt.Errorf("read settings: %w", err)
		}
		pairs[strings.ToLower(name)] = value.String
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	return pairs, nil
}
