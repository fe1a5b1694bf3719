// Package cutoff has the tests of nodes that are cut off from the others, or that
// a bad network joins. Its
// servers and agents run on hosts of their own, joined by a network that drops
// packets for real (nethost); it is apart from the other acceptance tests since
// all of a program's tests run in such a world, or none.
//
// The tests of packets that are lost or late (weather_test.go) take longer on
// request: make soak, or -args -noise 30m.
//
// Start reading at cutoff_test.go.
package cutoff
