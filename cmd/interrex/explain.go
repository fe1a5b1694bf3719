package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/topology"
)

func newExplainCommand() *cobra.Command {
	var flags clientFlags
	var output, member, decision string
	var epoch uint64
	var limit int
	command := &cobra.Command{
		Use:   "explain [--epoch N | --member NAME | --decision ID]",
		Short: "Say why it did, or did not, fail over: now, and for past decisions",
		Long: `Say in words why there is, or is not, a failover of the primary now: the verdict,
each member's vote with its age and whether it counts, and the gates that hold a
failover back. Below it stand the past decisions that no operation ended:
suspicions that passed, and failovers that were held back.

With --epoch, why an operation of the ledger was run and how it ended. With
--member, the same as now for another member's server. With --decision, one past
decision in full.

Each member remembers its own decisions, and those of all members that answer are
shown. The one that led then is the one whose decision it was.
` + clientHelp + exitHelp,
		Example: `  interrex explain
  interrex explain --member db3
  interrex explain --epoch 12
  interrex explain --decision db2-7`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if limit < 1 || limit > historyMax {
				return usageError{fmt.Errorf("--limit must be from 1 to %d", historyMax)}
			}
			q := explainQuery{output: output, member: member, limit: limit}
			if command.Flags().Changed("epoch") {
				q.epoch = strconv.FormatUint(epoch, 10)
			}
			if given := slices.DeleteFunc([]string{q.epoch, member, decision}, func(v string) bool { return v == "" }); len(given) > 1 {
				return usageError{errors.New("--epoch, --member and --decision are three questions: give one of them")}
			}
			client, err := flags.open()
			if err != nil {
				return err
			}
			defer client.close()
			q.client = client
			if decision != "" {
				return q.one(command, decision)
			}
			return q.all(command)
		},
	}
	flags.register(command)
	outputFlag(command, &output)
	command.Flags().Uint64Var(&epoch, "epoch", 0, "a past operation")
	command.Flags().StringVar(&member, "member", "", "whose server (default the primary's)")
	command.Flags().StringVar(&decision, "decision", "", "a past decision, by the id that explain shows")
	command.Flags().IntVarP(&limit, "limit", "n", 10, "how many past decisions")
	return command
}

// explainQuery is one call of the command.
type explainQuery struct {
	client                *apiClient
	output, member, epoch string
	limit                 int
}

// all answers for now, or for an epoch.
func (q explainQuery) all(command *cobra.Command) error {
	values := url.Values{}
	if q.member != "" {
		values.Set("member", q.member)
	}
	if q.epoch != "" {
		values.Set("epoch", q.epoch)
	}
	answer, err := q.client.read(command.Context(), "/api/v1/explain?"+values.Encode())
	if err != nil {
		return err
	}
	if q.output == outputJSON {
		return printJSON(command.OutOrStdout(), answer)
	}
	var e api.Explained
	if err := json.Unmarshal(answer, &e); err != nil {
		return fmt.Errorf("understand the explanation: %w", err)
	}
	s := newScreen(command.OutOrStdout())
	printExplained(s, e)
	if q.epoch != "" {
		return nil
	}
	list, silent, err := q.decisions(command)
	if err != nil {
		return err
	}
	printDecisions(s, list[:min(q.limit, len(list))], silent)
	return nil
}

// one answers for one past decision.
func (q explainQuery) one(command *cobra.Command, id string) error {
	list, silent, err := q.decisions(command)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(d api.Decision) bool { return d.ID == id })
	if i < 0 {
		err := fmt.Errorf("no agent that answers remembers a decision %q", id)
		return errors.Join(append([]error{err}, silent...)...)
	}
	if q.output == outputJSON {
		return writeJSON(command.OutOrStdout(), list[i])
	}
	printDecision(newScreen(command.OutOrStdout()), list[i])
	return nil
}

// decisions are those of every agent that answers: the ones that go on, then
// the newest first. silent says who does not answer.
func (q explainQuery) decisions(command *cobra.Command) (list []api.Decision, silent []error, err error) {
	path := "/api/v1/decisions?limit=" + strconv.Itoa(historyMax)
	if q.member != "" {
		path += "&member=" + url.QueryEscape(q.member)
	}
	answers, silent := q.client.readEach(command.Context(), path)
	for _, answer := range answers {
		var some api.DecisionList
		if err := json.Unmarshal(answer, &some); err != nil {
			return nil, nil, fmt.Errorf("understand past decisions: %w; is it an agent of this version?", err)
		}
		list = append(list, some.Decisions...)
	}
	slices.SortStableFunc(list, func(a, b api.Decision) int {
		if aOpen, bOpen := a.EndedAt == nil, b.EndedAt == nil; aOpen != bOpen {
			if aOpen {
				return -1
			}
			return 1
		}
		return b.BeganAt.Compare(a.BeganAt)
	})
	list = slices.CompactFunc(list, func(a, b api.Decision) bool { return a.ID == b.ID }) // two ways to one agent
	return list, silent, nil
}

func printExplained(s screen, e api.Explained) {
	printWords(s, e.Explanation, e.Evidence)
	s.field("as seen by", string(e.By))
	if e.Evidence != nil {
		printVotes(s, *e.Evidence)
	}
	if len(e.Gates) > 0 {
		s.printf("\n%s\n", s.bold("Gates"))
		printGates(s, e.Gates)
	}
}

// printWords prints an explanation, but for what the votes say in a table.
func printWords(s screen, e failover.Explanation, votes *api.Judgement) {
	s.printf("%s\n%s\n", e.Question, s.bold(e.Answer))
	for _, line := range e.Because {
		if votes == nil || line != votes.Explanation {
			s.printf("  - %s\n", line)
		}
	}
	if e.Next != "" {
		s.printf("%s\n", e.Next)
	}
	s.printf("\n")
}

func printVotes(s screen, j api.Judgement) {
	if len(j.Votes) == 0 {
		return
	}
	title := fmt.Sprintf("Votes on %s: %s", j.Subject, j.Verdict)
	if j.Needed > 0 {
		title += fmt.Sprintf(", %d against are needed for failed", j.Needed)
	}
	s.printf("\n%s\n", s.bold(title))
	rows := make([]table.Row, len(j.Votes))
	for i, v := range j.Votes {
		rows[i] = table.Row{v.Observer, orDash(v.Kind), millisText(v.AgeMS), s.counts(v), orDash(voteReason(v))}
	}
	s.table(rows, 5, []int{3}, "member", "saw", "age", "counts", "why, detail")
}

func voteReason(v api.Vote) string {
	return strings.Join(slices.DeleteFunc([]string{v.Why, v.Detail}, func(t string) bool { return t == "" }), "; ")
}

func (s screen) counts(v api.Vote) string {
	switch {
	case v.Against:
		return s.bad("against it")
	case v.Counts == api.CountsFor:
		return s.good("for it")
	}
	return s.warn("not counted")
}

func printDecisions(s screen, list []api.Decision, silent []error) {
	s.printf("\n%s\n", s.bold("Past decisions (in full: --decision ID)"))
	if len(list) == 0 {
		s.printf("none: no server was suspect since the journals began\n")
	} else {
		rows := make([]table.Row, len(list))
		for i, d := range list {
			by := string(d.By)
			if d.Led {
				by += " (led)"
			}
			rows[i] = table.Row{d.ID, s.when(d.BeganAt), by, d.Subject, millisText(d.LastMS), d.Outcome, d.Words.Answer}
		}
		s.table(rows, 7, []int{5}, "id", "began", "seen by", "about", "lasted", "outcome", "in short")
	}
	for _, err := range silent {
		s.printf("%s %v\n", s.warn("not asked:"), err)
	}
}

func printDecision(s screen, d api.Decision) {
	printWords(s, d.Words, &d.Evidence)
	s.field("id", d.ID)
	by := string(d.By)
	if d.Led {
		by += ", which led"
	}
	s.field("seen by", by)
	s.field("began", s.when(d.BeganAt))
	if d.EndedAt != nil {
		s.field("ended", s.when(*d.EndedAt))
	}
	s.field("outcome", string(d.Outcome))
	if d.Epoch != topology.Epoch(0) {
		s.field("epoch", fmt.Sprint(d.Epoch))
	}
	printVotes(s, d.Evidence)
}
