// Package onecore has the tests that import it run on one processor when they
// are built with the race detector. Tests in virtual time need that: Go 1.26
// executes the timers of a bubble of testing/synctest on whatever processor asks
// for one, all with the same state of the race detector, which is no longer
// whole when two do so at once; the process ends with a SIGSEGV or a failed CHECK
// of ThreadSanitizer (https://go.dev/issue/78156). The detector goes by what
// happens before what, so it finds the same races on one processor.
package onecore
