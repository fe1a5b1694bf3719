// Package cutoff has the tests of nodes that are cut off from the others. Its
// servers and agents run on hosts of their own, joined by a network that drops
// packets for real (nethost); it is apart from the other acceptance tests since
// all of a program's tests run in such a world, or none.
//
// Start reading at cutoff_test.go.
package cutoff
