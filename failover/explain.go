package failover

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"interrex/election"
	"interrex/internal/topology"
)

// Explanation answers "why did it, or did it not, fail over" for a person.
type Explanation struct {
	Question string   `json:"question"`
	Answer   string   `json:"answer"`  // one sentence
	Because  []string `json:"because"` // what it rests on
	Next     string   `json:"next"`    // what happens next, and what to do
}

// ExplainNow says why there is, or is not, a failover of the recorded primary
// now. gates are as decideGates gives them. It is pure.
func ExplainNow(v View, gates []Gate) Explanation {
	p := v.State.Primary
	if p == nil {
		return Explanation{
			Question: "Why does nobody serve writes?", Answer: "The cluster has no primary yet.",
			Because: closedReasons(gates, election.Bootstrap, ""), Next: "It gets one as soon as every member of the configuration is there.",
		}
	}
	if v.Isolated != nil {
		return explainIsolated(v)
	}
	e := Explanation{Question: fmt.Sprintf("Is %s failed over now, and why or why not?", p.Node), Because: evidenceWords(v.Primary)}
	switch held := closedReasons(gates, election.Failover, gateFailed); {
	case v.State.Operation != nil:
		o := v.State.Operation
		e.Answer = fmt.Sprintf("An operation is on its way: the %s of epoch %d is at step %s, led by %s.", o.Kind, o.Epoch, o.Step, o.Leader)
		e.Because = append([]string{"it was begun because: " + o.Cause}, e.Because...)
		e.Next = fmt.Sprintf("It ends by itself; then `interrex explain --epoch %d` tells all of it. If its leader dies, the next one goes on.", o.Epoch)
	case v.Primary.Verdict != topology.Failed:
		e.Answer, e.Next = explainAlive(v, held)
	case len(held) > 0:
		e.Answer = fmt.Sprintf("No. %s has failed, and the failover is held back by %s.", p.Node, plural(len(held), "gate"))
		e.Because = append(held, e.Because...)
		e.Next = "It begins by itself as soon as every gate is open. Writes are out until then: see the runbook for the gate."
	default:
		e.Answer = fmt.Sprintf("Yes. %s has failed and nothing holds the failover back.", p.Node)
		e.Next = fmt.Sprintf("%s begins it at its next look, within a quarter of a second.", orNobody(v.Leadership.Holder))
	}
	return e
}

// explainIsolated is what a member that is cut off can say: little.
func explainIsolated(v View) Explanation {
	return Explanation{
		Question: "What goes on?",
		Answer:   fmt.Sprintf("%s cannot know: it is cut off from the others.", v.Self),
		Because: []string{
			v.Isolated.String(),
			fmt.Sprintf("when it last saw them, the primary was %s in epoch %d", v.State.Primary.Node, v.State.Primary.Epoch),
		},
		Next: "Ask another member (--agent). If the others are a majority, they fail over from a primary that they cannot reach; this node opens its routes again, to wherever the primary is then, as soon as it sees them.",
	}
}

// explainAlive is for a primary whose verdict is not failed.
func explainAlive(v View, held []string) (answer, next string) {
	name, j := v.State.Primary.Node, v.Primary
	would := "If it were dead, nothing would hold a failover back."
	if len(held) > 0 {
		would = "If it were dead, a failover would be held back: " + strings.Join(held, "; ") + "."
	}
	switch {
	case j.Verdict == topology.Healthy:
		return fmt.Sprintf("No. %s is healthy: %s.", name, meaning(j.Cause)), would
	case j.Verdict == topology.Suspect && j.against() >= j.Needed && j.Needed > 0:
		return fmt.Sprintf("Not yet. Enough members miss answers from %s, but it answers its own agent: the way to it is slow, not the server.", name), would
	case j.Verdict == topology.Suspect:
		return fmt.Sprintf("Not yet. %s is suspect: %d of %d members speak against it, and %d are needed.", name, j.against(), len(j.Votes), j.Needed), would
	}
	return fmt.Sprintf("No. Nobody has a fresh word on %s, and silence is no vote.", name), would
}

// ExplainMember is ExplainNow for a member that is not the primary.
func ExplainMember(v View, name topology.NodeName, j Judgement) Explanation {
	e := Explanation{Question: fmt.Sprintf("Why does nothing move because of %s?", name), Because: evidenceWords(j)}
	e.Answer = fmt.Sprintf("%s is %s, and it is not the primary: only the primary's failure moves anything.", name, j.Verdict)
	switch reg := v.State.Register; {
	case !slices.ContainsFunc(v.Members, func(m topology.Member) bool { return m.Name == name && m.HasInstance() }):
		e.Answer = fmt.Sprintf("%s has no server: nothing is failed over from it.", name)
	case j.Verdict == topology.Failed && reg.Has(name):
		e.Next = "It is still registered as an acker. A failover needs it back, or dropped: that is done after durability.drop_after."
	case j.Verdict == topology.Failed:
		e.Next = "It is no registered acker: no failover needs it. It is brought back by itself when it answers."
	}
	return e
}

// ExplainReport says why an operation of the ledger was run and how it ended.
func ExplainReport(r Report) Explanation {
	e := Explanation{Question: fmt.Sprintf("Why was there a %s in epoch %d?", r.Kind, r.Epoch)}
	switch r.Kind {
	case election.Failover:
		e.Answer = fmt.Sprintf("%s was judged failed: %s.", r.From, meaning(r.Evidence.Cause))
		if r.Evidence.Verdict != topology.Failed {
			e.Answer = fmt.Sprintf("%s could not stay the primary: %s.", r.From, r.Cause)
		}
	case election.Switchover:
		e.Answer = "An operator asked for it."
	case election.Bootstrap:
		e.Answer = "The cluster had no primary yet."
	default:
		e.Answer = fmt.Sprintf("%s was to go on as the primary: %s.", r.From, r.Cause)
	}
	if r.Kind == election.Failover {
		e.Because = evidenceWords(r.Evidence)
	}
	for _, g := range r.Gates {
		if !g.Open {
			e.Because = append(e.Because, fmt.Sprintf("gate %s was closed when it was decided: %s", g.Name, g.Reason))
		}
	}
	for _, s := range r.Steps {
		if s.Error != "" {
			e.Because = append(e.Because, fmt.Sprintf("step %s failed: %s", s.Name, s.Error))
		}
	}
	e.Next = outcomeWords(r)
	return e
}

func outcomeWords(r Report) string {
	switch r.Outcome {
	case Completed:
		return fmt.Sprintf("%s served writes from then on; they were out for %.0f ms at most. %s", r.To, r.RTOMillis, lossWords(r.RPO))
	case Undone:
		return "It was undone and the former primary went on: " + r.Reason
	case Superseded:
		return "Its leader did not end it; a later epoch did: " + r.Reason
	case Failure:
		return "It ended without a primary: " + r.Reason
	}
	return "It had not ended when this was written."
}

func lossWords(r RPO) string {
	if r.LostCommits == nil {
		return "What was lost is not known."
	}
	return fmt.Sprintf("%d acknowledged commits were lost: %s.", *r.LostCommits, r.Proof.Statement)
}

// ExplainDecision says why an episode of evidence did or did not end in a
// failover.
func ExplainDecision(d Decision) Explanation {
	what := "suspect"
	if d.Worst.Verdict == topology.Failed {
		what = "failed"
	}
	e := Explanation{Question: fmt.Sprintf("What came of the evidence against %s?", d.Subject), Because: evidenceWords(d.Worst)}
	times := ""
	if d.Times > 1 {
		times = fmt.Sprintf(", %d times", d.Times)
	}
	seen := fmt.Sprintf("%s was %s for %s%s in the eyes of %s", d.Subject, what, spell(d.Lasted), times, d.By)
	switch {
	case d.Outcome == DecisionFailedOver:
		e.Answer = seen + ", and was failed over."
		e.Next = fmt.Sprintf("`interrex explain --epoch %d` tells that operation.", d.Epoch)
	case d.Outcome == DecisionResumed:
		e.Answer = seen + ", and was made the primary once more."
		e.Next = fmt.Sprintf("`interrex explain --epoch %d` tells that operation.", d.Epoch)
	case !d.Primary:
		e.Answer = seen + ". It was not the primary: nothing was moved."
	case d.Worst.Verdict != topology.Failed:
		e.Answer = fmt.Sprintf("%s. No failover: %d of %d members spoke against it, and %d were needed.", seen, d.Worst.against(), len(d.Worst.Votes), d.Worst.Needed)
	case len(d.Held) > 0:
		e.Answer = seen + ". The failover was held back."
	default:
		e.Answer = seen + ". It ended before a failover began."
	}
	for _, h := range d.Held {
		e.Because = append(e.Because, fmt.Sprintf("gate %s was closed for %s: %s", h.Gate, spell(h.For), h.Reason))
	}
	if len(d.Held) > 0 && !d.Led {
		e.Because = append(e.Because, fmt.Sprintf("%s did not lead: the gates are as it saw them", d.By))
	}
	if d.Outcome == DecisionOpen {
		e.Next = "It goes on."
	}
	return e
}

// closedReasons are the closed gates of an operation but for one.
func closedReasons(gates []Gate, op election.Kind, except string) []string {
	out := []string{}
	for _, g := range gates {
		if g.Operation == op && !g.Open && g.Name != except {
			out = append(out, fmt.Sprintf("gate %s is closed: %s", g.Name, g.Reason))
		}
	}
	return out
}

// evidenceWords tell the cause in plain words and then each member's vote.
func evidenceWords(j Judgement) []string {
	out := []string{}
	if means, look := causeWords(j.Cause); means != "" && j.Verdict != topology.Healthy {
		line := fmt.Sprintf("%s: %s", j.Cause, means)
		if look != "" {
			line += "; look at " + look
		}
		out = append(out, line)
	}
	if j.Explanation != "" {
		out = append(out, j.Explanation)
	}
	return out
}

func meaning(cause string) string {
	if means, _ := causeWords(cause); means != "" {
		return means
	}
	if cause == "" {
		return "its evidence was not written down"
	}
	return cause
}

func plural(n int, word string) string {
	if n == 1 {
		return "a " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

func orNobody(name topology.NodeName) string {
	if name == "" {
		return "Whoever comes to lead"
	}
	return string(name) + " leads and"
}

// spell is a duration as people say it.
func spell(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return d.Round(100 * time.Millisecond).String()
}
