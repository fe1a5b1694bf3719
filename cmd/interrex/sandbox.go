package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"interrex/dbrepl"
	"interrex/internal/config"
	"interrex/internal/sandbox"
	"interrex/internal/sandbox/fetch"
	"interrex/internal/sandbox/mysqld"
	"interrex/internal/sandbox/nginx"
)

// defaultSandboxDir is where a sandbox goes when nobody says.
const defaultSandboxDir = "interrex-sandbox"

// newSandboxCommand is real servers and agents in a folder.
func newSandboxCommand() *cobra.Command {
	var dir string
	command := &cobra.Command{
		Use:   "sandbox",
		Short: "Run a whole cluster, real servers and agents, in one folder",
		Long: `Run a whole cluster in one folder: real MySQL servers with an agent each, as
processes of the current user on loopback ports. Needs no root and changes
nothing on the host.

The server is the one named with --mysqld or INTERREX_MYSQLD, else a mysqld on
PATH, else the distribution's own packages: they are downloaded by apt,
verified, and unpacked into the user's cache, once.`,
		Example: `  interrex sandbox up                   bring up three servers and agents
  interrex sandbox status
  interrex sandbox kill db1             SIGKILL; it stays dead until start
  interrex sandbox start db1
  interrex sandbox down                 nothing is left running
  rm -r interrex-sandbox`,
		Args: cobra.NoArgs,
	}
	command.PersistentFlags().StringVar(&dir, "dir", defaultSandboxDir, "folder of the sandbox")
	command.AddCommand(
		newSandboxFetchCommand(),
		newSandboxUpCommand(&dir),
		newSandboxAddCommand(&dir),
		newSandboxDownCommand(&dir),
		newSandboxStatusCommand(&dir),
		newSandboxSuperviseCommand(&dir),
	)
	for _, c := range sandboxOrders() {
		command.AddCommand(c.command(&dir))
	}
	return command
}

func newSandboxFetchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "fetch",
		Short: "Get the servers that sandboxes run, and nothing else",
		Long: `Get MySQL and nginx into the user's cache, where the machine has none: the
distribution's own packages, downloaded by apt and verified by its signatures.
What is there already is not fetched again.`,
		Example: "  interrex sandbox fetch",
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			out := command.OutOrStdout()
			progress := fetch.NewProgress(out)
			server, err := mysqld.Find(command.Context(), "", progress)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "MySQL %s: %s\n", server.Version, server.Mysqld)
			web, err := nginx.Find(command.Context(), progress)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "nginx %s\n", web.Version)
			return nil
		},
	}
}

func newSandboxUpCommand(dir *string) *cobra.Command {
	var nodes, basePort int
	var mysqld string
	command := &cobra.Command{
		Use:   "up",
		Short: "Bring up a sandbox, a new one or the one in the folder",
		Long: `Bring up the sandbox in the folder, or a new one, and return when the cluster is
healthy. Addresses, accounts and the operator's token are in sandbox.json in the
folder. If it fails, nothing is left running.

Each node has eight ports, ten apart, from the base port on: mysql, mysql admin,
api, gossip, rw, ro, etcd client, etcd peer.`,
		Example: `  interrex sandbox up
  interrex sandbox up --nodes 5 --base-port 20000 --dir /tmp/five
  interrex sandbox up --mysqld /opt/mysql-8.4/bin/mysqld`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if command.Flags().Changed("nodes") && nodes < 2 {
				return usageError{fmt.Errorf("--nodes %d: a sandbox has 2 servers at least", nodes)}
			}
			options := sandboxOptions(*dir, command.OutOrStdout())
			options.Nodes, options.BasePort, options.MySQLD = nodes, basePort, mysqld
			_, err := sandbox.Up(command.Context(), options)
			if err == nil {
				fmt.Fprintf(command.OutOrStdout(), "Addresses and accounts: %s/sandbox.json\n", *dir)
			}
			return err
		},
	}
	command.Flags().IntVar(&nodes, "nodes", 0, "how many servers (default 3, or as many as the folder has)")
	command.Flags().IntVar(&basePort, "base-port", 0, "first port (default: a free range, or the one the folder has)")
	command.Flags().StringVar(&mysqld, "mysqld", "", "MySQL server program to use")
	return command
}

func newSandboxAddCommand(dir *string) *cobra.Command {
	var voter bool
	command := &cobra.Command{
		Use:   "add",
		Short: "Start another node, to be added to the cluster",
		Long: `Start another node, an empty server with an agent, and print its name. It takes
part once it is a member: interrex member add. The other nodes' configuration
files stay as they are.`,
		Example: `  interrex sandbox add
  interrex member add --name db4 --address 127.0.0.1`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			n, err := sandbox.Add(command.Context(), sandboxOptions(*dir, command.OutOrStdout()), voter)
			if err == nil {
				fmt.Fprintln(command.OutOrStdout(), n.Name)
			}
			return err
		},
	}
	command.Flags().BoolVar(&voter, "voter", false, "with a member of the embedded etcd")
	return command
}

func newSandboxDownCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:     "down",
		Short:   "End every process of a sandbox; the folder stays",
		Example: "  interrex sandbox down --dir /tmp/five",
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			cluster, err := sandbox.Load(*dir)
			if err != nil {
				return err
			}
			return endSandbox(command.Context(), cluster)
		},
	}
}

func newSandboxStatusCommand(dir *string) *cobra.Command {
	var output string
	command := &cobra.Command{
		Use:   "status",
		Short: "Show a sandbox's processes and addresses",
		Long: `Show a sandbox's processes and addresses. What the cluster makes of them, who is
primary for one, is shown by interrex status.`,
		Example: "  interrex sandbox status -o json",
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			cluster, err := sandbox.Load(*dir)
			if err != nil {
				return err
			}
			status, err := cluster.Status(command.Context())
			if err != nil {
				return err
			}
			switch output {
			case "json":
				encoder := json.NewEncoder(command.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(status)
			case "table":
				printSandbox(command.OutOrStdout(), cluster, status)
				return nil
			default:
				return fmt.Errorf("print status: output %q is none of table, json", output)
			}
		},
	}
	command.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return command
}

func printSandbox(out io.Writer, cluster sandbox.Cluster, status sandbox.Status) {
	t := table.NewWriter()
	t.SetOutputMirror(out)
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"node", "mysqld", "process", "mysql", "agent", "process", "api", "rw", "ro"})
	for i, n := range status.Nodes {
		p := cluster.Nodes[i].Ports
		t.AppendRow(table.Row{
			n.Name, n.MySQL.State, pidText(n.MySQL.PID), sandbox.Addr(p.MySQL),
			n.Agent.State, pidText(n.Agent.PID), sandbox.Addr(p.API), sandbox.Addr(p.RW), sandbox.Addr(p.RO),
		})
	}
	t.Render()
}

func pidText(pid int) string {
	if pid == 0 {
		return "-"
	}
	return fmt.Sprint(pid)
}

// newSandboxSuperviseCommand is the background process that up starts.
func newSandboxSuperviseCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:    "supervise",
		Short:  "Start a sandbox's processes and look after them",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			log, err := zap.NewProduction()
			if err != nil {
				return fmt.Errorf("open log: %w", err)
			}
			defer func() { _ = log.Sync() }()
			return sandbox.Supervise(command.Context(), *dir, log)
		},
	}
}

// sandboxOptions bring up a sandbox with the accounts and the configuration
// that this program's agents use.
func sandboxOptions(dir string, out io.Writer) sandbox.Options {
	return sandbox.Options{
		Dir:     dir,
		Out:     out,
		InitSQL: sandboxAccounts,
		AgentConfig: func(s sandbox.AgentSettings) ([]byte, error) {
			return sandboxAgentConfig(s, nil)
		},
	}
}

// sandboxAccounts makes the agents' accounts with exactly the privileges that
// a real cluster gives them.
func sandboxAccounts(p sandbox.Passwords) []string {
	defaults := config.DefaultMySQL()
	var replication []dbrepl.Account
	for _, node := range sandbox.NodeNames() {
		replication = append(replication, dbrepl.Account{User: defaults.ReplicationAccount(node), Host: "%", Password: p.Replication})
	}
	return dbrepl.Grants(dbrepl.GrantSpec{
		Controller: dbrepl.Account{User: defaults.User, Host: "%", Password: p.Controller},
		Repl:       replication,
		Clone:      replication,
	})
}
