// Package etcdtest runs real etcd clusters for tests, as interrex runs them: as
// supervised child processes, here of the test binary itself. It owns their
// folders, ports and lives, and leaves no process behind. Nothing but tests
// imports it.
//
// A test package calls Main from its TestMain and Start from its tests.
package etcdtest
