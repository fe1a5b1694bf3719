package sandbox

import (
	"context"
	"os"
	"time"
)

// Down ends every process of a sandbox, also one whose supervisor is gone.
// Its folder stays, and Up brings the same cluster back. Down of a sandbox
// that is down already is no error.
func (c Cluster) Down(ctx context.Context) error {
	running, err := c.processes()
	if err != nil {
		return err
	}
	defer running.close()
	polite, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// The answer comes when servers and agents are gone. Without one, the
	// supervisor is dead or hung.
	_ = c.talk(polite, order{Command: cmdDown}, func(answer) (bool, error) { return true, nil })
	if err := c.sweep(ctx); err != nil { // whatever is left, the supervisor at least
		return err
	}
	running.awaitReaped(ctx)
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
