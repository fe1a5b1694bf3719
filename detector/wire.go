package detector

import (
	"encoding/json"
	"fmt"
	"time"

	"interrex/internal/topology"
)

// The first byte of a message says what follows it, as JSON.
const (
	wireEvidence byte = 'E'
	wireMessage  byte = 'A'
)

// maxDatagram bounds what is handed to SendBestEffort, so that with
// memberlist's label, checksum and encryption around it the datagram stays
// under 1,400 bytes.
const maxDatagram = 1200

// MaxMessageBytes bounds the payload of an application message.
const MaxMessageBytes = 32 << 10

// maxPerEnvelope bounds what one datagram can make a receiver do.
const maxPerEnvelope = 64

// envelope is a datagram of evidence, all by one observer. An empty one says
// "I live".
type envelope struct {
	From  topology.NodeName `json:"f"`
	Boot  uint64            `json:"b"`
	Clock int64             `json:"t"` // sender's monotonic clock, µs since its boot
	Slow  bool              `json:"w,omitempty"`
	// Leaving: the sender takes leave. memberlist does not tell its users who
	// left from who died (the state in its callbacks is never set).
	Leaving bool       `json:"l,omitempty"`
	Items   []wireItem `json:"e,omitempty"`
}

// wireItem is one Evidence; ages in µs.
type wireItem struct {
	Subject  topology.NodeName `json:"s"`
	Kind     Kind              `json:"k"`
	Seq      uint64            `json:"q"`
	Age      int64             `json:"a"`
	Since    int64             `json:"c"`
	LastGood int64             `json:"g"` // -1: never
	Misses   int               `json:"m,omitempty"`
	Round    uint64            `json:"n,omitempty"`
	Detail   string            `json:"d,omitempty"`
}

func micros(d time.Duration) int64 {
	return int64(min(max(d, 0), maxAge) / time.Microsecond)
}

func toWire(ev Evidence) wireItem {
	it := wireItem{
		Subject: ev.Subject, Kind: ev.Kind, Seq: ev.Seq, Age: micros(ev.Age), Since: micros(ev.Since),
		LastGood: -1, Misses: ev.Misses, Round: ev.Round, Detail: clean(ev.Detail),
	}
	if ev.LastGood >= 0 {
		it.LastGood = micros(ev.LastGood)
	}
	return it
}

// fromWire checks an item; false means that it says nothing we understand (a
// newer agent's kind, say), or something its sender cannot know.
func fromWire(env envelope, it wireItem) (Evidence, bool) {
	g := it.Kind.group()
	limit := int64(maxAge / time.Microsecond)
	switch {
	case g == groupNone, !validName(it.Subject),
		it.Age < 0, it.Age > limit, it.Since < 0, it.Since > limit,
		it.LastGood < -1, it.LastGood > limit, it.Misses < 0:
		return Evidence{}, false
	case g.own() && it.Subject != env.From:
		return Evidence{}, false
	}
	ev := Evidence{
		Observer: env.From, Subject: it.Subject, Kind: it.Kind,
		Age: time.Duration(it.Age) * time.Microsecond, Since: time.Duration(it.Since) * time.Microsecond,
		LastGood: -1, Misses: it.Misses, Round: it.Round, Slow: env.Slow,
		Boot: env.Boot, Seq: it.Seq, Detail: clean(it.Detail),
	}
	if it.LastGood >= 0 {
		ev.LastGood = time.Duration(it.LastGood) * time.Microsecond
	}
	return ev, true
}

// encodeEvidence packs items into as few datagrams as it can, at least one.
func encodeEvidence(head envelope, items []wireItem) ([][]byte, error) {
	head.Items = nil
	base, err := json.Marshal(head)
	if err != nil {
		return nil, fmt.Errorf("encode evidence: %w", err)
	}
	var packets [][]byte
	room, from := 0, 0
	flush := func(to int) error {
		head.Items = items[from:to]
		body, err := json.Marshal(head)
		if err != nil {
			return fmt.Errorf("encode evidence: %w", err)
		}
		packets = append(packets, append([]byte{wireEvidence}, body...))
		from, room = to, 0
		return nil
	}
	for i := range items {
		one, err := json.Marshal(items[i])
		if err != nil {
			return nil, fmt.Errorf("encode evidence: %w", err)
		}
		full := 1+len(base)+len(`,"e":[]`)+room+len(one)+1 > maxDatagram || i-from == maxPerEnvelope
		if full && i > from {
			if err := flush(i); err != nil {
				return nil, err
			}
		}
		room += len(one) + 1
	}
	if err := flush(len(items)); err != nil {
		return nil, err
	}
	return packets, nil
}

// decodeEvidence reads the body of an evidence datagram. Whatever the bytes
// are, it returns errMalformed or an envelope that is safe to use.
func decodeEvidence(body []byte) (envelope, error) {
	var env envelope
	if err := json.Unmarshal(body, &env); err != nil {
		return envelope{}, fmt.Errorf("decode evidence: %w: %w", errMalformed, err)
	}
	if !validName(env.From) || env.Clock < 0 || len(env.Items) > maxPerEnvelope {
		return envelope{}, fmt.Errorf("decode evidence: %w", errMalformed)
	}
	return env, nil
}

// Message is an application message: opaque to the detector.
type Message struct {
	From    topology.NodeName
	Kind    string
	Payload []byte
}

type wireApp struct {
	From    topology.NodeName `json:"f"`
	Boot    uint64            `json:"b"`
	Seq     uint64            `json:"q"`
	Kind    string            `json:"k"`
	Payload []byte            `json:"p,omitempty"`
}

func encodeMessage(m wireApp) ([]byte, error) {
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode message: %w", err)
	}
	return append([]byte{wireMessage}, body...), nil
}

func decodeMessage(body []byte) (wireApp, error) {
	var m wireApp
	if err := json.Unmarshal(body, &m); err != nil {
		return wireApp{}, fmt.Errorf("decode message: %w: %w", errMalformed, err)
	}
	if !validName(m.From) || len(m.Payload) > MaxMessageBytes || len(m.Kind) > maxName {
		return wireApp{}, fmt.Errorf("decode message: %w", errMalformed)
	}
	return m, nil
}

// delayMeter finds out how long a message was on its way beyond the fastest
// of the last few seconds. Without it, evidence that lay in a socket's
// queue while this process was stopped, or was sent again by TCP after a cut,
// would look as fresh as it arrived.
type delayMeter struct {
	fastest, former time.Duration // least clock difference of this and the former period
	rotated         time.Time
	known           bool
}

// delayPeriod is short, so that an observer whose clock stood still (a
// suspended virtual machine) is believed again within two of them. Turning is
// done by arrivals only: after a pause of our own the old knowledge counts for
// one more period, while the queue is drained.
const delayPeriod = 3 * time.Second

// extra returns the delay of a message of the sender's clock that arrived at
// now. Clock drift (microseconds within a period) is all it gets wrong.
func (m *delayMeter) extra(start, now time.Time, clock time.Duration) time.Duration {
	diff := now.Sub(start) - clock
	switch {
	case !m.known:
		*m = delayMeter{fastest: diff, former: diff, rotated: now, known: true}
	case now.Sub(m.rotated) > delayPeriod:
		m.former, m.fastest, m.rotated = m.fastest, diff, now
	default:
		m.fastest = min(m.fastest, diff)
	}
	return max(0, diff-min(m.fastest, m.former))
}
