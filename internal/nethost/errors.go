package nethost

import "errors"

// ErrUnavailable is returned where this machine or user cannot have a world, or
// hosts in it. The message says what is missing. Go on with what needs none, and say so.
var ErrUnavailable = errors.New("no network hosts can be made here")
