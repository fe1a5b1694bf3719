package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"interrex/internal/config"
)

// newConfigCommand is what can be done with a configuration file without
// starting anything.
func newConfigCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "config",
		Short: "Write, check and explain the agent's configuration file",
		Args:  cobra.NoArgs,
	}
	command.AddCommand(newConfigExampleCommand(), newConfigCheckCommand(), newConfigExplainCommand(), newConfigReferenceCommand())
	return command
}

func newConfigExampleCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "example",
		Short:   "Print a configuration file with every key, its default and its meaning",
		Example: "  interrex config example > agent.yaml",
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			text, err := config.Example()
			if err != nil {
				return err
			}
			_, err = command.OutOrStdout().Write(text)
			return err
		},
	}
}

func newConfigCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE",
		Short: "Tell everything that is wrong with a configuration file",
		Long: `Reads the file as the agent would, with the secrets and certificates it names,
and tells every fault at once with line, key and fix. Starts nothing. Run it as
the agent's user: secrets must belong to that one.

Exits with 0 if an agent would start with the file, otherwise with 1.`,
		Example: "  sudo -u mysql interrex config check /etc/interrex/agent.yaml",
		Args:    cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			cfg, err := config.Load(args[0])
			var faults config.Faults
			if errors.As(err, &faults) {
				fmt.Fprintln(command.ErrOrStderr(), faults.Error())
				return fmt.Errorf("%s: %s", args[0], count(len(faults), "fault"))
			}
			if err != nil {
				return err
			}
			warnings := cfg.Warnings()
			for _, w := range warnings {
				fmt.Fprintf(command.OutOrStdout(), "%s: warning: %s\n", args[0], w)
			}
			fmt.Fprintf(command.OutOrStdout(), "%s: valid for member %s of cluster %s, %s\n",
				args[0], cfg.Node.Name, cfg.Cluster.Name, count(len(warnings), "warning"))
			return nil
		},
	}
}

func newConfigExplainCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "explain [FILE]",
		Short: "Tell after what time each kind of failure is declared, and why",
		Long: `Prints what the detection windows of a configuration file come to, or those of
the default profile without one: within which time each kind of failure is
declared, and by which settings. The same arithmetic is checked when the agent
starts, and by interrex config check. Times are computed, not measured:
interrex drill measures.`,
		Example: "  interrex config explain /etc/interrex/agent.yaml",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			cfg := config.Defaults()
			if len(args) == 1 {
				var err error
				if cfg, err = config.Load(args[0]); err != nil {
					return err
				}
			}
			windows, err := detectorConfig(cfg, secrets{}).EffectiveWindows()
			if err == nil {
				err = windows.Validate()
			}
			if err != nil {
				return fmt.Errorf("explain detection: %w", err)
			}
			receivers := accountConfig(cfg, secrets{})
			fmt.Fprintf(command.OutOrStdout(), "profile %s\n", cfg.Detection.Profile)
			for _, line := range append(windows.Explain(), fmt.Sprintf("a replica has lost its source after %v without a sign of it; "+
				"idle sources give one every %v (replica_net_timeout, SOURCE_HEARTBEAT_PERIOD)", receivers.NetTimeout, receivers.HeartbeatPeriod)) {
				fmt.Fprintf(command.OutOrStdout(), "- %s\n", line)
			}
			return nil
		},
	}
}

func newConfigReferenceCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "reference",
		Short:  "Print the manual page of the configuration file in Markdown",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(command *cobra.Command, _ []string) error {
			text, err := config.Reference()
			if err != nil {
				return err
			}
			_, err = command.OutOrStdout().Write(text)
			return err
		},
	}
}

// count prints "1 fault", "2 faults".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
