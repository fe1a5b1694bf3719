package detector

import (
	"fmt"
	"strings"
	"time"

	"interrex/internal/topology"
)

// ago prints a duration as people say it.
func ago(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	default:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
}

// words tells what an observer of the kind has seen.
func (k Kind) words() string {
	switch k {
	case Alive:
		return "saw it answer"
	case Closed:
		return "saw it answer, closed for writes"
	case Saturated:
		return "saw it answer, saturated"
	case Erring:
		return "got an error for an answer"
	case ConnectionBroken:
		return "lost its connection to it"
	case Refused:
		return "was refused a connection"
	case AnotherServer:
		return "found another server in its place"
	case SilentHost:
		return "could not connect in time"
	case Frozen:
		return "reached it and got no answer in time"
	case Unanswered:
		return "was waiting for an answer"
	case ProcessExited:
		return "saw its process exit"
	case ProcessRunning:
		return "saw its process run"
	case Restarted:
		return "saw its process come back"
	case ReceiverLost:
		return "lost replication from it"
	case ReceiverOn:
		return "replicated from it"
	case MemberGone:
		return "saw it gone from gossip"
	case MemberLeft:
		return "heard it take leave"
	case MemberPresent:
		return "heard it"
	default:
		return k.workWords()
	}
}

// workWords tells what was seen of an instance's work: whether it writes, and
// whether that is of use to anybody.
func (k Kind) workWords() string {
	switch k {
	case Writes:
		return "wrote to it"
	case WriteStalled:
		return "was waiting for a durable write to it"
	case WriteRefused:
		return "was refused a durable write to it"
	case LogBusy:
		return "found the writer of its binary log stuck"
	case DiskWell:
		return "found its disk well"
	case DiskFull:
		return "found its disk full"
	case DiskReadOnly:
		return "found that its disk refused writes"
	case DiskStalled:
		return "found that its disk completed no writes"
	case Starved:
		return "saw its commits wait without an acknowledgement"
	case Isolated:
		return "heard no majority of the members"
	default:
		return "says nothing"
	}
}

func (v Vote) words(subject topology.NodeName) string {
	who := string(v.Observer)
	if v.Observer == subject {
		who += " (own agent)"
	}
	switch {
	case v.Kind == "" && v.Age > 0:
		return fmt.Sprintf("%s is silent for %s", who, ago(v.Age))
	case v.Kind == "":
		return who + " has said nothing"
	}
	s := fmt.Sprintf("%s %s %s ago", who, v.Kind.words(), ago(v.Age))
	if (v.Kind == Saturated || v.Kind == AnotherServer) && v.Detail != "" {
		s += " (" + v.Detail + ")"
	}
	if v.Kind.Bad() && v.standing > v.Age {
		s += fmt.Sprintf(" (begun %s ago)", ago(v.standing))
	}
	if v.Why != "" {
		s += ", not counted: it " + v.Why
	}
	return s
}

// explained returns the judgement with its explanation.
func (j Judgement) explained() Judgement {
	j.Explanation = explain(j)
	return j
}

// explain is the judgement as one sentence.
func explain(j Judgement) string {
	against := 0
	said := make([]string, 0, len(j.Votes))
	for _, v := range j.Votes {
		if v.Against {
			against++
		}
		said = append(said, v.words(j.Subject))
	}
	head := fmt.Sprintf("%s is %s", j.Subject, j.Verdict)
	if j.Cause != "" {
		head += fmt.Sprintf(" (%s)", j.Cause)
	}
	if len(said) == 0 {
		return head + ": no member is registered"
	}
	s := head + ": " + strings.Join(said, "; ")
	if j.Verdict == topology.Failed || j.Verdict == topology.Suspect {
		s += fmt.Sprintf("; %d of %d registered members are against it and %d are needed",
			against, len(j.Votes), j.Needed)
	}
	if j.Verdict == topology.Suspect && against < j.Needed {
		s += fmt.Sprintf(", %d more missing", j.Needed-against)
	}
	if j.spared {
		s += ", but time-outs do not count while it answers its own agent and its replicas hear it"
	}
	return s + j.remarks()
}

// remarks is what its own agent says besides, and what that means.
func (j Judgement) remarks() string {
	s := ""
	for _, ev := range []*Evidence{j.own.starved, j.own.isolated, j.own.restarted} {
		if ev != nil && (ev.Kind != Restarted || j.Cause == Restarted) {
			s += fmt.Sprintf("; its own agent %s, for %s now", ev.Kind.words(), ago(ev.Since))
			if ev.Detail != "" {
				s += " (" + ev.Detail + ")"
			}
		}
	}
	switch j.Cause {
	case CutOff:
		s += "; it answers its own agent only: no client elsewhere reaches it and no replica can acknowledge"
	case Starved:
		s += "; it is not dead: its ackers or the way to them are"
	case AgentGone:
		s += "; its agent is gone from gossip, which is no reason for a failover"
	}
	return s
}
