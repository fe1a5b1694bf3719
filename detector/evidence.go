package detector

import (
	"strings"
	"time"

	"interrex/internal/topology"
)

// Kind names what an observer saw.
type Kind string

// The kinds. Those of one group replace each other: an observer has at most
// one standing evidence per subject and group.
const (
	// Answers to a probe.

	// Alive: the instance answered and is open for writes.
	Alive Kind = "alive"
	// Closed: it answered and is super_read_only.
	Closed Kind = "closed"
	// Saturated: it answered, on the reserved connection only. It has its own
	// remedy and is never against.
	Saturated Kind = "saturated"
	// Erring: it answered with an error (access denied, say): it lives, and
	// nothing else is known. Neither for nor against.
	Erring Kind = "erring"
	// ConnectionBroken: an existing connection ended.
	ConnectionBroken Kind = "connection_broken"
	// Refused: nobody listens at its address.
	Refused Kind = "refused"
	// ConnectTimedOut: its address does not answer at all.
	ConnectTimedOut Kind = "connect_timed_out"
	// QueryTimedOut: it accepted and did not answer.
	QueryTimedOut Kind = "query_timed_out"

	// Unanswered: a probe has been waiting for longer than Windows.Hint. It
	// means nothing by itself and confirms a process_exited at once.
	Unanswered Kind = "unanswered"

	// The server process, as its own agent sees it; of others not believed.

	// ProcessExited: the kernel says that the server process ended.
	ProcessExited Kind = "process_exited"
	// ProcessRunning: a (new) server process runs.
	ProcessRunning Kind = "process_running"

	// A replica's own view of its source.

	// ReceiverLost: the receiver should be connected and is not.
	ReceiverLost Kind = "receiver_lost"
	// ReceiverOn: the receiver is connected.
	ReceiverOn Kind = "receiver_on"

	// Gossip's view of a member. Never evidence about its instance.

	// MemberGone: declared dead by gossip.
	MemberGone Kind = "member_gone"
	// MemberLeft: the member said good-bye.
	MemberLeft Kind = "member_left"
	// MemberPresent: it is back.
	MemberPresent Kind = "member_present"
)

// group is what a kind is evidence of; evidence of the same observer, subject
// and group replaces its predecessor.
type group uint8

const (
	groupNone group = iota
	groupProbe
	groupPending
	groupProcess
	groupReceiver
	groupMember
)

func (k Kind) group() group {
	switch k {
	case Alive, Closed, Saturated, Erring, ConnectionBroken, Refused, ConnectTimedOut, QueryTimedOut:
		return groupProbe
	case Unanswered:
		return groupPending
	case ProcessExited, ProcessRunning:
		return groupProcess
	case ReceiverLost, ReceiverOn:
		return groupReceiver
	case MemberGone, MemberLeft, MemberPresent:
		return groupMember
	default:
		return groupNone
	}
}

// Good tells whether the kind says that its subject works.
func (k Kind) Good() bool {
	switch k {
	case Alive, Closed, Saturated, ProcessRunning, ReceiverOn, MemberPresent:
		return true
	default:
		return false
	}
}

// Bad tells whether the kind accuses its subject.
func (k Kind) Bad() bool {
	switch k {
	case ConnectionBroken, Refused, ConnectTimedOut, QueryTimedOut,
		ProcessExited, ReceiverLost, MemberGone, MemberLeft:
		return true
	default:
		return false
	}
}

// timeout tells whether slowness of the observer could fake the kind.
func (k Kind) timeout() bool {
	return k == QueryTimedOut || k == ConnectTimedOut || k == Unanswered
}

// standing tells whether the kind stays true until it is replaced, so that
// the observer confirms it as long as it lives. Answers to probes age.
func (k Kind) standing() bool {
	g := k.group()
	return g == groupProcess || g == groupMember
}

// Evidence is what one observer knows about one subject. All times are ages:
// at the moment of sending while it travels, now when Detector.Evidence
// returns it.
type Evidence struct {
	Observer topology.NodeName `json:"observer"`
	Subject  topology.NodeName `json:"subject"`
	Kind     Kind              `json:"kind"`
	// Age is how long ago the observation was last confirmed; for an answer,
	// since the question was asked.
	Age time.Duration `json:"age_ns"`
	// Since is how long ago the present run of good, or of other than good,
	// observations began.
	Since time.Duration `json:"since_ns"`
	// LastGood is how long ago the observer last saw the subject work;
	// negative if never.
	LastGood time.Duration `json:"last_good_ns"`
	// Misses counts the time-outs in a row.
	Misses int `json:"misses,omitempty"`
	// Round numbers the probe that brought it.
	Round uint64 `json:"round,omitempty"`
	// Slow: the observer says of itself that it is slow.
	Slow bool `json:"slow,omitempty"`
	// Boot tells the observer's agent processes apart, Seq orders what one of
	// them sent.
	Boot   uint64 `json:"boot"`
	Seq    uint64 `json:"seq"`
	Detail string `json:"detail,omitempty"`
}

// seen is evidence with the moment its ages refer to, by our own clock.
type seen struct {
	Evidence
	at time.Time
}

// later returns the ages as they are at now.
func (s seen) later(now time.Time) Evidence {
	ev, passed := s.Evidence, now.Sub(s.at)
	ev.Age += passed
	ev.Since += passed
	if ev.LastGood >= 0 {
		ev.LastGood += passed
	}
	return ev
}

const (
	maxName   = 63
	maxDetail = 120
	maxAge    = 30 * 24 * time.Hour // older is sent as this
)

// validName tells whether a node name is one that travels: 1 to 63 of
// letters, digits, dot, dash and underscore.
func validName(n topology.NodeName) bool {
	if len(n) == 0 || len(n) > maxName {
		return false
	}
	for _, c := range []byte(n) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// clean makes a detail fit for a datagram: printable ASCII that JSON does not
// escape, at most maxDetail bytes.
func clean(detail string) string {
	var b strings.Builder
	for _, r := range detail {
		if b.Len() == maxDetail {
			break
		}
		switch {
		case r == '"':
			r = '\''
		case r < ' ', r > '~', r == '\\', r == '<', r == '>', r == '&':
			r = '.'
		}
		b.WriteByte(byte(r))
	}
	return b.String()
}
