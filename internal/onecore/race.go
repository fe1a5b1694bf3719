//go:build race

package onecore

import "runtime"

var _ = runtime.GOMAXPROCS(1)
