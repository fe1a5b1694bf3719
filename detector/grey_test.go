package detector

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/topology"
)

// writer tries writes to an instance in memory.
type writer struct {
	mu    sync.Mutex
	kind  Kind
	tries int
	grew  int
	kept  int
	shut  bool // lets nobody in any more: only what is kept can be used
}

// KeepReady fails once the instance is shut.
func (w *writer) KeepReady(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.shut {
		return errFull
	}
	w.kept++
	return nil
}

func (w *writer) set(k Kind) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kind = k
}

func (w *writer) count() (tries, grew int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tries, w.grew
}

func (w *writer) TryWrite(ctx context.Context, grow bool) (Kind, string) {
	w.mu.Lock()
	w.tries++
	if grow {
		w.grew++
	}
	kind := w.kind
	if w.shut && w.kept == 0 {
		kind = ""
	}
	w.mu.Unlock()
	if kind == WriteStalled || kind == LogBusy {
		<-ctx.Done()
	} else {
		time.Sleep(300 * time.Microsecond)
	}
	if kind == WriteRefused && !grow {
		kind = Writes // what needs no room is done
	}
	return kind, "as told"
}

// memDisk is a disk in memory.
type memDisk struct {
	mu   sync.Mutex
	err  error
	hang chan struct{}
	busy bool // other writes are completed meanwhile
	done uint64
}

func (d *memDisk) Write() error {
	d.mu.Lock()
	hang, err := d.hang, d.err
	d.mu.Unlock()
	if hang != nil {
		<-hang
	}
	time.Sleep(ms)
	return err
}

func (d *memDisk) Look() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

func (d *memDisk) Completed() (uint64, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy {
		d.done++
	}
	return d.done, true
}

func (d *memDisk) set(change func(*memDisk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

// writable gives every member a writer of the first one's server.
func (w *world) writable() []*writer {
	var writers []*writer
	for i, d := range w.dets {
		wr := &writer{kind: Writes}
		writers = append(writers, wr)
		d.mu.Lock()
		var list []Subject
		for _, s := range d.subjects {
			if s.Name == name(0) {
				s.Writer, s.Address = wr, "anew"
			}
			list = append(list, s)
		}
		d.mu.Unlock()
		d.SetSubjects(list)
		_ = i
	}
	time.Sleep(2 * time.Second)
	return writers
}

func TestQuietWrites(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		writers := w.writable()
		before, _ := writers[0].count()
		time.Sleep(10 * time.Second)
		own, grew := writers[0].count()
		require.InDelta(t, 20, own-before, 1, "its own agent: one each Windows.Canary")
		others, _ := writers[1].count()
		require.Zero(t, others, "the others: only under suspicion")
		require.Zero(t, grew)
		for _, wr := range writers {
			require.InDelta(t, 3, wr.kept, 1, "everybody: what a try needs is looked at each keepPause")
		}
	})
}

// A fault of the disk and what the others' writes come to, from the fault to
// the verdict, at every phase of the canary.
func TestDiskFaults(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(*memDisk, []*writer)
		cause Kind
		limit time.Duration
	}{
		{"full", func(d *memDisk, ws []*writer) {
			d.set(func(d *memDisk) { d.err = ErrDiskFull })
			setAll(ws, WriteRefused)
		}, DiskFull, time.Second},
		{"full, and the binary log stuck", func(d *memDisk, ws []*writer) {
			d.set(func(d *memDisk) { d.err = ErrDiskFull })
			setAll(ws, LogBusy)
		}, DiskFull, time.Second},
		{"read-only", func(d *memDisk, ws []*writer) {
			d.set(func(d *memDisk) { d.err = ErrDiskReadOnly })
			setAll(ws, WriteRefused)
		}, DiskReadOnly, time.Second},
		{"stalled", func(d *memDisk, ws []*writer) {
			d.set(func(d *memDisk) { d.hang = make(chan struct{}) })
			setAll(ws, WriteStalled)
		}, DiskStalled, 2 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			for phase := range 5 {
				inWorldWith(t, 3, func(t *testing.T, w *world, disk *memDisk) {
					writers := w.writable()
					time.Sleep(time.Duration(phase) * 97 * ms)
					c.fault(disk, writers)
					took := w.until(2, 0, topology.Failed, 5*time.Second)
					j := w.dets[2].Judgement(name(0))
					t.Logf("%s: declared after %v: %s", c.name, took, j.Explanation)
					require.Equal(t, c.cause, j.Cause, j.Explanation)
					require.LessOrEqual(t, took, c.limit)
					require.Less(t, j.LastGood, took+600*ms)
					// And well again.
					disk.set(func(d *memDisk) {
						if d.hang != nil {
							close(d.hang)
						}
						d.err, d.hang = nil, nil
					})
					setAll(writers, Writes)
					w.until(2, 0, topology.Healthy, 3*time.Second)
					time.Sleep(3 * time.Second)
					before, _ := writers[1].count()
					time.Sleep(3 * time.Second)
					after, _ := writers[1].count()
					require.Equal(t, before, after, "no suspicion is left")
				})
			}
		})
	}
}

// Writes hang, clients pile up, and their connections are used up first: its own
// agent comes in by the reserved one, the others are turned away, or are not.
func TestDiskStallsWhileConnectionsAreUsedUp(t *testing.T) {
	for _, turned := range []error{nil, errFull} {
		inWorldWith(t, 3, func(t *testing.T, w *world, disk *memDisk) {
			writers := w.writable()
			w.views[0][0].set(func(s *server) { s.reading.Saturated = true })
			for i := 1; i < 3; i++ {
				w.views[i][0].set(func(s *server) { s.err = turned })
			}
			for _, wr := range writers {
				wr.mu.Lock()
				wr.shut = true
				wr.mu.Unlock()
			}
			w.quiet(0, 3*time.Second)
			require.Equal(t, Saturated, w.dets[1].Judgement(name(0)).Cause)
			hang := make(chan struct{})
			defer close(hang)
			disk.set(func(d *memDisk) { d.hang = hang })
			setAll(writers, WriteStalled)
			took := w.until(2, 0, topology.Failed, 5*time.Second)
			j := w.dets[2].Judgement(name(0))
			require.Equal(t, DiskStalled, j.Cause, j.Explanation)
			require.LessOrEqual(t, took, 2*time.Second)
		})
	}
}

// The disk is well, but the server hangs inside, and is full: that its own agent
// tries is all there is to begin with. It could be its load, so that takes a minute.
func TestWritesHangWhileConnectionsAreUsedUp(t *testing.T) {
	inWorldWith(t, 3, func(t *testing.T, w *world, _ *memDisk) {
		writers := w.writable()
		w.views[0][0].set(func(s *server) { s.reading.Saturated = true })
		time.Sleep(2 * time.Second)
		setAll(writers, WriteStalled)
		w.until(1, 0, topology.Suspect, 2*time.Second)
		took := w.until(1, 0, topology.Failed, 70*time.Second)
		require.Greater(t, took, 55*time.Second)
		require.Equal(t, WriteStalled, w.dets[1].Judgement(name(0)).Cause)
	})
}

// A closed instance is not written to, also when that is long ago and nobody is
// let in any more, or when it may be another process that says so.
func TestClosedIsNotWrittenTo(t *testing.T) {
	for _, c := range []struct {
		name   string
		states []func(*server)
	}{
		{"closed", []func(*server){func(s *server) { s.reading.Closed = true }}},
		{"closed, then full", []func(*server){func(s *server) { s.reading.Closed = true }, func(s *server) { s.err = errFull }}},
		{"closed and full", []func(*server){func(s *server) { s.reading.Closed, s.reading.Saturated = true, true }}},
		{"restarted, and full at once", []func(*server){func(s *server) { s.err = errBroken }, func(s *server) { s.err = errFull }}},
		{"gone, and full at once", []func(*server){func(s *server) { s.err = errRefused }, func(s *server) { s.err = errFull }}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, 3, func(t *testing.T, w *world) {
				writers := w.writable()
				for _, state := range c.states {
					w.all(0, state)
					time.Sleep(time.Second)
				}
				before, _ := writers[0].count()
				time.Sleep(3 * time.Second)
				after, _ := writers[0].count()
				require.Equal(t, before, after)
			})
		})
	}
}

// After the disk was full for a moment: a server that waits for room is failed
// over although there is some; one that has written since is not, whatever hangs
// then.
func TestDiskFullForAMoment(t *testing.T) {
	full := func(d *memDisk, ws []*writer, hang Kind) {
		d.set(func(d *memDisk) { d.err = ErrDiskFull })
		ws[0].set(hang)
		time.Sleep(250 * ms)
		d.set(func(d *memDisk) { d.err = nil })
	}
	for _, hang := range []Kind{LogBusy, WriteStalled} {
		inWorldWith(t, 3, func(t *testing.T, w *world, disk *memDisk) {
			writers := w.writable()
			full(disk, writers, hang)
			time.Sleep(2 * time.Second)
			setAll(writers, hang)
			w.until(2, 0, topology.Failed, 3*time.Second)
			j := w.dets[2].Judgement(name(0))
			require.Equal(t, DiskFull, j.Cause, j.Explanation)
			require.Contains(t, j.Explanation, "found its disk full")
		})
	}
	inWorldWith(t, 3, func(t *testing.T, w *world, disk *memDisk) {
		writers := w.writable()
		full(disk, writers, Writes)
		time.Sleep(time.Second)
		for range 5 { // large transactions
			setAll(writers, LogBusy)
			w.quiet(0, 4*time.Second)
			setAll(writers, Writes)
			w.quiet(0, 2*time.Second)
		}
		require.Equal(t, topology.Healthy, w.dets[1].Judgement(name(0)).Verdict)
	})
}

func setAll(ws []*writer, k Kind) {
	for _, w := range ws {
		w.set(k)
	}
}

// What its own agent alone finds, or what hangs for other reasons than the
// disk, fails nothing.
func TestWritesThatMoveNothing(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault func(*memDisk, []*writer)
		hold  time.Duration
	}{
		{"disk full by its own agent's word alone", func(d *memDisk, _ []*writer) {
			d.set(func(d *memDisk) { d.err = ErrDiskFull })
		}, 10 * time.Second},
		{"a large transaction", func(d *memDisk, ws []*writer) {
			d.set(func(d *memDisk) { d.hang, d.busy = make(chan struct{}), true })
			setAll(ws, LogBusy)
		}, 4900 * ms},
		{"a write that hangs for 4 s", func(_ *memDisk, ws []*writer) { setAll(ws, WriteStalled) }, 4 * time.Second},
		{"one member's writes hang", func(_ *memDisk, ws []*writer) { ws[1].set(WriteStalled) }, 10 * time.Second},
		{"the disk stalls for 550 ms", func(d *memDisk, _ []*writer) {
			hang := make(chan struct{})
			d.set(func(d *memDisk) { d.hang = hang })
			time.AfterFunc(550*ms, func() { close(hang) })
		}, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorldWith(t, 3, func(t *testing.T, w *world, disk *memDisk) {
				writers := w.writable()
				c.fault(disk, writers)
				w.quiet(0, c.hold)
				setAll(writers, Writes)
				disk.set(func(d *memDisk) {
					if d.hang != nil && d.busy {
						close(d.hang)
					}
					d.err, d.hang, d.busy = nil, nil, false
				})
				w.until(1, 0, topology.Healthy, 3*time.Second)
			})
		})
	}
}

// Writes that a majority sees hang for WriteStall are a failure, whatever the
// disk.
func TestWritesHang(t *testing.T) {
	inWorldWith(t, 3, func(t *testing.T, w *world, _ *memDisk) {
		writers := w.writable()
		setAll(writers, WriteStalled)
		took := w.until(1, 0, topology.Failed, 10*time.Second)
		require.InDelta(t, 5.5, took.Seconds(), 1)
		require.Equal(t, WriteStalled, w.dets[1].Judgement(name(0)).Cause)
	})
}

// Only the primary's port is cut: its agent is heard and gets answers.
func TestCutOff(t *testing.T) {
	for _, c := range []struct {
		name string
		lost func(w *world)
		most time.Duration
	}{
		{"commits wait", func(w *world) {
			w.views[0][0].set(func(s *server) { s.reading.Acks = &Acks{Waiting: 2, Acknowledged: 9} })
		}, 1300 * ms},
		{"replicas have lost it", func(w *world) {
			for i := 1; i < 3; i++ {
				w.views[i][i].set(func(s *server) { s.reading.Receiver = &Receiver{Source: "n1", Lost: true} })
			}
		}, 900 * ms},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, 3, func(t *testing.T, w *world) {
				for i := 1; i < 3; i++ {
					w.views[i][i].set(func(s *server) { s.reading.Receiver = &Receiver{Source: "n1"} })
				}
				w.views[0][0].set(func(s *server) { s.reading.Acks = &Acks{Acknowledged: 9} })
				time.Sleep(time.Second)
				for i := 1; i < 3; i++ {
					w.views[i][0].set(func(s *server) { s.hang, s.err = true, errConnect })
				}
				w.quiet(0, 5*time.Second) // slow hosts, for all that is known
				c.lost(w)
				took := w.until(1, 0, topology.Failed, 3*time.Second)
				require.LessOrEqual(t, took, c.most)
				j := w.dets[1].Judgement(name(0))
				require.Equal(t, CutOff, j.Cause, j.Explanation)
				require.Greater(t, j.LastGood, 5*time.Second, "its own agent's answers are nobody's service")
			})
		})
	}
}

// Nothing reaches the primary's host; what it sends arrives.
func TestNothingReachesItsHost(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		for i := 1; i < 3; i++ {
			w.net.set(addr(i), addr(0), true)
			w.views[i][0].set(func(s *server) { s.hang, s.err = true, errConnect })
		}
		took := w.until(1, 0, topology.Failed, 4*time.Second)
		j := w.dets[1].Judgement(name(0))
		t.Logf("declared after %v: %s", took, j.Explanation)
		// By the time its agent has been isolated for long enough to say so, it
		// takes the others for dead and tells them nothing any more.
		require.LessOrEqual(t, took, 2400*ms)
		require.Contains(t, j.Explanation, "its own agent heard no majority of the members")
	})
}

// The same while clients write: its commits starve, and that is known sooner.
func TestNothingReachesItsHostUnderLoad(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.views[0][0].set(func(s *server) { s.reading.Acks = &Acks{Waiting: 2, Acknowledged: 9} })
		for i := 1; i < 3; i++ {
			w.net.set(addr(i), addr(0), true)
			w.views[i][0].set(func(s *server) { s.hang, s.err = true, errConnect })
		}
		took := w.until(1, 0, topology.Failed, 4*time.Second)
		j := w.dets[1].Judgement(name(0))
		t.Logf("declared after %v: %s", took, j.Explanation)
		// Mostly 1.0 to 1.3 s; each time that gossip, which picks its peers at
		// random, does not tell the one who asks, it takes 0.2 s longer.
		require.LessOrEqual(t, took, 2*time.Second)
		require.Equal(t, CutOff, j.Cause, j.Explanation)
	})
}

func TestIsolatedKnowsIt(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.net.isolate(addr(0), true)
		time.Sleep(1500 * ms)
		j := w.dets[0].Judgement(name(0))
		require.Equal(t, Isolated, j.Cause, j.Explanation)
		require.Contains(t, j.Explanation, "hears 1 of 3")
		w.net.isolate(addr(0), false)
		time.Sleep(5 * time.Second)
		j = w.dets[0].Judgement(name(0))
		require.Equal(t, Alive, j.Cause, fmt.Sprint(j.Explanation))
	})
}

// The agent of a healthy primary is gone.
func TestAgentGone(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		w.stop[0]()
		w.quiet(0, 5*time.Second)
		j := w.dets[1].Judgement(name(0))
		require.Equal(t, topology.Healthy, j.Verdict, j.Explanation)
		require.Equal(t, AgentGone, j.Cause, j.Explanation)
	})
}
