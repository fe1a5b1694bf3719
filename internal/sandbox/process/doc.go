// Package process starts one child process and tells exactly when it is gone.
//
// It owns the process from start to reaping. Children get descriptors 0 to 2
// and a session of their own, so that neither a terminal's signals nor open
// sockets of this process reach them. It never restarts anything; that is the
// supervisor's part. It never signals by a bare process id that may be
// somebody else's by now.
//
// Start reading at process.go.
package process
