package dbrepl

import (
	"context"
	"fmt"
)

// PID is the process id of the server, if its process is on this host
// (ErrNotLocal otherwise). It is what the process's end is watched by.
func (i *Instance) PID(ctx context.Context) (int, error) {
	p, err := i.process(ctx)
	if err != nil {
		return 0, fmt.Errorf("find server process: %w", err)
	}
	defer p.close()
	return p.pid, nil
}
