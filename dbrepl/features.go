package dbrepl

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"
)

// features is what a probe may ask an instance for. All of it can appear while
// the server runs, so what is absent is looked for again by each probe.
type features struct {
	source, replica, clone bool // plugins
	marker                 bool // the marker table exists and is readable
}

func (f features) complete() bool { return f.source && f.replica && f.marker }

// querier is a connection or a pool.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// discover looks for the features and remembers them.
func (i *Instance) discover(ctx context.Context, q querier) (features, error) {
	var f features
	var version string
	err := q.QueryRowContext(ctx, `SELECT @@global.version,
		COALESCE(SUM(plugin_name = 'rpl_semi_sync_source'), 0), COALESCE(SUM(plugin_name = 'rpl_semi_sync_replica'), 0),
		COALESCE(SUM(plugin_name = 'clone'), 0)
		FROM information_schema.plugins WHERE plugin_status = 'ACTIVE'`).
		Scan(&version, &f.source, &f.replica, &f.clone)
	if err != nil {
		return f, err
	}
	if err := checkVersion(version); err != nil {
		return f, err
	}
	_, _, err = i.readMarker(ctx, q)
	switch {
	case err == nil:
		f.marker = true
	case isServerError(err, errUnknownDatabase, errNoSuchTable, errCommandDenied, errAccessDeniedDB):
	default:
		return f, err
	}
	i.known.Store(&f)
	return f, nil
}

// checkVersion refuses what has other words than ours: MariaDB, and MySQL
// before 8.0.26, which has no source/replica names for semi-sync.
func checkVersion(version string) error {
	if strings.Contains(version, "MariaDB") {
		return fmt.Errorf("%w: %s (MySQL 8.0.26 or later is needed)", ErrUnsupported, version)
	}
	number, _, _ := strings.Cut(version, "-")
	var have [3]int
	for n, word := range strings.SplitN(number, ".", 3) {
		v, err := strconv.Atoi(word)
		if err != nil {
			return fmt.Errorf("%w: version %q is not understood", ErrUnsupported, version)
		}
		have[n] = v
	}
	for n, least := range [3]int{8, 0, 26} {
		if have[n] > least {
			return nil
		}
		if have[n] < least {
			return fmt.Errorf("%w: %s (MySQL 8.0.26 or later is needed)", ErrUnsupported, version)
		}
	}
	return nil
}
