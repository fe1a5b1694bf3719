// Package dbrepl is what may be done to one MySQL instance: probe it, freeze
// it, let it catch up, promote it, make it follow, close it, stop it, clone
// it, and save what only it has. It supports MySQL 8.0.26 and later, 8.4 and
// 9.x, with the semi-sync plugins in their source/replica names.
//
// It owns the statements and their order, the connections they run on, and
// what their outcomes prove. It never decides: which instance is to be
// promoted, whether enough ackers are frozen, or whether a set is contained in
// the new primary's is judged by its caller, who also orders the calls. It
// knows no other instance than its own, and neither etcd nor epochs beyond the
// marker row.
//
// Invariants kept here:
//   - I1: Freeze returns only after the receiver has stopped, and reads the sets
//     after that. Follow never changes the source of an instance whose relay log
//     would be dropped unapplied (I8).
//   - I2: no function releases a waiting commit as a success: the source role is
//     switched off only on a closed instance without waiting commits, and
//     StopServer ends sessions before the process. Only the return of a fencing
//     statement counts; one that is given up on is killed in the server and seen
//     gone before the function returns.
//   - I6: Prepare persists that the instance starts closed.
//
// What servers really do, and why things are done in this order, was found by
// experiment; the tests of this package repeat it on real servers, as the
// users made by Grants and nothing more.
//
// Start reading at instance.go (connections, and order, the statement that can
// be given up on), then probe.go, freeze.go, promote.go, follow.go, close.go.
package dbrepl
