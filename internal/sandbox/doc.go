// Package sandbox runs a whole cluster, real servers and agents, as processes
// of the current user in one folder, on loopback ports. Plan puts its nodes on
// hosts of their own instead (nethost), where their network can be cut.
//
// It owns the folder: the plan of the cluster (plan.json), what others need to
// use it (sandbox.json), secrets, data directories, logs, and the supervisor, a
// background process of the same binary that starts servers and agents and
// looks after them. It never touches anything outside the folder but the
// user's cache, never ends a process it did not start, and decides nothing
// about the cluster: who is primary is the agents' business.
//
// Rules the supervisor keeps: a server that was killed stays dead until start
// is asked for; one that asks for a restart (after a clone) is restarted; an
// agent that ends is restarted. When the supervisor dies, its children die with
// it; whatever should be left is found by a mark in its environment and ended
// by down.
//
// Start reading at up.go, then supervisor.go.
package sandbox
