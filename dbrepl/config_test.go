package dbrepl

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/gtid"
)

func TestConfigReportsEveryFault(t *testing.T) {
	good := Config{Address: "127.0.0.1:3306", User: "u", ReplUser: "r"}
	require.NoError(t, good.Validate())
	require.Equal(t, DefaultConfig(), Config{}.withDefaults())
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"nowhere":          {func(c *Config) { c.Address = "" }, "no address"},
		"no port":          {func(c *Config) { c.Address = "host" }, "host:port"},
		"no user":          {func(c *Config) { c.User = "" }, "no user"},
		"no replication":   {func(c *Config) { c.ReplUser = "" }, "no replication user"},
		"schema":           {func(c *Config) { c.Schema = "a`b" }, "schema"},
		"parts of seconds": {func(c *Config) { c.NetTimeout = 1500 * time.Millisecond }, "whole number"},
		"heartbeat":        {func(c *Config) { c.HeartbeatPeriod = 3 * time.Second }, "longer than the heartbeat"},
		"negative":         {func(c *Config) { c.QueryTimeout = -1 }, "query timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := good
			c.change(&bad)
			require.ErrorContains(t, bad.Validate(), c.want)
		})
	}
	all := Config{Schema: "1"}.Validate().Error()
	require.Equal(t, 4, len(strings.Split(all, "\n")), all)
}

func TestTimesFitTheFreshnessOfEvidence(t *testing.T) {
	for _, c := range []struct{ freshness, heartbeat, timeout time.Duration }{
		{time.Second, 500 * time.Millisecond, 2 * time.Second},       // lan
		{6 * time.Second, 3 * time.Second, 12 * time.Second},         // wan
		{50 * time.Millisecond, 100 * time.Millisecond, time.Second}, // the shortest
		{1300 * time.Millisecond, 650 * time.Millisecond, 3 * time.Second},
		{5 * time.Minute, 30 * time.Second, 2 * time.Minute}, // the longest
	} {
		got := Config{Address: "127.0.0.1:3306", User: "u", ReplUser: "r"}.FitTo(c.freshness)
		require.Equal(t, c.heartbeat, got.HeartbeatPeriod, c.freshness)
		require.Equal(t, c.timeout, got.NetTimeout, c.freshness)
		require.NoError(t, got.Validate())
	}
	lan := DefaultConfig().FitTo(time.Second)
	require.Equal(t, DefaultConfig().HeartbeatPeriod, lan.HeartbeatPeriod, "the defaults are those of lan")
	require.Equal(t, DefaultConfig().NetTimeout, lan.NetTimeout)
}

func TestCheckVersion(t *testing.T) {
	for version, ok := range map[string]bool{
		"8.0.26": true, "8.0.25": false, "8.4.0": true, "9.7.4-2": true, "8.0.36-28.1": true, "10.0.1": true,
		"5.7.44-log": false, "10.11.6-MariaDB": false, "8.1.0": true, "x": false, "": false,
	} {
		err := checkVersion(version)
		if ok {
			require.NoError(t, err, version)
		} else {
			require.ErrorIs(t, err, ErrUnsupported, version)
		}
	}
}

func TestGrantsGiveNoMoreThanNeeded(t *testing.T) {
	text := strings.Join(Grants(GrantSpec{
		Controller: Account{"c", "%", `p'\w`}, Repl: []Account{{"r", "%", "x"}}, Clone: []Account{{"k", "%", "y"}},
	}), ";\n")
	for _, never := range []string{"SUPER", "FILE", "SHUTDOWN", "ALL PRIVILEGES", "GRANT CREATE USER", "GRANT SELECT ON *.*", "GRANT SELECT ON mysql"} {
		require.NotContains(t, text, never)
	}
	require.Contains(t, text, `IDENTIFIED BY 'p''\\w'`)
	require.True(t, strings.HasPrefix(text, "SET SESSION sql_log_bin = OFF"), "no errant transactions")
	require.Contains(t, text, "GRANT REPLICATION SLAVE ON *.* TO 'r'@'%'")
	require.Contains(t, text, "CREATE TABLE IF NOT EXISTS `interrex`.marker")
	require.Equal(t, 4, strings.Count(text, "CREATE USER IF"), "the three, and the controller's for ending threads")
	require.Equal(t, 1, strings.Count(text, "GRANT OPTION"))
	require.Contains(t, text, "GRANT REPLICATION SLAVE ON *.* TO 'c'@'%' WITH GRANT OPTION")

	one := Account{"u", "%", "x"}
	text = strings.Join(Grants(GrantSpec{Controller: one, Repl: []Account{one}, Clone: []Account{one}}), ";\n")
	require.Equal(t, 2, strings.Count(text, "CREATE USER"), "one account in all roles is made once, and that for ending threads")
	require.Contains(t, text, "CLONE_ADMIN, REPLICATION SLAVE, BACKUP_ADMIN ON *.* TO 'u'@'%'")
	require.Empty(t, GrantReason("SUPER"))
}

// TestOwnedGTIDs: as the server prints them, also where a thread's number runs
// into the digits of the next UUID.
func TestOwnedGTIDs(t *testing.T) {
	const a, b = "b47e44e7-e6c1-11f1-a562-02fc00000001", "12345678-e6c1-11f1-85ec-02fc00000001"
	for text, want := range map[string]string{
		"":                              "",
		a + ":31#45":                    a + ":31",
		a + ":31#45:33#46":              a + ":31:33",
		a + ":31#45" + b + ":7#8":       a + ":31," + b + ":7",
		a + ":31#45," + b + ":7#8":      a + ":31," + b + ":7",
		a + ":tag:31#45\n" + b + ":7#8": a + ":tag:31," + b + ":7",
	} {
		got, err := parseOwned(text)
		require.NoError(t, err, text)
		require.True(t, got.Equal(gtid.MustParse(want)), "%s: %s", text, got)
	}
}

func TestCloneEnded(t *testing.T) {
	for _, c := range []struct {
		state string
		ended bool
		says  string
	}{
		{"Completed", true, ""},
		{"In Progress", false, "still says that it is in progress"}, // a moment after its restart
		{"Failed", true, "it is Failed: disk full"},
		{"Not Started", true, "it is Not Started"},
	} {
		ended, err := cloneEnded(c.state, "disk full")
		require.Equal(t, c.ended, ended, c.state)
		if c.says == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, c.says)
		}
	}
}
