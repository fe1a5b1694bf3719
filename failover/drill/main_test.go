package drill

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"

	"go.uber.org/zap"

	"interrex/failover/api"
)

// TestMain lets the test binary be the helper process, and an agent with a
// fault in force that can be killed.
func TestMain(m *testing.M) {
	args := os.Args[1:]
	var err error
	switch {
	case len(args) == 2 && args[0] == "undo":
		err = Undo(context.Background(), args[1], os.Stdin, os.Stdout)
	case len(args) == 3 && args[0] == "agent":
		err = beAgent(args[1], args[2])
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// beAgent freezes a process and then waits to be killed.
func beAgent(recordFile, server string) error {
	pid, err := strconv.Atoi(server)
	if err != nil {
		return err
	}
	f := NewFaults(FaultsConfig{
		Self: "n1", Enabled: true, RecordFile: recordFile, Helper: []string{os.Args[0], "undo"},
		FindServer: func(context.Context) (int, error) { return pid, nil },
		Glance:     func() api.Cluster { return api.Cluster{Status: api.StatusHealthy} },
	}, zap.NewNop())
	if _, err := f.Do(context.Background(), api.FaultOrder{Fault: api.FaultFreezeServer, Limit: api.FaultLimit}); err != nil {
		return err
	}
	fmt.Println("frozen")
	select {}
}
