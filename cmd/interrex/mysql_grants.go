package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"interrex/dbrepl"
	"interrex/internal/config"
)

type grantFlags struct {
	config                                          string
	nodes                                           []string
	controller, replication, host                   string
	controllerPasswordFile, replicationPasswordFile string
}

func newGrantsCommand() *cobra.Command {
	var flags grantFlags
	defaults := config.DefaultMySQL()
	command := &cobra.Command{
		Use:   "grants",
		Short: "Print the statements that create the agent's and the replication accounts",
		Long: `Print the SQL that prepares one server for its agent: the agent's account and
the replication accounts with exactly the privileges they need, and the agent's
schema. No application's data can be read or written with them. Each member
receives with an account of its own, so that the primary can shut out a replica
that is dead.

Passwords are read from files, those of --config or the flags; without a file a
placeholder is printed, which the server refuses until it is filled in. The
same accounts with the same passwords go on every server: the statements are
kept out of the binary log, so run them on each, before its agent is started.`,
		Example: `  interrex mysql grants --nodes db1,db2,db3
  interrex mysql grants --config /etc/interrex/agent.yaml | sudo mysql
  interrex mysql grants --nodes db1,db2,db3 --host '10.1.%' --controller-password-file /etc/interrex/mysql.password`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			text, err := flags.script(command.Flags().Changed)
			if err != nil {
				return err
			}
			_, err = command.OutOrStdout().Write([]byte(text))
			return err
		},
	}
	f := command.Flags()
	f.StringVar(&flags.config, "config", "", "configuration file of an agent: its accounts and password files")
	f.StringVar(&flags.controller, "controller-user", defaults.User, "the agent's account (mysql.user)")
	f.StringVar(&flags.controllerPasswordFile, "controller-password-file", "", "file with its password (mysql.password_file)")
	f.StringVar(&flags.replication, "replication-user", defaults.ReplicationUser, "the replication accounts (mysql.replication_user)")
	f.StringSliceVar(&flags.nodes, "nodes", nil, "names of the members with an instance, for {node} in --replication-user")
	f.StringVar(&flags.replicationPasswordFile, "replication-password-file", "", "file with its password (mysql.replication_password_file)")
	f.StringVar(&flags.host, "host", "%", "where all may log in from, as in CREATE USER")
	for _, name := range []string{"config", "controller-password-file", "replication-password-file"} {
		_ = command.MarkFlagFilename(name) // fails only for a flag that does not exist
	}
	return command
}

// script is the whole SQL text. changed tells which flags were given: these go
// before the configuration.
func (f grantFlags) script(changed func(string) bool) (string, error) {
	if f.config != "" {
		if err := f.fromConfig(changed); err != nil {
			return "", err
		}
	}
	account := func(user, file, placeholder string) (dbrepl.Account, error) {
		a := dbrepl.Account{User: user, Host: f.host, Password: placeholder}
		if user == "" || f.host == "" {
			return a, usageError{fmt.Errorf("accounts need a user and a host")}
		}
		if file == "" {
			return a, nil
		}
		var err error
		a.Password, err = readTokenFile(file)
		return a, err
	}
	// Quoted by Grants as a password would be, then unquoted: a script run
	// unread must not make an account whose password everybody knows.
	const forController, forReplication = "fill in: password of the agent", "fill in: password for replication"
	controller, err := account(f.controller, f.controllerPasswordFile, forController)
	if err != nil {
		return "", err
	}
	users, err := f.replicationUsers()
	if err != nil {
		return "", err
	}
	var replication []dbrepl.Account
	for _, user := range users {
		a, err := account(user, f.replicationPasswordFile, forReplication)
		if err != nil {
			return "", err
		}
		replication = append(replication, a)
	}
	// An agent's rebuild logs in to the donor with its replication account.
	statements := dbrepl.Grants(dbrepl.GrantSpec{Controller: controller, Repl: replication, Clone: replication})
	text := grantsText(statements)
	for _, placeholder := range []string{forController, forReplication} {
		text = strings.ReplaceAll(text, "'"+placeholder+"'", "<"+placeholder+">")
	}
	return text, nil
}

// replicationUsers are the replication accounts of all members.
func (f grantFlags) replicationUsers() ([]string, error) {
	if !strings.Contains(f.replication, "{node}") {
		return []string{f.replication}, nil
	}
	if len(f.nodes) == 0 {
		return nil, usageError{fmt.Errorf("%s needs the members' names: give --config, or --nodes db1,db2,db3", f.replication)}
	}
	var users []string
	for _, node := range f.nodes {
		users = append(users, config.MySQL{ReplicationUser: f.replication}.ReplicationAccount(node))
	}
	return users, nil
}

func (f *grantFlags) fromConfig(changed func(string) bool) error {
	text, err := os.ReadFile(f.config)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	cfg, err := config.Parse(f.config, text)
	if err != nil {
		return err
	}
	m := cfg.MySQL
	if m == nil {
		return fmt.Errorf("%s: member %s has no mysql section; name a configuration of one that has", f.config, cfg.Node.Name)
	}
	for _, v := range []struct {
		flag  string
		into  *string
		value string
	}{
		{"controller-user", &f.controller, m.User},
		{"controller-password-file", &f.controllerPasswordFile, besides(f.config, m.PasswordFile)},
		{"replication-user", &f.replication, m.ReplicationUser},
		{"replication-password-file", &f.replicationPasswordFile, besides(f.config, m.ReplicationPasswordFile)},
	} {
		if !changed(v.flag) {
			*v.into = v.value
		}
	}
	if !changed("nodes") {
		for _, member := range cfg.Cluster.Members {
			if member.MySQL != "" {
				f.nodes = append(f.nodes, member.Name)
			}
		}
	}
	return nil
}

// grantsText explains the statements. What they do is dbrepl's; a statement is
// printed as it is, but for the semicolon.
func grantsText(statements []string) string {
	var b strings.Builder
	b.WriteString(`-- For one server and its agent. Run it on every server, in one session, as an
-- account that may create accounts. It may be repeated; it changes no password
-- of an account that is there.
--
-- A closed server (super_read_only = ON) refuses it: SET GLOBAL super_read_only
-- = OFF before, and ON after, while no agent runs and no client can connect.

`)
	var said []string
	for _, statement := range statements {
		for _, comment := range comments(statement) {
			if !slices.Contains(said, comment) {
				b.WriteString(comment)
				said = append(said, comment)
			}
		}
		b.WriteString(statement + ";\n")
	}
	return b.String()
}

// columns are those that a privilege is limited to.
var columns = regexp.MustCompile(` \([^)]*\)`)

// versioned is a part of a statement that older servers take for a comment.
var versioned = regexp.MustCompile(` /\*!\d+ (.*?) \*/`)

// comments explain one statement.
func comments(statement string) []string {
	if strings.HasPrefix(statement, "SET SESSION sql_log_bin = OFF") {
		return []string{"-- Not into the binary log: each server gets these for itself, so that none\n-- holds a transaction the others lack.\n"}
	}
	privileges, ok := strings.CutPrefix(statement, "GRANT ")
	if !ok {
		return nil
	}
	privileges, _, _ = strings.Cut(privileges, " ON ")
	privileges = columns.ReplaceAllString(privileges, "")
	privileges = versioned.ReplaceAllString(privileges, "$1")
	var list []string
	for _, p := range strings.Split(privileges, ", ") {
		list = append(list, fmt.Sprintf("-- %s: %s\n", p, dbrepl.GrantReason(p)))
	}
	return list
}
