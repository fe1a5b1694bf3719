package dbrepl

import "strings"

// Account is a MySQL account and its password.
type Account struct {
	User, Host string // Host as in CREATE USER: %, an address, a subnet
	Password   string
}

// GrantSpec says whom Grants makes.
type GrantSpec struct {
	Schema     string  // default interrex
	Controller Account // the agent of this node, on its own instance
	Repl       Account // replicas, on their source
	Clone      Account // an instance that is rebuilt, on its donor
}

// controllerPrivileges are the global ones a controller needs, each with its
// reason. Nothing of an application's is readable with them.
var controllerPrivileges = []struct{ name, reason string }{
	{"REPLICATION CLIENT", "read binary log names"},
	{"PROCESS", "see sessions and open transactions of others"},
	{"RELOAD", "RESET REPLICA"},
	{"REPLICATION_SLAVE_ADMIN", "start, stop and point the receiver and the applier"},
	{"SYSTEM_VARIABLES_ADMIN", "read_only, semi-sync and offline_mode"},
	{"PERSIST_RO_VARIABLES_ADMIN", "persist what the instance is at its next start, without changing what it is now"},
	{"CONNECTION_ADMIN", "end sessions; write the marker while the instance is closed for others"},
	{"SERVICE_CONNECTION_ADMIN", "use the administrative listener"},
	{"CLONE_ADMIN", "rebuild the instance from a donor"},
}

// Grants returns the statements that prepare an instance for its controller:
// the three accounts with the least privileges, the schema and the marker
// table. They are for a privileged account, in one session, on every instance
// for itself: the first one keeps them out of the binary log, so that no
// instance gets transactions the others lack. They may be repeated.
func Grants(spec GrantSpec) []string {
	if spec.Schema == "" {
		spec.Schema = DefaultConfig().Schema
	}
	statements := []string{"SET SESSION sql_log_bin = OFF"}
	user := func(a Account) string {
		name := quote(a.User) + "@" + quote(a.Host)
		statements = append(statements,
			"CREATE USER IF NOT EXISTS "+name+" IDENTIFIED BY "+quote(a.Password))
		return name
	}
	controller := user(spec.Controller)
	var static, dynamic []string
	for _, p := range controllerPrivileges {
		if strings.Contains(p.name, "_") {
			dynamic = append(dynamic, p.name)
		} else {
			static = append(static, p.name)
		}
	}
	statements = append(statements,
		"GRANT "+strings.Join(static, ", ")+" ON *.* TO "+controller,
		"GRANT "+strings.Join(dynamic, ", ")+" ON *.* TO "+controller,
		"GRANT SELECT ON performance_schema.* TO "+controller)
	repl := user(spec.Repl)
	statements = append(statements, "GRANT REPLICATION SLAVE ON *.* TO "+repl)
	clone := user(spec.Clone)
	statements = append(statements, "GRANT BACKUP_ADMIN ON *.* TO "+clone)
	statements = append(statements,
		"CREATE SCHEMA IF NOT EXISTS `"+spec.Schema+"`",
		markerDDL(spec.Schema),
		"GRANT ALL ON `"+spec.Schema+"`.* TO "+controller)
	return append(statements, "SET SESSION sql_log_bin = ON")
}

// markerDDL makes the table of the epoch markers, one row per epoch.
func markerDDL(schema string) string {
	return "CREATE TABLE IF NOT EXISTS `" + schema + "`.marker (" +
		"epoch BIGINT UNSIGNED NOT NULL PRIMARY KEY, " +
		"node VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, " +
		"written_at DATETIME(6) NOT NULL) ENGINE=InnoDB"
}

func (i *Instance) markerTable() string { return "`" + i.cfg.Schema + "`.marker" }

// quote makes a string literal for a session in the server's default sql_mode.
func quote(s string) string {
	if !strings.Contains(s, `\`) {
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	return "'" + strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), "'", "''") + "'"
}
