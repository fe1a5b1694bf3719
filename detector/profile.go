package detector

import (
	"errors"
	"fmt"
	"time"
)

// Profile names a set of windows that fit together.
type Profile string

// The profiles. Custom takes Config.Windows as they are.
const (
	LAN    Profile = "lan"
	WAN    Profile = "wan"
	Custom Profile = "custom"
)

// Windows are the time limits of detection. All members need the same ones.
type Windows struct {
	// Interval between two probes of an instance, and between two datagrams
	// to each member. LAN 100 ms. More: slower to notice; less: more load
	// (about 0.1 ms of the server per probe).
	Interval time.Duration
	// Timeout of a probe, connecting included. LAN 250 ms. More: slower to
	// notice a silent host; less: pauses look like misses.
	Timeout time.Duration
	// Misses is how many time-outs in a row make evidence against. LAN 2.
	Misses int
	// Hint is how long a probe may be unanswered before that confirms an
	// exit which the own agent has seen. LAN 30 ms.
	Hint time.Duration
	// Settle is how long refused or broken connections must last before they
	// count. LAN 100 ms. More: slower; less: a blip of a switch counts.
	Settle time.Duration
	// Freshness is how old evidence may be and still count. LAN 1 s. More:
	// votes of observers that fell silent live on; less: lost datagrams make
	// voters silent.
	Freshness time.Duration
	// Canary is how often its own agent tries, in quiet times, whether the
	// instance and its disk take a small durable write. LAN 500 ms. More: a
	// disk that stalls is noticed later; less: more flushes (two each time).
	Canary time.Duration
	// WriteTimeout is how long such a write may take, whoever does it. LAN
	// 600 ms. More: slower to notice; less: the hiccup of a disk looks like its
	// end.
	WriteTimeout time.Duration
	// WriteStall is how long the writes of a majority must hang while the disk
	// is well, before they count; and how long a disk that completes other
	// writes may keep one waiting. LAN 5 s. More: a server that hangs inside
	// keeps clients waiting; less: a large transaction looks like it.
	WriteStall time.Duration
	// Starved is how long commits must have waited, none acknowledged, for the
	// primary to count as starved. LAN 1 s.
	Starved time.Duration
	// Rejoin is how often missing members are called. LAN 2 s.
	Rejoin time.Duration
	// Gossip is memberlist's own timing.
	Gossip GossipWindows
}

// GossipWindows are memberlist's settings of the same meaning.
type GossipWindows struct {
	ProbeInterval time.Duration // LAN 200 ms
	// ProbeTimeout must stay under half of ProbeInterval by a round trip:
	// an indirect probe's refusal comes after two of them, and if it comes
	// after ProbeInterval the asker takes itself for slow. LAN 80 ms.
	ProbeTimeout   time.Duration
	Interval       time.Duration // between gossip rounds; LAN 50 ms
	PushPull       time.Duration // between full syncs; LAN 5 s
	SuspicionMult  int           // LAN 3
	RetransmitMult int           // LAN 4
	StreamTimeout  time.Duration // of a TCP exchange; LAN 1 s
}

// ProfileWindows returns the windows of lan (also for the empty name) and wan.
func ProfileWindows(p Profile) (Windows, error) {
	switch p {
	case LAN, "":
		return Windows{
			Interval: 100 * time.Millisecond, Timeout: 250 * time.Millisecond, Misses: 2,
			Hint: 30 * time.Millisecond, Settle: 100 * time.Millisecond, Freshness: time.Second,
			Canary: 500 * time.Millisecond, WriteTimeout: 600 * time.Millisecond, WriteStall: 5 * time.Second,
			Starved: time.Second,
			Rejoin:  2 * time.Second,
			Gossip: GossipWindows{
				ProbeInterval: 200 * time.Millisecond, ProbeTimeout: 80 * time.Millisecond,
				Interval: 50 * time.Millisecond, PushPull: 5 * time.Second,
				SuspicionMult: 3, RetransmitMult: 4, StreamTimeout: time.Second,
			},
		}, nil
	case WAN:
		return Windows{
			Interval: 500 * time.Millisecond, Timeout: 1500 * time.Millisecond, Misses: 3,
			Hint: 250 * time.Millisecond, Settle: time.Second, Freshness: 6 * time.Second,
			Canary: 2 * time.Second, WriteTimeout: 2 * time.Second, WriteStall: 15 * time.Second,
			Starved: 4 * time.Second,
			Rejoin:  5 * time.Second,
			Gossip: GossipWindows{
				ProbeInterval: 1500 * time.Millisecond, ProbeTimeout: 600 * time.Millisecond,
				Interval: 200 * time.Millisecond, PushPull: 10 * time.Second,
				SuspicionMult: 4, RetransmitMult: 4, StreamTimeout: 5 * time.Second,
			},
		}, nil
	default:
		return Windows{}, fmt.Errorf("find profile: %q is none of lan, wan", p)
	}
}

// Validate reports every fault, joined. The arithmetic it checks:
//
//   - Timeout >= Interval/2: probing pays only if answers are waited for.
//   - Hint < Timeout: afterwards the time-out says it better.
//   - Freshness >= 2*Interval + Timeout: evidence lives through one lost
//     datagram while the next probe runs.
//   - Freshness >= 2*Timeout: two observers' time-outs can stand together.
//   - Settle <= Freshness/2: what settles does not age out first.
//   - Freshness >= WriteTimeout + 2*Interval and >= Canary + Timeout: what is
//     known of writes lives until the next one has ended, and through one lost
//     datagram.
//   - WriteStall >= 2*WriteTimeout: a write is late before it hangs.
//   - Starved >= 2*Timeout: acknowledgements that a pause of an acker delays
//     are not missing.
//   - Gossip.ProbeInterval >= 2.2*Gossip.ProbeTimeout: see ProbeTimeout.
func (w Windows) Validate() error {
	var faults []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	for _, f := range []struct {
		name string
		v    time.Duration
		min  time.Duration
	}{
		{"interval", w.Interval, 10 * time.Millisecond},
		{"timeout", w.Timeout, 10 * time.Millisecond},
		{"hint", w.Hint, time.Millisecond},
		{"settle", w.Settle, 0},
		{"freshness", w.Freshness, 50 * time.Millisecond},
		{"canary", w.Canary, 50 * time.Millisecond},
		{"write_timeout", w.WriteTimeout, 10 * time.Millisecond},
		{"write_stall", w.WriteStall, 100 * time.Millisecond},
		{"starved", w.Starved, 10 * time.Millisecond},
		{"rejoin", w.Rejoin, 100 * time.Millisecond},
		{"gossip.probe_interval", w.Gossip.ProbeInterval, 20 * time.Millisecond},
		{"gossip.probe_timeout", w.Gossip.ProbeTimeout, 5 * time.Millisecond},
		{"gossip.interval", w.Gossip.Interval, 10 * time.Millisecond},
		{"gossip.push_pull", w.Gossip.PushPull, time.Second},
		{"gossip.stream_timeout", w.Gossip.StreamTimeout, 100 * time.Millisecond},
	} {
		fault(f.v < f.min, "%s is %v, must be at least %v", f.name, f.v, f.min)
	}
	fault(w.Misses < 1, "misses is %d, must be at least 1", w.Misses)
	fault(w.Gossip.SuspicionMult < 1, "gossip.suspicion_mult is %d, must be at least 1", w.Gossip.SuspicionMult)
	fault(w.Gossip.RetransmitMult < 1, "gossip.retransmit_mult is %d, must be at least 1", w.Gossip.RetransmitMult)
	fault(w.Timeout < w.Interval/2, "timeout (%v) is under half of interval (%v)", w.Timeout, w.Interval)
	fault(w.Hint >= w.Timeout, "hint (%v) is not under timeout (%v)", w.Hint, w.Timeout)
	fault(w.Freshness < 2*w.Interval+w.Timeout, "freshness (%v) is under 2*interval + timeout (%v)",
		w.Freshness, 2*w.Interval+w.Timeout)
	fault(w.Freshness < 2*w.Timeout, "freshness (%v) is under 2*timeout (%v)", w.Freshness, 2*w.Timeout)
	fault(w.Settle > w.Freshness/2, "settle (%v) is above half of freshness (%v)", w.Settle, w.Freshness)
	fault(w.Freshness < w.WriteTimeout+2*w.Interval, "freshness (%v) is under write_timeout + 2*interval (%v)",
		w.Freshness, w.WriteTimeout+2*w.Interval)
	fault(w.Freshness < w.Canary+w.Timeout, "freshness (%v) is under canary + timeout (%v)", w.Freshness, w.Canary+w.Timeout)
	fault(w.WriteStall < 2*w.WriteTimeout, "write_stall (%v) is under 2*write_timeout (%v)", w.WriteStall, 2*w.WriteTimeout)
	fault(w.Starved < 2*w.Timeout, "starved (%v) is under 2*timeout (%v)", w.Starved, 2*w.Timeout)
	fault(w.Gossip.ProbeInterval < w.Gossip.ProbeTimeout*22/10,
		"gossip.probe_interval (%v) is under 2.2*gossip.probe_timeout (%v)",
		w.Gossip.ProbeInterval, w.Gossip.ProbeTimeout*22/10)
	return errors.Join(faults...)
}
