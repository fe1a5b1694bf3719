package main

import (
	"context"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"

	"interrex/election"
	"interrex/election/embedded"
	"interrex/internal/topology"
)

// newEtcdCommand is the embedded etcd member: a child process that the agent
// starts and supervises. Nobody has a reason to run it by hand.
func newEtcdCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:    "etcd --config FILE",
		Short:  "Run the etcd member that the agent supervises",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := embedded.ReadChildConfig(file)
			if err != nil {
				return err
			}
			return embedded.Main(cmd.Context(), cfg, func(ctx context.Context, store clientv3.KV) (bool, error) {
				return election.MayVote(ctx, store, cfg.Cluster, topology.NodeName(cfg.Name))
			})
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "configuration written by the agent")
	_ = cmd.MarkFlagRequired("config") // fails only for a flag that does not exist
	return cmd
}
