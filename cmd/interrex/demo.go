package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"interrex/internal/demo"
	"interrex/internal/sandbox"
)

// demoOptions are what the demo's flags say.
type demoOptions struct {
	dir     string // of the sandbox; empty for a temporary one
	keep    bool
	writers int
}

// newDemoCommand shows a failover and a switchover on real servers under load.
func newDemoCommand() *cobra.Command {
	var o demoOptions
	command := &cobra.Command{
		Use:   "demo",
		Short: "Kill the primary of three real servers under load and watch it fail over",
		Long: `Bring up three real MySQL servers with an agent each, and a small Gin service
behind nginx; put writes on them; kill the primary with SIGKILL; bring it back;
and switch over to it again. What happens is told as it happens, and at the end
what clients saw: the longest outage, failed requests, and lost rows, checked
row by row on every server.

Needs no root and changes nothing on the host. MySQL and nginx are fetched from
the distribution into the user's cache where they are missing. Everything is
taken down at the end, or when interrupted, unless --keep says otherwise.

Exit code 0 means: the cluster got healthy after each step, and no acknowledged
row is missing anywhere.`,
		Example: `  interrex demo
  interrex demo --keep --dir /tmp/demo   look around afterwards
  interrex status --dir /tmp/demo
  interrex sandbox down --dir /tmp/demo`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if o.writers < 1 || o.writers > 200 {
				return usageError{fmt.Errorf("--writers %d: it must be from 1 to 200", o.writers)}
			}
			// A terminal that is closed, or a pipe that nobody reads any more,
			// must not leave a cluster behind.
			ctx, stop := signal.NotifyContext(command.Context(), syscall.SIGHUP)
			defer stop()
			broken := make(chan os.Signal, 1)
			signal.Notify(broken, syscall.SIGPIPE) // or the first write would end us
			defer signal.Stop(broken)
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			s := newScreen(command.OutOrStdout())
			s.out = &audience{Writer: s.out, gone: cancel}
			return runDemo(ctx, s, o)
		},
	}
	command.Flags().BoolVar(&o.keep, "keep", false, "leave everything running and say where it is")
	command.Flags().StringVar(&o.dir, "dir", "", "folder to work in; new or empty (default a temporary one)")
	command.Flags().IntVar(&o.writers, "writers", 8, "how many SQL clients write at the same time")
	command.AddCommand(newDemoTierCommand())
	return command
}

// audience is where the demo prints to; gone is called when nobody reads it any
// more.
type audience struct {
	io.Writer
	gone func()
}

func (a *audience) Write(p []byte) (int, error) {
	n, err := a.Writer.Write(p)
	if err != nil {
		a.gone()
	}
	return n, err
}

// newDemoTierCommand is the background process with the Gin tier and nginx.
func newDemoTierCommand() *cobra.Command {
	var dir string
	command := &cobra.Command{
		Use:    "tier",
		Short:  "Run the services and the nginx of a demo",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return demo.Supervise(command.Context(), dir)
		},
	}
	command.Flags().StringVar(&dir, "dir", "", "folder of the sandbox")
	_ = command.MarkFlagRequired("dir") // fails only for a flag that does not exist
	return command
}

// runDemo runs the demo and takes down what it brought up, unless it is to be
// kept; when interrupted, also then.
func runDemo(ctx context.Context, s screen, o demoOptions) error {
	d, err := newDemoRun(s, o)
	if err != nil {
		return err
	}
	err = d.run(ctx)
	interrupted := ctx.Err() != nil
	if d.up && o.keep && !interrupted {
		d.stopLoad()
		d.printKept()
		return err
	}
	if interrupted {
		err = errors.New("interrupted")
	}
	return errors.Join(err, d.takeDown(context.WithoutCancel(ctx)))
}

// demoDir is the folder to work in.
func demoDir(asked string) (string, error) {
	if asked == "" {
		dir, err := os.MkdirTemp("", "interrex-demo-")
		if err != nil {
			return "", fmt.Errorf("make folder of demo: %w", err)
		}
		return dir, nil
	}
	dir, err := filepath.Abs(asked)
	if err != nil {
		return "", fmt.Errorf("find folder of demo: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read folder of demo: %w", err)
	}
	if len(entries) > 0 {
		return "", usageError{fmt.Errorf("--dir %s is not empty; name a new folder (a demo that was kept there is ended by `interrex sandbox down --dir %s`)", asked, asked)}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make folder of demo: %w", err)
	}
	return dir, nil
}

// findDemoapp finds the Gin service: beside this program, or on PATH.
func findDemoapp(program string) (string, error) {
	beside := filepath.Join(filepath.Dir(program), "demoapp")
	if path, err := exec.LookPath(beside); err == nil {
		return path, nil
	}
	if path, err := exec.LookPath("demoapp"); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("find demoapp: there is none at %s nor on PATH\n  fix:   `make build` builds both, or `go build -o %s ./cmd/demoapp`", beside, beside)
}

// endSandbox ends the web tier of a demo, if there is one, and the sandbox.
func endSandbox(ctx context.Context, cluster sandbox.Cluster) error {
	return errors.Join(demo.Stop(ctx, cluster.Dir()), cluster.Down(ctx))
}
