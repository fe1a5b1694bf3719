// Package porttest hands out loopback ports to the tests of all packages,
// which run at the same time as processes of their own.
//
// A port that the kernel chose for a listener which was closed again may go
// to anybody before its server binds it. These ports lie above the range from
// which Linux serves connections and listeners without a port
// (net.ipv4.ip_local_port_range, by default up to 60999) and above those of a
// sandbox, and each process takes them from blocks of its own. What holds a
// block is a listener on its first port, so that it is free again when the
// process has ended, whichever way.
package porttest
