package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"interrex/internal/sandbox"
)

// sandboxOrder is a command about one node of a sandbox.
type sandboxOrder struct {
	name, short, long string
	done              string // what is said of the node afterwards
	hidden            bool
	do                func(sandbox.Cluster, context.Context, string) error
}

func sandboxOrders() []sandboxOrder {
	return []sandboxOrder{
		{
			name: "kill", short: "End a server with SIGKILL", do: sandbox.Cluster.Kill,
			done: "was killed; it stays dead until interrex sandbox start",
			long: "End a node's server with SIGKILL, as a crash would. It stays dead until start.",
		},
		{
			name: "freeze", short: "Stop a server from running, until thaw", do: sandbox.Cluster.Freeze,
			done: "does not run any more, until interrex sandbox thaw",
			long: "Stop a node's server with SIGSTOP: it still accepts connections and answers\nnothing, until thaw.",
		},
		{
			name: "thaw", short: "Let a frozen server go on", do: sandbox.Cluster.Thaw,
			done: "runs again",
			long: "Let a node's frozen server go on (SIGCONT), as if it had slept.",
		},
		{
			name: "start", short: "Start a server that was killed", do: sandbox.Cluster.Start,
			done: "runs; interrex status shows what becomes of it",
			long: "Start a node's server that is not running, and return when it answers. It starts\nclosed; its agent decides what becomes of it.",
		},
		{
			name: "restart", short: "End a server with SIGKILL and start it", do: sandbox.Cluster.Restart, hidden: true,
			long: "End a node's server with SIGKILL, if it runs, and start it, unless it was killed\nby the command kill.",
		},
		{
			name: "ensure", short: "Start a server unless it runs", do: sandbox.Cluster.Ensure, hidden: true,
			long: "Start a node's server unless it runs, or was killed by the command kill. Agents\nuse it.",
		},
		{
			name: "stop-agent", short: "End an agent with SIGKILL", do: sandbox.Cluster.StopAgent, hidden: true,
			long: "End a node's agent with SIGKILL. It stays dead until start-agent.",
		},
		{
			name: "start-agent", short: "Start an agent that was stopped", do: sandbox.Cluster.StartAgent, hidden: true,
			long: "Start a node's agent that was stopped.",
		},
	}
}

func (o sandboxOrder) command(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:     o.name + " NODE",
		Short:   o.short,
		Long:    o.long,
		Example: "  interrex sandbox " + o.name + " db1",
		Hidden:  o.hidden,
		Args:    cobra.ExactArgs(1),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			cluster, err := sandbox.Load(*dir)
			if err != nil || len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, n := range cluster.Nodes {
				names = append(names, n.Name)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(command *cobra.Command, args []string) error {
			cluster, err := sandbox.Load(*dir)
			if err != nil {
				return err
			}
			if err := o.do(cluster, command.Context(), args[0]); err != nil {
				return err
			}
			if o.done != "" {
				fmt.Fprintf(command.OutOrStdout(), "%s's server %s\n", args[0], o.done)
			}
			return nil
		},
	}
}
