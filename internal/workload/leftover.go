package workload

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"
)

// DropLeftovers drops the tables of workloads that were killed: those in
// c.Database whose name begins with prefix and to which nothing has been
// written for idle.
func DropLeftovers(ctx context.Context, c Config, prefix string, idle time.Duration) error {
	db, err := open(c, c.Address, 1)
	if err != nil {
		return err
	}
	defer db.Close()
	seconds := int64(idle / time.Second)
	tables, err := oldTables(ctx, db, prefix, seconds)
	if err != nil {
		return fmt.Errorf("find tables %s…: %w", prefix, err)
	}
	for _, table := range tables {
		var left bool
		name := "`" + strings.ReplaceAll(table, "`", "``") + "`"
		err := db.QueryRowContext(ctx, "SELECT COALESCE(MAX(at) <= NOW(6) - INTERVAL ? SECOND, TRUE) FROM "+name, seconds).Scan(&left)
		if err == nil && left {
			_, err = db.ExecContext(ctx, "DROP TABLE IF EXISTS "+name)
		}
		if err != nil {
			return fmt.Errorf("drop table %s, which an earlier run left: %w", table, err)
		}
	}
	return nil
}

func oldTables(ctx context.Context, db *sql.DB, prefix string, seconds int64) ([]string, error) {
	rows, err := db.QueryContext(ctx, `SELECT table_name FROM information_schema.tables
		WHERE table_schema = DATABASE() AND LEFT(table_name, ?) = ? AND create_time <= NOW() - INTERVAL ? SECOND`,
		len(prefix), prefix, seconds)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var tables []string
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			return nil, err
		}
		tables = append(tables, table)
	}
	return tables, rows.Err()
}
