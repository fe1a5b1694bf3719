package acceptance

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// noiseInTests is how long each noise lasts unless more is asked for.
const noiseInTests = 5 * time.Second

// Options of the tests; the defaults are the short share.
var (
	rounds   = flag.Int("rounds", 4, "rounds of TestAlternatingKillsAndSwitchovers")
	takeOver = flag.Duration("take-over", 3*time.Second, "the longest time from a leader's death to another one, and from then to the end of its operation")
	eachStep = flag.Bool("each-step", false, "have the leader die at each moment, and not at a few that are drawn")
	pause    = flag.Duration("pause", 120*time.Millisecond, "how long each of eight writers rests between two rows")
	noise    = flag.Duration("noise", noiseInTests, "how long TestNoiseMovesNobody keeps each of its noises up")
	etcdGone = flag.Duration("etcd-gone", 10*time.Second, "how long TestEtcdGone keeps etcd from answering")
)

// program is the interrex program under test, built once.
var program string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "interrex-program-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "interrex")
	// As the release is built. Not with the race detector: it would make the
	// agents so slow that they judge each other, and its own packages' tests
	// run under it.
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "nomsgpack", "-ldflags", "-s -w", "-o", program, "interrex/cmd/interrex")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build interrex: %v\n%s", err, out)
		return 1
	}
	defer func() {
		if shared != nil {
			shared.down()
		}
	}()
	return m.Run()
}
