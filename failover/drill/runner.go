package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"interrex/failover/api"
	"interrex/internal/topology"
)

// Kind is what is rehearsed.
type Kind string

// The drills.
const (
	KillPrimary   Kind = "kill-primary"
	FreezePrimary Kind = "freeze-primary"
	StopAgent     Kind = "stop-agent"
	Switchover    Kind = "switchover"
)

// faults are the fault that a drill causes and the one that undoes it.
func (k Kind) faults() (cause, undo api.Fault) {
	switch k {
	case KillPrimary:
		return api.FaultKillServer, api.FaultStartServer
	case FreezePrimary:
		return api.FaultFreezeServer, api.FaultThawServer
	case StopAgent:
		return api.FaultStopAgent, ""
	}
	return "", ""
}

// ErrNotRun means the drill could not begin; nothing was done to the cluster. Its
// text says why.
var ErrNotRun = errors.New("the drill was not begun")

// ErrAborted means something else went wrong while the drill ran; its fault was
// undone, and nothing can be said about the objectives.
var ErrAborted = errors.New("the drill was aborted and its fault undone")

// Config says what is rehearsed and how long things may take.
type Config struct {
	Kind Kind
	// Count is how many rounds; each hits the primary of its time.
	Count int
	// Duration is how long writes are measured after the fault, at least.
	// Longer shows more of what comes after.
	Duration time.Duration
	// Quiet is how long they are measured before it, for comparison.
	Quiet time.Duration
	// HealLimit is how long the cluster may take to be healthy again, with the
	// old server back as a replica. A server that has to be cloned takes long.
	HealLimit time.Duration
	// Routes are read-write routes, host:port, to write through; empty for
	// those of the members (without the one whose agent is stopped).
	Routes []string
}

// DefaultConfig is a drill of one round.
func DefaultConfig(kind Kind) Config {
	return Config{Kind: kind, Count: 1, Duration: 5 * time.Second, Quiet: 2 * time.Second, HealLimit: 5 * time.Minute}
}

// Validate reports every fault, joined.
func (c Config) Validate() error {
	var errs []error
	if !slices.Contains([]Kind{KillPrimary, FreezePrimary, StopAgent, Switchover}, c.Kind) {
		errs = append(errs, fmt.Errorf("drill %q is none of kill-primary, freeze-primary, stop-agent, switchover", c.Kind))
	}
	if c.Count < 1 {
		errs = append(errs, fmt.Errorf("count %d must be 1 or more", c.Count))
	}
	if c.Duration <= 0 || c.Duration > time.Hour {
		errs = append(errs, fmt.Errorf("duration %s must be above 0 and at most 1h", c.Duration))
	}
	if c.Quiet <= 0 || c.HealLimit <= 0 {
		errs = append(errs, errors.New("quiet time and heal limit must be above 0"))
	}
	return errors.Join(errs...)
}

// Plan is what the next round would do.
type Plan struct {
	Kind    Kind
	Cluster string
	Node    topology.NodeName // that is hit: the primary, or its agent
	Epoch   topology.Epoch
	Routes  []string
}

// String tells a person what will happen.
func (p Plan) String() string {
	switch p.Kind {
	case KillPrimary:
		return fmt.Sprintf("the MySQL server of %s, primary of cluster %s, gets SIGKILL; another one is promoted; the server is started again", p.Node, p.Cluster)
	case FreezePrimary:
		return fmt.Sprintf("the MySQL server of %s, primary of cluster %s, is frozen (SIGSTOP); another one is promoted; the server is thawed", p.Node, p.Cluster)
	case StopAgent:
		return fmt.Sprintf("the agent of %s, primary of cluster %s, is stopped and started again by its supervisor; applications that use only its own routes are cut off meanwhile", p.Node, p.Cluster)
	}
	return fmt.Sprintf("the primary of cluster %s moves from %s to the best candidate", p.Cluster, p.Node)
}

// Runner runs drills.
type Runner struct {
	cfg    Config
	api    API
	prober Prober
	tell   func(Event)
}

// NewRunner returns a runner. tell is told of each event as it happens.
func NewRunner(cfg Config, a API, p Prober, tell func(Event)) (*Runner, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure drill: %w", err)
	}
	return &Runner{cfg: cfg, api: a, prober: p, tell: tell}, nil
}

// Check tells what the next round would do, or, with ErrNotRun, why it cannot:
// a cluster that is not healthy, or a member that allows no drills.
func (r *Runner) Check(ctx context.Context) (Plan, error) {
	c, err := r.api.Cluster(ctx)
	if err != nil {
		return Plan{}, fmt.Errorf("%w: %w", ErrNotRun, err)
	}
	if g := closedGate(c); g != nil {
		return Plan{}, fmt.Errorf("%w: gate %s is closed: %s", ErrNotRun, g.Name, g.Reason)
	}
	p := Plan{Kind: r.cfg.Kind, Cluster: c.Name, Node: c.Primary.Node, Epoch: c.Epoch, Routes: r.cfg.Routes}
	for _, m := range c.Members {
		if m.RW != "" && len(r.cfg.Routes) == 0 && (p.Kind != StopAgent || m.Name != p.Node) {
			p.Routes = append(p.Routes, m.RW)
		}
		// With several rounds each member may become the primary.
		if m.Name == p.Node || (r.cfg.Count > 1 && m.Role == api.RoleReplica) {
			if err := r.checkMember(ctx, m.Name); err != nil {
				return Plan{}, err
			}
		}
	}
	if len(p.Routes) == 0 {
		return Plan{}, fmt.Errorf("%w: no member has a read-write route to write through; name one", ErrNotRun)
	}
	return p, nil
}

func (r *Runner) checkMember(ctx context.Context, node topology.NodeName) error {
	s, err := r.api.Drills(ctx, node)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrNotRun, err)
	case !s.Enabled:
		return fmt.Errorf("%w: %w on %s; to allow them, set `drills: enabled` in its agent's configuration and restart the agent",
			ErrNotRun, api.ErrDrillsDisabled, node)
	case s.Active != nil:
		return fmt.Errorf("%w: %s by %s is in force on %s until %s", ErrNotRun, s.Active.Fault, s.Active.By, node, s.Active.Until.Format(time.TimeOnly))
	case s.Gate != nil:
		return fmt.Errorf("%w: %s says: gate %s is closed: %s", ErrNotRun, node, s.Gate.Name, s.Gate.Reason)
	}
	return nil
}

// Run runs the rounds. When ctx ends, the fault in force is undone before it
// returns. Its error says that the drill could not be run, or not to its end;
// that objectives were missed is no error.
func (r *Runner) Run(ctx context.Context) (Report, error) {
	report := Report{Drill: r.cfg.Kind, StartedAt: time.Now().UTC(), Rounds: []Round{}}
	objectives, err := r.api.Objectives(ctx)
	if err != nil {
		return report, fmt.Errorf("%w: %w", ErrNotRun, err)
	}
	report.Objectives = Objectives{RTOMillis: objectives.RTOObjectiveMS, RPO: objectives.RPOObjective}
	for n := range r.cfg.Count {
		plan, err := r.settle(ctx, n)
		if err != nil {
			return report, err
		}
		report.Cluster, report.Routes = plan.Cluster, plan.Routes
		round := round{Runner: r, plan: plan, Round: Round{Number: n + 1, Node: plan.Node, Missed: []string{}}}
		err = round.run(ctx, report.Objectives, n == r.cfg.Count-1)
		if err != nil {
			return report, err
		}
		report.Rounds = append(report.Rounds, round.Round)
		report.EndedAt = time.Now().UTC()
		report.conclude()
		if round.stuck {
			break // the next round would find a cluster that is not healthy
		}
	}
	return report, nil
}

// settleLimit is how long the members may take, after a round, to agree that
// the cluster is healthy: each has a view of its own.
const settleLimit = 30 * time.Second

// settle checks whether a round can begin; but for the first one, for a while.
func (r *Runner) settle(ctx context.Context, done int) (Plan, error) {
	plan, err := r.Check(ctx)
	if done == 0 || err == nil {
		return plan, err
	}
	_, perr := poll(ctx, settleLimit, func() (bool, error) {
		plan, err = r.Check(ctx)
		return err == nil, nil
	})
	if perr != nil {
		return plan, perr
	}
	return plan, err
}

// routesText names routes.
func routesText(routes []string) string { return strings.Join(routes, ", ") }
