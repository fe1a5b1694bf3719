package sandbox

import "errors"

// Errors of sandboxes.
var (
	// ErrNotRunning is returned when the sandbox's supervisor does not
	// answer: the sandbox is down. Bring it up.
	ErrNotRunning = errors.New("the sandbox is not running; `interrex sandbox up` brings it up")
	// ErrRunning is returned by Up for a sandbox that is up already.
	ErrRunning = errors.New("sandbox is running already")
	// ErrNoSandbox is returned for a folder that holds no sandbox.
	ErrNoSandbox = errors.New("no sandbox in this folder")
	// ErrExists is returned by Plan for a folder that holds a sandbox already.
	ErrExists = errors.New("there is a sandbox in this folder already")
	// ErrPortTaken is returned by Up when somebody listens on a port it
	// needs; the message names it. Choose another base port.
	ErrPortTaken = errors.New("port is taken")
)
