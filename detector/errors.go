package detector

import "errors"

var (
	// ErrNotRunning is returned by calls that need gossip before Run has
	// started it or after it ended. Nothing was sent.
	ErrNotRunning = errors.New("detector is not running")
	// ErrTooLarge is returned for an application message above
	// MaxMessageBytes. Nothing was sent; send a reference instead.
	ErrTooLarge = errors.New("message is too large")
	// ErrNoProcess is returned by WatchProcess when the process is gone, or
	// its pid belongs to another one. Find the pid anew.
	ErrNoProcess = errors.New("no such process")
	// ErrDiskFull is what a Disk says of one without room.
	ErrDiskFull = errors.New("disk is full")
	// ErrDiskReadOnly is what a Disk says of one that refuses writes: mounted
	// so, or after an error.
	ErrDiskReadOnly = errors.New("disk refuses writes")
	// ErrDiskUnknown is what a Disk says when it could not be tried: no access,
	// or its folder is not known. Nothing follows for the disk.
	ErrDiskUnknown = errors.New("disk cannot be tried")
	// errMalformed is what the decoder answers to bytes no member sent.
	errMalformed = errors.New("malformed message")
)
