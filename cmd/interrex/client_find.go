package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"interrex/failover/api"
	"interrex/internal/config"
	"interrex/internal/sandbox"
	"interrex/internal/topology"
)

const (
	envAgent     = "INTERREX_AGENT"
	envTokenFile = "INTERREX_TOKEN_FILE"
	// defaultAgent is where an agent of the own node listens by default.
	defaultAgent = "127.0.0.1:8460"
)

// clientHelp ends the help of each command that asks an agent.
const clientHelp = `
Which agent is asked: --agent, else those of the cluster in --config, else the
sandbox in --dir, else INTERREX_AGENT, else the sandbox in ./interrex-sandbox,
else 127.0.0.1:8460. Any agent of the cluster will do, and the next one is
tried if one does not answer. Changes need the operator's token: --token-file,
else INTERREX_TOKEN_FILE, else the one that --config or the sandbox names.`

// clientFlags say which agents to ask and how.
type clientFlags struct {
	agents        []string
	config        string
	dir           string
	tokenFile     string
	ca, cert, key string
}

// register adds the flags to a command.
func (f *clientFlags) register(command *cobra.Command) {
	flags := command.Flags()
	flags.StringSliceVar(&f.agents, "agent", nil, "host:port of an agent's API, or several (env "+envAgent+")")
	flags.StringVar(&f.config, "config", "", "configuration file of an agent of the cluster")
	flags.StringVar(&f.dir, "dir", "", "folder of a sandbox (default "+defaultSandboxDir+" if it is there)")
	flags.StringVar(&f.tokenFile, "token-file", "", "file with the operator's token (env "+envTokenFile+")")
	flags.StringVar(&f.ca, "ca", "", "PEM file of the CA that signed the agents' certificates")
	flags.StringVar(&f.cert, "cert", "", "PEM file of a client certificate")
	flags.StringVar(&f.key, "key", "", "PEM file of its key")
	for _, name := range []string{"config", "token-file", "ca", "cert", "key"} {
		_ = command.MarkFlagFilename(name) // fails only for a flag that does not exist
	}
	_ = command.MarkFlagDirname("dir")
}

// found is what the flags, the environment and the files lead to.
type found struct {
	endpoints []endpoint
	token     string
	tokenFile string
	tls       tlsFiles
	known     []topology.NodeName
}

type tlsFiles struct{ ca, cert, key string }

// open makes the client. The caller closes it.
func (f *clientFlags) open() (*apiClient, error) {
	w, err := f.find()
	if err != nil {
		return nil, err
	}
	t := tlsFiles{w.tls.ca, w.tls.cert, w.tls.key}
	if f.ca != "" || f.cert != "" || f.key != "" {
		t = tlsFiles{f.ca, f.cert, f.key}
	}
	if (t.cert == "") != (t.key == "") {
		return nil, usageError{errors.New("--cert and --key belong together")}
	}
	var base *tls.Config
	if t != (tlsFiles{}) {
		if base, err = clientTLS(t.ca, t.cert, t.key); err != nil {
			return nil, err
		}
		base.MinVersion = tls.VersionTLS13
		for i := range w.endpoints {
			w.endpoints[i].secure = true
		}
	}
	token, hint, err := f.readToken(w)
	if err != nil {
		return nil, err
	}
	c := newAPIClient(w.endpoints, token, base)
	c.tokenHint, c.known = hint, w.known
	return c, nil
}

// find decides whom to ask. What was said on the command line goes before the
// environment, and that before what happens to be there.
func (f *clientFlags) find() (found, error) {
	var w found
	var err error
	switch {
	case f.config != "":
		w, err = findByConfig(f.config)
	case f.dir != "":
		w, err = findBySandbox(f.dir)
	case len(f.agents) == 0 && os.Getenv(envAgent) == "":
		if w, err = findBySandbox(defaultSandboxDir); errors.Is(err, sandbox.ErrNoSandbox) {
			w, err = found{endpoints: []endpoint{{address: defaultAgent}}}, nil
		}
	}
	if err != nil {
		return found{}, err
	}
	named := f.agents
	if len(named) == 0 && f.config == "" && f.dir == "" && os.Getenv(envAgent) != "" {
		named = strings.Split(os.Getenv(envAgent), ",")
	}
	if len(named) > 0 {
		w.endpoints, err = parseAgents(named)
	}
	return w, err
}

// parseAgents reads host:port or https://host:port; the port may be left out.
func parseAgents(list []string) ([]endpoint, error) {
	var endpoints []endpoint
	for _, text := range list {
		address := strings.TrimSpace(text)
		if address == "" {
			continue
		}
		address, secure := strings.CutPrefix(address, "https://")
		address = strings.TrimSuffix(strings.TrimPrefix(address, "http://"), "/")
		if _, _, err := net.SplitHostPort(address); err != nil {
			address = net.JoinHostPort(strings.Trim(address, "[]"), strconv.Itoa(config.DefaultMember().Ports.API))
		}
		host, port, err := net.SplitHostPort(address)
		n, perr := strconv.Atoi(port)
		if err != nil || perr != nil || host == "" || n < 1 || n > 65535 || strings.ContainsAny(host, "/?#@ ") {
			return nil, usageError{fmt.Errorf("agent %q is not host:port", text)}
		}
		endpoints = append(endpoints, endpoint{address: address, secure: secure})
	}
	if len(endpoints) == 0 {
		return nil, usageError{errors.New("--agent names no agent")}
	}
	return endpoints, nil
}

// findByConfig reads an agent's configuration as somebody who need not be the
// agent's user: only its token, and that only if it is readable.
func findByConfig(file string) (found, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return found{}, fmt.Errorf("read configuration: %w", err)
	}
	cfg, err := config.Parse(file, text)
	if err != nil {
		return found{}, err
	}
	at := func(path string) string { return besides(file, path) }
	files := cfg.Security.TLS
	w := found{
		tokenFile: at(cfg.Security.OperatorTokenFile),
		tls:       tlsFiles{at(files.CAFile), at(files.CertFile), at(files.KeyFile)},
	}
	if key, err := os.Open(w.tls.key); err != nil {
		w.tls.cert, w.tls.key = "", "" // reading needs no certificate
	} else {
		_ = key.Close()
	}
	add := func(m topology.Member, address string) {
		e := endpoint{address: address, secure: !files.IsZero()}
		if e.secure {
			e.serverName = api.MemberName(m.Name, cfg.Cluster.Name)
		}
		w.endpoints = append(w.endpoints, e)
	}
	self := topology.NodeName(cfg.Node.Name)
	for _, m := range cfg.Members() {
		w.known = append(w.known, m.Name)
		if m.Name == self {
			add(m, ownAddress(cfg.Listeners.API, m.API))
		}
	}
	for _, m := range cfg.Members() {
		if m.Name != self {
			add(m, m.API)
		}
	}
	return w, nil
}

// besides resolves a path that a configuration file names.
func besides(file, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(file), path)
}

// ownAddress is where to reach a listener; one on all interfaces is reached
// where the others reach it.
func ownAddress(listener, member string) string {
	host, _, err := net.SplitHostPort(listener)
	ip := net.ParseIP(host)
	if err != nil || host == "" || ip != nil && ip.IsUnspecified() {
		return member
	}
	return listener
}

func findBySandbox(dir string) (found, error) {
	info, err := sandbox.ReadInfo(dir)
	if err != nil {
		return found{}, err
	}
	w := found{token: info.OperatorToken}
	for _, n := range info.Nodes {
		w.endpoints = append(w.endpoints, endpoint{address: n.Agent.API})
		w.known = append(w.known, topology.NodeName(n.Name))
	}
	return w, nil
}

// readToken finds the operator's token. A file named on the command line or in
// the environment must be readable; one that a configuration names need not
// be, as reading the status needs none: then hint says why there is no token.
func (f *clientFlags) readToken(w found) (token, hint string, err error) {
	if file := f.tokenFile; file != "" {
		token, err = readTokenFile(file)
		return token, "", err
	}
	if file := os.Getenv(envTokenFile); file != "" {
		token, err = readTokenFile(file)
		return token, "", err
	}
	if w.tokenFile == "" {
		return w.token, "", nil
	}
	token, err = readTokenFile(w.tokenFile)
	if err != nil {
		return "", err.Error(), nil
	}
	return token, "", nil
}

// readTokenFile reads a token. The superuser may read the agent's file, which
// belongs to the agent's user; everybody else only a private one of their own.
func readTokenFile(file string) (string, error) {
	if os.Geteuid() != 0 {
		return config.ReadSecret(file)
	}
	info, err := os.Stat(file)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	if others := info.Mode().Perm() & 0o077; others != 0 {
		return "", fmt.Errorf("read token: %s can be used by others (mode %04o): chmod 600 %s", file, info.Mode().Perm(), file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read token: %w", err)
	}
	if token := strings.TrimSpace(string(text)); token != "" {
		return token, nil
	}
	return "", fmt.Errorf("read token: %s is empty", file)
}
