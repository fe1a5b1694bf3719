package api

import (
	"context"

	"interrex/failover"
	"interrex/internal/topology"
)

// Backend is what the API shows and passes orders to. Its methods are called
// concurrently; those without a context answer at once from what is known.
type Backend interface {
	// View is the cluster as this member last saw it.
	View() failover.View
	// Gates says for each kind of operation what it would be refused for now.
	Gates() []failover.Gate
	// Health is how the agent itself is.
	Health() Health
	// Evidence is the verdict on a member with the votes behind it; false if
	// it was never judged.
	Evidence(name topology.NodeName) (failover.Judgement, bool)
	// Decisions are the episodes of evidence that this member remembers, those
	// that go on first, then newest first.
	Decisions() []failover.Decision
	// Reports are the newest n entries of the ledger, newest first.
	Reports(ctx context.Context, n int) ([]failover.Report, error)
	// Report is one entry; election.ErrNotFound if there is none.
	Report(ctx context.Context, epoch topology.Epoch) (failover.Report, error)
	// Objectives measures the ledger against the configured objectives.
	Objectives(ctx context.Context) (failover.Attainment, error)
	// Switchover moves the primary to a member, or to the best candidate when
	// to is empty, and returns when that ended. The context bounds it and is
	// not canceled when the client goes away. On a member that does not lead
	// it is failover.ErrNotLeader with a zero report, and the call is
	// forwarded; that error with a report of an epoch is final.
	Switchover(ctx context.Context, to topology.NodeName) (failover.Report, error)
	// PreviewForce asks every member and says what a forced failover would lose
	// now, and Force forces one; failover.ErrNotLeader as above.
	PreviewForce(ctx context.Context) (failover.LossPreview, error)
	Force(ctx context.Context, order failover.ForceOrder) (failover.Report, error)
	// Pause stops automatic operations; failover.ErrNotLeader as above.
	Pause(ctx context.Context, reason string) error
	// Resume lifts the pause; failover.ErrNotLeader as above.
	Resume(ctx context.Context) error
	// AddMember makes a node a member, and RemoveMember takes one out;
	// failover.ErrNotLeader as above.
	AddMember(ctx context.Context, name topology.NodeName, voter bool) (failover.MemberChange, error)
	RemoveMember(ctx context.Context, name topology.NodeName) (failover.MemberChange, error)
	// Drills tells whether this member would cause a fault now.
	Drills() DrillState
	// Fault causes a fault on the own node, or undoes one, and returns when
	// that is done. ErrDrillsDisabled where the configuration does not allow
	// drills; a *failover.GateError while the cluster could not bear it.
	Fault(ctx context.Context, order FaultOrder) (FaultResult, error)
}

// Health is how an agent is, apart from the cluster's state.
type Health struct {
	// Faults are reasons why the agent itself does not work; /health and
	// /ready are 503. What is wrong around it (etcd, the own server, other
	// members) is none: starting the agent again would only make it worse.
	Faults []string
}
