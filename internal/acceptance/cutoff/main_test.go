package cutoff

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"interrex/internal/nethost"
)

// programVariable names the program under test to the process in the world.
const programVariable = "INTERREX_CUTOFF_PROGRAM"

// noiseInTests is how long packets are lost or late unless more is asked for.
const noiseInTests = 10 * time.Second

var noise = flag.Duration("noise", noiseInTests, "how long packets are lost or late")

// network has the hosts db1 to db5.
var network *nethost.Network

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv(programVariable) == "" {
		remove, err := build()
		defer remove()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	inside, code, err := nethost.Enter()
	if inside && err == nil {
		_, err = exec.LookPath("nft")
		if err != nil {
			err = fmt.Errorf("%w: install nftables: %w", nethost.ErrUnavailable, err)
		} else {
			network, err = nethost.NewNetwork(context.Background(), "db1", "db2", "db3", "db4", "db5")
		}
	}
	switch {
	case errors.Is(err, nethost.ErrUnavailable) && os.Getenv("CI") == "":
		fmt.Fprintln(os.Stderr, "THE TESTS OF NODES THAT ARE CUT OFF ARE LEFT OUT:", err)
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 1
	case !inside:
		return code
	}
	defer func() {
		if shared != nil {
			_ = shared.down()
		}
	}()
	return m.Run()
}

// build builds the program as it is released, outside of the world.
func build() (remove func(), err error) {
	dir, err := os.MkdirTemp("", "interrex-cutoff-")
	if err != nil {
		return func() {}, err
	}
	remove = func() { _ = os.RemoveAll(dir) }
	program := filepath.Join(dir, "interrex")
	command := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "nomsgpack", "-ldflags", "-s -w", "-o", program, "interrex/cmd/interrex")
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := command.CombinedOutput(); err != nil {
		return remove, fmt.Errorf("build interrex: %w\n%s", err, out)
	}
	return remove, os.Setenv(programVariable, program)
}
