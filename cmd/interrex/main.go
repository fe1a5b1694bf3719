// Command interrex keeps one MySQL primary writable: the agent that runs on
// every node, and the tools of its operators. This package only wires the
// parts together; it decides nothing.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the build (-ldflags "-X main.version=…").
var version = "dev"

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "interrex",
		Short: "High availability for MySQL: detect, promote, route, and say what was lost",
		Long: `interrex keeps one MySQL primary writable, whatever dies.

One agent runs on every node. The agents watch the primary together, promote
the best replica when it is gone without losing an acknowledged commit, move
every route to it, and report how long writes were out (RTO) and what was lost
(RPO).`,
		Example: `  interrex demo                          see it work on three real servers
  interrex agent --config /etc/interrex/agent.yaml
  interrex status
  interrex switchover --to db2`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		newAgentCommand(),
		newEtcdCommand(),
		newConfigCommand(),
		newSandboxCommand(),
		newStatusCommand(),
		newSwitchoverCommand(),
		newFailoverCommand(),
		newHistoryCommand(),
		newGatesCommand(),
		newExplainCommand(),
		newObjectivesCommand(),
		newMemberCommand(),
		newPauseCommand(),
		newResumeCommand(),
		newMySQLCommand(),
		newDoctorCommand(),
		newDemoCommand(),
		newDrillCommand(),
	)
	return root
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := execute(ctx, newRootCommand(), os.Stderr)
	stop()
	os.Exit(code)
}
