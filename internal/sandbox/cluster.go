package sandbox

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"interrex/internal/sandbox/mysqld"
)

// Cluster is the plan of a sandbox. It is made once, kept in the folder, and
// used again each time the sandbox comes up.
type Cluster struct {
	Name string `json:"cluster"`
	// ID is random: it marks the processes of this sandbox and no other.
	ID string `json:"id"`
	// MySQLD is the server program that was asked for by name; empty for the
	// one that mysqld.Find chooses.
	MySQLD string `json:"mysqld,omitempty"`
	App    App    `json:"app"`
	Nodes  []Node `json:"nodes"`

	dir string
}

// App is the account and database for applications.
type App struct {
	User     string `json:"user"`
	Password string `json:"password"`
	Database string `json:"database"`
}

// Node is one server with its agent.
type Node struct {
	Name     string `json:"name"`
	ServerID uint32 `json:"server_id"`
	// Added: it came after the cluster was formed, with a vote or without.
	Added bool  `json:"added,omitempty"`
	Voter bool  `json:"voter,omitempty"`
	Ports Ports `json:"ports"`
	// Socket is the server's unix socket. It is in the node's folder unless
	// that path is too long for a socket.
	Socket string `json:"socket"`
	// Host is the address its server and agent listen on; empty is 127.0.0.1.
	Host string `json:"host,omitempty"`
	// Enter is put before the commands of its server and agent, to run them on
	// that host.
	Enter []string `json:"enter,omitempty"`
	// Dir is the node's folder: absolute.
	Dir string `json:"dir"`
}

// Names of the files in a sandbox's folder.
const (
	planFile                = "plan.json"
	infoFile                = "sandbox.json"
	operatorTokenFile       = "operator.token"
	memberTokenFile         = "member.token"
	gossipKeyFile           = "gossip.key"
	controllerPasswordFile  = "controller.password"
	replicationPasswordFile = "replication.password"
	supervisorLog           = "supervisor.log"
)

// Dir is the sandbox's folder: absolute.
func (c Cluster) Dir() string { return c.dir }

// OperatorTokenFile holds the token operators authenticate with.
func (c Cluster) OperatorTokenFile() string { return filepath.Join(c.dir, operatorTokenFile) }

// MemberTokenFile holds the token agents authenticate with to each other.
func (c Cluster) MemberTokenFile() string { return filepath.Join(c.dir, memberTokenFile) }

// GossipKeyFile holds the key of the agents' gossip: 32 bytes in base64.
func (c Cluster) GossipKeyFile() string { return filepath.Join(c.dir, gossipKeyFile) }

// ControllerPasswordFile holds the password of the agents' account.
func (c Cluster) ControllerPasswordFile() string { return filepath.Join(c.dir, controllerPasswordFile) }

// ReplicationPasswordFile holds the password of the replication account.
func (c Cluster) ReplicationPasswordFile() string {
	return filepath.Join(c.dir, replicationPasswordFile)
}

// Mark is the environment variable, key=value, that all processes of the
// sandbox carry. Down ends every process that has it, so whoever starts more
// of them beside the sandbox's own gives it to them.
func (c Cluster) Mark() string { return "INTERREX_SANDBOX=" + c.ID }

// node finds a node by name; the error lists the names there are.
func (c Cluster) node(name string) (Node, error) {
	var names []string
	for _, n := range c.Nodes {
		if n.Name == name {
			return n, nil
		}
		names = append(names, n.Name)
	}
	return Node{}, fmt.Errorf("find node %q: there are %v", name, names)
}

// Addr is host:port of one of the node's ports.
func (n Node) Addr(port int) string {
	if n.Host == "" {
		return Addr(port)
	}
	return net.JoinHostPort(n.Host, strconv.Itoa(port))
}

// Datadir is the server's data directory.
func (n Node) Datadir() string { return filepath.Join(n.Dir, "data") }

// MySQLPIDFile holds the server's process id while it runs.
func (n Node) MySQLPIDFile() string { return filepath.Join(n.Dir, "mysqld.pid") }

// MySQLLog is the server's error log.
func (n Node) MySQLLog() string { return filepath.Join(n.Dir, "mysqld.log") }

// AgentPIDFile holds the agent's process id; it is stale when the agent is
// not running.
func (n Node) AgentPIDFile() string { return filepath.Join(n.Dir, "agent.pid") }

// AgentConfigFile is the agent's configuration, written anew by every Up.
func (n Node) AgentConfigFile() string { return filepath.Join(n.Dir, "agent.yaml") }

// AgentLog is what the agent prints.
func (n Node) AgentLog() string { return filepath.Join(n.Dir, "agent.log") }

// AgentDataDir is for what the agent must remember.
func (n Node) AgentDataDir() string { return filepath.Join(n.Dir, "agent") }

// Addr is host:port on the loopback interface.
func Addr(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// maxNodes is how many nodes a sandbox can have.
const maxNodes = 9

// NodeNames are the names that the nodes of a sandbox can have.
func NodeNames() []string {
	var names []string
	for i := range maxNodes {
		names = append(names, nodeName(i))
	}
	return names
}

func nodeName(i int) string { return "db" + strconv.Itoa(i+1) }

// newCluster plans a sandbox of n nodes.
func newCluster(dir, name string, n, basePort int) (Cluster, error) {
	c := Cluster{Name: name, ID: randomHex(16), dir: dir}
	for i := range n {
		node := Node{
			Name:     nodeName(i),
			ServerID: uint32(i + 1),
			Ports:    portsOf(basePort, i),
		}
		node.Dir = filepath.Join(dir, node.Name)
		socket, err := mysqld.SocketPath(node.Dir, "mysql.sock")
		if err != nil {
			return Cluster{}, err
		}
		node.Socket = socket
		c.Nodes = append(c.Nodes, node)
	}
	return c, nil
}

// Load reads the plan of the sandbox in a folder; ErrNoSandbox if it holds
// none.
func Load(dir string) (Cluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Cluster{}, fmt.Errorf("find sandbox folder: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(dir, planFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Cluster{}, fmt.Errorf("open %s: %w", dir, ErrNoSandbox)
	}
	if err != nil {
		return Cluster{}, fmt.Errorf("read plan of sandbox: %w", err)
	}
	var c Cluster
	if err := json.Unmarshal(text, &c); err != nil {
		return Cluster{}, fmt.Errorf("read plan of sandbox %s: %w", dir, err)
	}
	c.dir = dir
	for _, n := range c.Nodes {
		if filepath.Dir(n.Dir) != dir {
			return Cluster{}, fmt.Errorf("open sandbox %s: it was made in %s and cannot be moved", dir, filepath.Dir(n.Dir))
		}
	}
	return c, nil
}

// save writes the plan.
func (c Cluster) save() error {
	return writeJSON(filepath.Join(c.dir, planFile), c)
}

// writeJSON replaces a file, private to its owner, with a value.
func writeJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return writePrivate(path, append(text, '\n'))
}

// writePrivate replaces a file at once, mode 0600.
func writePrivate(path string, text []byte) error {
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
