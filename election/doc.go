// Package election owns everything interrex keeps in etcd: who leads, the one
// cluster record with its epochs, primary, acker register and operation, the
// registered members, and the ledger of operations. No other package talks to
// etcd, and this one talks to nothing else.
//
// It never decides who should be primary, never judges whether a member is
// alive, and never measures time for safety except on its own monotonic clock.
//
// Invariants kept here:
//
//   - I3: the register is part of the cluster record, so a change of it and of
//     what depends on it is one compare-and-swap.
//   - I5: an epoch never goes back. Update refuses to write one, and every
//     write compares the revision of the leader key under which this member
//     became leader, so a former leader's write cannot land.
//   - I7: the operation in flight is in the record before its step acts.
//   - I9: without etcd's quorum nothing changes and nothing is forgotten: what
//     was last seen is still served, every call ends within its limit.
//
// Keys, all under /interrex/<cluster>/:
//
//	state            State, as JSON
//	leader           the holder, as JSON; bound to the holder's lease
//	members/<name>   topology.Member, as JSON; kept when the member dies
//	ledger/<epoch>   one report per operation, epoch padded with zeros
//	requests/<name>  id of the last change that member made to state
//
// Start reading at Client; then update.go (how a change is made and an unknown
// outcome settled), leader.go (leadership) and pool.go (why no call hangs on a
// dead or frozen etcd member). The folder embedded runs etcd itself.
package election
