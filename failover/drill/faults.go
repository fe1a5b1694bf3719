package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"interrex/election"
	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/topology"
)

// FaultsConfig is what a member needs to cause faults on its own node.
type FaultsConfig struct {
	Self topology.NodeName
	// Enabled is the member's configuration: drills.
	Enabled bool
	// RecordFile is where a fault in force is written down. It must survive the
	// agent.
	RecordFile string
	// Helper is the program, with arguments, that calls Undo with the record
	// file, its last argument, on its standard input and output.
	Helper []string
	// Server is the local server.
	Server Server
	// FindServer is its process id, confirmed to be a mysqld; nil for a member
	// without an instance.
	FindServer func(ctx context.Context) (int, error)
	// Glance is the cluster as this member sees it.
	Glance func() api.Cluster
	// StopAgent has the agent end in order, soon.
	StopAgent func()
}

// Faults causes faults on the own node and undoes them. One is in force at a
// time.
type Faults struct {
	cfg FaultsConfig
	log *zap.Logger

	order  sync.Mutex // one order at a time
	mu     sync.Mutex
	active *inForce
}

// inForce is a fault in force.
type inForce struct {
	api.ActiveFault
	helper *helper
	over   chan struct{} // closed when it is undone
}

// NewFaults returns the faults; Run must run for them to be undone in time.
func NewFaults(cfg FaultsConfig, log *zap.Logger) *Faults {
	return &Faults{cfg: cfg, log: log.Named("drill")}
}

// leaveLimit is how long an agent that stops waits for a fault to be undone;
// the helper goes on with it.
const leaveLimit = 5 * time.Second

// Run undoes what an agent before this one left, then waits for the end of
// ctx and leaves a fault in force to its helper, which undoes it at once.
func (f *Faults) Run(ctx context.Context) error {
	f.undoInherited(ctx)
	<-ctx.Done()
	active := f.current()
	if active == nil {
		return nil
	}
	active.helper.release()
	t := time.NewTimer(leaveLimit)
	defer t.Stop()
	select {
	case <-active.over:
	case <-t.C:
	}
	return nil
}

func (f *Faults) undoInherited(ctx context.Context) {
	f.order.Lock() // orders may have begun to come in
	defer f.order.Unlock()
	if f.current() != nil {
		return // what is written down is this agent's own
	}
	if err := undoRecorded(ctx, f.cfg.RecordFile, f.told("an agent before this one left a fault: undone")); err != nil {
		// The agent is of use all the same.
		f.log.Error("fault of an agent before this one cannot be undone", zap.Error(err))
	}
}

func (f *Faults) current() *inForce {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.active
}

func (f *Faults) set(active *inForce) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.active = active
}

func (f *Faults) told(message string) func(record, string) {
	return func(r record, detail string) {
		f.log.Warn(message, zap.String("fault", string(r.Fault)), zap.String("by", r.By), zap.String("detail", detail))
	}
}

// State tells whether a fault would be caused now.
func (f *Faults) State() api.DrillState {
	s := api.DrillState{Node: f.cfg.Self, Enabled: f.cfg.Enabled, Gate: closedGate(f.cfg.Glance())}
	if active := f.current(); active != nil {
		s.Active = &active.ActiveFault
	}
	return s
}

// failedGate is closed while the primary is well: no reason against a drill.
const failedGate = "primary_failed"

// closedGate is the first reason why the cluster could not bear a fault now;
// nil if it could. It is pure.
func closedGate(c api.Cluster) *failover.Gate {
	for _, g := range c.GatesClosed {
		if g.Operation == election.Failover && g.Name != failedGate {
			return &g
		}
	}
	if c.Status != api.StatusHealthy {
		return &failover.Gate{
			Name: "cluster_healthy", Operation: election.Failover,
			Reason: fmt.Sprintf("the cluster is %s: %s", c.Status, strings.Join(c.Reasons, "; ")),
		}
	}
	return nil
}

// Do obeys an order. It is refused with api.ErrDrillsDisabled, with a
// *failover.GateError, with failover.ErrBusy while a fault is in force, or
// with failover.ErrNoInstance; then nothing was done.
func (f *Faults) Do(ctx context.Context, o api.FaultOrder) (api.FaultResult, error) {
	f.order.Lock()
	defer f.order.Unlock()
	result, err := f.obey(ctx, o)
	result.Node, result.Fault = f.cfg.Self, o.Fault
	fields := []zap.Field{zap.String("fault", string(o.Fault)), zap.String("by", o.By), zap.Duration("limit", o.Limit)}
	if err != nil {
		f.log.Warn("fault refused or failed", append(fields, zap.Error(err))...)
		return api.FaultResult{}, fmt.Errorf("%s on %s: %w", o.Fault, f.cfg.Self, err)
	}
	f.log.Warn("fault order obeyed", append(fields, zap.String("detail", result.Detail))...)
	return result, nil
}

func (f *Faults) obey(ctx context.Context, o api.FaultOrder) (api.FaultResult, error) {
	if !f.cfg.Enabled {
		return api.FaultResult{}, fmt.Errorf("%w there; to allow them, set `drills: enabled` in its agent's configuration and restart the agent",
			api.ErrDrillsDisabled)
	}
	if f.cfg.FindServer == nil && o.Fault != api.FaultStopAgent {
		return api.FaultResult{}, failover.ErrNoInstance
	}
	if o.Fault.Undoes() {
		detail, err := f.undo(ctx, o.Fault)
		return api.FaultResult{Detail: detail}, err
	}
	state := f.State()
	switch {
	case state.Active != nil:
		return api.FaultResult{}, fmt.Errorf("%w: %s is in force until %s", failover.ErrBusy, state.Active.Fault, state.Active.Until.Format(time.RFC3339))
	case state.Gate != nil:
		return api.FaultResult{}, &failover.GateError{Gate: *state.Gate}
	case o.Fault == api.FaultStopAgent:
		f.cfg.StopAgent()
		return api.FaultResult{Detail: "the agent stops; its supervisor starts it again"}, nil
	}
	return f.cause(ctx, o)
}

// cause writes the fault down and has the helper watch before it signals.
func (f *Faults) cause(ctx context.Context, o api.FaultOrder) (api.FaultResult, error) {
	pid, err := f.cfg.FindServer(ctx)
	if err != nil {
		return api.FaultResult{}, fmt.Errorf("%w: %w", failover.ErrNoInstance, err)
	}
	started, err := startOf(pid)
	if err != nil {
		return api.FaultResult{}, err
	}
	now := time.Now()
	r := record{
		Fault: o.Fault, Since: now.UTC(), Until: now.Add(o.Limit).UTC(), By: o.By,
		PID: pid, Started: started, Server: f.cfg.Server,
	}
	sig := unix.SIGKILL
	if o.Fault == api.FaultFreezeServer {
		sig = unix.SIGSTOP
	}
	if err := r.save(f.cfg.RecordFile); err != nil {
		return api.FaultResult{}, err
	}
	h, err := startHelper(f.cfg.Helper, f.cfg.RecordFile)
	if err == nil {
		f.watch(ctx, h, api.ActiveFault{Fault: r.Fault, Since: r.Since, Until: r.Until, By: r.By})
		err = signalProcess(pid, started, sig)
	}
	if err != nil {
		// Nothing was done, so nothing is to be undone.
		err = errors.Join(err, os.Remove(f.cfg.RecordFile))
		if h != nil {
			h.release()
		}
		return api.FaultResult{}, err
	}
	return api.FaultResult{
		Detail: fmt.Sprintf("%s to mysqld, process %d", unix.SignalName(sig), pid), Until: &r.Until,
	}, nil
}

// watch notes the fault until its helper has ended. A helper that ends without
// having undone it was killed itself: then it is undone here.
func (f *Faults) watch(ctx context.Context, h *helper, fault api.ActiveFault) {
	active := &inForce{ActiveFault: fault, helper: h, over: make(chan struct{})}
	f.set(active)
	ctx = context.WithoutCancel(ctx) // the order's context ends with its answer
	go func() {                      // ends with the helper, for which Run waits
		defer close(active.over)
		defer f.set(nil)
		<-h.done
		if err := undoRecorded(ctx, f.cfg.RecordFile, f.told("the helper ended early: fault undone")); err != nil {
			f.log.Error("fault cannot be undone", zap.Error(err))
		}
		f.log.Warn("fault is over", zap.String("fault", string(fault.Fault)), zap.String("by", fault.By))
	}()
}

// undo ends the fault in force, if there is one, and its helper. Starting a
// server that runs, or thawing one that is not frozen, does nothing.
func (f *Faults) undo(ctx context.Context, fault api.Fault) (string, error) {
	detail := ""
	err := undoRecorded(ctx, f.cfg.RecordFile, func(_ record, d string) { detail = d })
	if err != nil {
		return "", err
	}
	if active := f.current(); active != nil {
		active.helper.release()
		select {
		case <-active.over:
		case <-ctx.Done():
			return "", fmt.Errorf("wait for the helper to end: %w", ctx.Err())
		}
	}
	switch {
	case detail != "":
		return detail, nil
	case fault == api.FaultStartServer:
		return f.cfg.Server.start(ctx)
	}
	return "no fault is in force", nil
}
