package main

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"interrex/failover/api"
	"interrex/internal/config"
)

func newMemberCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "member",
		Short: "Add members to the running cluster, and remove them",
		Long: `Change who belongs to the running cluster, one member at a time and without a
restart of the others. Who does is written down in etcd; the configuration files
say so at the first formation only.`,
		Example: `  interrex member add --name db4 --address 10.0.0.4 --mysql 10.0.0.4:3306
  interrex member remove db2`,
		Args: cobra.NoArgs,
	}
	command.AddCommand(newMemberAddCommand(), newMemberRemoveCommand())
	return command
}

// newcomer is what the operator says of a new node. The cluster is told its name
// and whether it votes; the rest is for its configuration file.
type newcomer struct {
	name, address, mysql, mysqlAdmin, site string
	voter                                  bool
	priority                               int
}

func newMemberAddCommand() *cobra.Command {
	var flags clientFlags
	var output string
	var n newcomer
	command := &cobra.Command{
		Use:   "add --name NAME --address HOST",
		Short: "Make a node a member of the running cluster",
		Long: `Make a node a member, and print what its configuration file must say. It counts,
and can be promoted, from the moment its agent runs and its server has caught
up. Give every third and fifth member a vote (--voter): it then runs one of the
members of the embedded etcd, which joins as a learner and votes once it is level.

Refused while an operation or another change of members is in flight.
` + clientHelp + exitHelp,
		Example: `  interrex member add --name db4 --address 10.0.0.4 --mysql 10.0.0.4:3306
  interrex member add --name arb2 --address 10.0.0.9 --voter`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := errors.Join(checkOutput(output), n.check()); err != nil {
				return err
			}
			client, err := flags.open()
			if err != nil {
				return err
			}
			defer client.close()
			change, err := post[api.MemberChange](command.Context(), client, "/api/v1/membership/add", api.AddMemberRequest{Name: n.name, Voter: n.voter})
			if err != nil {
				return err
			}
			s := newScreen(command.OutOrStdout())
			if output == outputJSON {
				return writeJSON(s.out, change)
			}
			return printAdded(s, n, change)
		},
	}
	flags.register(command)
	outputFlag(command, &output)
	command.Flags().StringVar(&n.name, "name", "", "the new member's name")
	command.Flags().StringVar(&n.address, "address", "", "IP address or DNS name at which the others reach it")
	command.Flags().StringVar(&n.mysql, "mysql", "", "host:port of its server (default: it has none)")
	command.Flags().StringVar(&n.mysqlAdmin, "mysql-admin", "", "host:port of its server's administrative interface")
	command.Flags().BoolVar(&n.voter, "voter", false, "let it run a member of the embedded etcd")
	command.Flags().IntVar(&n.priority, "priority", 0, "larger is preferred in a failover; negative: never promoted")
	command.Flags().StringVar(&n.site, "site", "", "data centre or zone")
	return command
}

func (n newcomer) check() error {
	switch {
	case n.name == "" || n.address == "":
		return usageError{errors.New("--name and --address are needed")}
	case n.mysql != "" && !isHostPort(n.mysql):
		return usageError{fmt.Errorf("--mysql %q is not host:port", n.mysql)}
	case n.mysqlAdmin != "" && !isHostPort(n.mysqlAdmin):
		return usageError{fmt.Errorf("--mysql-admin %q is not host:port", n.mysqlAdmin)}
	}
	return nil
}

func isHostPort(address string) bool {
	_, _, err := net.SplitHostPort(address)
	return err == nil
}

func newMemberRemoveCommand() *cobra.Command {
	var flags clientFlags
	var output string
	var yes bool
	command := &cobra.Command{
		Use:   "remove NAME",
		Short: "Take a member out of the running cluster",
		Long: `Take a member out. Its server acknowledges no commit any more, then it has no
vote in etcd, then it is no member: the others count it in no majority, its
agent closes its routes and leaves its server closed and receiving from nobody.
Its data stays as it is.

Refused for the primary (switch over first), where too few replicas would be left
to acknowledge, where etcd would lose its quorum, and for a member that may still
acknowledge commits and cannot be told not to. A removal that takes long goes on
by itself (exit code 1); an operation that comes in between takes it back.
` + clientHelp + exitHelp,
		Example: "  interrex member remove db2",
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(command *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return completeCandidates(command, &flags)
		},
		RunE: func(command *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			client, err := flags.open()
			if err != nil {
				return err
			}
			defer client.close()
			if client.token == "" {
				return &noTokenError{client.tokenHint}
			}
			if !yes && isTerminal(command.InOrStdin()) {
				if err := confirm(command, fmt.Sprintf("Remove %s from the cluster?", args[0])); err != nil {
					return err
				}
			}
			return removeMember(command, client, args[0], output)
		},
	}
	flags.register(command)
	outputFlag(command, &output)
	command.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return command
}

func removeMember(command *cobra.Command, client *apiClient, name, output string) error {
	change, err := post[api.MemberChange](command.Context(), client, "/api/v1/membership/remove", api.RemoveMemberRequest{Name: name})
	if err != nil {
		return err
	}
	s := newScreen(command.OutOrStdout())
	if output == outputJSON {
		err = writeJSON(s.out, change)
	} else {
		printRemoved(s, change)
	}
	if err == nil && !change.Done {
		return exitError{exitFailed}
	}
	return err
}

func printRemoved(s screen, change api.MemberChange) {
	if change.Done {
		s.printf("%s is no member any more. Stop its agent, and take it out of the other members' configuration\nfiles when convenient; its server is closed, with its data as they were.\n", s.bold(string(change.Name)))
	} else {
		s.printf("%s is leaving, and that goes on by itself. It waits for: %s\n", s.bold(string(change.Name)), cmp.Or(change.Waiting, "the leader"))
	}
	printNotes(s, change.Notes)
}

func printNotes(s screen, notes []string) {
	for _, n := range notes {
		s.printf("%s%s\n", s.warn("! "), n)
	}
}

// printAdded tells what to do on the new node.
func printAdded(s screen, n newcomer, change api.MemberChange) error {
	text, err := yaml.Marshal(section{
		{Key: "cluster", Value: section{{Key: "members", Value: memberSections(n, change.Members)}}},
		{Key: "node", Value: section{{Key: "name", Value: n.name}}},
	})
	if err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	s.printf("%s is a member, and counts from the moment its agent runs.\n", s.bold(n.name))
	printNotes(s, change.Notes)
	s.printf("\nOn the new node:\n")
	for i, step := range addSteps(n) {
		s.printf("%d. %s\n", i+1, step)
	}
	s.printf("\n%s", text)
	return nil
}

func addSteps(n newcomer) []string {
	steps := []string{
		"Copy the configuration file of another member, with the secrets and the CA it names, and give the node\n   a certificate of its own.",
		"Put this in place of what the file says of the members and of the node; set the listeners and ports.",
	}
	if n.mysql != "" {
		steps = append(steps, "Set its server up like the others (interrex mysql grants, interrex mysql prepare, interrex doctor) and\n   start it. It may be empty if the primary still has its first binary logs; otherwise clone it first\n   (docs/runbook.md, replacing a disk).")
	}
	return append(steps, "Start the agent, and watch interrex status.")
}

// memberSections are the members as a configuration file lists them.
func memberSections(n newcomer, members []api.MemberPlace) []section {
	var list []section
	for _, m := range members {
		if string(m.Name) == n.name {
			m.API, m.MySQL, m.MySQLAdmin, m.Priority, m.Site = net.JoinHostPort(n.address, strconv.Itoa(config.DefaultMember().Ports.API)), n.mysql, n.mysqlAdmin, n.priority, n.site
			m.RW, m.RO = "-", "-" // as by default
		}
		list = append(list, memberSection(m))
	}
	return list
}

func memberSection(m api.MemberPlace) section {
	host, _, _ := net.SplitHostPort(m.API)
	out := section{{Key: "name", Value: string(m.Name)}, {Key: "host", Value: host}}
	usual := config.DefaultMember()
	var ports section
	port := func(key, address string, standard int) {
		at := 0 // it has none
		if address == "-" {
			return
		}
		if _, text, err := net.SplitHostPort(address); err == nil {
			at, _ = strconv.Atoi(text)
		}
		if at != standard && (at != 0 || strings.HasPrefix(key, "r")) {
			ports = append(ports, yaml.MapItem{Key: key, Value: at})
		}
	}
	port("api", m.API, usual.Ports.API)
	port("gossip", m.Gossip, usual.Ports.Gossip)
	port("etcd_client", m.EtcdClient, usual.Ports.EtcdClient)
	port("etcd_peer", m.EtcdPeer, usual.Ports.EtcdPeer)
	port("rw", m.RW, usual.Ports.RW)
	port("ro", m.RO, usual.Ports.RO)
	if len(ports) > 0 {
		out = append(out, yaml.MapItem{Key: "ports", Value: ports})
	}
	for _, f := range []struct {
		key   string
		value any
		skip  bool
	}{
		{"mysql", m.MySQL, m.MySQL == ""}, {"mysql_admin", m.MySQLAdmin, m.MySQLAdmin == ""},
		{"voter", m.Voter, false}, {"priority", m.Priority, m.Priority == 0}, {"site", m.Site, m.Site == ""},
	} {
		if !f.skip {
			out = append(out, yaml.MapItem{Key: f.key, Value: f.value})
		}
	}
	return slices.Clip(out)
}
