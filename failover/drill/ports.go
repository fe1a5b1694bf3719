package drill

import (
	"context"
	"strings"
	"time"

	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/topology"
	"interrex/internal/workload"
)

// API is the cluster as a drill asks it: any member's API, but for Drills and
// Fault, which are asked of the member named.
type API interface {
	Cluster(ctx context.Context) (api.Cluster, error)
	// Reports are the newest n entries of the ledger, newest first.
	Reports(ctx context.Context, n int) ([]api.Report, error)
	Objectives(ctx context.Context) (failover.Attainment, error)
	Switchover(ctx context.Context, to topology.NodeName) (api.Report, error)
	Drills(ctx context.Context, node topology.NodeName) (api.DrillState, error)
	// Fault's error is ErrNotRun if the member certainly did nothing.
	Fault(ctx context.Context, node topology.NodeName, req api.FaultRequest) (api.FaultResult, error)
}

// Prober writes through routes as an application would.
type Prober interface {
	// Start starts writing through the routes, host:port each.
	Start(ctx context.Context, routes []string) (Load, error)
}

// Load is a prober that writes.
type Load interface {
	// Acknowledged is how many rows were acknowledged so far.
	Acknowledged() int
	// Stop ends it and tells what it saw.
	Stop() Sight
}

// Sight is what a load saw.
type Sight interface {
	// LongestOutage is the longest time without an acknowledgement that
	// overlaps the time between from and to (zero: the end).
	LongestOutage(from, to time.Time) workload.Outage
	Acknowledged() int
	Refused() int
	Unknown() int
	// Errors counts the failed attempts by their text.
	Errors() map[string]int
	// Verify reads the rows back and compares.
	Verify(ctx context.Context) (workload.Check, error)
	// Drop removes the table.
	Drop(ctx context.Context) error
}

// TablePrefix begins the name of every drill's table. A drill that was killed
// leaves its table behind: the next one that begins leftAfter later drops it.
// One that runs writes to it all the time.
const (
	TablePrefix = "interrex_drill_"
	leftAfter   = time.Hour
)

// NewProber probes with a workload; its Address is left open.
func NewProber(c workload.Config) Prober { return prober{c} }

type prober struct{ cfg workload.Config }

func (p prober) Start(ctx context.Context, routes []string) (Load, error) {
	c := p.cfg
	c.Address = strings.Join(routes, ",")
	if err := workload.DropLeftovers(ctx, c, TablePrefix, leftAfter); err != nil {
		return nil, err
	}
	// Who starts it stops it, and with it ends its writers: a drill that is
	// interrupted still wants to know what they saw.
	w, err := workload.Start(context.WithoutCancel(ctx), c)
	if err != nil {
		return nil, err
	}
	return load{w, c.Address}, nil
}

type load struct {
	*workload.Workload
	address string
}

func (l load) Stop() Sight { return sight{l.Workload.Stop(), l.address} }

type sight struct {
	*workload.Result
	address string
}

func (s sight) Errors() map[string]int { return s.Result.Errors }

func (s sight) Verify(ctx context.Context) (workload.Check, error) {
	return s.Result.Verify(ctx, s.address)
}

func (s sight) Drop(ctx context.Context) error { return s.Result.Drop(ctx, s.address) }
