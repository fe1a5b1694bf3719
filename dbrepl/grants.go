package dbrepl

import (
	"slices"
	"strings"
)

// Account is a MySQL account and its password.
type Account struct {
	User, Host string // Host as in CREATE USER: %, an address, a subnet
	Password   string
}

// GrantSpec says whom Grants makes.
type GrantSpec struct {
	Schema     string    // default interrex
	Controller Account   // the agent of this node, on its own instance
	Repl       []Account // replicas, on their source: one for each member
	Clone      []Account // an instance that is rebuilt, on its donor
}

// privilege is one that Grants grants, and what it is for.
type privilege struct{ name, reason string }

// controllerPrivileges are the global ones a controller needs. Nothing of an
// application's is readable with them.
var controllerPrivileges = []privilege{
	{"REPLICATION CLIENT", "see where the binary log is"},
	{"PROCESS", "see whether commits wait, whoever's they are"},
	{"RELOAD", "forget a former source (RESET REPLICA)"},
	{"REPLICATION_SLAVE_ADMIN", "stop, start and point the receiver and the applier"},
	{"SYSTEM_VARIABLES_ADMIN", "open and close the server, set semi-sync"},
	{"PERSIST_RO_VARIABLES_ADMIN", "persist that the server starts closed, without closing it now"},
	{"CONNECTION_ADMIN", "end clients' sessions; write the epoch marker while the server is closed for others"},
	{"SERVICE_CONNECTION_ADMIN", "get in by the administrative listener when max_connections is used up"},
	{"CLONE_ADMIN", "rebuild this server from another one"},
	{"REPLICATION SLAVE", "receive the binary log; of a controller: take it from a replica that is to be shut out, and give it back (GRANT OPTION)"},
}

// killerPrivileges are those of the account that ends what a controller may not
// (killerOf), and all it has.
var killerPrivileges = []privilege{
	{"CONNECTION_ADMIN", "end sessions"},
	{"SYSTEM_USER", "end the applier of a new primary that waits for the rest of a transaction, and locks what it has of it"},
	{"SERVICE_CONNECTION_ADMIN", "get in by the administrative listener when max_connections is used up"},
}

// eventPrivileges are the global ones that TendEvents needs, from MySQL 8.2 on;
// a controller without them leaves events alone.
var eventPrivileges = []privilege{
	{"EVENT", "have events follow the primary: see which are on, turn them on after a promotion. Leave this statement out where there are no events"},
	{"SET_ANY_DEFINER", "leave an event its definer when it is turned on (MySQL 8.2 and later)"},
}

// otherPrivileges are those of the accounts that other instances log in with,
// and the controller's on two schemas.
func otherPrivileges() []privilege {
	return []privilege{
		{"BACKUP_ADMIN", "be cloned from: a rebuild logs in to the donor with this account"},
		{"SELECT", "read the state of replication (performance_schema); of mysql.user: which accounts may receive"},
		{"ALL", "its own schema: the epoch marker"},
	}
}

// GrantReason says what a privilege that Grants grants is for; it is empty for
// any other.
func GrantReason(name string) string {
	for _, p := range slices.Concat(otherPrivileges(), eventPrivileges, controllerPrivileges, killerPrivileges) {
		if p.name == name {
			return p.reason
		}
	}
	return ""
}

// Grants returns the statements that prepare an instance for its controller:
// the accounts with the least privileges, the schema and the marker table. An
// account in several roles is made once, with the privileges of all. They are
// for a privileged account, in one session, on every instance for itself: the
// first one keeps them out of the binary log, so that no instance gets
// transactions the others lack. They may be repeated.
func Grants(spec GrantSpec) []string {
	if spec.Schema == "" {
		spec.Schema = DefaultConfig().Schema
	}
	statements := []string{"SET SESSION sql_log_bin = OFF"}
	type role struct {
		account Account
		global  []string
	}
	roles := []role{{spec.Controller, names(controllerPrivileges)}}
	for _, a := range spec.Repl {
		roles = append(roles, role{a, []string{"REPLICATION SLAVE"}})
	}
	for _, a := range spec.Clone {
		roles = append(roles, role{a, []string{"BACKUP_ADMIN"}})
	}
	made := map[string]bool{}
	for i, r := range roles {
		name := r.account.name()
		if made[name] {
			continue
		}
		made[name] = true
		var global []string
		for _, same := range roles[i:] {
			if same.account.name() == name {
				global = append(global, slices.DeleteFunc(slices.Clone(same.global), func(p string) bool { return slices.Contains(global, p) })...)
			}
		}
		statements = append(statements,
			"CREATE USER IF NOT EXISTS "+name+" IDENTIFIED BY "+quote(r.account.Password),
			"GRANT "+strings.Join(global, ", ")+" ON *.* TO "+name)
	}
	controller := spec.Controller.name()
	killer := Account{User: killerOf(spec.Controller.User), Host: spec.Controller.Host}
	return append(statements,
		"GRANT EVENT /*!80200 , SET_ANY_DEFINER */ ON *.* TO "+controller,
		"GRANT REPLICATION SLAVE ON *.* TO "+controller+" WITH GRANT OPTION",
		"GRANT SELECT (user, host, repl_slave_priv) ON mysql.user TO "+controller,
		"GRANT SELECT ON performance_schema.* TO "+controller,
		"CREATE SCHEMA IF NOT EXISTS `"+spec.Schema+"`",
		markerDDL(spec.Schema),
		"CREATE TABLE IF NOT EXISTS `"+spec.Schema+"`.nudge (id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, "+
			"epoch BIGINT UNSIGNED NOT NULL, written_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)) ENGINE=InnoDB",
		canaryDDL(spec.Schema),
		"GRANT ALL ON `"+spec.Schema+"`.* TO "+controller,
		"CREATE USER IF NOT EXISTS "+killer.name()+" IDENTIFIED BY "+quote(spec.Controller.Password),
		"GRANT "+strings.Join(names(killerPrivileges), ", ")+" ON *.* TO "+killer.name(),
		"SET SESSION sql_log_bin = ON")
}

func names(privileges []privilege) []string {
	var all []string
	for _, p := range privileges {
		all = append(all, p.name)
	}
	return all
}

// name is the account as statements name it.
func (a Account) name() string { return quote(a.User) + "@" + quote(a.Host) }

// markerDDL makes the table of the epoch markers, one row per epoch.
func markerDDL(schema string) string {
	return "CREATE TABLE IF NOT EXISTS `" + schema + "`.marker (" +
		"epoch BIGINT UNSIGNED NOT NULL PRIMARY KEY, " +
		"node VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, " +
		"written_at DATETIME(6) NOT NULL) ENGINE=InnoDB"
}

func (i *Instance) markerTable() string { return "`" + i.cfg.Schema + "`.marker" }

// killerOf is the account that a controller logs in with to end threads of the
// server's own (see dropUnfinished); its password is the same. The controller
// itself is not to have SYSTEM_USER, which together with SET_ANY_DEFINER would
// be everything. The hyphen keeps it apart from the replication accounts.
func killerOf(controller string) string { return controller + killerSuffix }

const killerSuffix = "-kill"

// quote makes a string literal for a session in the server's default sql_mode.
func quote(s string) string {
	if !strings.Contains(s, `\`) {
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	return "'" + strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), "'", "''") + "'"
}
