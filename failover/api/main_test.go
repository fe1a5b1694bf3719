package api

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails if anything started here still runs at the end.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
