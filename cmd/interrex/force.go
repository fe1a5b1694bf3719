package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"

	"github.com/spf13/cobra"

	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/topology"
)

const forcePath = "/api/v1/failover/force"

// forceFlags are what an order in a script has to repeat of the preview.
type forceFlags struct {
	force       bool
	cluster     string
	epoch       uint64
	confirm, by string
	confirmed   bool // --confirm was given
	named       bool // so were --cluster and --epoch
}

func newFailoverCommand() *cobra.Command {
	var flags clientFlags
	var output string
	var f forceFlags
	command := &cobra.Command{
		Use:   "failover [--force]",
		Short: "Show what a failover without proof would lose; force one",
		Long: `A failover that loses nothing runs by itself. Where the primary is gone, and too
few of its ackers are left to prove that everything acknowledged is still there,
none does: bring one of those back that are waited for, or the old primary.

If they are gone for good, this shows what would be lost without them, as far as
anybody knows, and --force accepts it: it asks for the number of commits that
are known to be missing or, where nothing bounds the loss, for the word
"unbounded". Any other answer does nothing, and so does an order that is not
what is so any more. Who accepted what is kept in the ledger.

In a script, --confirm gives that answer, with --cluster and --epoch as shown.

What it gives up: if the old primary still runs behind a broken network together
with an acker, clients that reach it are answered OK until the network is back,
and all of that is lost. Make sure that it is off.
` + clientHelp + exitHelp,
		Example: `  interrex failover
  interrex failover --force
  interrex failover --force --cluster shop --epoch 7 --confirm 3 --by ann`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			given := command.Flags().Changed
			f.confirmed, f.named = given("confirm"), given("cluster") && given("epoch")
			if err := errors.Join(checkOutput(output), f.check()); err != nil {
				return err
			}
			client, err := flags.open()
			if err != nil {
				return err
			}
			defer client.close()
			return runFailover(command, client, f, output)
		},
	}
	flags.register(command)
	outputFlag(command, &output)
	command.Flags().BoolVar(&f.force, "force", false, "fail over although acknowledged commits may be lost")
	command.Flags().StringVar(&f.confirm, "confirm", "", "what may be lost, as shown: a number, or unbounded (default: ask)")
	command.Flags().StringVar(&f.cluster, "cluster", "", "the cluster's name; needed with --confirm")
	command.Flags().Uint64Var(&f.epoch, "epoch", 0, "the primary's epoch, as shown; needed with --confirm")
	command.Flags().StringVar(&f.by, "by", "", "who accepts the loss (default: this user at this host)")
	return command
}

func (f forceFlags) check() error {
	switch {
	case !f.force && (f.confirmed || f.named):
		return usageError{errors.New("--confirm, --cluster and --epoch are for --force")}
	case f.confirmed && !f.named:
		return usageError{errors.New("--confirm needs --cluster and --epoch, as the preview shows them")}
	}
	return nil
}

func runFailover(command *cobra.Command, client *apiClient, f forceFlags, output string) error {
	if !f.force {
		return showForce(command.Context(), newScreen(command.OutOrStdout()), client, output)
	}
	if client.token == "" {
		return &noTokenError{client.tokenHint}
	}
	req := api.ForceRequest{Cluster: f.cluster, Epoch: topology.Epoch(f.epoch), Confirm: f.confirm, By: cmp.Or(f.by, whoami()), Wait: true}
	if !f.confirmed {
		if !isTerminal(command.InOrStdin()) {
			return usageError{errors.New("there is no terminal to ask at: give --confirm, --cluster and --epoch")}
		}
		if err := acceptLoss(command, client, &req); err != nil {
			return err
		}
	}
	s := newScreen(command.OutOrStdout())
	report, err := post[api.Report](command.Context(), client, forcePath, req)
	if err != nil {
		return err
	}
	if output == outputJSON {
		return writeJSON(s.out, report)
	}
	printSteps(s, report.Steps)
	s.printf("\n%s is the primary of epoch %d. Writes were out for %s.\n", s.bold(string(report.To)), report.Epoch, millisText(report.RTOMillis))
	printForced(s, report)
	return nil
}

// acceptLoss shows what may be lost and asks for it.
func acceptLoss(command *cobra.Command, client *apiClient, req *api.ForceRequest) error {
	p, err := get[api.ForcePreview](command.Context(), client, forcePath)
	if err != nil {
		return err
	}
	printForcePreview(newScreen(command.ErrOrStderr()), p)
	for _, g := range p.Gates {
		if !g.Open {
			return errNothingDone
		}
	}
	what := "the number of commits that are known to be missing"
	if p.Bound.Confirm == failover.Unbounded {
		what = "the word that stands for a loss that nobody can bound"
	}
	req.Cluster, req.Epoch = p.Cluster, p.Epoch
	req.Confirm = askLine(command, fmt.Sprintf("\nTo promote %s and accept that, type %s: ", p.Bound.Candidate, what))
	if req.Confirm != p.Bound.Confirm {
		return errNothingDone
	}
	return nil
}

func showForce(ctx context.Context, s screen, client *apiClient, output string) error {
	answer, err := client.read(ctx, forcePath)
	if err != nil {
		return err
	}
	if output == outputJSON {
		return printJSON(s.out, answer)
	}
	var p api.ForcePreview
	if err := json.Unmarshal(answer, &p); err != nil {
		return fmt.Errorf("understand what would be lost: %w", err)
	}
	printForcePreview(s, p)
	return nil
}

func printForcePreview(s screen, p api.ForcePreview) {
	b := p.Bound
	s.field("cluster", s.bold(p.Cluster))
	primary := orDash(string(p.Primary))
	if p.Primary != "" {
		primary += fmt.Sprintf(", of epoch %d", p.Epoch)
	}
	s.field("primary", primary)
	if b.Needs != "" {
		s.field("no loss", "if it comes back: "+b.Needs)
	}
	s.field("promoted", orDash(string(b.Candidate)))
	word := s.bad(b.Statement)
	if b.Proven {
		word = s.good(b.Statement)
	}
	s.field("lost", word)
	if !b.Missing.IsEmpty() {
		s.field("missing", b.Missing.String())
	}
	if b.LastTold != nil && !b.Proven {
		s.field("last told", fmt.Sprintf("%s: what %s acknowledged after that is in no count", s.when(*b.LastTold), p.Primary))
	}
	s.field("confirm", s.bold(b.Confirm))
	for _, g := range p.Gates {
		if !g.Open {
			s.field("", s.warn(g.Name+" refuses it: ")+g.Reason)
		}
	}
}

// whoami is this user at this host.
func whoami() string {
	name, host := "somebody", "somewhere"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}
