package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"

	"interrex/failover/api"
	"interrex/internal/faultdisk"
	"interrex/internal/nethost"
	"interrex/internal/sandbox"
)

// cluster is the one that is broken.
type cluster struct {
	sandbox.Cluster
	nodes   []*node
	network *nethost.Network // nil without hosts
	http    *http.Client
	token   string
	disks   map[string]*faultdisk.Disk // by node
}

// node is one server with its agent.
type node struct {
	sandbox.Node
	host *nethost.Host   // nil without hosts
	disk *faultdisk.Disk // nil without one of its own
	root *sql.DB         // on its socket
}

// startCluster brings up a cluster in a folder: on hosts of their own if there
// are some, else on loopback.
func startCluster(ctx context.Context, program, dir string, network *nethost.Network, out io.Writer) (*cluster, error) {
	c := &cluster{network: network}
	if network != nil {
		if err := c.plan(ctx, dir); err != nil {
			return nil, err
		}
	}
	up := exec.CommandContext(ctx, program, "sandbox", "up", "--dir", dir)
	up.Stdout, up.Stderr = out, out
	up.Cancel = func() error { return up.Process.Signal(os.Interrupt) }
	up.WaitDelay = time.Minute
	if err := up.Run(); err != nil {
		return nil, fmt.Errorf("bring up sandbox with %s: %w", program, err)
	}
	if err := c.open(dir); err != nil {
		return nil, errors.Join(err, c.down(context.WithoutCancel(ctx)))
	}
	return c, nil
}

// diskSize is what a server's disk may hold.
const diskSize = 3 << 30

// tryDisk says why there can be no disks of their own; nil if there can.
func tryDisk(folder string) error {
	d, err := faultdisk.Mount(filepath.Join(folder, "try"), 32<<20)
	if err != nil {
		return err
	}
	return d.Unmount()
}

// hostNames are the nodes'.
var hostNames = [...]string{"db1", "db2", "db3"}

// plan makes the folder a sandbox on hosts, each server with a disk of its own.
func (c *cluster) plan(ctx context.Context, dir string) error {
	var hosts []sandbox.Host
	for _, h := range c.network.Hosts() {
		hosts = append(hosts, sandbox.Host{Address: h.Address, Enter: h.Enter()})
	}
	planned, err := sandbox.Plan(ctx, dir, hosts)
	if err != nil {
		return err
	}
	c.disks = map[string]*faultdisk.Disk{}
	for _, n := range planned.Nodes {
		disk, err := faultdisk.Mount(n.Datadir(), diskSize)
		if err != nil && !errors.Is(err, faultdisk.ErrUnavailable) {
			return err
		}
		c.disks[n.Name] = disk // nil where there are none: no kind of fault needs it then
		if err := os.WriteFile(filepath.Join(n.Dir, skewFile), make([]byte, skewSize), 0o600); err != nil {
			return fmt.Errorf("write clock of %s: %w", n.Name, err)
		}
	}
	return nil
}

func (c *cluster) open(dir string) (err error) {
	if c.Cluster, err = sandbox.Load(dir); err != nil {
		return err
	}
	if c.http, err = c.HTTPClient(); err != nil {
		return err
	}
	token, err := os.ReadFile(c.OperatorTokenFile())
	if err != nil {
		return fmt.Errorf("read operator token: %w", err)
	}
	c.token = strings.TrimSpace(string(token))
	for i, n := range c.Nodes {
		one := &node{Node: n}
		if c.network != nil {
			one.host, one.disk = c.network.Hosts()[i], c.disks[n.Name]
		}
		m := mysql.NewConfig()
		m.Net, m.Addr, m.User = "unix", n.Socket, "root"
		m.Timeout, m.ReadTimeout = 5*time.Second, time.Minute
		m.Logger = &mysql.NopLogger{}
		connector, err := mysql.NewConnector(m)
		if err != nil {
			return fmt.Errorf("connect to %s: %w", n.Name, err)
		}
		one.root = sql.OpenDB(connector)
		one.root.SetMaxIdleConns(0)
		c.nodes = append(c.nodes, one)
	}
	return nil
}

func (c *cluster) down(ctx context.Context) error {
	for _, n := range c.nodes {
		_ = n.root.Close()
	}
	return c.Down(ctx)
}

func (c *cluster) node(name string) *node {
	i := slices.IndexFunc(c.nodes, func(n *node) bool { return n.Name == name })
	return c.nodes[i]
}

// call asks an agent's API.
func (c *cluster) call(ctx context.Context, n *node, method, path, body string) (int, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, n.APIBase()+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return 0, nil, fmt.Errorf("ask %s: %w", n.Name, err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+c.token)
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, fmt.Errorf("ask %s: %w", n.Name, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, fmt.Errorf("ask %s: %w", n.Name, err)
	}
	return response.StatusCode, text, nil
}

// get asks an agent, which has a second and a half to answer.
func (c *cluster) get(ctx context.Context, n *node, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
	defer cancel()
	status, text, err := c.call(ctx, n, http.MethodGet, path, "")
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("ask %s for %s: %d: %s", n.Name, path, status, text)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("ask %s for %s: %w", n.Name, path, err)
	}
	return nil
}

// look is the cluster if every agent finds it whole and all see the same;
// otherwise the error says what is not.
func (c *cluster) look(ctx context.Context) (api.Cluster, error) {
	var first api.Cluster
	var faults []error
	for i, n := range c.nodes {
		var v api.Cluster
		err := c.get(ctx, n, "/api/v1/cluster", &v)
		if err == nil {
			if why := flaw(v); why != "" {
				err = fmt.Errorf("%s: %s", n.Name, why)
			}
		}
		if i == 0 {
			first = v
		} else if err == nil && len(faults) == 0 && (v.Epoch != first.Epoch || v.Primary.Node != first.Primary.Node) {
			err = fmt.Errorf("%s sees epoch %d, %s sees %d", n.Name, v.Epoch, c.nodes[0].Name, first.Epoch)
		}
		if err != nil {
			faults = append(faults, err)
		}
	}
	return first, errors.Join(faults...)
}

// flaw says why a cluster is not as it should be when nothing is wrong; empty
// means healthy.
func flaw(v api.Cluster) string {
	replicas := 0
	for _, m := range v.Members {
		if m.Role == api.RoleReplica {
			replicas++
		}
	}
	switch d := v.Durability; {
	case v.Status != api.StatusHealthy || v.Primary == nil:
		return fmt.Sprintf("it is %s: %s", v.Status, strings.Join(v.Reasons, "; "))
	case replicas != len(v.Members)-1 || replicas == 0:
		return fmt.Sprintf("%d replicas", replicas)
	case len(d.Ackers) != replicas || len(d.Acknowledging) != replicas:
		return fmt.Sprintf("%d ackers, %d acknowledge", len(d.Ackers), len(d.Acknowledging))
	case v.Leader == "":
		return "nobody leads"
	}
	return ""
}

// healthy waits until the cluster is whole, within a limit.
func (c *cluster) healthy(ctx context.Context, limit time.Duration) (api.Cluster, time.Duration, error) {
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		v, err := c.look(ctx)
		if err == nil {
			return v, time.Since(began), nil
		}
		if time.Since(began) > limit {
			return v, time.Since(began), fmt.Errorf("the cluster is not healthy %s after the last fault was healed: %w", limit, err)
		}
		select {
		case <-ctx.Done():
			return v, time.Since(began), context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// level makes sure that every server has executed, within a few seconds, what
// the primary has now.
func (c *cluster) level(ctx context.Context, primary string) error {
	var set string
	if err := c.node(primary).root.QueryRowContext(ctx, "SELECT @@global.gtid_executed").Scan(&set); err != nil {
		return fmt.Errorf("ask %s what it has executed: %w", primary, err)
	}
	for _, n := range c.nodes {
		var late int
		if err := n.root.QueryRowContext(ctx, "SELECT WAIT_FOR_EXECUTED_GTID_SET(?, 2)", set).Scan(&late); err != nil {
			return fmt.Errorf("ask %s what it has executed: %w", n.Name, err)
		}
		if late != 0 {
			return fmt.Errorf("%s has not executed what %s has", n.Name, primary)
		}
	}
	return nil
}

// replication says, a line for each, what the threads that send, receive and
// apply are at, but for those that have nothing to do.
func (c *cluster) replication(ctx context.Context) (lines []string) {
	for _, n := range c.nodes {
		says, err := n.replication(ctx)
		if err != nil {
			says = append(says, err.Error())
		}
		for _, line := range says {
			lines = append(lines, n.Name+": "+strings.ReplaceAll(line, "\n", ""))
		}
	}
	return lines
}

func (n *node) replication(ctx context.Context) (lines []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	rows, err := n.root.QueryContext(ctx, `SELECT CONCAT_WS(' ', name, processlist_host, processlist_state, CONCAT('for ', processlist_time, ' s'))
		FROM performance_schema.threads
		WHERE processlist_command LIKE 'Binlog Dump%' OR name IN ('thread/sql/replica_io', 'thread/sql/replica_sql')
			OR (name = 'thread/sql/replica_worker' AND processlist_state <> 'Waiting for an event from Coordinator')
		UNION ALL SELECT CONCAT('received ', received_transaction_set, ', executed ', @@global.gtid_executed)
		FROM performance_schema.replication_connection_status`)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // its error is rows.Err
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return lines, err
		}
		lines = append(lines, line)
	}
	return lines, rows.Err()
}

// pidIn reads a pid file.
func pidIn(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read process id: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read process id in %s: %w", path, err)
	}
	return pid, nil
}

// signal sends a signal to the process of a pid file.
func signalTo(pidFile string, s syscall.Signal) error {
	pid, err := pidIn(pidFile)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, s); err != nil {
		return fmt.Errorf("send %s to process %d of %s: %w", s, pid, pidFile, err)
	}
	return nil
}

// etcdOf finds the etcd that a node's agent runs.
func etcdOf(n *node) (int, error) {
	agent, err := pidIn(n.AgentPIDFile())
	if err != nil {
		return 0, err
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, fmt.Errorf("list processes: %w", err)
	}
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil {
			continue // gone
		}
		// pid (name) state parent …; the name may hold anything.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if parent, _ := strconv.Atoi(fields[1]); parent != agent {
			continue
		}
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(stat), "cmdline"))
		if words := strings.Split(string(command), "\x00"); len(words) > 1 && words[1] == "etcd" {
			return strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		}
	}
	return 0, fmt.Errorf("%s runs no etcd", n.Name)
}
