// Package faultdisk is disks that fail when they are told to, for tests and for
// chaos: full, stalled, and read-only after an error, as the kernel makes them.
//
// It owns the file systems that it mounts, and no process on them. It never
// mounts anything where others could see it: a caller is in a mount namespace of
// its own, nethost's world or the one that Private makes for a thread, and the
// kernel unmounts everything when that ends, however it does.
//
// Start reading at disk.go.
package faultdisk
