package demo

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"interrex/internal/sandbox"
	"interrex/internal/sandbox/nginx"
)

// The names of the upstream blocks.
const (
	UpstreamHTTP = "orders"
	UpstreamRW   = "mysql_rw"
	UpstreamRO   = "mysql_ro"
)

// WriteConfig writes nginx's configuration. Its upstream blocks for MySQL lead
// nowhere until the agent that owns them says where the primary is.
func (t *Tier) WriteConfig(dist nginx.Distribution) error {
	var services strings.Builder
	for _, s := range t.Services {
		fmt.Fprintf(&services, "\t\tserver %s;\n", s.Address)
	}
	text := fmt.Sprintf(`# An agent owns the server lines of the three upstream blocks. All else is
# yours: edit it, and the agent keeps it.
%sworker_processes 1;
worker_shutdown_timeout 5s; # sessions of before a reload end after it
events { worker_connections 1024; }

http {
	%s
	upstream %s {
%s		keepalive 16;
	}
	server {
		listen %s;
		location / {
			proxy_pass http://%s;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_connect_timeout 1s;
			proxy_read_timeout 20s; # longer than the tier takes for a failover
		}
	}
}

stream {
	upstream %s {
		server 127.0.0.1:1 down;
	}
	upstream %s {
		server 127.0.0.1:1 down;
	}
	server { listen %[9]s; proxy_pass %[7]s; proxy_connect_timeout 1s; }
	server { listen %[10]s; proxy_pass %[8]s; proxy_connect_timeout 1s; }
}
`, dist.Main(t.Dir()), strings.ReplaceAll(strings.TrimSpace(dist.HTTP(t.Dir())), "\n", "\n\t"),
		UpstreamHTTP, services.String(), sandbox.Addr(t.HTTP), UpstreamHTTP,
		UpstreamRW, UpstreamRO, sandbox.Addr(t.RW), sandbox.Addr(t.RO))
	if err := os.WriteFile(t.ConfigFile(), []byte(text), 0o600); err != nil {
		return fmt.Errorf("write configuration of nginx: %w", err)
	}
	return nil
}

// Upstream reads from nginx's configuration which servers of a block are not
// down, as host:port.
func (t *Tier) Upstream(name string) ([]string, error) {
	text, err := os.ReadFile(t.ConfigFile())
	if err != nil {
		return nil, fmt.Errorf("read configuration of nginx: %w", err)
	}
	return serversOf(string(text), name), nil
}

// serversOf reads a file that has the layout of WriteConfig's: a server a line.
func serversOf(text, upstream string) []string {
	_, block, _ := strings.Cut(text, "upstream "+upstream+" {\n")
	block, _, _ = strings.Cut(block, "}")
	var servers []string
	for line := range strings.Lines(block) {
		words := strings.Fields(strings.TrimSuffix(strings.TrimSpace(line), ";"))
		if len(words) > 1 && words[0] == "server" && !slices.Contains(words, "down") {
			servers = append(servers, words[1])
		}
	}
	return servers
}
