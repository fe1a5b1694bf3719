package dbrepl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ShutOut makes it impossible for the replication account user to receive from
// this instance, and so for a replica that logs in with it to acknowledge:
// the privilege is taken from it, on this server alone (not in the binary
// log) and for good, until LetIn; then its connections are ended, and with
// them those that have not said yet whose they are. When ShutOut returns
// without error all of them are gone; ones that come later find the privilege
// missing. The instance must be open for writes. Commits that the replica
// acknowledged before may still be on their way to their clients. A user that
// has no account is shut out once its connections are ended. On an error the
// account may be shut out or not.
func (i *Instance) ShutOut(ctx context.Context, user string) error {
	if err := i.shutOut(ctx, user); err != nil {
		return fmt.Errorf("shut out %s: %w", user, err)
	}
	return nil
}

func (i *Instance) shutOut(ctx context.Context, user string) error {
	if user == "" {
		return ErrNoAccount
	}
	holders, err := i.receiverAccounts(ctx, user)
	if err != nil && !errors.Is(err, ErrNoAccount) {
		return err
	}
	for host, may := range holders {
		if may {
			if err := i.orderOn(ctx, i.local, "REVOKE REPLICATION SLAVE ON *.* FROM "+Account{User: user, Host: host}.name()); err != nil {
				return err
			}
		}
	}
	// One that is logging in may have read its privileges before they were
	// taken, and is not known by name before it has logged in.
	threads, err := i.receiverThreads(ctx, user)
	if err != nil {
		return err
	}
	if _, err := i.kill(ctx, threads); err != nil {
		return err
	}
	for {
		now, err := i.receiverThreads(ctx, user)
		if err != nil {
			return err
		}
		left := slices.DeleteFunc(now, func(t uint64) bool { return !slices.Contains(threads, t) })
		if len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of its connections do not end: %w", len(left), ctx.Err())
		case <-time.After(pollInterval):
		}
	}
}

// LetIn undoes ShutOut for several users; what is not shut out stays as it is.
// Users without an account here are in the error (ErrNoAccount); the others
// are let in all the same.
func (i *Instance) LetIn(ctx context.Context, users ...string) error {
	var missing []error
	for _, user := range users {
		err := i.letIn(ctx, user)
		if err != nil {
			err = fmt.Errorf("let in %s: %w", user, err)
		}
		if err != nil && !errors.Is(err, ErrNoAccount) {
			return err
		}
		missing = append(missing, err)
	}
	return errors.Join(missing...)
}

func (i *Instance) letIn(ctx context.Context, user string) error {
	holders, err := i.receiverAccounts(ctx, user)
	if err != nil {
		return err
	}
	for host, may := range holders {
		if may {
			continue
		}
		if err := i.orderOn(ctx, i.local, "GRANT REPLICATION SLAVE ON *.* TO "+Account{User: user, Host: host}.name()); err != nil {
			return err
		}
	}
	return nil
}

// receiverAccounts are the hosts of the accounts of a user, and whether each
// may receive.
func (i *Instance) receiverAccounts(ctx context.Context, user string) (map[string]bool, error) {
	rows, err := i.command.QueryContext(ctx, "SELECT host, repl_slave_priv = 'Y' FROM mysql.user WHERE user = ?", user)
	if err != nil {
		return nil, fmt.Errorf("look at the accounts: %w", err)
	}
	defer rows.Close()
	holders := map[string]bool{}
	for rows.Next() {
		var host string
		var may bool
		if err := rows.Scan(&host, &may); err != nil {
			return nil, fmt.Errorf("look at the accounts: %w", err)
		}
		holders[host] = may
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look at the accounts: %w", err)
	}
	if len(holders) == 0 {
		return nil, ErrNoAccount
	}
	return holders, nil
}

// receiverThreads are the connections of a user and those that have not logged
// in yet.
func (i *Instance) receiverThreads(ctx context.Context, user string) ([]uint64, error) {
	return listThreads(ctx, i.command, `SELECT processlist_id FROM performance_schema.threads
		WHERE type = 'FOREGROUND' AND name <> 'thread/sql/compress_gtid_table' AND processlist_id IS NOT NULL AND processlist_id <> CONNECTION_ID()
		AND (processlist_user = ? OR processlist_user IS NULL OR processlist_user = 'unauthenticated user')`, user)
}
