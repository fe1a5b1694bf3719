package detector

import (
	"fmt"
	"time"
)

// SilentHost returns within which time of its last answer a silent host is
// declared failed, when no datagram about it is lost.
func (w Windows) SilentHost() (least, most time.Duration) {
	least = max(time.Duration(w.Misses)*w.Timeout, w.Settle)
	return least, least + w.Interval + w.Gossip.Interval
}

// StalledDisk returns within which time of its last write a disk that stalls is
// declared, when no datagram about it is lost.
func (w Windows) StalledDisk() (least, most time.Duration) {
	least = 2 * w.WriteTimeout
	return least, least + w.Canary + w.writePause() + w.Gossip.Interval
}

// FullDisk returns within which time a full disk is declared while clients
// write, when no datagram about it is lost.
func (w Windows) FullDisk() (least, most time.Duration) {
	return w.Settle, w.Interval + w.writePause() + max(w.WriteTimeout, w.Settle+w.writePause()) + w.Gossip.Interval
}

// CutOff returns after which time an instance that only its own agent reaches
// is declared, while clients write.
func (w Windows) CutOff() (least, most time.Duration) {
	silent, most := w.SilentHost()
	return max(silent, w.Starved), max(most, w.Starved+2*w.Interval+w.Gossip.Interval)
}

// Explain says in lines for a person what the windows come to.
func (w Windows) Explain() []string {
	least, most := w.SilentHost()
	stalled, stalledMost := w.StalledDisk()
	_, fullMost := w.FullDisk()
	cut, cutMost := w.CutOff()
	return []string{
		fmt.Sprintf("a silent or frozen host is declared after %v-%v because the next probe begins within %v, "+
			"%d probes in a row must go unanswered for %v each, and the others' reports take up to %v",
			least, most, w.Interval, w.Misses, w.Timeout, w.Gossip.Interval),
		fmt.Sprintf("a killed server whose agent lives is declared within about %v because the agent sees the process exit "+
			"and one other member's probe confirms it by being refused, broken, or unanswered for %v",
			w.Hint+10*time.Millisecond, w.Hint),
		fmt.Sprintf("a server that refuses connections while its agent is silent is declared after %v-%v because "+
			"the next probe begins within %v and the refusal must last %v",
			w.Settle, w.Settle+w.Interval+w.Gossip.Interval, w.Interval, w.Settle),
		fmt.Sprintf("a full or read-only disk that clients write to is declared within %v because its own agent looks every %v, "+
			"has the others try to write, and the refusal of one of them must last %v or its write hang for %v",
			fullMost, w.Interval, w.Settle, w.WriteTimeout),
		fmt.Sprintf("a stalled disk is declared after %v-%v because its own agent begins a write every %v, gives it %v, "+
			"and then another member's write must hang for %v as well",
			stalled, stalledMost, w.Canary, w.WriteTimeout, w.WriteTimeout),
		fmt.Sprintf("a server that answers and does not write while its disk is well is declared after %v, "+
			"by a majority whose writes hang so long; after %v if it is saturated, as that may be its load", w.WriteStall, loadPatience*w.WriteStall),
		fmt.Sprintf("a primary that only its own agent reaches is declared after %v-%v while clients write, because "+
			"commits must have waited for %v without an acknowledgement; without clients when its replicas have lost it",
			cut, cutMost, w.Starved),
		fmt.Sprintf("evidence older than %v counts as none, so up to %d datagrams of an observer may be lost in a row",
			w.Freshness, max(0, int((w.Freshness-w.Timeout)/w.Interval)-1)),
	}
}
