package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"interrex/internal/sandbox/mysqld"
)

// The commands of the supervisor. Each is one line of JSON over its socket,
// answered by one line; watch is answered by a line for every change.
const (
	cmdStatus  = "status"
	cmdWatch   = "watch"
	cmdKill    = "kill"
	cmdFreeze  = "freeze"
	cmdThaw    = "thaw"
	cmdStart   = "start"
	cmdRestart = "restart"
	cmdEnsure  = "ensure"
	cmdDown    = "down"
	cmdAdd     = "add" // a node that the plan has by now

	cmdStopAgent  = "stop-agent"
	cmdStartAgent = "start-agent"
)

// order is one command to the supervisor.
type order struct {
	Command string `json:"command"`
	Node    string `json:"node,omitempty"`
}

// answer is the supervisor's reply.
type answer struct {
	Error  string  `json:"error,omitempty"`
	Status *Status `json:"status,omitempty"`
}

// Status is what the supervisor knows of a sandbox's processes.
type Status struct {
	Supervisor int          `json:"supervisor"` // its process id
	Nodes      []NodeStatus `json:"nodes"`
}

// NodeStatus is the state of one node's processes.
type NodeStatus struct {
	Name  string     `json:"name"`
	MySQL UnitStatus `json:"mysql"`
	Agent UnitStatus `json:"agent"`
}

// controlSocket is the supervisor's socket.
func (c Cluster) controlSocket() (string, error) {
	return mysqld.SocketPath(c.dir, "supervisor.sock")
}

// orderLimit bounds a command: a server may have to recover before it answers.
const orderLimit = 90 * time.Second

// Kill ends a node's server with SIGKILL. It stays dead until Start.
func (c Cluster) Kill(ctx context.Context, node string) error { return c.do(ctx, cmdKill, node) }

// Freeze stops a node's server with SIGSTOP, until Thaw.
func (c Cluster) Freeze(ctx context.Context, node string) error { return c.do(ctx, cmdFreeze, node) }

// Thaw lets a frozen server go on.
func (c Cluster) Thaw(ctx context.Context, node string) error { return c.do(ctx, cmdThaw, node) }

// Start starts a node's server that is not running, and returns when it
// greets clients.
func (c Cluster) Start(ctx context.Context, node string) error { return c.do(ctx, cmdStart, node) }

// Restart ends a node's server with SIGKILL, if it runs, and starts it. It
// refuses one that Kill ended: that stays dead until Start.
func (c Cluster) Restart(ctx context.Context, node string) error { return c.do(ctx, cmdRestart, node) }

// Ensure starts a node's server unless it runs, and returns when it greets
// clients. It refuses one that Kill ended. It is for agents, which end their own
// server where commits must not be answered: whoever else has started it since
// has done no harm.
func (c Cluster) Ensure(ctx context.Context, node string) error { return c.do(ctx, cmdEnsure, node) }

// StopAgent ends a node's agent with SIGKILL, until StartAgent.
func (c Cluster) StopAgent(ctx context.Context, node string) error {
	return c.do(ctx, cmdStopAgent, node)
}

// StartAgent starts a node's agent that is not running.
func (c Cluster) StartAgent(ctx context.Context, node string) error {
	return c.do(ctx, cmdStartAgent, node)
}

// Status asks the supervisor what runs; ErrNotRunning if it does not answer.
func (c Cluster) Status(ctx context.Context) (Status, error) {
	var status Status
	err := c.talk(ctx, order{Command: cmdStatus}, func(a answer) (bool, error) {
		status = *a.Status
		return true, nil
	})
	return status, err
}

// watch calls see with the status now and after each change, until it is done
// or fails, or ctx ends.
func (c Cluster) watch(ctx context.Context, see func(Status) (done bool, err error)) error {
	return c.talk(ctx, order{Command: cmdWatch}, func(a answer) (bool, error) { return see(*a.Status) })
}

func (c Cluster) do(ctx context.Context, command, node string) error {
	if _, err := c.node(node); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, orderLimit)
	defer cancel()
	return c.talk(ctx, order{Command: command, Node: node}, func(answer) (bool, error) { return true, nil })
}

// talk sends an order and gives each answer to see until that is done.
func (c Cluster) talk(ctx context.Context, o order, see func(answer) (done bool, err error)) error {
	socket, err := c.controlSocket()
	if err != nil {
		return err
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("ask supervisor of %s: %w", c.dir, context.Cause(ctx))
		}
		return fmt.Errorf("ask supervisor of %s: %w", c.dir, ErrNotRunning)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := json.NewEncoder(conn).Encode(o); err != nil {
		return fmt.Errorf("ask supervisor: %w", err)
	}
	answers := json.NewDecoder(bufio.NewReader(conn))
	for {
		var a answer
		if err := answers.Decode(&a); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("await supervisor's answer to %s: %w", o.Command, context.Cause(ctx))
			}
			return fmt.Errorf("await supervisor's answer to %s: it is gone (see %s): %w",
				o.Command, filepath.Join(c.dir, supervisorLog), err)
		}
		if a.Error != "" {
			return errors.New(a.Error)
		}
		if done, err := see(a); done || err != nil {
			return err
		}
	}
}
