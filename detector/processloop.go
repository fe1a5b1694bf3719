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
	for {
		if pid, start, ok := d.findServer(); ok {
			d.watchOne(ctx, pid, start)
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

// watchOne watches one process to its end.
func (d *Detector) watchOne(ctx context.Context, pid int, start uint64) {
	wctx, stop := context.WithCancel(ctx)
	exits, err := WatchProcess(wctx, pid, start)
	if err != nil {
		stop()
		d.log.Debug("watch the server process", zap.Error(err))
		return
	}
	d.record(Evidence{Subject: d.cfg.Self, Kind: ProcessRunning})
	exit, ended := <-exits // closed without one when ctx ends
	stop()
	defer func() { <-exits }() // closed: the watch is gone
	if !ended {
		return
	}
	d.log.Warn("the server process exited", zap.Int("pid", pid), zap.String("sign", exit.Sign))
	d.record(Evidence{Subject: d.cfg.Self, Kind: ProcessExited, Since: time.Since(exit.At)})
	d.Nudge(d.cfg.Self)
}
