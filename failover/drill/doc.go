// Package drill rehearses failure. A drill causes one fault on one node of a
// healthy cluster, writes through the routes as an application would, and
// compares what those clients saw with what the cluster reports of itself and
// with the objectives.
//
// It owns two ends: Faults, at a member, which causes a fault on the own node
// and sees to it that it ends; and Runner, at the operator, which runs a drill
// and reports.
//
// It never touches a node whose configuration does not allow it, a cluster
// that is not healthy, or a second node; and it decides nothing about
// failovers: those are the cluster's own.
//
// Invariants kept here: what is refused is explained (I10); every fault is
// undone after api.FaultLimit at most (starting a server may take as long as
// startcommand.Limit more), also if the drill, the agent, or both are killed: it
// is written down before it is caused, a helper process that is not the
// agent's undoes it when time is up or the agent is gone, and an agent that
// starts undoes what it finds written down.
//
// Start reading at Runner.Run, then Faults.Do.
package drill
