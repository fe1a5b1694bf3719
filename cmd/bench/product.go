package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"interrex/election"
	"interrex/failover/api"
	"interrex/internal/sandbox"
	"interrex/internal/topology"
	"interrex/internal/workload"
)

// product is interrex, running in a sandbox.
type product struct {
	cluster sandbox.Cluster
	agents  []agent
	load    *load
	http    *http.Client
	first   topology.Epoch // when the sandbox was up
	struck  int            // operations that were caused
}

// startProduct has the program bring up a sandbox in dir. If that fails,
// nothing is left running.
func startProduct(ctx context.Context, program, dir string, progress io.Writer) (*product, error) {
	up := exec.CommandContext(ctx, program, "sandbox", "up", "--dir", dir)
	up.Stdout, up.Stderr = progress, progress
	// Interrupted, it takes down what it has begun.
	up.Cancel = func() error { return up.Process.Signal(os.Interrupt) }
	up.WaitDelay = time.Minute
	if err := up.Run(); err != nil {
		return nil, fmt.Errorf("bring up sandbox with %s: %w", program, err)
	}
	cluster, err := sandbox.Load(dir)
	if err != nil {
		return nil, err
	}
	info, err := sandbox.ReadInfo(dir)
	if err != nil {
		return nil, errors.Join(err, cluster.Down(context.WithoutCancel(ctx)))
	}
	p := &product{
		cluster: cluster, load: &load{app: info.Nodes[0].MySQL},
		http: &http.Client{Transport: &http.Transport{}, Timeout: patience},
	}
	for _, n := range info.Nodes {
		p.agents = append(p.agents, agent{NodeInfo: n, token: info.OperatorToken, http: p.http})
	}
	c, err := p.healthy(ctx)
	if err != nil {
		return nil, errors.Join(err, p.down(context.WithoutCancel(ctx)))
	}
	p.first = c.Epoch
	return p, nil
}

func (p *product) down(ctx context.Context) error {
	p.http.CloseIdleConnections()
	return p.cluster.Down(ctx)
}

// stopAgents leaves the servers alone with each other, as they are.
func (p *product) stopAgents(ctx context.Context) error {
	if _, err := p.healthy(ctx); err != nil {
		return err
	}
	for _, a := range p.agents {
		if err := p.cluster.StopAgent(ctx, a.Name); err != nil {
			return err
		}
	}
	return nil
}

// errDisturbed: something was the matter before the measurement had begun, as may
// be on a machine that is busy with other things: the primary moved by itself, or
// a gate refused to move it. What was measured by then means nothing.
var errDisturbed = errors.New("the cluster was disturbed")

// attempts is how often one measurement is begun until it is undisturbed.
const attempts = 5

// undisturbed measures on a whole cluster, and again if that was errDisturbed.
// The results tell how often the primary moved by itself.
func (p *product) undisturbed(ctx context.Context, measure func(context.Context, api.Cluster) error) error {
	var err error
	for range attempts {
		var c api.Cluster
		if c, err = p.healthy(ctx); err != nil {
			return err
		}
		if err = measure(ctx, c); !errors.Is(err, errDisturbed) {
			return err
		}
	}
	return fmt.Errorf("%d times in a row: %w", attempts, err)
}

// unmoved is errDisturbed unless the cluster is in the epoch still.
func (p *product) unmoved(ctx context.Context, epoch topology.Epoch) error {
	c, err := p.agents[0].cluster(ctx)
	if err == nil && c.Epoch != epoch {
		err = fmt.Errorf("%w: the primary moved by itself", errDisturbed)
	}
	return err
}

// quiet measures commits per second straight to the primary and through a
// route, in turns that cancel a drift of the machine.
func (p *product) quiet(ctx context.Context) (direct, routed []float64, err error) {
	err = p.undisturbed(ctx, func(ctx context.Context, c api.Cluster) error {
		direct, routed = nil, nil
		straight, route := c.Primary.Address, p.beside(c.Primary.Node).Agent.RW
		for _, address := range []string{straight, route, route, straight} {
			rate, err := p.load.rate(ctx, address)
			if moved := p.unmoved(ctx, c.Epoch); moved != nil {
				return moved
			}
			if err != nil {
				return err
			}
			if address == route {
				routed = append(routed, rate)
			} else {
				direct = append(direct, rate)
			}
		}
		return nil
	})
	return direct, routed, err
}

func (p *product) kill(ctx context.Context) (round, error) {
	return p.round(ctx, p.cluster.Kill, p.cluster.Start)
}

func (p *product) freeze(ctx context.Context) (round, error) {
	return p.round(ctx, p.cluster.Freeze, p.cluster.Thaw)
}

func (p *product) switchover(ctx context.Context) (round, error) {
	return p.round(ctx,
		func(ctx context.Context, primary string) error {
			return p.beside(topology.NodeName(primary)).switchover(ctx)
		},
		func(context.Context, string) error { return nil })
}

// round strikes the primary under load, waits until writes are back, repairs
// what was struck, waits until the cluster is whole again, and looks for every
// row.
func (p *product) round(ctx context.Context, strike, repair func(ctx context.Context, primary string) error) (r round, err error) {
	err = p.undisturbed(ctx, func(ctx context.Context, c api.Cluster) error {
		r, err = p.tryRound(ctx, c, strike, repair)
		return err
	})
	return r, err
}

func (p *product) tryRound(ctx context.Context, c api.Cluster, strike, repair func(ctx context.Context, primary string) error) (round, error) {
	primary, route := string(c.Primary.Node), p.beside(c.Primary.Node)
	var reports []api.Report
	result, outage, err := p.load.during(ctx, route.Agent.RW, func(ctx context.Context) error {
		if err := p.unmoved(ctx, c.Epoch); err != nil {
			return err
		}
		if err := strike(ctx, primary); err != nil {
			return err
		}
		p.struck++
		var err error
		reports, err = route.ended(ctx, c.Epoch)
		return err
	})
	if err != nil {
		return round{}, err
	}
	if err := repair(ctx, primary); err != nil {
		return round{}, err
	}
	if _, err := p.healthy(ctx); err != nil {
		return round{}, err
	}
	check, err := result.Verify(ctx, route.Agent.RW)
	if err != nil {
		return round{}, err
	}
	r := newRound(result, outage, check)
	r.addReport(reports[0])
	return r, nil
}

// unasked is how many operations there were besides those that were caused:
// ones that had to be tried again, and primaries that moved by themselves.
func (p *product) unasked(ctx context.Context) (int, error) {
	c, err := p.healthy(ctx)
	return int(c.Epoch-p.first) - p.struck, err
}

// beside is an agent that is not on the node.
func (p *product) beside(node topology.NodeName) agent {
	for _, a := range p.agents {
		if a.Name != string(node) {
			return a
		}
	}
	return p.agents[0] // not in a cluster of two or more
}

// healthy waits until every agent finds the cluster whole.
func (p *product) healthy(ctx context.Context) (api.Cluster, error) {
	var c api.Cluster
	err := await(ctx, func() (bool, error) {
		for _, a := range p.agents {
			var err error
			if c, err = a.cluster(ctx); err != nil {
				return false, err
			}
			if why := unwell(c, len(p.agents)); why != "" {
				return false, fmt.Errorf("%s: %s", a.Name, why)
			}
		}
		return true, nil
	})
	if err != nil {
		return c, fmt.Errorf("wait for a whole cluster: %w", err)
	}
	return c, nil
}

// unwell says what is missing to a whole cluster of n nodes: every replica
// registered, acknowledging and level with the primary.
func unwell(c api.Cluster, n int) string {
	switch {
	case c.Status != api.StatusHealthy:
		return string(c.Status) + ": " + strings.Join(c.Reasons, "; ")
	case c.Primary == nil || c.Primary.Phase != election.Open:
		return "the primary is not open"
	case len(c.Durability.Ackers) != n-1 || len(c.Durability.Acknowledging) != n-1:
		return fmt.Sprintf("%d ackers are registered and %d acknowledge", len(c.Durability.Ackers), len(c.Durability.Acknowledging))
	}
	replicas := 0
	for _, m := range c.Members {
		if m.Role != api.RoleReplica {
			continue
		}
		replicas++
		if !m.Certified || m.Missing == nil || *m.Missing > 0 {
			return string(m.Name) + " has not caught up"
		}
	}
	if replicas != n-1 {
		return fmt.Sprintf("%d replicas", replicas)
	}
	return ""
}

// newRound is what clients saw of a round.
func newRound(result *workload.Result, outage workload.Outage, check workload.Check) round {
	return round{
		acknowledged: result.Acknowledged(), refused: result.Refused(), unanswered: result.Unknown(),
		lost: len(check.Lost), values: map[string]float64{rowOutage: millis(outage.Length())},
	}
}

// addReport adds what the ledger says of the operation that brought writes
// back.
func (r *round) addReport(report api.Report) {
	var began, ended float64
	for _, s := range report.Steps {
		r.values[s.Name] += s.TookMS
		switch s.Name {
		case rowClaim:
			began = s.BeganMS
		case rowVerify:
			ended = s.BeganMS + s.TookMS
		}
	}
	r.values[rowOperation] = ended - began
	r.values[rowRTO], r.values[rowRTOLow] = report.RTOMillis, report.RTOBounds[0]
}
