package detector

import (
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
	// Saturated: its connections are used up: it said so, or answered on the
	// reserved one. Or more sessions execute something than it can get done. It
	// has its own remedy and is never against.
	Saturated Kind = "saturated"
	// Erring: it answered with an error (access denied, say): it lives, and
	// nothing else is known. Neither for nor against.
	Erring Kind = "erring"
	// ConnectionBroken: an existing connection ended.
	ConnectionBroken Kind = "connection_broken"
	// Refused: nobody listens at its address.
	Refused Kind = "refused"
	// AnotherServer: one answers at its address that is not it.
	AnotherServer Kind = "another_server"
	// SilentHost: its address does not answer at all.
	SilentHost Kind = "silent_host"
	// Frozen: its host accepted the connection, and it did not answer.
	Frozen Kind = "frozen"

	// Unanswered: a probe has been waiting for longer than Windows.Hint. It
	// means nothing by itself and confirms a process_exited at once.
	Unanswered Kind = "unanswered"

	// The server process, as its own agent sees it; of others not believed.

	// ProcessExited: the kernel says that the server process ended.
	ProcessExited Kind = "process_exited"
	// ProcessRunning: a server process runs.
	ProcessRunning Kind = "process_running"
	// Restarted: one runs that took the place of one that ended.
	Restarted Kind = "restarted"

	// A replica's own view of its source.

	// ReceiverLost: the receiver should be connected and is not, or the
	// source's heartbeats stopped.
	ReceiverLost Kind = "receiver_lost"
	// ReceiverOn: the receiver is connected.
	ReceiverOn Kind = "receiver_on"

	// What came of trying to write (Writer), by each observer for itself.

	// Writes: a small durable write was done.
	Writes Kind = "writes"
	// WriteStalled: it does not return, and waits for nobody's lock. Against
	// at once beside a fault of the disk, otherwise after Windows.WriteStall.
	WriteStalled Kind = "write_stalled"
	// WriteRefused: the server says that its disk takes nothing.
	WriteRefused Kind = "write_refused"
	// LogBusy: the writer of the binary log has been at something for a
	// while: a full disk, or a large transaction. Only beside a fault of the
	// disk it is against.
	LogBusy Kind = "log_busy"

	// The disk under the server, as its own agent finds it; of others not
	// believed. One observer's word: it has the others try to write.

	// DiskWell: it takes writes.
	DiskWell Kind = "disk_well"
	// DiskFull: it has no room.
	DiskFull Kind = "disk_full"
	// DiskReadOnly: it refuses writes.
	DiskReadOnly Kind = "disk_read_only"
	// DiskStalled: a write to it does not return, and the device completes
	// no other.
	DiskStalled Kind = "disk_stalled"

	// What its own agent knows of it besides; of others not believed.

	// Starved: commits wait, and none has been acknowledged for a while. Its
	// remedy is the register; it is never against by itself.
	Starved Kind = "starved"
	// Isolated: its agent hears no majority of the members.
	Isolated Kind = "isolated"

	// Gossip's view of a member. Never evidence about its instance.

	// MemberGone: declared dead by gossip.
	MemberGone Kind = "member_gone"
	// MemberLeft: the member said good-bye.
	MemberLeft Kind = "member_left"
	// MemberPresent: it is back.
	MemberPresent Kind = "member_present"
)

// Causes that no single observer can see: they are in verdicts only.
const (
	// CutOff: it answers its own agent, and nobody else reaches it: neither the
	// members nor the receivers of its replicas.
	CutOff Kind = "cut_off"
	// AgentGone: the instance is well, and its agent is gone from gossip.
	AgentGone Kind = "agent_gone_instance_alive"
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
	groupWrite
	groupDisk
	groupAcks
	groupIsolation
	groupMember
)

func (k Kind) group() group {
	switch k {
	case Alive, Closed, Saturated, Erring, ConnectionBroken, Refused, AnotherServer, SilentHost, Frozen:
		return groupProbe
	case Unanswered:
		return groupPending
	case ProcessExited, ProcessRunning, Restarted:
		return groupProcess
	case ReceiverLost, ReceiverOn:
		return groupReceiver
	case Writes, WriteStalled, WriteRefused, LogBusy:
		return groupWrite
	case DiskWell, DiskFull, DiskReadOnly, DiskStalled:
		return groupDisk
	case Starved:
		return groupAcks
	case Isolated:
		return groupIsolation
	case MemberGone, MemberLeft, MemberPresent:
		return groupMember
	default:
		return groupNone
	}
}

// own tells whether only the subject's own agent can know such a thing.
func (g group) own() bool {
	return g == groupProcess || g == groupDisk || g == groupAcks || g == groupIsolation
}

// Good tells whether the kind says that its subject works.
func (k Kind) Good() bool {
	switch k {
	case Alive, Closed, Saturated, ProcessRunning, Restarted, ReceiverOn, Writes, DiskWell, MemberPresent:
		return true
	default:
		return false
	}
}

// Bad tells whether the kind accuses its subject.
func (k Kind) Bad() bool {
	switch k {
	case ConnectionBroken, Refused, AnotherServer, SilentHost, Frozen, ProcessExited, ReceiverLost,
		WriteStalled, WriteRefused, DiskFull, DiskReadOnly, DiskStalled, Starved, Isolated,
		MemberGone, MemberLeft:
		return true
	default:
		return false
	}
}

// timeout tells whether slowness of the observer could fake the kind.
func (k Kind) timeout() bool {
	return k == Frozen || k == SilentHost || k == Unanswered
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

// repeats tells whether the evidence says again, of something that works, what
// the same observer's evidence said that still counted.
func (ev Evidence) repeats(before Evidence, freshness time.Duration) bool {
	return ev.Kind.Good() && ev.Kind == before.Kind && ev.Slow == before.Slow && before.Age <= freshness
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
