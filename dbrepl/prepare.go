package dbrepl

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"go.uber.org/zap"
)

// setting is a variable an instance must have, and how it may come to it.
type setting struct {
	name, want string
	// fixed ones can be changed by the operator only: in the server's
	// configuration file, or in more than one step.
	fixed bool
}

// required are the variables that durability and replication rest on.
var required = [...]setting{
	{"gtid_mode", "ON", true},
	{"enforce_gtid_consistency", "ON", true},
	{"log_bin", "ON", true},
	{"log_replica_updates", "ON", true},
	{"binlog_format", "ROW", true},
	{"skip_replica_start", "ON", true},
	{"replica_preserve_commit_order", "ON", true},
	{"performance_schema", "ON", true},
	{"sync_binlog", "1", false},
	{"innodb_flush_log_at_trx_commit", "1", false},
}

// atStart is what an instance must be at each start (I6), whatever it is now.
// It is persisted for the next start alone: an operation may open the instance
// or give it its role at the same moment, and must find nothing undone.
var atStart = [...]setting{
	{name: "read_only", want: "ON"},
	{name: "super_read_only", want: "ON"},
	{name: "rpl_semi_sync_source_enabled", want: "OFF"},
	{name: "rpl_semi_sync_replica_enabled", want: "OFF"},
}

// plugins are what must be loaded, with the file of each.
var plugins = [...]struct{ name, file string }{
	{"rpl_semi_sync_source", "semisync_source.so"},
	{"rpl_semi_sync_replica", "semisync_replica.so"},
	{"clone", "mysql_clone.so"},
}

// Prepare brings the instance into the state that all else relies on: plugins
// loaded, the marker table there, privileges complete, settings as they must
// be now and at the next start. It changes only what differs and what it is
// allowed to, never whether the instance is open now, and persists what it
// changes. All that an operator has to do is in the joined error, with the
// statement or setting; until then the instance should not be used. It may be
// repeated at any time.
func (i *Instance) Prepare(ctx context.Context) error {
	f, err := i.discover(ctx, i.command)
	if err != nil {
		return fmt.Errorf("prepare instance: %w", err)
	}
	var faults []error
	faults = append(faults, preparePrivileges(ctx, i.command, i.cfg.User, controllerPrivileges)...)
	faults = append(faults, preparePrivileges(ctx, i.killer, killerOf(i.cfg.User), killerPrivileges)...)
	faults = append(faults, i.preparePlugins(ctx, f)...)
	if !f.marker {
		faults = append(faults, fmt.Errorf("table %s cannot be read: run the statements of `interrex mysql grants`", i.markerTable()))
	}
	values, err := i.variables(ctx, "SELECT variable_name, variable_value FROM performance_schema.global_variables")
	if err != nil {
		return fmt.Errorf("prepare instance: %w", err)
	}
	persisted, err := i.variables(ctx, "SELECT variable_name, variable_value FROM performance_schema.persisted_variables")
	if err != nil {
		return fmt.Errorf("prepare instance: %w", err)
	}
	faults = append(faults, i.prepareSettings(ctx, values)...)
	faults = append(faults, i.prepareStart(ctx, values, persisted)...)
	if len(faults) > 0 {
		return fmt.Errorf("prepare instance: %w", errors.Join(faults...))
	}
	return nil
}

// ownPrivileges are the rows of information_schema.user_privileges that are of the
// account that asks.
const ownPrivileges = `grantee = CONCAT("'", SUBSTRING_INDEX(CURRENT_USER(), '@', 1), "'@'", SUBSTRING_INDEX(CURRENT_USER(), '@', -1), "'")`

// preparePrivileges names what the account lacks that db logs in with.
func preparePrivileges(ctx context.Context, db *sql.DB, user string, wanted []privilege) (faults []error) {
	rows, err := db.QueryContext(ctx, "SELECT privilege_type FROM information_schema.user_privileges WHERE "+ownPrivileges)
	if err != nil {
		return []error{fmt.Errorf("read the privileges of %s, an account that `interrex mysql grants` makes: %w", user, err)}
	}
	defer rows.Close()
	has := map[string]bool{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return []error{fmt.Errorf("read the privileges of %s: %w", user, err)}
		}
		has[name] = true
	}
	if err := rows.Err(); err != nil {
		return []error{fmt.Errorf("read the privileges of %s: %w", user, err)}
	}
	for _, p := range wanted {
		if !has[p.name] {
			faults = append(faults, fmt.Errorf("privilege %s is missing (%s): GRANT %s ON *.* TO %s", p.name, p.reason, p.name, quote(user)))
		}
	}
	return faults
}

func (i *Instance) preparePlugins(ctx context.Context, f features) (faults []error) {
	for n, loaded := range [...]bool{f.source, f.replica, f.clone} {
		if loaded {
			continue
		}
		statement := fmt.Sprintf("INSTALL PLUGIN %s SONAME '%s'", plugins[n].name, plugins[n].file)
		// Allowed to few accounts, and never on a closed instance.
		if err := i.order(ctx, statement); err != nil {
			faults = append(faults, fmt.Errorf("plugin %s is not loaded (%w): %s, or plugin-load-add=%s=%s in the configuration file",
				plugins[n].name, err, statement, plugins[n].name, plugins[n].file))
			continue
		}
		i.log.Info("plugin loaded", zap.String("plugin", plugins[n].name))
	}
	return faults
}

func (i *Instance) prepareSettings(ctx context.Context, values map[string]string) (faults []error) {
	if values["server_id"] == "0" {
		faults = append(faults, errors.New("server_id is 0: give every instance its own in the configuration file"))
	}
	netTimeout := setting{"replica_net_timeout", fmt.Sprintf("%.0f", i.cfg.NetTimeout.Seconds()), false}
	for _, s := range append(required[:], netTimeout) {
		have := values[s.name]
		if strings.EqualFold(have, s.want) {
			continue
		}
		if s.fixed {
			faults = append(faults, fmt.Errorf("%s is %s: set %s=%s in the configuration file and restart", s.name, have, s.name, s.want))
			continue
		}
		if err := i.order(ctx, "SET PERSIST "+s.name+" = "+s.want); err != nil {
			faults = append(faults, fmt.Errorf("%s is %s: SET PERSIST %s = %s: %w", s.name, have, s.name, s.want, err))
			continue
		}
		i.log.Info("setting persisted", zap.String("name", s.name), zap.String("was", have), zap.String("is", s.want))
	}
	return faults
}

func (i *Instance) prepareStart(ctx context.Context, values, persisted map[string]string) (faults []error) {
	for _, s := range atStart {
		_, known := values[s.name]
		if !known || persisted[s.name] == s.want { // a missing plugin is told of elsewhere
			continue
		}
		if err := i.order(ctx, "SET PERSIST_ONLY "+s.name+" = "+s.want); err != nil {
			faults = append(faults, fmt.Errorf("%s is not known to be %s at the next start: SET PERSIST_ONLY %s = %s: %w", s.name, s.want, s.name, s.want, err))
			continue
		}
		i.log.Info("setting persisted for the next start", zap.String("name", s.name), zap.String("is", s.want))
	}
	return faults
}

func (i *Instance) variables(ctx context.Context, query string) (map[string]string, error) {
	rows, err := i.command.QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("read variables: %w", err)
	}
	defer rows.Close()
	values := map[string]string{}
	for rows.Next() {
		var name string
		var value sql.NullString
		if err := rows.Scan(&name, &value); err != nil {
			return nil, fmt.Errorf("read variables: %w", err)
		}
		values[strings.ToLower(name)] = value.String
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read variables: %w", err)
	}
	return values, nil
}
