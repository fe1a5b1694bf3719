package detector

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	_ "interrex/internal/onecore"
	"interrex/internal/topology"
)

var (
	errRefused = errors.New("refused")
	errBroken  = errors.New("broken")
	errConnect = errors.New("connect timed out")
	errQuery   = errors.New("query timed out")
	errDenied  = errors.New("access denied")
	errOther   = errors.New("another server")
	errFull    = errors.New("too many connections")
)

func classifyTest(err error) Kind {
	switch {
	case errors.Is(err, errRefused):
		return Refused
	case errors.Is(err, errBroken):
		return ConnectionBroken
	case errors.Is(err, errConnect):
		return SilentHost
	case errors.Is(err, errQuery):
		return Frozen
	case errors.Is(err, errOther):
		return AnotherServer
	case errors.Is(err, errFull):
		return Saturated
	default:
		return Erring
	}
}

// server is an instance in memory. hang: no answer until it is lifted.
type server struct {
	mu      sync.Mutex
	err     error
	hang    bool
	reading Reading
	probes  int
	deaf    time.Duration // how long a probe overstays its deadline
}

func (s *server) set(change func(*server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.probes
}

func (s *server) Probe(ctx context.Context) (Reading, error) {
	s.mu.Lock()
	s.probes++
	err, hang, reading, deaf := s.err, s.hang, s.reading, s.deaf
	s.mu.Unlock()
	if hang {
		<-ctx.Done()
		time.Sleep(deaf)
		if err == nil {
			err = errQuery
		}
		return Reading{}, err
	}
	time.Sleep(100 * time.Microsecond)
	return reading, err
}

// world is a cluster in memory: every member probes every server through its
// own view of it.
type world struct {
	t     *testing.T
	net   *memnet
	dets  []*Detector
	views [][]*server // [observer][subject]
	disk  *memDisk    // the first one's
	stop  []context.CancelFunc
	done  sync.WaitGroup
}

func memberAt(i int) topology.Member {
	return topology.Member{Name: name(i), Gossip: addr(i)}
}
func name(i int) topology.NodeName { return topology.NodeName(fmt.Sprintf("n%d", i+1)) }
func addr(i int) string            { return fmt.Sprintf("10.0.0.%d:7946", i+1) }

func newWorld(t *testing.T, members int) *world {
	w := &world{t: t, net: newMemnet(), disk: &memDisk{}}
	var registered []topology.Member
	for i := range members {
		registered = append(registered, memberAt(i))
	}
	for i := range members {
		cfg := DefaultConfig()
		cfg.Self, cfg.Cluster, cfg.Key, cfg.Bind = name(i), "world", []byte("0123456789abcdef"), addr(i)
		host := w.net.host(addr(i))
		deps := Deps{Log: zap.NewNop(), Classify: classifyTest, Members: func(c *memberlist.Config) (Members, error) {
			c.Transport = host
			return memberlist.Create(c)
		}}
		if i == 0 {
			deps.Disk = w.disk
		}
		d, err := New(cfg, deps)
		require.NoError(t, err)
		var subjects []Subject
		var views []*server
		for s := range members {
			v := &server{reading: Reading{Closed: s > 0}}
			views = append(views, v)
			subjects = append(subjects, Subject{Name: name(s), Address: addr(s), Prober: v, Local: s == i})
		}
		d.SetRegistered(registered)
		d.SetSubjects(subjects)
		w.dets, w.views = append(w.dets, d), append(w.views, views)
	}
	for _, d := range w.dets {
		ctx, cancel := context.WithCancel(t.Context())
		w.stop = append(w.stop, cancel)
		w.done.Go(func() {
			if err := d.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	return w
}

func (w *world) end() {
	for _, stop := range w.stop {
		stop()
	}
	w.done.Wait()
	// memberlist's Shutdown does not wait for its own exchanges under way.
	time.Sleep(5 * time.Second)
}

// all changes every observer's view of a server.
func (w *world) all(subject int, change func(*server)) {
	for _, v := range w.views {
		v[subject].set(change)
	}
}

// until waits for a verdict of an observer and returns how long that took.
func (w *world) until(observer, subject int, want topology.Verdict, limit time.Duration) time.Duration {
	w.t.Helper()
	start := time.Now()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for {
		j := w.dets[observer].Judgement(name(subject))
		if j.Verdict == want {
			return time.Since(start)
		}
		select {
		case <-w.dets[observer].Changes():
		case <-deadline.C:
			require.FailNow(w.t, "not "+want.String()+" in time", j.Explanation)
		}
	}
}

// quiet watches for a while and fails if the subject is ever failed.
func (w *world) quiet(subject int, span time.Duration) {
	w.t.Helper()
	for end := time.Now().Add(span); time.Now().Before(end); time.Sleep(5 * ms) {
		for _, d := range w.dets {
			j := d.Judgement(name(subject))
			require.NotEqual(w.t, topology.Failed, j.Verdict, j.Explanation)
		}
	}
}

// inWorld runs a test on a settled cluster in virtual time.
func inWorld(t *testing.T, members int, test func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, members)
		defer w.end()
		time.Sleep(5 * time.Second)
		for i := range members {
			for s := range members {
				j := w.dets[i].Judgement(name(s))
				require.Equal(t, topology.Healthy, j.Verdict, j.Explanation)
				for _, v := range j.Votes {
					require.True(t, v.For, j.Explanation)
				}
			}
			require.False(t, w.dets[i].gossip.slow())
		}
		test(t, w)
	})
}

// inWorldWith is inWorld for a test of the first one's disk.
func inWorldWith(t *testing.T, members int, test func(t *testing.T, w *world, disk *memDisk)) {
	inWorld(t, members, func(t *testing.T, w *world) { test(t, w, w.disk) })
}
