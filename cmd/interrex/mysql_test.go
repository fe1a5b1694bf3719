package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"interrex/dbrepl"
	"interrex/internal/porttest"
	"interrex/internal/sandbox/mysqld"
	"interrex/internal/sandbox/mysqld/mysqldtest"
)

// realServer is one server and the configuration of its agent.
type realServer struct {
	*mysqld.Server
	config string
	root   *sql.DB
}

func newRealServer(t *testing.T) *realServer {
	t.Helper()
	s := &realServer{Server: mysqldtest.Start(t, []string{}, 1)}
	s.config = s.writeConfig(t)
	s.root = openDB(t, "unix", s.Socket, "root", "")
	return s
}

func openDB(t *testing.T, network, address, user, password string) *sql.DB {
	t.Helper()
	c := mysql.NewConfig()
	c.Net, c.Addr, c.User, c.Passwd, c.Logger = network, address, user, password, &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	require.NoError(t, err)
	db := sql.OpenDB(connector)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// writeConfig writes an agent's configuration with its secrets.
func (s *realServer) writeConfig(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"controller": `con'tr\oller`, "replication": "repl'ica", "member": "member-token-0123456789",
		"gossip": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600))
	}
	file := filepath.Join(dir, "agent.yaml")
	require.NoError(t, os.WriteFile(file, []byte(fmt.Sprintf(`
cluster:
  name: test
  members:
  - {name: db1, host: 127.0.0.1, mysql: "%s", mysql_admin: "%s", ports: {etcd_client: %d}}
  - {name: db2, host: 127.0.0.2, mysql: "127.0.0.2:1", voter: false}
node: {name: db1, data_dir: %s}
listeners: {etcd_client: "127.0.0.1:%[3]d"}
mysql:
  socket: %[5]s
  password_file: controller
  replication_password_file: replication
  query_timeout: 10s
gossip: {key_file: gossip}
security: {member_token_file: member}
`, s.Addr, s.AdminAddr, porttest.Port(t), dir, s.Socket)), 0o600))
	return file
}

func (s *realServer) exec(t *testing.T, statements ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, statement := range statements {
		_, err := s.root.ExecContext(ctx, statement)
		require.NoError(t, err, statement)
	}
}

// client gives a script to the server's own client, as an operator would.
func (s *realServer) client(t *testing.T, script string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	words := append(mysqldtest.Distribution(t).Command("mysql"), "--no-defaults", "-u", "root", "-S", s.Socket)
	command := exec.CommandContext(ctx, words[0], words[1:]...)
	command.Stdin = strings.NewReader(script)
	out, err := command.CombinedOutput()
	return string(out), err
}

// TestMySQLCommandsOnARealServer makes the accounts, prepares, examines and stops one server
// with the commands an operator has.
func TestMySQLCommandsOnARealServer(t *testing.T) {
	s := newRealServer(t)
	for _, step := range []struct {
		name string
		run  func(*testing.T, *realServer)
	}{
		{"prepare says what is missing", prepareUnprepared},
		{"a script with placeholders is refused", placeholdersRefused},
		{"grants", grantsApplied},
		{"prepare", prepared},
		{"doctor", examined},
		{"stop with commits waiting", stoppedUnderWaitingCommits},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, s) }) {
			t.FailNow()
		}
	}
}

func prepareUnprepared(t *testing.T, s *realServer) {
	code, out, errOut := run(t, "mysql", "prepare", "--config", s.config)
	require.Equal(t, 1, code, out+errOut)
	require.Contains(t, errOut, "not allowed to connect", "there is no account yet")
}

func placeholdersRefused(t *testing.T, s *realServer) {
	code, script, _ := run(t, "mysql", "grants", "--nodes", "db1")
	require.Equal(t, 0, code)
	require.Contains(t, script, "<fill in")
	out, err := s.client(t, "SET GLOBAL super_read_only = OFF;\n"+script)
	require.Error(t, err)
	require.Contains(t, out, "syntax")
	var accounts int
	require.NoError(t, s.root.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM mysql.user WHERE user LIKE 'interrex%'").Scan(&accounts))
	require.Zero(t, accounts)
}

func grantsApplied(t *testing.T, s *realServer) {
	code, script, errOut := run(t, "mysql", "grants", "--config", s.config)
	require.Equal(t, 0, code, errOut)
	out, err := s.client(t, "SET GLOBAL super_read_only = OFF;\n"+script+script+"SET GLOBAL super_read_only = ON;\n")
	require.NoError(t, err, out)
	var executed string
	require.NoError(t, s.root.QueryRowContext(t.Context(), "SELECT @@global.gtid_executed").Scan(&executed))
	require.Empty(t, executed, "nothing of it is in the binary log")
	controller := openDB(t, "tcp", s.Addr, "interrex", `con'tr\oller`)
	require.NoError(t, controller.PingContext(t.Context()))
	require.NoError(t, openDB(t, "tcp", s.Addr, "interrex_db1", "repl'ica").PingContext(t.Context()))
}

func prepared(t *testing.T, s *realServer) {
	code, out, errOut := run(t, "mysql", "prepare", "--config", s.config)
	require.Equal(t, 0, code, out+errOut)
	require.Contains(t, out, "setting persisted")
	require.Contains(t, out, "The server is ready.")

	s.exec(t, "SET GLOBAL super_read_only = OFF", "REVOKE CLONE_ADMIN ON *.* FROM interrex", "SET GLOBAL super_read_only = ON")
	code, out, errOut = run(t, "mysql", "prepare", "--config", s.config)
	require.Equal(t, 1, code, out+errOut)
	require.Contains(t, out, "privilege CLONE_ADMIN is missing")
	s.exec(t, "SET GLOBAL super_read_only = OFF", "SET sql_log_bin = OFF", "GRANT CLONE_ADMIN ON *.* TO interrex")
}

func examined(t *testing.T, s *realServer) {
	wrong := func() map[string]finding {
		t.Helper()
		code, out, errOut := run(t, "doctor", "-o", "json", "--config", s.config)
		require.Equal(t, 1, code, "etcd does not run here: %s", errOut)
		var list []finding
		require.NoError(t, json.Unmarshal([]byte(out), &list))
		require.Greater(t, len(list), 20)
		found := map[string]finding{}
		for _, f := range list {
			if f.State != stateOK && f.Subject != "etcd" && f.Subject != "db2" { // that one does not exist
				found[f.Check] = f
			}
		}
		return found
	}
	require.Empty(t, wrong())
	s.exec(t, "SET GLOBAL sync_binlog = 100", "SET GLOBAL replica_net_timeout = 60", "SET PERSIST super_read_only = OFF")
	found := wrong()
	require.Len(t, found, 3, "%v", found)
	for _, name := range []string{"sync_binlog", "replica_net_timeout", "super_read_only at start"} {
		require.Contains(t, found, name)
		s.exec(t, strings.TrimSuffix(found[name].Fix, ";")) // as an operator would
	}
	require.Empty(t, wrong())
}

// stoppedUnderWaitingCommits: no client may be told that a commit which no
// replica has acknowledged has succeeded (I2).
func stoppedUnderWaitingCommits(t *testing.T, s *realServer) {
	s.exec(t, "SET GLOBAL super_read_only = OFF", "SET GLOBAL read_only = OFF", "CREATE SCHEMA app", "CREATE TABLE app.t (id INT PRIMARY KEY)",
		"CREATE USER app IDENTIFIED BY 'app'", "GRANT ALL ON app.* TO app",
		"SET GLOBAL rpl_semi_sync_source_timeout = 4294967295, GLOBAL rpl_semi_sync_source_wait_no_replica = ON, GLOBAL rpl_semi_sync_source_enabled = ON")
	const clients = 5
	app := openDB(t, "tcp", s.Addr, "app", "app")
	app.SetMaxOpenConns(clients)
	answers := make(chan error, clients)
	for i := range clients {
		go func() {
			_, err := app.ExecContext(context.Background(), "INSERT INTO app.t VALUES (?)", i)
			answers <- err
		}()
	}
	deadline := time.Now().Add(time.Minute)
	waiting := 0
	for waiting < 1 {
		require.NoError(t, s.root.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM performance_schema.processlist
			WHERE state LIKE 'Waiting for semi-sync ACK%'`).Scan(&waiting))
		require.True(t, time.Now().Before(deadline), "%d commits wait", waiting)
	}
	code, out, errOut := run(t, "mysql", "stop", "--config", s.config)
	require.Equal(t, 0, code, out+errOut)
	require.Contains(t, out, "stopped by SIGKILL")
	require.Contains(t, out, "The server was killed")
	for range clients {
		select {
		case err := <-answers:
			require.Error(t, err, "a client was told OK")
		case <-time.After(time.Minute):
			require.Fail(t, "a client hangs")
		}
	}
	_, err := s.Wait(t.Context())
	require.NoError(t, err)

	code, out, errOut = run(t, "mysql", "stop", "--config", s.config)
	require.Equal(t, 0, code, "a server that does not run is stopped: %s%s", out, errOut)
	require.Contains(t, out, "No server runs here")
}

// TestGrantsSaysEverythingOnce: each account is made once with all its
// privileges, and each privilege is explained.
func TestGrantsSaysEverythingOnce(t *testing.T) {
	code, out, errOut := run(t, "mysql", "grants")
	require.Equal(t, 2, code, out)
	require.Contains(t, errOut, "interrex_{node} needs the members' names: give --config, or --nodes db1,db2,db3")
	code, out, _ = run(t, "mysql", "grants", "--nodes", "db1,db2")
	require.Equal(t, 0, code)
	require.Equal(t, 4, strings.Count(out, "CREATE USER"), out)
	require.Equal(t, 1, strings.Count(out, " TO 'interrex_db1'@"), out)
	require.Contains(t, out, "GRANT REPLICATION SLAVE, BACKUP_ADMIN ON *.* TO 'interrex_db2'@'%';")
	for line := range strings.Lines(out) {
		privileges, ok := strings.CutPrefix(line, "GRANT ")
		if !ok {
			continue
		}
		privileges, _, _ = strings.Cut(privileges, " ON ")
		privileges = columns.ReplaceAllString(privileges, "")
		privileges = versioned.ReplaceAllString(privileges, "$1")
		for _, p := range strings.Split(privileges, ", ") {
			require.NotEmpty(t, dbrepl.GrantReason(p), p)
			require.Equal(t, 1, strings.Count(out, "-- "+p+": "+dbrepl.GrantReason(p)+"\n"), p)
		}
	}
}

func TestGrantsTakesNoPassword(t *testing.T) {
	command := newGrantsCommand()
	require.Nil(t, command.Flags().Lookup("password"))
	code, out, _ := run(t, "mysql", "grants", "--replication-user", "repl", "--host", "10.1.%", "--controller-user", "o'hara")
	require.Equal(t, 0, code)
	require.Contains(t, out, `'o''hara'@'10.1.%'`)
}
