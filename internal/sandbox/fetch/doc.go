// Package fetch gets the distribution's own server packages into a folder of
// the user's cache, without root and without changing the host.
//
// It owns the cache folder (os.UserCacheDir()/interrex) and a private state of
// apt inside a temporary folder of it. It never installs a package, never
// writes outside the cache, never takes a package whose signature apt has not
// verified with the distribution's keys, and never takes MariaDB for MySQL.
//
// Invariants: a tree appears in the cache by one rename, so it is whole or
// absent, whatever interrupts a fetch; one process fetches at a time.
//
// Start reading at fetch.go; sources.go reads the machine's apt configuration
// and apt.go drives apt.
package fetch
