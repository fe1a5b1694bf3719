package config_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/config"
)

var update = flag.Bool("update", false, "write the golden files anew")

// valid is a member of a three-node cluster on loopback.
const valid = base + "gossip: {key_file: gossip.key}\nsecurity: {member_token_file: member.token}\n"

// base is valid without the secrets of the members.
const base = `cluster:
  name: shop
  members:
    - {name: db1, host: 127.0.0.1, mysql: "127.0.0.1:3306", ports: {api: 8460, gossip: 8461, etcd_client: 8462, etcd_peer: 8463}}
    - {name: db2, host: 127.0.0.1, mysql: "127.0.0.1:3307", ports: {api: 8470, gossip: 8471, etcd_client: 8472, etcd_peer: 8473}}
    - {name: db3, host: 127.0.0.1, mysql: "127.0.0.1:3308", ports: {api: 8480, gossip: 8481, etcd_client: 8482, etcd_peer: 8483}, priority: -1}
node:
  name: db1
mysql:
  password_file: mysql.password
  replication_password_file: repl.password
`

// TestFaultsAreToldAllAtOnce compares what Parse says of each faulty file in
// testdata with the .golden file beside it.
func TestFaultsAreToldAllAtOnce(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			_, err = config.Parse(filepath.Base(file), data)
			var faults config.Faults
			require.ErrorAs(t, err, &faults)
			checkGolden(t, strings.TrimSuffix(file, ".yaml")+".golden", err.Error()+"\n")
		})
	}
}

func checkGolden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestValidFileHasItsDefaults(t *testing.T) {
	cfg, err := config.Parse("agent.yaml", []byte(valid))
	require.NoError(t, err)
	require.Equal(t, "/var/lib/interrex/etcd", cfg.Etcd.DataDir)
	require.Equal(t, "127.0.0.1:3306", cfg.MySQL.Address)
	require.Equal(t, 50*time.Millisecond, cfg.Etcd.Heartbeat)
	require.Equal(t, config.Bytes(128<<20), cfg.Etcd.Quota)
	require.True(t, cfg.Cluster.Members[2].Voter)
	require.Equal(t, -1, cfg.Cluster.Members[2].Priority)
	require.True(t, cfg.Failover.Automatic)
	require.Equal(t, []string{"mysqlbinlog"}, cfg.MySQL.Mysqlbinlog)
	self := cfg.Self()
	require.Equal(t, "127.0.0.1:8460", self.API)
	require.Equal(t, "127.0.0.1:6446", self.RW)
	require.Len(t, cfg.Members(), 3)
	require.Equal(t, "127.0.0.1:8483", cfg.Voters()[2].EtcdPeerAddress())
}

func TestProfiles(t *testing.T) {
	lan, err := config.Parse("", []byte(valid))
	require.NoError(t, err)
	wan, err := config.Parse("", []byte(valid+"detection: {profile: wan}\n"))
	require.NoError(t, err)
	custom, err := config.Parse("", []byte(valid+"detection: {profile: custom, misses: 5}\n"))
	require.NoError(t, err)
	require.Less(t, lan.Detection.SilentHost(), time.Second)
	require.Greater(t, wan.Detection.SilentHost(), lan.Detection.SilentHost())
	require.Equal(t, 50*time.Millisecond, lan.Etcd.Heartbeat)
	require.Equal(t, 250*time.Millisecond, wan.Etcd.Heartbeat)
	require.Equal(t, 2500*time.Millisecond, wan.Etcd.Election)
	set, err := config.Parse("", []byte(valid+"detection: {profile: wan}\netcd: {election: 1s}\n"))
	require.NoError(t, err)
	require.Equal(t, 50*time.Millisecond, set.Etcd.Heartbeat, "who sets one has chosen both")
	require.Equal(t, 5, custom.Detection.Misses)
	require.Equal(t, lan.Detection.ProbeInterval, custom.Detection.ProbeInterval)
	_, err = config.Parse("", []byte(valid+"detection: {profile: wan, misses: 5}\n"))
	require.ErrorContains(t, err, "detection.misses: has no effect with profile: wan; set detection.profile: custom")
}

func TestUnreadableFileIsNotAFault(t *testing.T) {
	_, err := config.Load(filepath.Join(t.TempDir(), "none.yaml"))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "`interrex config example` prints one")
	var faults config.Faults
	require.False(t, errors.As(err, &faults))
}
