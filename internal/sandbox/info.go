package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Info is what sandbox.json tells those who use the sandbox. It holds secrets;
// the file is readable by its owner alone.
type Info struct {
	Cluster       string     `json:"cluster"`
	OperatorToken string     `json:"operator_token"`
	Nodes         []NodeInfo `json:"nodes"`
}

// NodeInfo is one node of Info.
type NodeInfo struct {
	Name  string    `json:"name"`
	MySQL MySQLInfo `json:"mysql"`
	Agent AgentInfo `json:"agent"`
}

// MySQLInfo is where a server is and how an application logs in.
type MySQLInfo struct {
	Address     string `json:"address"` // host:port
	Socket      string `json:"socket"`
	Datadir     string `json:"datadir"`
	PIDFile     string `json:"pid_file"`
	AppUser     string `json:"app_user"`
	AppPassword string `json:"app_password"`
	AppDatabase string `json:"app_database"`
}

// AgentInfo is where an agent is. API, RW and RO are host:port.
type AgentInfo struct {
	API        string `json:"api"`
	RW         string `json:"rw"`
	RO         string `json:"ro"`
	PIDFile    string `json:"pid_file"`
	ConfigFile string `json:"config_file"`
	LogFile    string `json:"log_file"`
}

// ReadInfo reads sandbox.json of a folder; ErrNoSandbox if there is none.
func ReadInfo(dir string) (Info, error) {
	text, err := os.ReadFile(filepath.Join(dir, infoFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, fmt.Errorf("open %s: %w", dir, ErrNoSandbox)
	}
	if err != nil {
		return Info{}, fmt.Errorf("read %s: %w", infoFile, err)
	}
	var info Info
	if err := json.Unmarshal(text, &info); err != nil {
		return Info{}, fmt.Errorf("read %s: %w", infoFile, err)
	}
	return info, nil
}

// info is what others need to know of the cluster.
func (c Cluster) info() (Info, error) {
	token, err := os.ReadFile(c.OperatorTokenFile())
	if err != nil {
		return Info{}, fmt.Errorf("read operator token: %w", err)
	}
	info := Info{Cluster: c.Name, OperatorToken: strings.TrimSpace(string(token))}
	for _, n := range c.Nodes {
		info.Nodes = append(info.Nodes, NodeInfo{
			Name: n.Name,
			MySQL: MySQLInfo{
				Address: n.Addr(n.Ports.MySQL), Socket: n.Socket, Datadir: n.Datadir(), PIDFile: n.MySQLPIDFile(),
				AppUser: c.App.User, AppPassword: c.App.Password, AppDatabase: c.App.Database,
			},
			Agent: AgentInfo{
				API: n.Addr(n.Ports.API), RW: n.Addr(n.Ports.RW), RO: n.Addr(n.Ports.RO),
				PIDFile: n.AgentPIDFile(), ConfigFile: n.AgentConfigFile(), LogFile: n.AgentLog(),
			},
		})
	}
	return info, nil
}
