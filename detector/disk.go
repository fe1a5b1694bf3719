package detector

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
)

// Disk is what the local server writes to, as its own agent can try it.
type Disk interface {
	// Look asks whether it has room and takes writes, without writing. Write
	// also writes a little and flushes it. Both may hang for as long as the disk
	// does. The error is ErrDiskFull, ErrDiskReadOnly, ErrDiskUnknown when
	// nothing can be said, or any other that the disk gives.
	Look() error
	Write() error
	// Completed counts the writes that the device has completed; false if that
	// is not known.
	Completed() (uint64, bool)
}

// looksAgain is how long a server that found its disk full waits until it tries
// again, whatever was freed meanwhile (MySQL's wait_for_free_space: 60 s), and a
// little.
const looksAgain = 65 * time.Second

// diskWatch is what is known of one write to the disk.
type diskWatch struct {
	began     time.Time
	completed uint64    // by the device, when last looked at
	moved     time.Time // when the device last completed something
}

// judge says what a write comes to that has not returned yet: the disk stalls
// if the device completes nothing else, or keeps this one waiting for too long.
func (k *diskWatch) judge(now time.Time, w Windows, completed uint64, known bool) (Kind, bool) {
	if known && completed != k.completed {
		k.completed, k.moved = completed, now
	}
	if now.Sub(k.moved) >= w.WriteTimeout || now.Sub(k.began) >= w.WriteStall {
		return DiskStalled, true
	}
	return "", false
}

// diskKind is what the end of a write says.
func diskKind(err error) (Kind, string) {
	switch {
	case err == nil:
		return DiskWell, ""
	case errors.Is(err, ErrDiskUnknown):
		return "", err.Error()
	case errors.Is(err, ErrDiskFull):
		return DiskFull, err.Error()
	default:
		return DiskReadOnly, err.Error()
	}
}

// watchDisk tries the disk until ctx ends: it looks each Interval, and writes
// each Canary. A write that hangs is not waited for at the end: nothing can be
// done about it, and it touches nothing of ours.
func (d *Detector) watchDisk(ctx context.Context) {
	tick := time.NewTicker(d.w.Interval)
	defer tick.Stop()
	told := ""
	var written time.Time
	var room roomWatch
	for {
		done := make(chan error, 1)
		completed, _ := d.deps.Disk.Completed()
		now := time.Now()
		k := &diskWatch{began: now, completed: completed, moved: now}
		try := d.deps.Disk.Look
		if now.Sub(written) >= d.w.Canary {
			try, written = d.deps.Disk.Write, now
		}
		go func() { done <- try() }()
		err, ok := d.awaitDisk(ctx, k, done)
		if !ok {
			return
		}
		kind, detail := diskKind(err)
		if room.waits(time.Now(), kind, d.ownWrites()) {
			kind, detail = DiskFull, "there is room again, and the server waits: it looks for it once a minute"
		}
		if kind == "" {
			d.retract(d.cfg.Self, groupDisk)
			if told != detail {
				told = detail
				d.log.Warn("the server's disk cannot be tried; that it is full or stalls is noticed by others only, and later", zap.String("error", detail))
			}
		} else {
			d.record(Evidence{Subject: d.cfg.Self, Kind: kind, Detail: detail})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// roomWatch knows whether a server whose disk was full has gone on since.
type roomWatch struct {
	full time.Time // when the disk was last full
	room time.Time // when it was first well after that; zero: not yet
	went bool      // a write that began after that was done
}

// waits tells whether the disk has room, and the server that found none still
// waits for it. own is what was last found of its writes: once one was done, what
// hangs after that hangs for another reason, a large transaction say.
func (r *roomWatch) waits(now time.Time, disk Kind, own Evidence) bool {
	if disk == DiskFull {
		*r = roomWatch{full: now}
	}
	if disk != DiskWell || now.Sub(r.full) >= looksAgain {
		return false
	}
	if r.room.IsZero() {
		r.room = now
	}
	if own.Kind == Writes && now.Add(-own.Age).After(r.room) {
		r.went = true
	}
	return !r.went && (own.Kind == LogBusy || own.Kind == WriteStalled)
}

// ownWrites is what this member's last try at the local server's writes found;
// its kind is empty where that is nothing, or too old.
func (d *Detector) ownWrites() Evidence {
	d.mu.Lock()
	defer d.mu.Unlock()
	ev, ok := d.store.about(d.cfg.Self, false).find(time.Now(), d.cfg.Self, groupWrite)
	if !ok || ev.Age > d.w.Freshness {
		return Evidence{}
	}
	return ev
}

// awaitDisk waits for a write to end, and accuses the disk while it hangs;
// false when ctx ends first.
func (d *Detector) awaitDisk(ctx context.Context, k *diskWatch, done <-chan error) (error, bool) {
	every := d.w.WriteTimeout / 8
	look := time.NewTicker(every)
	defer look.Stop()
	last := k.began
	for {
		select {
		case <-ctx.Done():
			return nil, false
		case err := <-done:
			return err, true
		case <-look.C:
		}
		now := time.Now()
		if now.Sub(last) > every+d.w.WriteTimeout/2 {
			// This process did not run: how long the disk took meanwhile is
			// not known.
			d.heldUp()
			k.moved = now
		}
		last = now
		completed, known := d.deps.Disk.Completed()
		if kind, bad := k.judge(now, d.w, completed, known); bad {
			d.record(Evidence{Subject: d.cfg.Self, Kind: kind, Since: now.Sub(k.began)})
		}
	}
}
