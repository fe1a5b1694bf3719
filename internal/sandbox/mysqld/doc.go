// Package mysqld runs real MySQL servers in folders, as processes of the
// current user, on loopback ports.
//
// It owns where the programs come from (Distribution), an initialised data
// directory that is copied for every new server (Template), and the server
// process itself (Start, Server). It never talks SQL to a running server,
// except once, to its own, while it makes a template; it never changes the
// host; it does not know what a cluster is.
//
// Invariants: a server starts closed (I6): read-only to everybody, replication
// not started, both semi-sync roles off. Its settings are on its command line
// and in no file of the host. A template appears in the cache whole or not at
// all.
//
// Start reading at server.go; args.go holds the settings and why.
package mysqld
