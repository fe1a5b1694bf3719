package detector

import (
	"context"
	"slices"

	"go.uber.org/zap"

	"interrex/internal/topology"
)

// readMessages hands out application messages, each once.
func (d *Detector) readMessages(ctx context.Context) {
	had := map[topology.NodeName]*received{}
	for {
		select {
		case <-ctx.Done():
			return
		case body := <-d.gossip.app:
			m, err := decodeMessage(body)
			if err != nil {
				d.log.Debug("drop message", zap.Error(err))
				continue
			}
			if m.From == d.cfg.Self || d.deps.OnMessage == nil || !d.isRegistered(m.From) {
				continue
			}
			if had[m.From] == nil {
				had[m.From] = &received{}
			}
			if had[m.From].first(m.Boot, m.Seq) {
				d.deps.OnMessage(Message{From: m.From, Kind: m.Kind, Payload: m.Payload})
			}
		}
	}
}

func (d *Detector) isRegistered(n topology.NodeName) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Contains(d.registered, n)
}

// received remembers the last messages of one sender.
type received struct {
	boot uint64
	seqs []uint64
}

// first tells whether a message was not had before.
func (r *received) first(boot, seq uint64) bool {
	if r.boot != boot {
		*r = received{boot: boot}
	}
	if slices.Contains(r.seqs, seq) {
		return false
	}
	r.seqs = append(r.seqs, seq)
	if len(r.seqs) > 64 {
		r.seqs = r.seqs[1:]
	}
	return true
}
