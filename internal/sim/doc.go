// Package sim runs the real agents against servers, a network and a store in
// memory, in virtual time, under faults that a seed draws, and checks that what
// the cluster promises holds (I1-I5, I7, I9, and that it heals by itself).
//
// Everything of it is test code: there is nothing to import. A run of one seed
// is one testing/synctest bubble in which one goroutine at a time gets on: what
// an agent asks of the outside parks it until the loop, which alone draws
// random numbers, lets that one call go on. So a seed replays exactly.
//
// It never stands in for a part of the product that it could run. Start reading
// at loop_test.go (order and time), then world_test.go (what there is),
// check_test.go (what must hold) and sim_test.go (what is run). `make sim` runs
// many seeds; docs/simulation.md is its manual.
package sim
