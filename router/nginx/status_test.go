package nginx

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"interrex/router"
)

// TestErrorIsSaidAgain: one line when it begins is overlooked; one at each try
// would hide the others.
func TestErrorIsSaidAgain(t *testing.T) {
	core, logs := observer.New(zap.ErrorLevel)
	cfg := DefaultConfig()
	cfg.File, cfg.PIDFile, cfg.Upstreams = "/etc/nginx/nginx.conf", "/run/nginx.pid", []Upstream{rwUpstream()}
	r, err := New(cfg, router.NewTable(), zap.New(core))
	require.NoError(t, err)
	r.note(opened(1, "10.0.0.1:3306"), nil, 0, nil)
	route, broken := opened(2, "10.0.0.2:3306"), errors.New("unknown directive")
	for range 3 {
		r.note(route, nil, 0, broken)
	}
	require.Equal(t, 1, logs.Len())
	since := r.Status().ErrorSince
	require.NotZero(t, since)

	r.said = r.said.Add(-sayAgain)
	for range 3 {
		r.note(route, nil, 0, broken)
	}
	require.Equal(t, 2, logs.Len())
	said := logs.All()[1].ContextMap()
	require.True(t, since.Equal(said["since"].(time.Time)))
	delete(said, "since")
	require.Equal(t, map[string]any{"file": cfg.File, "epoch": uint64(2), "leads_by_epoch": uint64(1), "error": "unknown directive"}, said)
	require.Equal(t, since, r.Status().ErrorSince, "it is the same")

	r.note(route, nil, 0, nil)
	r.note(route, nil, 0, broken)
	require.Equal(t, 3, logs.Len(), "it is another one")
	require.False(t, r.Status().Stopped)
	r.note(route, nil, 0, fmt.Errorf("%w: no pid file", ErrNotRunning))
	require.True(t, r.Status().Stopped)
	require.WithinDuration(t, time.Now(), r.Status().ErrorSince, time.Minute)
}
