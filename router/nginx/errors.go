package nginx

import "errors"

// What may be wrong. Each leaves the file as it was, is shown in Status, and is
// tried again until it is right.
var (
	// ErrSyntax: the file is not a configuration nginx could read. Somebody is
	// in the middle of an edit, or it is broken.
	ErrSyntax = errors.New("nginx configuration cannot be read")
	// ErrUpstreamMissing: an owned upstream block is not in the file. Put it
	// back, or take it out of the agent's configuration.
	ErrUpstreamMissing = errors.New("upstream block not found")
	// ErrUpstreamTwice: an owned upstream block is in the file more than once.
	ErrUpstreamTwice = errors.New("upstream block found more than once")
	// ErrTestFailed: nginx refuses the configuration. The error carries what
	// nginx said.
	ErrTestFailed = errors.New("nginx refuses the configuration")
	// ErrNotRunning: the pid file leads to no nginx master process. This one
	// leaves the new file in place, for nginx to start with.
	ErrNotRunning = errors.New("nginx is not running")
	// ErrNotLive: the workers were not replaced in time after a reload.
	ErrNotLive = errors.New("reload did not take effect")
	// ErrAddress: a text is no address that may be written into an nginx
	// configuration.
	ErrAddress = errors.New("not an address")
	// ErrEdited: somebody kept changing the file while it was being edited.
	ErrEdited = errors.New("file was changed by somebody else meanwhile")
)
