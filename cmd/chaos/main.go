// Command chaos breaks a cluster at random, under load, and checks what the
// clients were told. It is what `make chaos` runs; docs/chaos.md is its manual.
//
// Three servers with their agents run on hosts of their own (nethost), so that
// links go down and packets are dropped for real. Round after round one fault or
// two at the same time are chosen by the seed, struck, held, healed; then the
// cluster has to be healthy again within a limit. At the end every operation of
// every client is compared with what is on the servers (internal/chaos), and the
// ledger is read.
//
// It is a program rather than a test because it runs for as long as it is told
// to, and because what it leaves when it finds something, a folder with logs
// and data, is to be looked at.
//
// It exits with 1 if a promise was broken or the cluster did not recover, and
// then keeps its folder.
//
// Start reading at run in run.go; the faults are in faults.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"interrex/internal/nethost"
)

// options are the flags.
type options struct {
	duration time.Duration
	recover  time.Duration // how soon after the last fault is healed the cluster has to be whole
	seed     uint64
	interrex string // the program to test
	revision string // of it, for the report
	folder   string // of everything
	only     string // names of the kinds of faults to choose from, with commas
	without  string // names of those to leave out
	// strict: a kind that this machine cannot make is an error, and not left out.
	strict bool
	// Fewer faults, or fewer kinds of them, fail a run of an hour or more.
	leastFaults, leastKinds int
}

// longRun is from which length on a run has to come to something.
const longRun = time.Hour

// bars are the least numbers of faults and of kinds that pass; none where the
// run is short, or somebody has chosen the kinds.
func (o options) bars() (faults, kinds int) {
	if o.duration < longRun || o.only != "" {
		return 0, 0
	}
	return o.leastFaults, o.leastKinds
}

// What the process outside has decided for the one inside.
const (
	seedVariable    = "INTERREX_CHAOS_SEED"
	programVariable = "INTERREX_CHAOS_PROGRAM"
	folderVariable  = "INTERREX_CHAOS_FOLDER"
)

func main() {
	o, err := parseOptions(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2) // it has been told
	}
	code, err := begin(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// parseOptions reads the flags; what is wrong with them is told to complaints.
func parseOptions(args []string, complaints io.Writer) (options, error) {
	o := options{interrex: os.Getenv(programVariable), folder: os.Getenv(folderVariable), strict: os.Getenv("CI") != ""}
	o.seed, _ = strconv.ParseUint(os.Getenv(seedVariable), 10, 64)
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(complaints)
	flags.DurationVar(&o.duration, "duration", 5*time.Minute, "for how `long` faults are struck")
	flags.DurationVar(&o.recover, "recover", 30*time.Second, "`limit` for the cluster to be whole again after faults are healed; a machine that does other work needs more")
	flags.Uint64Var(&o.seed, "seed", o.seed, "`number` that chooses faults and times; without it one is drawn, and printed")
	flags.StringVar(&o.revision, "revision", "unknown", "`revision` that is tested, to be named in the report")
	flags.StringVar(&o.folder, "o", o.folder, "`folder` for the cluster, its logs and the report. Without it a temporary one is made, and kept if something was found")
	flags.StringVar(&o.only, "only", "", "`names` of the kinds of faults to choose from, with commas")
	flags.StringVar(&o.without, "without", "", "`names` of kinds of faults to leave out, with commas")
	flags.IntVar(&o.leastFaults, "least-faults", 300, "a run of an hour or more fails with fewer faults than this `number`; with -only none is asked for")
	flags.IntVar(&o.leastKinds, "least-kinds", 12, "and with fewer kinds of them than this `number`")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 || o.duration <= 0 || o.recover <= 0 || o.leastFaults < 0 || o.leastKinds < 0 {
		err := errors.New("chaos takes no arguments, positive durations, and no negative numbers")
		fmt.Fprintln(complaints, err)
		return o, err
	}
	return o, nil
}

// begin does what is done outside, has the rest done in a world of its own, and
// returns the exit code.
func begin(o options) (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Getenv(folderVariable) != "" {
		return enter(ctx, o)
	}
	if o.seed == 0 {
		o.seed = uint64(rand.Uint32())
	}
	temporary := o.folder == ""
	if temporary {
		var err error
		if o.folder, err = os.MkdirTemp("", "interrex-chaos-"); err != nil { // short: sockets are in it
			return 0, fmt.Errorf("make folder: %w", err)
		}
	}
	folder, err := filepath.Abs(o.folder)
	if err != nil {
		return 0, fmt.Errorf("find folder: %w", err)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return 0, fmt.Errorf("make folder: %w", err)
	}
	o.folder, o.interrex = folder, filepath.Join(folder, "interrex")
	if err := build(ctx, folder, o.interrex); err != nil {
		return 0, err
	}
	for name, value := range map[string]string{
		seedVariable: strconv.FormatUint(o.seed, 10), programVariable: o.interrex, folderVariable: folder,
	} {
		if err := os.Setenv(name, value); err != nil {
			return 0, fmt.Errorf("set %s: %w", name, err)
		}
	}
	code, err := enter(ctx, o)
	if err == nil && code == 0 && temporary {
		return code, os.RemoveAll(folder)
	}
	fmt.Fprintln(os.Stderr, "chaos: logs, data and the report are in", folder)
	return code, err
}

// enter runs the program in a world of its own or, where there is none, here.
func enter(ctx context.Context, o options) (int, error) {
	inside, code, err := nethost.Enter()
	if err != nil && !errors.Is(err, nethost.ErrUnavailable) || err == nil && !inside {
		return code, err
	}
	passed, err := run(ctx, o, err, os.Stdout)
	if err != nil {
		return 0, err
	}
	if !passed {
		return 1, nil
	}
	return 0, nil
}
