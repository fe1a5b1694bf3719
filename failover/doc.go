// Package failover runs the operations that may move the primary: bootstrap,
// failover, switchover and resume. It owns their order, the arithmetic of
// revocation, the keeper that obeys commands on each node, and the ledger.
//
// It never talks to etcd, MySQL or the network itself: what it needs of them
// it asks through the interfaces in ports.go, which the other packages
// implement.
//
// Invariants kept here: I1-I8, I10. Start reading at failover.go, where
// the steps stand in the order of the safety argument.
package failover
