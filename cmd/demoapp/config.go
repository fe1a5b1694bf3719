package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// config is what the service is started with.
type config struct {
	listen   string // host:port to serve on
	rw, ro   string // host:port of the routes
	user     string
	password string
	database string
	// requestLimit is how long a request may take, waiting for a failover
	// included.
	requestLimit time.Duration
}

// parseConfig reads flags, and for those not given the environment. The
// password is in a file or in the environment, never a flag: every user of a
// host sees a process's flags.
func parseConfig(args []string, getenv func(string) string) (config, error) {
	var cfg config
	var passwordFile string
	flags := flag.NewFlagSet("demoapp", flag.ContinueOnError)
	text := func(p *string, name, env, value, usage string) {
		if v := getenv(env); v != "" {
			value = v
		}
		flags.StringVar(p, name, value, usage+" (environment: "+env+")")
	}
	text(&cfg.listen, "listen", "DEMOAPP_LISTEN", "127.0.0.1:8080", "`host:port` to serve on")
	text(&cfg.rw, "rw", "DEMOAPP_RW", "", "`host:port` of the read-write route")
	text(&cfg.ro, "ro", "DEMOAPP_RO", "", "`host:port` of the read-only route; default the read-write one")
	text(&cfg.user, "user", "DEMOAPP_USER", "", "MySQL user")
	text(&cfg.database, "database", "DEMOAPP_DATABASE", "", "MySQL database, which must exist")
	text(&passwordFile, "password-file", "DEMOAPP_PASSWORD_FILE", "", "`file` with the user's password (or DEMOAPP_PASSWORD in the environment)")
	flags.DurationVar(&cfg.requestLimit, "request-limit", 12*time.Second, "how long a request may take; longer than the proxies hold connections")
	if err := flags.Parse(args); err != nil {
		return config{}, err
	}
	if cfg.ro == "" {
		cfg.ro = cfg.rw
	}
	cfg.password = getenv("DEMOAPP_PASSWORD")
	if passwordFile != "" {
		secret, err := os.ReadFile(passwordFile)
		if err != nil {
			return config{}, fmt.Errorf("read password: %w", err)
		}
		cfg.password = strings.TrimRight(string(secret), "\r\n")
	}
	return cfg, cfg.validate(flags.Args())
}

func (c config) validate(rest []string) error {
	var faults []error
	if len(rest) > 0 {
		faults = append(faults, fmt.Errorf("unexpected argument %q", rest[0]))
	}
	for name, address := range map[string]string{"-listen": c.listen, "-rw": c.rw, "-ro": c.ro} {
		if _, _, err := net.SplitHostPort(address); err != nil {
			faults = append(faults, fmt.Errorf("%s: want host:port, got %q", name, address))
		}
	}
	if c.user == "" || c.database == "" {
		faults = append(faults, errors.New("-user and -database must be given"))
	}
	if c.requestLimit <= 0 {
		faults = append(faults, errors.New("-request-limit must be above 0"))
	}
	return errors.Join(faults...)
}
