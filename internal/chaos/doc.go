// Package chaos is the part of `make chaos` that knows nothing of interrex:
// clients that keep a history of what they were told, and the checks that say
// whether any of it is a broken promise.
//
// Clients work on registers, rows with a value, through read-write routes:
// they read, write, and compare and set. Each operation is a transaction that
// locks its row and leaves a line in a log table: its own number, what it found
// and wrote, the server's UUID and the epoch of the marker row that it saw.
// Reads leave a line too: an answer that rests on a commit is an answer of the
// primary, while a plain read may come from an old one that does not know yet
// (docs/how-it-works.md promises no more). Other clients read the registers
// through read-only routes.
//
// It owns the two tables and the history. It breaks nothing and decides nothing
// about a cluster; the program cmd/chaos does the breaking.
//
// Invariants: times are of one monotonic clock; an operation is acknowledged
// only if COMMIT returned without an error, refused only if COMMIT was never
// sent or certainly did nothing, and unknown otherwise. The checks are pure:
// the same history gives the same findings.
//
// Start reading at history.go, then load.go and check.go.
package chaos
