//go:build linux

package detector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Exit is the end of a watched process.
type Exit struct {
	PID int
	At  time.Time
	// Sign says what was seen first: "thread" (one thread gone and the rest
	// under SIGKILL or gone) or "process".
	Sign string
}

const (
	// watchedThreads is how many threads stand for the process. One would do;
	// more save the search when one ends for ordinary reasons.
	watchedThreads = 4
	// resample is how often missing threads are looked for.
	resample = time.Second
	// doubts and doubtFor: how often, and how far apart, the process is looked
	// at again after a thread ended and the process seemed to live.
	doubts   = 5
	doubtFor = 2 * time.Millisecond
)

// WatchProcess reports the exit of a process once on the returned channel,
// which is closed afterwards, or without a report when ctx ends. startTime, in
// clock ticks since boot (0: any), guards against a reused pid; ErrNoProcess if
// it is another one or gone.
//
// After SIGKILL the kernel tears the memory of a process down before the
// process counts as ended: a second or more for a large one. A pidfd of a
// single thread (Linux 6.9) becomes readable at once, so a few non-leader
// threads are watched too. Older kernels: the process alone.
//
// One goroutine waits in poll(2); it ends with ctx or with the process.
func WatchProcess(ctx context.Context, pid int, startTime uint64) (<-chan Exit, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			err = ErrNoProcess
		}
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	// Read after opening: the pidfd is of the process that has this time.
	st, err := readStat(pid)
	if err == nil && startTime != 0 && st.start != startTime {
		err = fmt.Errorf("%w: the pid belongs to another one", ErrNoProcess)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	cancel, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("watch process %d: %w", pid, err)
	}
	w := &processWatch{pid: pid, start: st.start, process: fd, cancel: cancel, perThread: true}
	out := make(chan Exit, 1)
	go w.run(ctx, out)
	return out, nil
}

// processWatch owns its descriptors; only its goroutine touches them.
type processWatch struct {
	pid       int
	start     uint64
	process   int // pidfd
	cancel    int // eventfd
	threads   []watchedThread
	perThread bool // the kernel knows PIDFD_THREAD
}

type watchedThread struct{ tid, fd int }

func (w *processWatch) run(ctx context.Context, out chan<- Exit) {
	defer close(out)
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_, _ = unix.Write(w.cancel, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() {
		if !stop() {
			<-woken
		}
		w.close()
	}()
	if sign := w.wait(ctx); sign != "" {
		out <- Exit{PID: w.pid, At: time.Now(), Sign: sign}
	}
}

// wait returns how the exit was seen, or "" when ctx ended.
func (w *processWatch) wait(ctx context.Context) string {
	w.sample()
	left := 0 // looks still to be taken after a thread ended
	for {
		timeout := resample
		switch {
		case left > 0:
			timeout = doubtFor
		case len(w.threads) == watchedThreads || !w.perThread:
			timeout = -1
		}
		fds := w.pollList()
		_, err := unix.Poll(fds, pollMillis(timeout))
		if ctx.Err() != nil {
			return ""
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			// Only EBADF, EFAULT, EINVAL and ENOMEM are left: no memory
			// now. Look again soon.
			left = max(left, 1)
			continue
		}
		if fds[0].Revents != 0 {
			return "process"
		}
		ended := w.dropEnded(fds[2:])
		if ended || left > 0 {
			if w.ending() {
				return "thread"
			}
			left--
		}
		if ended {
			left = doubts
		}
		w.sample()
	}
}

func pollMillis(d time.Duration) int {
	if d < 0 {
		return -1
	}
	return int(d.Milliseconds())
}

func (w *processWatch) pollList() []unix.PollFd {
	fds := []unix.PollFd{{Fd: int32(w.process), Events: unix.POLLIN}, {Fd: int32(w.cancel), Events: unix.POLLIN}}
	for _, t := range w.threads {
		fds = append(fds, unix.PollFd{Fd: int32(t.fd), Events: unix.POLLIN})
	}
	return fds
}

// dropEnded closes the watched threads that ended and tells if there were any.
func (w *processWatch) dropEnded(fds []unix.PollFd) bool {
	var rest []watchedThread
	for i, t := range w.threads {
		if fds[i].Revents == 0 {
			rest = append(rest, t)
			continue
		}
		_ = unix.Close(t.fd)
	}
	ended := len(rest) < len(w.threads)
	w.threads = rest
	return ended
}

// sample fills the watched threads up with the oldest others.
func (w *processWatch) sample() {
	if !w.perThread || len(w.threads) >= watchedThreads {
		return
	}
	tids, err := threadIDs(w.pid)
	if err != nil {
		return
	}
	for _, tid := range tids {
		known := func(t watchedThread) bool { return t.tid == tid }
		if tid == w.pid || slices.ContainsFunc(w.threads, known) {
			continue
		}
		fd, err := unix.PidfdOpen(tid, unix.PIDFD_THREAD)
		if errors.Is(err, unix.EINVAL) {
			w.perThread = false
			return
		}
		if err != nil {
			continue // ended meanwhile
		}
		// The tid may have become another process's since it was listed.
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", w.pid, tid)); err != nil {
			_ = unix.Close(fd)
			continue
		}
		w.threads = append(w.threads, watchedThread{tid, fd})
		if len(w.threads) == watchedThreads {
			return
		}
	}
}

// ending tells whether the whole process is on its way out, not just one
// thread: its leader is a zombie, gone, exiting, or has SIGKILL pending, which
// is what the kernel gives every thread when the group exits and which nothing
// can take back.
func (w *processWatch) ending() bool {
	st, err := readStat(w.pid)
	if err != nil {
		return errors.Is(err, ErrNoProcess)
	}
	if st.start != w.start || st.state == 'Z' || st.state == 'X' || st.flags&flagExiting != 0 {
		return true
	}
	return killPending(w.pid)
}

func (w *processWatch) close() {
	for _, t := range w.threads {
		_ = unix.Close(t.fd)
	}
	_ = unix.Close(w.process)
	_ = unix.Close(w.cancel)
}

// flagExiting is PF_EXITING of the kernel's task flags.
const flagExiting = 0x4

type processStat struct {
	state byte
	flags uint64
	start uint64
}

// readStat reads /proc/<pid>/stat (proc(5)): state is field 3, flags 9, start
// time 22. The command in field 2 may contain anything, so fields are counted
// from its last parenthesis.
func readStat(pid int) (processStat, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return processStat{}, fmt.Errorf("read state of process %d: %w", pid, ErrNoProcess)
	}
	if err != nil {
		return processStat{}, fmt.Errorf("read state of process %d: %w", pid, err)
	}
	i := bytes.LastIndexByte(raw, ')')
	fields := bytes.Fields(raw[i+1:])
	if i < 0 || len(fields) < 20 {
		return processStat{}, fmt.Errorf("read state of process %d: %d fields", pid, len(fields))
	}
	st := processStat{state: fields[0][0]}
	if st.flags, err = strconv.ParseUint(string(fields[6]), 10, 64); err == nil {
		st.start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	}
	if err != nil {
		return processStat{}, fmt.Errorf("read state of process %d: %w", pid, err)
	}
	return st, nil
}

// killPending tells whether SIGKILL is pending for the leader thread or the
// whole process.
func killPending(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	for line := range bytes.Lines(raw) {
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || (string(name) != "SigPnd" && string(name) != "ShdPnd") {
			continue
		}
		mask, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64)
		if err == nil && mask&(1<<(unix.SIGKILL-1)) != 0 {
			return true
		}
	}
	return false
}

// threadIDs lists the threads of a process, oldest first as far as ids tell.
func threadIDs(pid int) ([]int, error) {
	dir, err := os.Open(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, fmt.Errorf("list threads of process %d: %w", pid, err)
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list threads of process %d: %w", pid, err)
	}
	tids := make([]int, 0, len(names))
	for _, n := range names {
		if tid, err := strconv.Atoi(n); err == nil {
			tids = append(tids, tid)
		}
	}
	slices.Sort(tids)
	return tids, nil
}
