// Package acceptance shows on real servers that interrex keeps its promises:
// each test brings up, or borrows, a sandbox of three real MySQL servers with
// real agents, writes through the routes, breaks something, and compares what
// clients were told with what is there afterwards.
//
// It has no code but tests. They drive the interrex program as a user would
// (sandbox commands, the API, SQL over the routes; where a moment is to be hit,
// signals, and what the sandbox commands call) and look at the servers themselves,
// as root on their sockets, and at etcd's record, never at the inside of an agent.
//
// Rules: what a test starts, it ends, and should the test program itself be
// killed, a guard ends it; no test depends on another; a cluster that is not
// healthy when a test wants it is replaced by a new one; every wait has a limit
// and prints the last state seen; figures are printed, and judged generously.
//
// The soak test is the same as the short ones, with more rounds and longer:
//
//	make soak-failover ROUNDS=20
//
// Start reading at cluster_test.go, then failover_test.go.
package acceptance
