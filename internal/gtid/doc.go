// Package gtid has MySQL's GTID sets, with tags (MySQL 8.3 and later), as an
// immutable value: parse, print, union, difference, intersection, containment.
//
// It owns the text form (canonical as the server prints it, without line
// breaks) and the set algebra. It never talks to a server and knows nothing of
// histories: which of two sets is the better one is not decided here, and two
// sets may well be incomparable.
//
// Start reading at Set; parse.go has the text form, interval.go the algebra on
// the numbers of one uuid and tag.
package gtid
