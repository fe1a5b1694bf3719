package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"interrex/dbrepl"
	"interrex/detector"
	"interrex/election"
	"interrex/internal/topology"
)

// errAnotherServer: what answers is not the server that the record names.
var errAnotherServer = errors.New("another server answers there")

// classify tells the detector what a probe's error means.
func classify(err error) detector.Kind {
	if errors.Is(err, errAnotherServer) {
		return detector.AnotherServer
	}
	switch dbrepl.Classify(err) {
	case dbrepl.Refused:
		return detector.Refused
	case dbrepl.Broken:
		return detector.ConnectionBroken
	case dbrepl.ConnectTimedOut:
		return detector.SilentHost
	case dbrepl.QueryTimedOut:
		return detector.Frozen
	case dbrepl.TooManyConnections:
		return detector.Saturated
	default:
		return detector.Erring
	}
}

// instanceProber is one instance as the detector looks at it, on a connection
// of its own.
type instanceProber struct {
	inst *dbrepl.Instance
	name topology.NodeName
	// primary is the recorded one, as last seen; nil: none is.
	primary func() *election.Primary
	// source names the member that a replication source's address belongs to.
	source func(host string, port int) topology.NodeName
	// limit is after how long without a heartbeat a source is lost.
	limit time.Duration
	// local: it is this member's own; its load is looked at too.
	local bool
	// overrun counts the answers in a row by which too many sessions run.
	overrun int
}

// A server with as many sessions that execute something, by as many answers in a
// row, does not get them done: a thread for each, on far fewer processors.
const (
	runAwayPerProcessor = 32
	runAwayAtLeast      = 128
	runAwayAnswers      = 10
)

// saturated says what the server has too much of; empty if of nothing. Commits
// that wait for an acknowledgement are no load: it is starved then.
func (p *instanceProber) saturated(g dbrepl.Glance, processors int) string {
	limit := max(runAwayAtLeast, runAwayPerProcessor*processors)
	if g.Running-g.Waiting < limit {
		p.overrun = 0
	} else {
		p.overrun++
	}
	switch {
	case g.Saturated:
		return "its connections are used up but for the reserved one"
	case p.overrun >= runAwayAnswers:
		return fmt.Sprintf("%d sessions or more execute statements at once, on %d processors", limit, processors)
	}
	return ""
}

// Probe implements detector.Prober.
func (p *instanceProber) Probe(ctx context.Context) (detector.Reading, error) {
	glance := p.inst.Glance
	if p.local {
		glance = p.inst.GlanceAtLoad
	}
	g, err := glance(ctx)
	if err != nil {
		return detector.Reading{}, err
	}
	if err := sameServer(p.name, g.ServerUUID, p.primary()); err != nil {
		return detector.Reading{}, err
	}
	full := p.saturated(g, runtime.NumCPU())
	r := detector.Reading{Closed: g.SuperReadOnly, Saturated: full != "", Detail: full}
	if g.Armed {
		r.Acks = &detector.Acks{Waiting: g.Waiting, Acknowledged: g.Acknowledged}
	}
	if g.SourceHost != "" {
		r.Receiver = receiverOf(g, p.limit)
		r.Receiver.Source = p.source(g.SourceHost, g.SourcePort)
	}
	return r, nil
}

// sameServer tells whether what answers for a member is the recorded primary, if
// that is the member's: its address may be another server's by now, and that one
// does not serve, however well it is. Of the others the record names no server:
// they may be made anew.
func sameServer(name topology.NodeName, uuid string, p *election.Primary) error {
	if p == nil || p.Node != name || p.ServerUUID == uuid || p.ServerUUID == "" {
		return nil
	}
	return fmt.Errorf("%w: its server_uuid is %s, the recorded primary's is %s", errAnotherServer, uuid, p.ServerUUID)
}

// receiverOf is a replica's word on its source. A receiver that was stopped by
// order is OFF; one that lost its source tries to connect, once it has noticed.
// The heartbeats tell earlier or, where the server's own limit is another than
// ours, at all.
func receiverOf(g dbrepl.Glance, limit time.Duration) *detector.Receiver {
	r := &detector.Receiver{Lost: g.ReceiverState == "CONNECTING", Detail: g.ReceiverError}
	if g.ReceiverState == "ON" && g.SourceSeen > limit {
		r.Lost, r.Detail = true, "no heartbeat for "+g.SourceSeen.Round(time.Millisecond).String()
	}
	return r
}

// instanceWriter tries the writes of one instance for this member.
type instanceWriter struct {
	inst     *dbrepl.Instance
	observer topology.NodeName
}

// TryWrite implements detector.Writer.
func (w instanceWriter) TryWrite(ctx context.Context, grow bool) (detector.Kind, string) {
	outcome, detail := w.inst.TryWrite(ctx, string(w.observer), grow)
	switch outcome {
	case dbrepl.Written:
		return detector.Writes, detail
	case dbrepl.WriteStalled:
		return detector.WriteStalled, detail
	case dbrepl.WriteRefused:
		return detector.WriteRefused, detail
	case dbrepl.LogBusy:
		return detector.LogBusy, detail
	default:
		return "", detail
	}
}

// KeepReady implements detector.Writer.
func (w instanceWriter) KeepReady(ctx context.Context) error { return w.inst.KeepWriteReady(ctx) }
