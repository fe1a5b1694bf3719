package startcommand

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// Limit is how long a start may take.
const Limit = time.Minute

// Run runs a program with its arguments, without a shell, and returns when the
// program has ended. It is killed when limit passes or ctx ends. The error has
// what it said.
func Run(ctx context.Context, command []string, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it has not ended after %s", limit))
	defer cancel()
	start := exec.CommandContext(ctx, command[0], command[1:]...) //nolint:gosec // the operator's own command, no shell
	// Into a file: a server that it leaves behind may hold its output for good. It
	// is for the error alone, and done without where there is none to be had.
	said, err := os.CreateTemp("", "interrex-start-*")
	if err == nil {
		defer os.Remove(said.Name()) //nolint:errcheck // a temporary file
		defer said.Close()
		start.Stdout, start.Stderr = said, said
	}
	err = start.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx) // and not that it was killed for it
	}
	out := []byte("what it said is not known")
	if said != nil {
		out, _ = os.ReadFile(said.Name()) // the error says enough without
	}
	return fmt.Errorf("start server with %q: %w: %s", command, err, bytes.TrimSpace(out))
}
