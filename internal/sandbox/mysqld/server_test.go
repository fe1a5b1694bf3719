package mysqld_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"interrex/internal/sandbox/mysqld/mysqldtest"
)

func initSQL() []string {
	return []string{
		"CREATE USER 'tester'@'%' IDENTIFIED BY 'tester'",
		"GRANT ALL ON *.* TO 'tester'@'%' WITH GRANT OPTION",
	}
}

func rss(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "VmRSS") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func TestServerStartsClosed(t *testing.T) {
	began := time.Now()
	server := mysqldtest.Start(t, initSQL(), 7)
	t.Logf("started after %v, %s", time.Since(began), rss(t, server.PID()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, addr := range []string{server.Addr, server.AdminAddr} {
		db, err := sql.Open("mysql", "tester:tester@tcp("+addr+")/")
		require.NoError(t, err)
		defer db.Close()
		var readOnly, source, replica, clone, uuid, gtids string
		require.NoError(t, db.QueryRowContext(ctx, `SELECT @@super_read_only, @@rpl_semi_sync_source_enabled, @@rpl_semi_sync_replica_enabled,
			(SELECT plugin_status FROM information_schema.plugins WHERE plugin_name='clone'), @@server_uuid, @@gtid_executed`).
			Scan(&readOnly, &source, &replica, &clone, &uuid, &gtids))
		require.Equal(t, []string{"1", "0", "0", "ACTIVE", ""}, []string{readOnly, source, replica, clone, gtids})
		_, err = db.ExecContext(ctx, "CREATE DATABASE d")
		require.ErrorContains(t, err, "super-read-only")
	}
}
