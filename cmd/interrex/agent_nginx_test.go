package main

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"interrex/failover"
	"interrex/internal/topology"
	"interrex/router"
	"interrex/router/nginx"
)

// TestNodeTellsOfItsNginx: what keeps an nginx from following is in what the node
// says of itself.
func TestNodeTellsOfItsNginx(t *testing.T) {
	cfg := nginx.DefaultConfig()
	cfg.File = filepath.Join(t.TempDir(), "nginx.conf") // is not there
	cfg.Upstreams = []nginx.Upstream{{Context: nginx.Stream, Name: "db", Role: nginx.RW, Via: nginx.Direct}}
	table := router.NewTable()
	_, err := table.Apply(router.Route{Epoch: 7, Phase: router.Open, Primary: &router.Backend{Node: "db1", Address: "10.0.0.1:3306"}})
	require.NoError(t, err)
	r, err := nginx.New(cfg, table, zap.NewNop())
	require.NoError(t, err)
	a := &agent{nginx: []*nginx.Rewriter{r}}
	keeper, err := failover.NewKeeper(failover.KeeperConfig{
		Member: topology.Member{Name: "db1"}, PromiseFile: filepath.Join(t.TempDir(), "promises.json"), Nginx: a.nginxFiles,
	}, nil, nil, nil, table, zap.NewNop())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- r.Run(ctx) }()
	require.Eventually(t, func() bool {
		st, err := keeper.Status(t.Context())
		require.NoError(t, err)
		return len(st.Nginx) == 1 && st.Nginx[0].File == cfg.File && st.Nginx[0].Wanted == 7 && st.Nginx[0].Epoch == 0 &&
			st.Nginx[0].Error != "" && st.Nginx[0].ErrorFor > 0
	}, 20*time.Second, 10*time.Millisecond)
	cancel()
	require.NoError(t, <-ended)
}
