package mysqld

import (
	"fmt"
	"os"
	"path/filepath"
)

// settings are what every server of a sandbox runs with, whatever its role.
func settings() []string {
	args := []string{
		// Closed at start (I6), both semi-sync roles off: only its agent,
		// having read etcd, opens it or starts replication.
		"--read-only=ON",
		"--super-read-only=ON",
		"--skip-replica-start=ON",
		"--plugin-load-add=rpl_semi_sync_source=semisync_source.so",
		"--plugin-load-add=rpl_semi_sync_replica=semisync_replica.so",
		"--plugin-load-add=clone=mysql_clone.so",
		"--rpl-semi-sync-source-enabled=OFF",
		"--rpl-semi-sync-replica-enabled=OFF",
		// Nothing acknowledged is lost by a crash of the server.
		"--sync-binlog=1",
		"--innodb-flush-log-at-trx-commit=1",
		"--relay-log-recovery=OFF", // ON drops acknowledged, unapplied commits
		// Replication by GTID, applied in parallel in the source's order.
		"--log-bin=binlog",
		"--relay-log=relay",
		"--gtid-mode=ON",
		"--enforce-gtid-consistency=ON",
		"--log-replica-updates=ON",
		"--replica-preserve-commit-order=ON",
		// A replica's commits share an fsync only with those of its other
		// workers: with 16 it makes up a backlog in a half to a third of the time
		// that 8 take, beside 8 clients on two cores; 64 are no better.
		"--replica-parallel-workers=16",
		// Small: three servers and their agents fit in 2.5 GiB.
		"--innodb-buffer-pool-size=48M",
		"--innodb-redo-log-capacity=32M",
		"--innodb-log-buffer-size=4M",
		"--innodb-use-native-aio=OFF", // the kernel's limit on these is per host
		"--key-buffer-size=64K",
		"--table-open-cache=256",
		"--table-definition-cache=400",
		"--max-connections=256",
		"--performance-schema-accounts-size=16",
		"--performance-schema-hosts-size=16",
		"--performance-schema-users-size=16",
		"--performance-schema-max-memory-classes=0",
		"--performance-schema-digests-size=100",
		"--performance-schema-error-size=0",
		"--performance-schema-max-digest-length=256",
		"--performance-schema-events-statements-history-long-size=10",
		"--performance-schema-events-stages-history-long-size=10",
		"--performance-schema-events-waits-history-long-size=10",
		"--performance-schema-events-transactions-history-long-size=10",
		"--performance-schema-max-sql-text-length=256",
		// Its own folder and its own host, nothing else.
		"--skip-name-resolve=ON",
		"--mysqlx=OFF",
		"--secure-file-priv=NULL",
	}
	if os.Geteuid() == 0 {
		args = append(args, "--user=root")
	}
	return args
}

// arguments is the whole argument list of a server.
func arguments(dist Distribution, spec Spec, socket string) []string {
	args := append([]string{"--no-defaults"}, dist.places()...)
	args = append(args, settings()...)
	args = append(args,
		"--datadir="+filepath.Join(spec.Dir, "data"),
		"--tmpdir="+filepath.Join(spec.Dir, "tmp"),
		"--pid-file="+filepath.Join(spec.Dir, "mysqld.pid"),
		"--socket="+socket,
		"--bind-address="+spec.Host,
		"--report-host="+spec.Host,
		fmt.Sprintf("--port=%d", spec.Port),
		fmt.Sprintf("--report-port=%d", spec.Port),
		fmt.Sprintf("--server-id=%d", spec.ServerID),
	)
	if spec.AdminPort != 0 {
		args = append(args, "--admin-address="+spec.Host, fmt.Sprintf("--admin-port=%d", spec.AdminPort),
			"--create-admin-listener-thread=ON")
	}
	return append(args, spec.Args...)
}
