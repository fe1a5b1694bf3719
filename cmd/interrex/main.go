// Command interrex keeps one MySQL primary writable: the agent that runs on
// every node, and the tools of its operators. This package only wires the
// parts together; it decides nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the build (-ldflags "-X main.version=…").
var version = "dev"

// exitError carries the exit code of a command that has already said what is
// wrong.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit %d", e.code) }

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
	)
	return root
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newRootCommand().ExecuteContext(ctx)
	var exit exitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		stop()
		os.Exit(exit.code) //nolint:gocritic // stop was called
	default:
		fmt.Fprintln(os.Stderr, "interrex:", err)
		os.Exit(1) //nolint:gocritic // nothing is deferred that matters here
	}
}
