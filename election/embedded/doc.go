// Package embedded runs etcd for interrex where no external one is configured:
// as a child process of the same binary, supervised by the agent. A process of
// its own because etcd's server ends its whole process on a full or failing
// disk, and that must never take the agent and its proxy along.
//
// It owns the child's life and its configuration: small log segments, a small
// keyspace that is compacted, no HTTP gateway, one log file. It never reads or
// writes interrex's keys; that is package election, which knows etcd's client
// addresses only.
//
// Invariant kept here: I9. The child may die, freeze or lose its quorum without
// any effect on the agent but that calls to etcd fail.
//
// And of I5: a member that lost its folder never goes on as who it was. While a
// quorum of the others lives it joins again under another identity (rejoin);
// while a peer knows the cluster it founds nothing.
//
// Start reading at Supervise (the agent's side) and Main (the child's side).
package embedded
