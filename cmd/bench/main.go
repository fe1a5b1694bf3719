// Command bench measures interrex on real servers, and prints the tables of
// docs/benchmarks.md. It is what `make bench` runs besides the packages' own
// benchmarks.
//
// It brings up a sandbox of three servers with their agents and has eight
// clients write through the route of an agent that is not on the primary's
// node. Under that load, round after round, the primary is killed, frozen, or
// asked to hand over; what the clients saw is set beside what the ledger says.
// Then the agents are stopped, and this program alone does to the same servers
// what a script that knows everything could do: it sends the SIGKILL itself,
// has every connection warm, needs no agreement, and takes the same SQL steps
// (script.go). That is the limit to measure the product by, in the same run.
//
// It is a program of its own rather than a hidden command of interrex, because
// it measures the product from outside, as its users have it: it runs the built
// binary, asks its API, and writes as an application would. Nothing of a
// benchmark is in the program that people deploy.
//
// After every round each acknowledged row is looked for. It exits with 1 if one
// is missing, and leaves the sandbox's folder with all logs.
//
// Start reading at measure; then product.go and script.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// errLost: an acknowledged row is missing. The figures were printed all the
// same.
var errLost = errors.New("acknowledged rows are lost")

// options are the flags.
type options struct {
	interrex string // the program to measure
	out      string // file for the tables; empty for none
	revision string // what is measured, for the reader of the tables

	kills, freezes, switchovers int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parseOptions(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2) // it has been told
	}
	if err := run(ctx, o, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// parseOptions reads the flags; what is wrong with them is told to complaints.
func parseOptions(args []string, complaints io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(complaints)
	flags.StringVar(&o.interrex, "interrex", "bin/interrex", "`program` to measure")
	flags.StringVar(&o.out, "o", "", "`file` to write the tables to, besides printing them")
	flags.StringVar(&o.revision, "revision", "unknown", "`revision` that is measured, to be named in the tables")
	flags.IntVar(&o.kills, "kills", 20, "how often the primary is killed, and as often by the scripted limit")
	flags.IntVar(&o.freezes, "freezes", 3, "how often the primary is frozen")
	flags.IntVar(&o.switchovers, "switchovers", 20, "how often the primary is moved on request")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 || o.kills < 0 || o.freezes < 0 || o.switchovers < 0 {
		err := errors.New("bench takes no arguments, and no negative numbers of rounds")
		fmt.Fprintln(complaints, err)
		return o, err
	}
	return o, nil
}

// run measures and prints the tables to out; what is being done goes to
// progress, a line at a time.
func run(ctx context.Context, o options, out, progress io.Writer) error {
	dir, err := os.MkdirTemp("", "interrex-bench-")
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	r, err := measure(ctx, o, dir, progress)
	if err != nil {
		return fmt.Errorf("%w\nbench: logs are in %s", err, dir)
	}
	text := r.markdown()
	fmt.Fprint(out, text)
	if o.out != "" {
		if err := os.WriteFile(o.out, []byte(text), 0o644); err != nil {
			return fmt.Errorf("write tables: %w", err)
		}
	}
	if lost := r.lost(); lost > 0 {
		return fmt.Errorf("%d %w; logs and data are in %s", lost, errLost, dir)
	}
	return os.RemoveAll(dir)
}

// measure does it all, one thing after another.
func measure(ctx context.Context, o options, dir string, progress io.Writer) (r results, err error) {
	load, err := readLoad()
	if err != nil {
		return r, err
	}
	p, err := startProduct(ctx, o.interrex, dir, progress)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, p.down(context.WithoutCancel(ctx))) }()
	if r.machine, err = describeMachine(ctx, p.cluster, o.revision, load); err != nil {
		return r, err
	}
	fmt.Fprintln(progress, "writes in quiet times")
	if r.direct, r.routed, err = p.quiet(ctx); err != nil {
		return r, err
	}
	if r.kills, err = repeat(ctx, progress, "kill", o.kills, p.kill); err != nil {
		return r, err
	}
	if r.freezes, err = repeat(ctx, progress, "freeze", o.freezes, p.freeze); err != nil {
		return r, err
	}
	if r.switchovers, err = repeat(ctx, progress, "switchover", o.switchovers, p.switchover); err != nil {
		return r, err
	}
	if r.unasked, err = p.unasked(ctx); err != nil {
		return r, err
	}
	if err := p.stopAgents(ctx); err != nil {
		return r, err
	}
	s, err := openScript(ctx, p.cluster, p.load, dir)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	r.scripted, err = repeat(ctx, progress, "scripted kill", o.kills, s.round)
	return r, err
}

// repeat runs n rounds and tells what each gave.
func repeat(ctx context.Context, progress io.Writer, what string, n int, one func(context.Context) (round, error)) (series, error) {
	var s series
	for i := range n {
		r, err := one(ctx)
		if err != nil {
			return s, fmt.Errorf("%s %d of %d: %w", what, i+1, n, err)
		}
		s = append(s, r)
		fmt.Fprintf(progress, "%s %d of %d: outage %s ms, %d rows acknowledged, %d lost\n",
			what, i+1, n, millisText(r.values[rowOutage]), r.acknowledged, r.lost)
	}
	return s, nil
}
