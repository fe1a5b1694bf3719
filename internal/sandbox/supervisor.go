package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"interrex/internal/sandbox/fetch"
	"interrex/internal/sandbox/mysqld"
	"interrex/internal/sandbox/process"
)

// supervisor starts a sandbox's servers and agents, looks after them, and
// obeys the commands that come over its socket.
type supervisor struct {
	cluster Cluster
	dist    mysqld.Distribution
	log     *zap.Logger
	program string // of the agents: this binary

	stop  context.CancelFunc
	ended chan struct{} // closed when no server and no agent is left

	mu      sync.Mutex
	nodes   []*supervisedNode
	launch  func(*supervisedNode) // runs a node's processes; nil while ending
	changes chan struct{}         // closed at the next change
}

// supervisedNode is the two processes of a node.
type supervisedNode struct {
	name         string
	mysql, agent *unit
}

// Supervise is the body of the background process: it starts all servers and
// agents of the sandbox in dir, at once, and looks after them until it is told
// to stop or ctx ends. It returns when all of them are gone.
func Supervise(ctx context.Context, dir string, log *zap.Logger) error {
	c, err := Load(dir)
	if err != nil {
		return err
	}
	dist, err := mysqld.Find(ctx, c.MySQLD, fetch.Quiet{})
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	socket, err := c.controlSocket()
	if err != nil {
		return err
	}
	_ = os.Remove(socket) // of a supervisor that was killed; Up saw that none runs
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen for commands: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	s := &supervisor{cluster: c, dist: dist, log: log, program: program, stop: stop, ended: make(chan struct{}), changes: make(chan struct{})}
	for _, n := range c.Nodes {
		s.nodes = append(s.nodes, &supervisedNode{name: n.Name, mysql: s.mysqlUnit(n), agent: s.agentUnit(n)})
	}
	s.run(ctx, listener)
	return nil
}

// run returns when every process is gone and every connection is closed.
func (s *supervisor) run(ctx context.Context, listener net.Listener) {
	// Agents are ended before servers: one that sees its server die would
	// begin a failover.
	serversCtx, endServers := context.WithCancel(context.WithoutCancel(ctx))
	var agents, servers, connections sync.WaitGroup
	s.mu.Lock()
	s.launch = func(n *supervisedNode) {
		servers.Go(func() { n.mysql.run(serversCtx) })
		agents.Go(func() { n.agent.run(ctx) })
	}
	for _, n := range s.nodes {
		s.launch(n)
	}
	s.mu.Unlock()
	connections.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Go(func() { s.serve(ctx, conn) })
		}
	})
	<-ctx.Done()
	s.mu.Lock()
	s.launch = nil
	s.mu.Unlock()
	agents.Wait()
	endServers()
	servers.Wait()
	close(s.ended)
	_ = listener.Close()
	connections.Wait()
}

func (s *supervisor) mysqlUnit(n Node) *unit {
	u := newUnit(n.Name+"/mysqld", s.log, s.announce)
	u.again = func(exit int) (bool, bool) { return exit == mysqld.ExitRestart, true }
	u.start = func(ctx context.Context) (*process.Process, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("mysqld is not ready after a minute"))
		defer cancel()
		server, err := mysqld.Start(ctx, s.dist, mysqld.Spec{
			Dir: n.Dir, Host: n.Host, Enter: n.Enter, Port: n.Ports.MySQL, AdminPort: n.Ports.MySQLAdmin, ServerID: n.ServerID,
			Env: []string{s.cluster.Mark()}, DieWithParent: true,
		})
		if err != nil {
			return nil, err
		}
		return server.Process, nil
	}
	return u
}

func (s *supervisor) agentUnit(n Node) *unit {
	u := newUnit(n.Name+"/agent", s.log, s.announce)
	u.again = func(int) (bool, bool) { return true, false }
	u.start = func(context.Context) (*process.Process, error) {
		p, err := process.Start(process.Spec{
			Command: slices.Concat(n.Enter, []string{s.program, "agent", "--config", n.AgentConfigFile()}),
			Dir:     n.Dir,
			Env:     []string{s.cluster.Mark()},
			LogFile: n.AgentLog(),
			Group:   true, DieWithParent: true,
		})
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(n.AgentPIDFile(), []byte(strconv.Itoa(p.PID())+"\n"), 0o600); err != nil {
			return nil, errors.Join(fmt.Errorf("write pid file of agent: %w", err), p.Kill())
		}
		return p, nil
	}
	return u
}

// announce wakes all who watch.
func (s *supervisor) announce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changes)
	s.changes = make(chan struct{})
}

// status is the state of all processes, with a channel that is closed when it
// changes.
func (s *supervisor) status() (Status, <-chan struct{}) {
	s.mu.Lock()
	changes, nodes := s.changes, s.nodes
	s.mu.Unlock()
	status := Status{Supervisor: os.Getpid()}
	for _, n := range nodes {
		status.Nodes = append(status.Nodes, NodeStatus{Name: n.name, MySQL: n.mysql.current(), Agent: n.agent.current()})
	}
	return status, changes
}

// serve obeys the commands of one connection.
func (s *supervisor) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	orders, answers := json.NewDecoder(bufio.NewReader(conn)), json.NewEncoder(conn)
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			return
		}
		var a answer
		switch o.Command {
		case cmdWatch:
			s.show(ctx, conn, answers)
			return
		case cmdDown:
			s.stop()
			<-s.ended
			_ = answers.Encode(a)
			return
		case cmdStatus:
		default:
			if err := s.obey(ctx, o); err != nil {
				a.Error = err.Error()
			}
		}
		status, _ := s.status()
		a.Status = &status
		if answers.Encode(a) != nil {
			return
		}
	}
}

// show sends the status now and after each change, until the other side goes.
func (s *supervisor) show(ctx context.Context, conn net.Conn, answers *json.Encoder) {
	gone := make(chan struct{})
	go func() { // ends with conn, which serve closes
		defer close(gone)
		_, _ = conn.Read(make([]byte, 1))
	}()
	for {
		status, changes := s.status()
		if answers.Encode(answer{Status: &status}) != nil {
			return
		}
		select {
		case <-changes:
		case <-gone:
			return
		case <-ctx.Done():
			return
		}
	}
}

// obey carries out a command that concerns one process.
func (s *supervisor) obey(ctx context.Context, o order) error {
	if o.Command == cmdAdd {
		return s.add(o.Node)
	}
	s.mu.Lock()
	nodes := s.nodes
	s.mu.Unlock()
	i := slices.IndexFunc(nodes, func(n *supervisedNode) bool { return n.name == o.Node })
	if i < 0 {
		return fmt.Errorf("%s %q: no such node", o.Command, o.Node)
	}
	ctx, cancel := context.WithTimeout(ctx, orderLimit)
	defer cancel()
	s.log.Info("command", zap.String("command", o.Command), zap.String("node", o.Node))
	switch o.Command {
	case cmdStopAgent:
		return nodes[i].agent.ask(ctx, cmdKill)
	case cmdStartAgent:
		return nodes[i].agent.ask(ctx, cmdStart)
	default:
		return nodes[i].mysql.ask(ctx, o.Command)
	}
}

// add starts a node that has come into the plan.
func (s *supervisor) add(name string) error {
	c, err := Load(s.cluster.dir)
	if err != nil {
		return err
	}
	node, err := c.node(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	switch {
	case s.launch == nil:
		err = errors.New("the sandbox is going down")
	case slices.ContainsFunc(s.nodes, func(n *supervisedNode) bool { return n.name == name }):
		err = errors.New("it is there already")
	default:
		n := &supervisedNode{name: name, mysql: s.mysqlUnit(node), agent: s.agentUnit(node)}
		s.nodes = append(s.nodes[:len(s.nodes):len(s.nodes)], n)
		s.launch(n)
	}
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("add node %s: %w", name, err)
	}
	s.announce()
	return nil
}

// supervisorLogPath is what the supervisor prints.
func (c Cluster) supervisorLogPath() string { return filepath.Join(c.dir, supervisorLog) }
