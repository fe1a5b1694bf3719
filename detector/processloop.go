package detector

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// findProcessEvery is how often the local server's pid is looked for while no
// process is watched.
const findProcessEvery = 100 * time.Millisecond

// watchServer watches the local server process, one incarnation after the
// other, until ctx ends.
func (d *Detector) watchServer(ctx context.Context) {
	tick := time.NewTicker(findProcessEvery)
	defer tick.Stop()
	run := ProcessRunning
	for {
		if pid, start, ok := d.findServer(); ok && d.watchOne(ctx, pid, start, run) {
			run = Restarted
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// findServer finds a server process that lives.
func (d *Detector) findServer() (pid int, start uint64, ok bool) {
	pid, err := d.deps.FindProcess()
	if err != nil || pid <= 0 {
		return 0, 0, false
	}
	st, err := readStat(pid)
	if err != nil || st.state == 'Z' || st.state == 'X' || st.flags&flagExiting != 0 || killPending(pid) {
		return 0, 0, false
	}
	return pid, st.start, true
}

// watchOne watches one process to its end; false if there was none to watch.
// run is what its running comes to.
func (d *Detector) watchOne(ctx context.Context, pid int, start uint64, run Kind) bool {
	wctx, stop := context.WithCancel(ctx)
	exits, err := WatchProcess(wctx, pid, start)
	if err != nil {
		stop()
		d.log.Debug("watch the server process", zap.Error(err))
		return false
	}
	d.record(Evidence{Subject: d.cfg.Self, Kind: run})
	exit, ended := <-exits // closed without one when ctx ends
	stop()
	defer func() { <-exits }() // closed: the watch is gone
	if !ended {
		return true
	}
	d.log.Warn("the server process exited", zap.Int("pid", pid), zap.String("sign", exit.Sign))
	d.record(Evidence{Subject: d.cfg.Self, Kind: ProcessExited, Since: time.Since(exit.At)})
	d.Nudge(d.cfg.Self)
	return true
}
