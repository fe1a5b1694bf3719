package fetch

import "errors"

// ErrUnavailable is returned when the packages cannot be had on this machine:
// no apt, no mirror that carries them, or no network. The message says what
// was tried and what to install instead.
var ErrUnavailable = errors.New("server not available")
