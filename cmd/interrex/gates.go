package main

import (
	"encoding/json"
	"fmt"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"interrex/election"
	"interrex/failover"
	"interrex/failover/api"
)

func newGatesCommand() *cobra.Command {
	var flags clientFlags
	var output string
	command := &cobra.Command{
		Use:   "gates",
		Short: "Show what each operation would be refused for now",
		Long: `Show the gates: the conditions that an operation depends on, each open or closed,
with the reason. An operation runs only while all its gates are open. That
primary_failed is closed is how things should be: it keeps a failover from
running while the primary is well.
` + clientHelp + exitHelp,
		Example: "  interrex gates\n  interrex gates -o json | jq '.gates[] | select(.open | not)'",
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			client, err := flags.open()
			if err != nil {
				return err
			}
			defer client.close()
			answer, err := client.read(command.Context(), "/api/v1/gates")
			if err != nil {
				return err
			}
			if output == outputJSON {
				return printJSON(command.OutOrStdout(), answer)
			}
			var list api.GateList
			if err := json.Unmarshal(answer, &list); err != nil {
				return fmt.Errorf("understand the gates: %w", err)
			}
			printGates(newScreen(command.OutOrStdout()), list.Gates)
			return nil
		},
	}
	flags.register(command)
	outputFlag(command, &output)
	return command
}

// printGates prints the gates, those of one operation together.
func printGates(s screen, gates []failover.Gate) {
	var order []election.Kind
	by := map[election.Kind][]failover.Gate{}
	for _, g := range gates {
		if by[g.Operation] == nil {
			order = append(order, g.Operation)
		}
		by[g.Operation] = append(by[g.Operation], g)
	}
	var rows []table.Row
	for _, kind := range order {
		for _, g := range by[kind] {
			state := s.good("open")
			if !g.Open {
				state = s.warn("closed")
			}
			rows = append(rows, table.Row{g.Operation, g.Name, state, g.Reason})
		}
	}
	s.table(rows, 4, nil, "operation", "gate", "state", "reason")
}
