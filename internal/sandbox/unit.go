package sandbox

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"interrex/internal/sandbox/process"
)

// State is what a supervised process is doing.
type State string

// The states of a supervised process.
const (
	Starting State = "starting"
	Running  State = "running"
	Frozen   State = "frozen"
	Waiting  State = "waiting" // ended, about to be started again
	Stopped  State = "stopped" // ended by itself or as asked; stays so
	Killed   State = "killed"  // ended by a signal; stays so until start
	Failed   State = "failed"  // could not be started; stays so until start
)

// UnitStatus is what is known of one supervised process.
type UnitStatus struct {
	State State `json:"state"`
	PID   int   `json:"pid,omitempty"`
	// Starts counts how often it was started.
	Starts int `json:"starts"`
	// Detail says why it is not running.
	Detail string `json:"detail,omitempty"`
}

// unit is one supervised process. Its loop owns it; everything else asks the
// loop.
type unit struct {
	name string
	log  *zap.Logger
	// start starts the process and returns when it is of use.
	start func(ctx context.Context) (*process.Process, error)
	// again tells whether a process that ended by itself with an exit code
	// (-1: by a signal) is started again, and whether at once.
	again    func(exit int) (again, atOnce bool)
	requests chan request
	changed  func() // told after each change of status

	// Owned by the loop.
	proc    *process.Process
	began   time.Time
	delay   time.Duration
	restart <-chan time.Time
	held    bool // killed on request: only start starts it again

	mu     sync.Mutex
	status UnitStatus
}

type request struct {
	command string
	reply   chan error
}

// The shortest and longest wait before a process that keeps ending is started
// again, and how long it must have run to begin with the shortest.
const (
	shortestDelay = 200 * time.Millisecond
	longestDelay  = 5 * time.Second
	steadyAfter   = 10 * time.Second
)

func newUnit(name string, log *zap.Logger, changed func()) *unit {
	return &unit{
		name: name, log: log.With(zap.String("unit", name)), changed: changed,
		requests: make(chan request), delay: shortestDelay, status: UnitStatus{State: Stopped},
	}
}

// run starts the process and looks after it until ctx ends; then the process
// is killed.
func (u *unit) run(ctx context.Context) {
	_ = u.launch(ctx)
	for {
		var ended <-chan struct{}
		if u.proc != nil {
			ended = u.proc.Done()
		}
		select {
		case <-ctx.Done():
			u.end()
			return
		case <-ended:
			u.ended()
		case <-u.restart:
			_ = u.launch(ctx)
		case r := <-u.requests:
			r.reply <- u.handle(ctx, r.command)
		}
	}
}

// ask has the loop carry out a command.
func (u *unit) ask(ctx context.Context, command string) error {
	r := request{command: command, reply: make(chan error, 1)}
	select {
	case u.requests <- r:
	case <-ctx.Done():
		return fmt.Errorf("%s %s: it is busy: %w", command, u.name, context.Cause(ctx))
	}
	select {
	case err := <-r.reply:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s %s: %w", command, u.name, context.Cause(ctx))
	}
}

func (u *unit) handle(ctx context.Context, command string) error {
	state := u.current().State
	live := u.proc != nil
	switch command {
	case cmdStart:
		if live {
			return fmt.Errorf("start %s: it is %s", u.name, state)
		}
		return u.launch(ctx)
	case cmdRestart, cmdEnsure:
		if u.held {
			return fmt.Errorf("%s %s: it was killed on request and stays dead until it is started", command, u.name)
		}
		if command == cmdEnsure && live && u.proc.Alive() {
			return nil
		}
		u.end()
		return u.launch(ctx)
	case cmdKill:
		if !live {
			return fmt.Errorf("kill %s: it is %s", u.name, state)
		}
		u.end()
		u.held = true
		u.set(UnitStatus{State: Killed, Detail: "killed on request"})
		return nil
	case cmdFreeze:
		if state != Running {
			return fmt.Errorf("freeze %s: it is %s", u.name, state)
		}
		return u.turn(u.proc.Freeze(), Frozen)
	case cmdThaw:
		if state != Frozen {
			return fmt.Errorf("thaw %s: it is %s", u.name, state)
		}
		return u.turn(u.proc.Thaw(), Running)
	default:
		return fmt.Errorf("%s %s: no such command", command, u.name)
	}
}

// launch starts the process. It must not be running.
func (u *unit) launch(ctx context.Context) error {
	u.restart, u.held = nil, false
	u.set(UnitStatus{State: Starting})
	u.began = time.Now()
	proc, err := u.start(ctx)
	if err != nil {
		u.log.Error("not started", zap.Error(err))
		u.set(UnitStatus{State: Failed, Detail: err.Error()})
		return err
	}
	u.proc = proc
	u.log.Info("started", zap.Int("pid", proc.PID()), zap.Duration("took", time.Since(u.began)))
	u.mu.Lock()
	u.status = UnitStatus{State: Running, PID: proc.PID(), Starts: u.status.Starts + 1}
	u.mu.Unlock()
	u.changed()
	return nil
}

// ended decides what becomes of a process that is gone without being asked.
func (u *unit) ended() {
	exit, ran := u.proc.ExitCode(), time.Since(u.began)
	u.proc = nil
	u.log.Info("ended", zap.Int("exit", exit), zap.Duration("ran", ran))
	again, atOnce := u.again(exit)
	detail := fmt.Sprintf("exit code %d", exit)
	if exit < 0 {
		detail = "ended by a signal"
	}
	switch {
	case !again && exit < 0:
		u.set(UnitStatus{State: Killed, Detail: detail})
	case !again:
		u.set(UnitStatus{State: Stopped, Detail: detail})
	default:
		if ran > steadyAfter || exit < 0 { // who was killed did not end by itself
			u.delay = shortestDelay
		}
		wait := u.delay
		u.delay = min(2*u.delay, longestDelay)
		if atOnce {
			wait = 0
		}
		u.restart = time.After(wait)
		u.set(UnitStatus{State: Waiting, Detail: detail})
	}
}

// end kills the process, if there is one, for good.
func (u *unit) end() {
	u.restart = nil
	if u.proc == nil {
		return
	}
	if err := u.proc.Kill(); err != nil {
		u.log.Error("not killed", zap.Error(err))
	}
	u.proc = nil
	u.set(UnitStatus{State: Stopped})
}

// turn sets the state a signal led to, unless sending it failed.
func (u *unit) turn(err error, state State) error {
	if err != nil {
		return err
	}
	u.set(UnitStatus{State: state, PID: u.proc.PID()})
	return nil
}

// set changes the status; the count of starts goes on.
func (u *unit) set(status UnitStatus) {
	u.mu.Lock()
	status.Starts = u.status.Starts
	u.status = status
	u.mu.Unlock()
	u.changed()
}

func (u *unit) current() UnitStatus {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.status
}
