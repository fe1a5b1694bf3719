package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"interrex/failover/api"
	"interrex/failover/drill"
	"interrex/internal/config"
)

// newFaults is what drills may do to this node.
func newFaults(a *agent, b *backend) (*drill.Faults, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program for the drills' helper: %w", err)
	}
	c := drill.FaultsConfig{
		Self: a.self.Name, Enabled: a.cfg.Drills == config.DrillsEnabled,
		RecordFile: filepath.Join(a.cfg.Node.DataDir, "drill-fault.json"),
		Helper:     []string{program, "drill", undoCommand},
		Glance:     func() api.Cluster { return api.Glance(a.cfg.Cluster.Name, b) },
		StopAgent:  func() { a.stop() },
	}
	if m := a.cfg.MySQL; m != nil {
		c.FindServer = a.instance.PID
		c.Server = drill.Server{Network: "tcp", Address: m.Address, StartCommand: m.StartCommand}
		if m.Socket != "" {
			c.Server.Network, c.Server.Address = "unix", m.Socket
		}
	}
	return drill.NewFaults(c, a.log), nil
}

// Drills implements api.Backend.
func (b *backend) Drills() api.DrillState { return b.faults.State() }

// Fault implements api.Backend.
func (b *backend) Fault(ctx context.Context, o api.FaultOrder) (api.FaultResult, error) {
	return b.faults.Do(ctx, o)
}
