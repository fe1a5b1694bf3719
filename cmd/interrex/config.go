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
	command.AddCommand(newConfigExampleCommand(), newConfigCheckCommand(), newConfigReferenceCommand())
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
