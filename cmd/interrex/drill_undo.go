package main

import (
	"github.com/spf13/cobra"

	"interrex/failover/drill"
)

// undoCommand names the helper process of a fault in force.
const undoCommand = "undo"

// newDrillUndoCommand is the process that undoes a fault when its time is up,
// or when the agent that caused it is gone.
func newDrillUndoCommand() *cobra.Command {
	return &cobra.Command{
		Use:    undoCommand + " FILE",
		Short:  "Undo the fault written down in a file when its time is up",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(command *cobra.Command, args []string) error {
			return drill.Undo(command.Context(), args[0], command.InOrStdin(), command.OutOrStdout())
		},
	}
}
