//go:build linux

package detector

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"interrex/internal/porttest"
	"interrex/internal/topology"
)

// tcpProber asks a real process over a connection that it keeps.
type tcpProber struct {
	addr func() string
	conn net.Conn
}

var errMidway = errors.New("connection broke")

func (p *tcpProber) Probe(ctx context.Context) (Reading, error) {
	fresh := p.conn == nil
	if fresh {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.addr())
		if err != nil {
			return Reading{}, err
		}
		p.conn = c
	}
	deadline, _ := ctx.Deadline()
	_ = p.conn.SetDeadline(deadline)
	_, err := p.conn.Write([]byte{1})
	if err == nil {
		_, err = p.conn.Read(make([]byte, 1))
	}
	if err != nil {
		_ = p.conn.Close()
		p.conn = nil
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			err = errors.Join(errMidway, err)
		}
		return Reading{}, err
	}
	return Reading{}, nil
}

func classifyTCP(err error) Kind {
	switch {
	case errors.Is(err, errMidway):
		return ConnectionBroken
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return Frozen
	default:
		return Erring
	}
}

// Three members with real gossip, real probes and a real process watch, and a
// large real process that is killed, frozen and thawed.
func TestRealServerKilledAndFrozen(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var pid atomic.Int64
	var address atomic.Value
	address.Store("127.0.0.1:1")
	var members []topology.Member
	for i := range 3 {
		members = append(members, topology.Member{Name: name(i), Gossip: porttest.Address(t)})
	}
	var dets []*Detector
	for i := range 3 {
		cfg := DefaultConfig()
		cfg.Self, cfg.Cluster, cfg.Key, cfg.Bind = name(i), "real", []byte("0123456789abcdef"), members[i].Gossip
		deps := Deps{Log: zap.NewNop(), Classify: classifyTCP}
		if i == 0 {
			deps.FindProcess = func() (int, error) { return int(pid.Load()), nil }
		}
		d, err := New(cfg, deps)
		require.NoError(t, err)
		d.SetRegistered(members)
		d.SetSubjects([]Subject{{
			Name: "n1", Address: "n1", Local: i == 0,
			Prober: &tcpProber{addr: func() string { return address.Load().(string) }},
		}})
		t.Cleanup(running(t, d))
		dets = append(dets, d)
	}
	verdict := func(i int, want topology.Verdict, limit time.Duration) time.Duration {
		return eventually(t, limit, func() (bool, string) {
			j := dets[i].Judgement("n1")
			return j.Verdict == want, j.Explanation
		})
	}
	for range 3 {
		cmd, addr := listeningChild(t, 512, 40, false)
		address.Store(addr)
		pid.Store(int64(cmd.Process.Pid))
		for i := range dets {
			verdict(i, topology.Healthy, 15*time.Second)
		}
		time.Sleep(time.Second)

		require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
		frozen := verdict(1, topology.Failed, 5*time.Second)
		require.Equal(t, Frozen, dets[1].Judgement("n1").Cause)
		require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
		thawed := verdict(1, topology.Healthy, 5*time.Second)
		for i := range dets {
			verdict(i, topology.Healthy, 5*time.Second)
		}
		time.Sleep(300 * ms)

		require.NoError(t, cmd.Process.Kill())
		killed := verdict(1, topology.Failed, 5*time.Second)
		j := dets[1].Judgement("n1")
		require.Equal(t, ProcessExited, j.Cause, j.Explanation)
		require.GreaterOrEqual(t, j.LastGood, time.Duration(0))
		t.Logf("frozen: declared after %v, healthy again after %v; killed: declared after %v: %s", frozen, thawed, killed, j.Explanation)
		require.Less(t, frozen, 2*time.Second)
		require.Less(t, killed, time.Second)
		_ = cmd.Wait()
	}
}
