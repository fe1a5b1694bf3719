package detector

import (
	"bytes"
	"log"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"interrex/internal/topology"
)

// gossipDelegate takes messages off memberlist's loops.
type gossipDelegate struct{ g *gossip }

func (gossipDelegate) NodeMeta(int) []byte             { return nil }
func (gossipDelegate) GetBroadcasts(_, _ int) [][]byte { return nil }
func (gossipDelegate) LocalState(bool) []byte          { return nil }
func (gossipDelegate) MergeRemoteState([]byte, bool)   {}

func (d gossipDelegate) NotifyMsg(msg []byte) {
	if len(msg) < 2 {
		return
	}
	queue := d.g.evidence
	switch msg[0] {
	case wireEvidence:
	case wireMessage:
		queue = d.g.app
	default:
		return
	}
	select {
	case queue <- slices.Clone(msg[1:]):
	default:
		d.g.dropped.Add(1)
	}
}

// gossipEvents keeps the view. memberlist holds its node lock here.
type gossipEvents struct{ g *gossip }

func (e gossipEvents) NotifyJoin(n *memberlist.Node)   { e.g.note(n, MemberPresent) }
func (e gossipEvents) NotifyUpdate(n *memberlist.Node) { e.g.note(n, MemberPresent) }

func (e gossipEvents) NotifyLeave(n *memberlist.Node) {
	e.g.note(n, MemberGone)
}

// goodbye notes that a member said it is leaving.
func (g *gossip) goodbye(name topology.NodeName) {
	g.mu.Lock()
	g.leaving[name] = true
	if g.view[name] == MemberGone {
		g.view[name] = MemberLeft
	}
	g.mu.Unlock()
	wake(g.moved)
}

func (g *gossip) note(n *memberlist.Node, kind Kind) {
	name := topology.NodeName(n.Name)
	if name == g.cfg.Self || !validName(name) {
		return
	}
	g.mu.Lock()
	if kind == MemberPresent {
		g.nodes[name] = *n
		delete(g.leaving, name)
	} else {
		delete(g.nodes, name)
		if g.leaving[name] {
			kind = MemberLeft
		}
	}
	g.view[name] = kind
	g.mu.Unlock()
	wake(g.moved)
}

// gossipConflict tells of two agents that use one name.
type gossipConflict struct{ g *gossip }

func (c gossipConflict) NotifyConflict(existing, other *memberlist.Node) {
	c.g.log.Error("two members use one name; the second is refused",
		zap.String("member", existing.Name), zap.String("address", existing.Address()),
		zap.String("refused", other.Address()))
}

// wake makes a level-triggered channel readable.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// gossipLogger adapts memberlist's lines to zap. They are sampled: the text is
// a field, so that all lines of a level count as one.
func gossipLogger(l *zap.Logger) *log.Logger {
	sampled := l.Named("memberlist").WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, time.Second, 20, 1000)
	}))
	return log.New(gossipLines{sampled}, "", 0)
}

type gossipLines struct{ log *zap.Logger }

// Write takes one line of memberlist: "[LEVEL] memberlist: text".
func (w gossipLines) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(bytes.TrimSpace(line)))
	level := zapcore.InfoLevel
	for prefix, l := range map[string]zapcore.Level{
		"[DEBUG]": zapcore.DebugLevel, "[WARN]": zapcore.WarnLevel, "[ERR]": zapcore.WarnLevel, "[ERROR]": zapcore.WarnLevel, "[INFO]": zapcore.InfoLevel,
	} {
		if rest, ok := strings.CutPrefix(text, prefix); ok {
			level, text = l, strings.TrimPrefix(strings.TrimSpace(rest), "memberlist: ")
			break
		}
	}
	w.log.Log(level, "gossip", zap.String("text", text))
	return len(line), nil
}
