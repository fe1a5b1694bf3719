package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"

	"interrex/internal/sandbox"
	"interrex/internal/sandbox/fetch"
	"interrex/internal/sandbox/mysqld"
)

// machine is what figures depend on, and nothing that tells whose it is.
type machine struct {
	revision, mysql, kernel, golang string
	cores                           int
	load                            string // average of the minute before the run
}

// describeMachine describes where and what is measured.
func describeMachine(ctx context.Context, c sandbox.Cluster, revision, load string) (machine, error) {
	dist, err := mysqld.Find(ctx, c.MySQLD, fetch.Quiet{})
	if err != nil {
		return machine{}, err
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return machine{}, fmt.Errorf("read version of kernel: %w", err)
	}
	return machine{
		revision: revision, mysql: dist.Version, golang: runtime.Version(), cores: runtime.NumCPU(),
		kernel: strings.TrimSpace(string(kernel)), load: load,
	}, nil
}

// readLoad is how busy the machine has been with other things.
func readLoad() (string, error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "", fmt.Errorf("read load of machine: %w", err)
	}
	minute, _, _ := strings.Cut(string(text), " ")
	return minute, nil
}
