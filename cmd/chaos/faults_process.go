package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"

	"interrex/internal/sandbox"
)

// processFaults are of servers, and of all that runs on a node.
func processFaults() []kind {
	return []kind{
		{name: "kill the primary's server", strike: on((*round).primary, killServer)},
		{name: "kill a replica's server", strike: on((*round).replica, killServer)},
		{name: "crash the primary's server", strike: on((*round).primary, crashServer)},
		{name: "crash a replica's server", strike: on((*round).replica, crashServer)},
		{name: "freeze the primary's server", strike: on((*round).primary, freezeServer)},
		{name: "freeze a replica's server", strike: on((*round).replica, freezeServer)},
		{name: "power off the primary's node", strike: on((*round).primary, powerOff)},
		{name: "power off a replica's node", strike: on((*round).replica, powerOff)},
		{name: "power off all nodes", strike: powerCycle},
		{name: "switchover", strike: switchover},
	}
}

// killServer ends a server, which stays dead until it is healed.
func killServer(ctx context.Context, r *round, n *node) (*strike, error) {
	if err := r.take("mysqld", n); err != nil {
		return nil, err
	}
	return &strike{Detail: n.Name, heal: func(ctx context.Context) error { return r.start(ctx, n) }}, r.c.Kill(ctx, n.Name)
}

// crashServer ends a server, and it is started again at once, as a host's
// service manager does it.
func crashServer(ctx context.Context, r *round, n *node) (*strike, error) {
	if err := r.take("mysqld", n); err != nil {
		return nil, err
	}
	restarted := make(chan error, 1)
	go func() { restarted <- r.c.Restart(context.WithoutCancel(ctx), n.Name) }()
	return &strike{Detail: n.Name, heal: func(ctx context.Context) error {
		select {
		case err := <-restarted:
			if err == nil {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		restarted <- nil // what follows is tried anew each time
		return r.start(ctx, n)
	}}, nil
}

// start starts a server, unless somebody has done so meanwhile.
func (r *round) start(ctx context.Context, n *node) error {
	err := r.c.Start(ctx, n.Name)
	if err != nil && r.state(ctx, n) == sandbox.Running {
		return nil
	}
	return err
}

// state is what a node's server is doing; empty if nobody knows.
func (r *round) state(ctx context.Context, n *node) sandbox.State {
	status, err := r.c.Status(ctx)
	if err != nil {
		return ""
	}
	i := slices.IndexFunc(status.Nodes, func(s sandbox.NodeStatus) bool { return s.Name == n.Name })
	return status.Nodes[i].MySQL.State
}

func freezeServer(ctx context.Context, r *round, n *node) (*strike, error) {
	if err := r.take("mysqld", n); err != nil {
		return nil, err
	}
	return &strike{Detail: n.Name, heal: func(ctx context.Context) error { return r.thaw(ctx, n) }}, r.c.Freeze(ctx, n.Name)
}

// thaw lets a frozen server go on, unless somebody has ended it meanwhile:
// agents end an old primary that cannot be closed.
func (r *round) thaw(ctx context.Context, n *node) error {
	err := r.c.Thaw(ctx, n.Name)
	if err != nil && r.state(ctx, n) != sandbox.Frozen {
		return nil
	}
	return err
}

// powerOff ends all that runs on a node: server, agent, etcd.
func powerOff(ctx context.Context, r *round, n *node) (*strike, error) {
	if err := errors.Join(r.take("mysqld", n), r.take("agent", n)); err != nil {
		return nil, err
	}
	return r.powerOffAll(ctx, n)
}

// powerOffAll ends all that runs on some nodes. Healed, servers and agents come
// back in any order.
func (r *round) powerOffAll(ctx context.Context, nodes ...*node) (*strike, error) {
	var errs []error
	var starts []func(context.Context) error
	for _, n := range nodes {
		errs = append(errs, r.c.StopAgent(ctx, n.Name), r.c.Kill(ctx, n.Name))
		starts = append(starts,
			func(ctx context.Context) error { return r.start(ctx, n) },
			func(ctx context.Context) error { return r.c.StartAgent(ctx, n.Name) })
	}
	r.rng.Shuffle(len(starts), func(i, j int) { starts[i], starts[j] = starts[j], starts[i] })
	return &strike{Detail: names(nodes), heal: func(ctx context.Context) error {
		var failed []error
		left := starts[:0:0]
		for _, start := range starts {
			if err := start(ctx); err != nil {
				failed, left = append(failed, err), append(left, start)
			}
		}
		starts = left // for the next try
		return errors.Join(failed...)
	}}, errors.Join(errs...)
}

// powerCycle ends everything on all nodes.
func powerCycle(ctx context.Context, r *round) (*strike, error) {
	var errs []error
	for _, n := range r.c.nodes {
		errs = append(errs, r.take("mysqld", n), r.take("agent", n))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return r.powerOffAll(ctx, r.c.nodes...)
}

// switchover is asked for, as an operator does; that it is refused or undone is
// no fault of anybody's.
func switchover(ctx context.Context, r *round) (*strike, error) {
	s := &strike{}
	done := r.askSwitchover(ctx, r.any(), func(outcome string) { s.Detail = outcome })
	s.heal = func(context.Context) error { <-done; return nil }
	return s, nil
}

// askSwitchover asks a node's agent for a switchover, in the background: again
// and again while it is refused because a candidate lags for the moment.
func (r *round) askSwitchover(ctx context.Context, by *node, tell func(outcome string)) (done <-chan struct{}) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		for try := 1; ; try++ {
			status, text, err := r.c.call(ctx, by, "POST", "/api/v1/switchover", "{}")
			if status == 409 && try < 10 && pause(ctx, 100*time.Millisecond) == nil {
				continue
			}
			outcome := fmt.Sprintf("asked by way of %s: %d", by.Name, status)
			if err != nil {
				outcome = fmt.Sprintf("asked by way of %s: no answer", by.Name)
			} else if status != 200 {
				outcome += " " + string(text)
			}
			tell(outcome)
			return
		}
	}()
	return ended
}

// pause lets time pass.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// agentFaults are of agents. With an agent dies the etcd that it runs.
func agentFaults() []kind {
	list := []kind{
		{name: "kill the agent of the primary's node", strike: on((*round).primary, stopAgent)},
		{name: "kill the leader's agent", strike: on((*round).leader, stopAgent)},
		{name: "crash an agent", strike: on((*round).any, crashAgent)},
		{name: "freeze the agent of the primary's node", strike: on((*round).primary, freezeAgent)},
		{name: "freeze the leader's agent", strike: on((*round).leader, freezeAgent)},
	}
	for _, operation := range []string{"failover", "switchover"} {
		list = append(list,
			kind{name: "kill the leader's agent in a " + operation, strike: func(ctx context.Context, r *round) (*strike, error) {
				return strikeAtStep(ctx, r, operation, syscall.SIGKILL)
			}},
			kind{name: "freeze the leader's agent in a " + operation, strike: func(ctx context.Context, r *round) (*strike, error) {
				return strikeAtStep(ctx, r, operation, syscall.SIGSTOP)
			}})
	}
	return list
}

// stopAgent ends an agent, which stays dead until it is healed.
func stopAgent(ctx context.Context, r *round, n *node) (*strike, error) {
	if err := r.take("agent", n); err != nil {
		return nil, err
	}
	return &strike{Detail: n.Name, heal: func(ctx context.Context) error { return r.c.StartAgent(ctx, n.Name) }}, r.c.StopAgent(ctx, n.Name)
}

// crashAgent ends an agent, which is started again at once.
func crashAgent(_ context.Context, r *round, n *node) (*strike, error) {
	if err := r.take("agent", n); err != nil {
		return nil, err
	}
	return &strike{Detail: n.Name}, signalTo(n.AgentPIDFile(), syscall.SIGKILL)
}

func freezeAgent(_ context.Context, r *round, n *node) (*strike, error) {
	if err := r.take("agent", n); err != nil {
		return nil, err
	}
	return freezeProcess(n, n.AgentPIDFile())
}

// freezeProcess stops the process of a pid file, and lets the same one go on.
func freezeProcess(n *node, pidFile string) (*strike, error) {
	pid, err := pidIn(pidFile)
	if err != nil {
		return nil, err
	}
	return &strike{Detail: n.Name, heal: func(context.Context) error { return resume(pid) }}, syscall.Kill(pid, syscall.SIGSTOP)
}

// resume lets a stopped process go on; one that was ended meanwhile is no
// error.
func resume(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("resume process %d: %w", pid, err)
	}
	return nil
}

// steps are the points at which the leader of an operation may be struck: when
// its log says that the step is done.
var steps = map[string][]string{
	"failover":   {"begin", "claim", "revoke", "choose", "catch_up", "promote", "route", "verify"},
	"switchover": {"begin", "claim", "prepare", "revoke", "choose", "catch_up", "promote", "route", "verify"},
}

// stepLimit is how long the step that is waited for may take to come.
const stepLimit = 10 * time.Second

// strikeAtStep has an operation begin and sends its leader's agent a signal at
// a random step.
func strikeAtStep(ctx context.Context, r *round, operation string, signal syscall.Signal) (*strike, error) {
	leader, old := r.leader(), r.primary()
	if err := errors.Join(r.take("agent", leader), r.take("mysqld", old)); err != nil {
		return nil, err
	}
	step := steps[operation][r.rng.IntN(len(steps[operation]))]
	pid, err := pidIn(leader.AgentPIDFile())
	if err != nil {
		return nil, err
	}
	log, err := os.Open(leader.AgentLog())
	if err != nil {
		return nil, fmt.Errorf("watch the leader: %w", err)
	}
	defer log.Close()
	if _, err := log.Seek(0, io.SeekEnd); err != nil {
		return nil, fmt.Errorf("watch the leader: %w", err)
	}
	s := &strike{Detail: fmt.Sprintf("%s, at step %s", leader.Name, step)}
	asked, answer := (<-chan struct{})(nil), ""
	if operation == "failover" {
		if err := r.c.Kill(ctx, old.Name); err != nil {
			return nil, err
		}
	} else {
		asked = r.askSwitchover(ctx, r.others(leader)[0], func(outcome string) { answer = outcome })
	}
	s.heal = func(ctx context.Context) error {
		err := resume(pid)
		if operation == "failover" {
			return errors.Join(err, r.start(ctx, old))
		}
		<-asked
		s.Detail += "; " + answer
		return err
	}
	if !awaitStep(ctx, log, operation, step) {
		s.Missed = true // refused, or another led by then
		s.Detail += ", which did not come"
		return s, nil
	}
	if err := syscall.Kill(pid, signal); err != nil {
		return s, fmt.Errorf("strike the leader: %w", err)
	}
	return s, nil
}
