// Package topology is the vocabulary every part of interrex shares: names of
// members, epochs, addresses, verdicts. It has no behaviour beyond parsing and
// printing, and it imports nothing of the module but the GTID sets, so that
// detector, election, router and dbrepl can speak of the same things without
// importing one another.
package topology
