package sandbox

import (
	"context"
	"errors"
	"os"
	"time"
)

// Down ends every process of a sandbox, also one whose supervisor is gone.
// Its folder stays, and Up brings the same cluster back. Down of a sandbox
// that is down already is no error.
func (c Cluster) Down(ctx context.Context) error {
	polite, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := c.talk(polite, order{Command: cmdDown}, func(answer) (bool, error) { return true, nil })
	if err == nil {
		// It closes its socket last; this connection ends then.
		_ = c.watch(polite, func(Status) (bool, error) { return false, nil })
	} else if ctx.Err() != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	// Whatever is left: all of it, if the supervisor was dead or hung.
	if err := c.sweep(ctx); err != nil {
		return err
	}
	if socket, err := c.controlSocket(); err == nil {
		_ = os.Remove(socket)
	}
	for _, n := range c.Nodes {
		_ = os.Remove(n.AgentPIDFile())
		_ = os.Remove(n.MySQLPIDFile())
		_ = os.Remove(n.Socket)
		_ = os.Remove(n.Socket + ".lock")
	}
	return nil
}
