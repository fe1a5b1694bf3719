package proxy

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"interrex/router"
)

func TestValidateReportsEveryFault(t *testing.T) {
	err := Config{ReadOnly: "nowhere", HoldTime: -1, HoldConnections: -1, ReplicaGrace: -1, ReadFallback: "any"}.Validate()
	require.Error(t, err)
	for _, part := range []string{"cluster", "read-write address", "read-only address", "hold time", "held connections",
		"number of connections", "connect timeout", "peer timeout", "replica grace", "read fallback"} {
		require.Contains(t, err.Error(), part)
	}

	_, err = New(Config{}, router.NewTable(), zap.NewNop())
	require.ErrorContains(t, err, "configure proxy: ")
}

func TestValidate(t *testing.T) {
	good := DefaultConfig()
	good.Cluster, good.ReadWrite = "rome", "127.0.0.1:6446"
	require.NoError(t, good.Validate())
	for name, change := range map[string]func(*Config){
		"same port":          func(c *Config) { c.ReadOnly = c.ReadWrite },
		"peer timeout short": func(c *Config) { c.PeerTimeout = 999 * time.Millisecond },
		"no connections":     func(c *Config) { c.MaxConnections = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			change(&c)
			require.Error(t, c.Validate())
		})
	}
	any := good
	any.ReadWrite, any.ReadOnly = "127.0.0.1:0", "127.0.0.1:0"
	require.NoError(t, any.Validate())
}

func TestListen(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Cluster, cfg.ReadWrite, cfg.ReadOnly = "rome", "127.0.0.1:0", "127.0.0.1:0"
	first, err := New(cfg, router.NewTable(), zap.NewNop())
	require.NoError(t, err)
	require.ErrorIs(t, first.Run(t.Context()), ErrNotListening)
	require.Empty(t, first.Address(ReadWrite))
	require.NoError(t, first.Listen(t.Context()))
	require.NotEqual(t, first.Address(ReadWrite), first.Address(ReadOnly))

	cfg.ReadOnly = first.Address(ReadOnly)
	second, err := New(cfg, router.NewTable(), zap.NewNop())
	require.NoError(t, err)
	require.ErrorContains(t, second.Listen(t.Context()), "listen for read-only")
	require.NoError(t, first.Close())
	require.NoError(t, second.Close())
}

func TestUnanswered(t *testing.T) {
	const limit = 5 * time.Second
	for _, tc := range []struct {
		name string
		info unix.TCPInfo
		want bool
	}{
		{"idle for an hour", unix.TCPInfo{Last_ack_recv: 3600_000}, false},
		{"busy", unix.TCPInfo{Unacked: 10, Last_ack_recv: 1}, false},
		{"one retransmission on its way", unix.TCPInfo{Unacked: 10, Retransmits: 1, Last_ack_recv: 9_000}, false},
		{"window closed for long, one probe on its way", unix.TCPInfo{Probes: 1, Last_ack_recv: 60_000}, false},
		{"lost for a moment", unix.TCPInfo{Retransmits: 4, Last_ack_recv: 4_999}, false},
		{"lost", unix.TCPInfo{Retransmits: 4, Last_ack_recv: 5_000}, true},
		{"lost with its window closed", unix.TCPInfo{Probes: 2, Last_ack_recv: 20_000}, true},
	} {
		t.Run(tc.name, func(t *testing.T) { require.Equal(t, tc.want, unanswered(&tc.info, limit)) })
	}
}

func TestErrorPacketIsBounded(t *testing.T) {
	p := errorPacket(codeUnavailable, strings.Repeat("x", 10_000))
	require.Len(t, p, 4+3+maxMessage)
	require.Equal(t, []byte{2, 2, 0, 0, 0xff, 0x60, 0x0c, 'x'}, p[:8])
}
