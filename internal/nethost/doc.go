// Package nethost gives tests hosts with networks of their own: each has an
// address, an interface that can go down, and packets to or from it can be
// cut off, all of them or those of a port or some at random, in one direction
// or both, from everybody or from one other host, or be late. Nothing in it is
// imitated: a host is a network namespace of Linux, a wire is a pair of virtual
// interfaces on a bridge, a cut is a rule of nftables. What is late is carried
// by this program, frame by frame: not every kernel has netem.
//
// It owns a world: namespaces for network, mounts and processes in which the
// program runs once more, as a child of itself (Enter). Hosts, mounts and
// processes made in there are nobody else's to see, and the kernel ends all of
// them when the program in there ends or is killed, and when the one outside
// is. So nothing can be left behind, and nothing needs names that are unique.
//
// It does not know what runs on its hosts. It needs root, or a user who may
// make user namespaces, and the programs ip, nsenter and, for cuts, nft.
//
// Start reading at world.go, then network.go.
package nethost
