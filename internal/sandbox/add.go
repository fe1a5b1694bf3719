package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"interrex/internal/sandbox/fetch"
	"interrex/internal/sandbox/mysqld"
)

// Add gives a sandbox that is up another node, an empty server with an agent,
// and starts both. The configuration files of the others stay as they are; that
// the node becomes a member is the operator's order to the agents.
func Add(ctx context.Context, o Options, voter bool) (Node, error) {
	c, err := Load(o.Dir)
	if err != nil {
		return Node{}, err
	}
	unlock, err := fetch.Lock(ctx, filepath.Join(c.dir, ".lock"))
	if err != nil {
		return Node{}, err
	}
	defer unlock()
	if _, err := c.Status(ctx); err != nil {
		return Node{}, err
	}
	i := len(c.Nodes)
	if c.Nodes[0].Host != "" {
		return Node{}, errors.New("add node: the sandbox's nodes are on hosts of their own, of which there is no other")
	}
	if i == 9 {
		return Node{}, errors.New("add node: the sandbox has 9, and can have no more")
	}
	n := Node{
		Name: "db" + strconv.Itoa(i+1), ServerID: uint32(i + 1), Added: true, Voter: voter, //nolint:gosec // at most nine
		Ports: portsOf(c.Nodes[0].Ports.MySQL, i),
	}
	n.Dir = filepath.Join(c.dir, n.Name)
	if n.Socket, err = mysqld.SocketPath(n.Dir, "mysql.sock"); err != nil {
		return Node{}, err
	}
	if err := checkNode(n.Name, n.Ports); err != nil {
		return Node{}, err
	}
	c.Nodes = append(c.Nodes, n)
	if err := c.prepareNode(ctx, n, o); err != nil {
		return Node{}, err
	}
	if err := c.save(); err != nil {
		return Node{}, err
	}
	info, err := c.info()
	if err != nil {
		return Node{}, err
	}
	if err := writeJSON(filepath.Join(c.dir, infoFile), info); err != nil {
		return Node{}, err
	}
	return n, c.do(ctx, cmdAdd, n.Name)
}

// prepareNode makes the data directory and the agent's configuration of one
// node.
func (c Cluster) prepareNode(ctx context.Context, n Node, o Options) error {
	dist, err := mysqld.Find(ctx, c.MySQLD, fetch.Quiet{})
	if err != nil {
		return err
	}
	secrets, err := passwords(ctx)
	if err != nil {
		return err
	}
	template, err := mysqld.Template(ctx, dist, append(o.InitSQL(secrets), appSQL(c.App)...))
	if err != nil {
		return err
	}
	// What is left of a try that failed is of no use.
	if err := os.RemoveAll(n.Dir); err != nil {
		return fmt.Errorf("make folder of %s: %w", n.Name, err)
	}
	if err := mysqld.NewDatadir(template, n.Dir); err != nil {
		return err
	}
	return c.writeAgentConfig(n, dist, o)
}
