package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"
)

func newPauseCommand() *cobra.Command {
	var flags clientFlags
	var reason string
	command := &cobra.Command{
		Use:   "pause --reason TEXT",
		Short: "Stop automatic failovers until resume",
		Long: `Stop automatic failovers, for maintenance say. Detection goes on, an operation
in flight is finished, and a switchover that is asked for still runs. The reason
is shown to everybody in the status.
` + clientHelp + exitHelp,
		Example: `  interrex pause --reason "switch maintenance in rack 4, until 14:00"`,
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if strings.TrimSpace(reason) == "" {
				return usageError{errors.New("--reason must say why, for those who find the cluster paused")}
			}
			client, err := flags.open()
			if err != nil {
				return err
			}
			defer client.close()
			if err := client.Pause(command.Context(), reason); err != nil {
				return err
			}
			newScreen(command.OutOrStdout()).printf("Paused: a failed primary stays failed until `interrex resume`.\n")
			return nil
		},
	}
	flags.register(command)
	command.Flags().StringVar(&reason, "reason", "", "why, shown in the status")
	return command
}

func newResumeCommand() *cobra.Command {
	var flags clientFlags
	command := &cobra.Command{
		Use:   "resume",
		Short: "Let automatic failovers run again",
		Long: `Lift the pause, and let automation go on where it has stopped because failovers
followed one another (gate not_flapping): by this you say that you have looked.
If the primary failed meanwhile, a failover begins at once.
` + clientHelp + exitHelp,
		Example: "  interrex resume",
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			client, err := flags.open()
			if err != nil {
				return err
			}
			defer client.close()
			if err := client.Resume(command.Context()); err != nil {
				return err
			}
			newScreen(command.OutOrStdout()).printf("Resumed: failover is automatic again.\n")
			return nil
		},
	}
	flags.register(command)
	return command
}
