package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"interrex/dbrepl"
	"interrex/internal/config"
)

// defaultConfigFile is where an agent's configuration is.
const defaultConfigFile = "/etc/interrex/agent.yaml"

func newMySQLCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "mysql",
		Short: "Prepare and stop a MySQL server the way interrex needs it",
		Args:  cobra.NoArgs,
	}
	command.AddCommand(newGrantsCommand(), newMySQLPrepareCommand(), newMySQLStopCommand())
	return command
}

func newMySQLStopCommand() *cobra.Command {
	var file string
	var options dbrepl.StopOptions
	command := &cobra.Command{
		Use:   "stop --config FILE",
		Short: "Stop this node's server without acknowledging a commit that waits",
		Long: `Stop this node's server. It is the server's stop hook (ExecStop= of its unit,
see docs/deploy) and should be the only way the server is ever stopped.

A plain stop (SIGTERM, SHUTDOWN, systemctl without this hook) answers every
commit that still waits for a replica with OK, though it is on this server
alone. This command ends the sessions first, closes the server for writes, and
stops it only once no commit can be waiting; where it cannot make sure of that
within --close-limit, it kills the process. InnoDB recovers from that.

It needs the agent's configuration, not the agent. Run it on the server's host,
as the agent's user.

Exit codes: 0 the server has stopped or did not run, 1 it still runs, 2 wrong
usage.`,
		Example: `  sudo -u mysql interrex mysql stop --config /etc/interrex/agent.yaml
  ExecStop=/usr/local/bin/interrex mysql stop --config /etc/interrex/agent.yaml`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if options.CloseLimit <= 0 || options.ExitLimit <= 0 {
				return usageError{errors.New("--close-limit and --exit-limit must be longer than 0s")}
			}
			out := command.OutOrStdout()
			log, warned := newTeller(out)
			instance, err := openInstance(file, log)
			if err != nil {
				return err
			}
			defer func() { _ = instance.Close() }()
			return stopServer(command.Context(), out, instance, options, warned)
		},
	}
	command.Flags().StringVar(&file, "config", defaultConfigFile, "configuration file of this node's agent")
	command.Flags().DurationVar(&options.CloseLimit, "close-limit", 2*time.Second, "how long commits may take to end before the server is killed")
	command.Flags().DurationVar(&options.ExitLimit, "exit-limit", time.Minute, "how long a clean stop may take before the server is killed")
	_ = command.MarkFlagFilename("config") // fails only for a flag that does not exist
	return command
}

// stopServer stops the server and says what became of it. warned tells whether
// it had to be killed.
func stopServer(ctx context.Context, out io.Writer, instance *dbrepl.Instance, o dbrepl.StopOptions, warned *atomic.Bool) error {
	began := time.Now()
	err := instance.StopServer(ctx, o)
	took := time.Since(began).Round(time.Millisecond)
	switch {
	case errors.Is(err, dbrepl.ErrNotLocal) && dbrepl.Classify(instance.Ping(ctx)) == dbrepl.Refused:
		fmt.Fprintf(out, "No server runs here: nobody listens and there is no process (%v).\n", err)
		return nil
	case err != nil:
		return err
	case warned.Load():
		fmt.Fprintf(out, "The server was killed after %s. No client was told of a commit that no replica holds; it recovers when it is started.\n", took)
	default:
		fmt.Fprintf(out, "The server has stopped in order after %s: sessions were ended, no commit was waiting.\n", took)
	}
	return nil
}

func newMySQLPrepareCommand() *cobra.Command {
	var file string
	command := &cobra.Command{
		Use:   "prepare --config FILE",
		Short: "Check and set what an agent relies on in this node's server",
		Long: `Bring this node's server into the state that everything else relies on: plugins,
settings and what the server is at its next start. It sets and persists what the
agent's account may set, never opens or closes the server, and lists what an
operator has to do. It may be repeated at any time.

Exit codes: 0 the server is ready, 1 something is left to do, 2 wrong usage.`,
		Example: "  sudo -u mysql interrex mysql prepare --config /etc/interrex/agent.yaml",
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			out := command.OutOrStdout()
			log, _ := newTeller(out)
			instance, err := openInstance(file, log)
			if err != nil {
				return err
			}
			defer func() { _ = instance.Close() }()
			return prepareServer(command.Context(), out, instance)
		},
	}
	command.Flags().StringVar(&file, "config", defaultConfigFile, "configuration file of this node's agent")
	_ = command.MarkFlagFilename("config") // fails only for a flag that does not exist
	return command
}

func prepareServer(ctx context.Context, out io.Writer, instance *dbrepl.Instance) error {
	err := instance.Prepare(ctx)
	if err == nil {
		fmt.Fprintln(out, "The server is ready.")
		return nil
	}
	faults := joined(err)
	if len(faults) == 0 {
		return err
	}
	fmt.Fprintln(out, "Left to do, by an operator:")
	for _, fault := range faults {
		fmt.Fprintf(out, "  - %v\n", fault)
	}
	return exitError{exitFailed}
}

// joined are the errors that were joined into err; none if it is a single one.
func joined(err error) []error {
	for err != nil {
		if list, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // every level is looked at
			return list.Unwrap()
		}
		err = errors.Unwrap(err)
	}
	return nil
}

// openInstance opens the instance of the agent that the file configures.
func openInstance(file string, log *zap.Logger) (*dbrepl.Instance, error) {
	cfg, err := config.Load(file)
	if err != nil {
		return nil, err
	}
	if cfg.MySQL == nil {
		return nil, fmt.Errorf("%s: member %s has no mysql section, so there is no server here", file, cfg.Node.Name)
	}
	s, err := readSecrets(cfg)
	if err != nil {
		return nil, err
	}
	return dbrepl.Open(instanceConfig(cfg, s), log)
}

// newTeller is a log for the person, or the journal, that reads a command's
// output. warned becomes true with the first warning.
func newTeller(out io.Writer) (log *zap.Logger, warned *atomic.Bool) {
	warned = new(atomic.Bool)
	encoder := zapcore.NewConsoleEncoder(zapcore.EncoderConfig{
		MessageKey: "message", EncodeDuration: zapcore.StringDurationEncoder, ConsoleSeparator: "  ", SkipLineEnding: false,
	})
	core := zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(out)), zapcore.InfoLevel)
	return zap.New(core, zap.Hooks(func(e zapcore.Entry) error {
		if e.Level >= zapcore.WarnLevel {
			warned.Store(true)
		}
		return nil
	})), warned
}
