package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// The exit codes, besides 0 for done.
const (
	exitFailed  = 1 // an error
	exitUsage   = 2 // wrong usage; nothing was done
	exitRefused = 3 // a gate refused the operation; nothing was changed
	exitMissed  = 4 // a drill's objectives were missed
)

// exitHelp ends the help of commands whose exit codes scripts look at.
const exitHelp = `

Exit codes: 0 done, 1 error, 2 wrong usage, 3 refused by a gate (nothing
changed), 4 objectives missed (drill).`

// exitError carries the exit code of a command that has already said what is
// wrong.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit %d", e.code) }

// usageError is an error in how a command was called.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// execute runs the command line, prints its error and returns the exit code.
func execute(ctx context.Context, root *cobra.Command, errOut io.Writer) int {
	// Cobra has no type for faults in flags and arguments: they are those that
	// come before a command starts.
	started := false
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	command, err := root.ExecuteContextC(ctx)
	if err != nil && !started {
		err = usageError{err}
	}
	code := exitCode(err)
	var said exitError
	if err == nil || errors.As(err, &said) {
		return code
	}
	fmt.Fprintf(errOut, "interrex: %v\n", err)
	if code == exitUsage {
		fmt.Fprintf(errOut, "See %s --help\n", command.CommandPath())
	}
	return code
}

func exitCode(err error) int {
	var (
		said    exitError
		usage   usageError
		refused *problemError
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &said):
		return said.code
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &refused) && refused.refused():
		return exitRefused
	}
	return exitFailed
}
