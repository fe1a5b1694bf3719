package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"interrex/election"
	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/topology"
)

func newSwitchoverCommand() *cobra.Command {
	var flags clientFlags
	var to, output string
	var yes bool
	command := &cobra.Command{
		Use:   "switchover [--to NODE]",
		Short: "Move the primary to another member, while it is well",
		Long: `Move the primary to the named member, or to the best candidate. Routes hold new
transactions while the running ones end, the candidate catches up to the last
one, and the routes open again to it: clients see latency, not errors. If that
cannot be done within failover.switchover_limit, it is undone within it.

On a terminal it asks before it acts. It prints the steps and how long writes
were out. If a gate refuses it, it prints the gates; nothing has changed then.
` + clientHelp + exitHelp,
		Example: `  interrex switchover
  interrex switchover --to db2
  interrex switchover --to db2 --yes -o json`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
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
				if err := confirmSwitchover(command, client, topology.NodeName(to)); err != nil {
					return err
				}
			}
			return switchover(command, client, topology.NodeName(to), output)
		},
	}
	flags.register(command)
	outputFlag(command, &output)
	command.Flags().StringVar(&to, "to", "", "member to promote (default: the best candidate)")
	command.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	_ = command.RegisterFlagCompletionFunc("to", // fails only for a flag that does not exist
		func(command *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return completeCandidates(command, &flags)
		})
	return command
}

func switchover(command *cobra.Command, client *apiClient, to topology.NodeName, output string) error {
	s := newScreen(command.OutOrStdout())
	report, err := client.Switchover(command.Context(), to)
	var refused *problemError
	if errors.As(err, &refused) && refused.refused() {
		if output == outputTable {
			showRefusal(command.Context(), s, client, refused)
		}
		return err
	}
	if report.Epoch == 0 {
		return err
	}
	if output == outputJSON {
		if perr := writeJSON(s.out, report); perr != nil {
			return errors.Join(err, perr)
		}
		return err
	}
	printSteps(s, report.Steps)
	s.printf("\n")
	if err != nil {
		return err
	}
	s.printf("%s is the primary of epoch %d. Writes were out for %s; %s acknowledged commits lost.\n",
		s.bold(string(report.To)), report.Epoch, s.bold(millisText(report.RTOMillis)), countText(report.RPO.LostCommits))
	return nil
}

// confirmSwitchover asks the person at the terminal.
func confirmSwitchover(command *cobra.Command, client *apiClient, to topology.NodeName) error {
	c, err := client.Cluster(command.Context())
	if err != nil {
		return err
	}
	from := "nobody"
	if c.Primary != nil {
		from = string(c.Primary.Node)
	}
	target := "the best candidate"
	if to != "" {
		target = string(to)
	}
	return confirm(command, fmt.Sprintf("Move the primary of %s (%s) from %s to %s?", c.Name, c.Status, from, target))
}

// confirm asks a question that only "y" or "yes" answers in the affirmative.
func confirm(command *cobra.Command, question string) error {
	switch strings.ToLower(askLine(command, question+" [y/N] ")) {
	case "y", "yes":
		return nil
	}
	return errNothingDone
}

// errNothingDone ends a command that the person at the terminal did not want.
var errNothingDone = errors.New("nothing was done")

// askLine is what the person at the terminal answers; empty if that is nothing.
func askLine(command *cobra.Command, question string) string {
	fmt.Fprint(command.ErrOrStderr(), question)
	answer := make(chan string, 1)
	// The read cannot be interrupted; it ends with the process.
	go func() {
		line, _ := bufio.NewReader(command.InOrStdin()).ReadString('\n')
		answer <- line
	}()
	select {
	case line := <-answer:
		return strings.TrimSpace(line)
	case <-command.Context().Done():
		return ""
	}
}

// showRefusal prints the gates of a switchover with the one that refused it:
// the agents' own list is for the best candidate, not for the one asked for.
func showRefusal(ctx context.Context, s screen, client *apiClient, refused *problemError) {
	gates, err := client.Gates(ctx)
	if err != nil || refused.Gate == nil {
		return // the error says what there is to say
	}
	var mine []failover.Gate
	shown := false
	for _, g := range gates {
		if g.Operation != election.Switchover {
			continue
		}
		if g.Name == refused.Gate.Name {
			g, shown = *refused.Gate, true
		}
		mine = append(mine, g)
	}
	if !shown {
		mine = append(mine, *refused.Gate)
	}
	printGates(s, mine)
	s.printf("\n")
}

// completeCandidates completes --to with the members that may be promoted.
func completeCandidates(command *cobra.Command, flags *clientFlags) ([]string, cobra.ShellCompDirective) {
	client, err := flags.open()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer client.close()
	var words []string
	c, err := client.Cluster(command.Context())
	if err != nil {
		for _, name := range client.known {
			words = append(words, string(name))
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
	for _, m := range c.Members {
		if m.Role == api.RolePrimary || m.Role == api.RoleArbiter || m.Priority < 0 {
			continue
		}
		words = append(words, fmt.Sprintf("%s\t%s, %s", m.Name, m.Role, m.Verdict))
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}

func completeEpochs(command *cobra.Command, flags *clientFlags) ([]string, cobra.ShellCompDirective) {
	client, err := flags.open()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer client.close()
	reports, err := client.Reports(command.Context(), historyDefault)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var words []string
	for _, r := range reports {
		words = append(words, fmt.Sprintf("%d\t%s %s", r.Epoch, r.Kind, fromTo(r.From, r.To)))
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}
