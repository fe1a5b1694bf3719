package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/go-sql-driver/mysql"

	"interrex/dbrepl"
	"interrex/internal/config"
	"interrex/internal/gtid"
	"interrex/internal/startcommand"
	"interrex/internal/topology"
	"interrex/router/proxy"
)

// routeVerifier writes through this member's own read-write port.
type routeVerifier struct {
	db *sql.DB
}

func newRouteVerifier(a *agent) (routeVerifier, error) {
	if a.proxy == nil || a.cfg.MySQL == nil {
		return routeVerifier{}, nil
	}
	c := mysql.NewConfig()
	c.Net, c.Addr = "tcp", a.proxy.Address(proxy.ReadWrite)
	c.User, c.Passwd = a.cfg.MySQL.User, a.secrets.mysqlPassword
	c.TLS = routeTLS(a.cfg.MySQL.TLS, a.knownMembers)
	c.AllowNativePasswords = false
	c.Timeout, c.ReadTimeout, c.WriteTimeout = connectPatience, connectPatience, connectPatience
	c.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return routeVerifier{}, fmt.Errorf("prepare write check: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxIdleConns(0) // every check goes through the route as it is now
	a.closers = append(a.closers, db.Close)
	return routeVerifier{db: db}, nil
}

// VerifyWrite implements failover.Verifier: it touches the marker row of the
// epoch, so a write that lands on another history finds nothing to change.
func (v routeVerifier) VerifyWrite(ctx context.Context, epoch topology.Epoch) error {
	if v.db == nil {
		return errors.New("this member has no read-write port to verify with")
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := v.write(ctx, epoch)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func (v routeVerifier) write(ctx context.Context, epoch topology.Epoch) error {
	res, err := v.db.ExecContext(ctx, "UPDATE interrex.marker SET written_at = NOW(6) WHERE epoch = ?", uint64(epoch))
	if err != nil {
		return fmt.Errorf("write through the route: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return fmt.Errorf("write through the route: %w", err)
	}
	if n != 1 {
		return fmt.Errorf("write through the route: the marker of epoch %d is not there", epoch)
	}
	return nil
}

// rebuilder implements failover.Rebuilder for the local server.
type rebuilder struct {
	cfg      config.MySQL
	replUser string
	dataDir  string
	secrets  secrets
	inst     *dbrepl.Instance
}

// Rebuild saves the errant transactions, then clones.
func (r rebuilder) Rebuild(ctx context.Context, donor string, errant gtid.Set, progress func(stage, savedFile string)) error {
	file := ""
	if !errant.IsEmpty() {
		var err error
		if file, err = r.saveErrant(ctx, errant, progress); err != nil {
			return err
		}
	}
	progress("clone", file)
	return r.inst.Clone(ctx, dbrepl.CloneSpec{
		Donor: donor, User: r.replUser, Password: r.secrets.replPassword,
		Progress: func(p dbrepl.CloneProgress) { progress("clone: "+p.Stage, "") },
		Start:    r.start,
	})
}

// applyErrantLimit is for the largest of transactions.
const applyErrantLimit = time.Hour

func (r rebuilder) saveErrant(ctx context.Context, errant gtid.Set, progress func(stage, savedFile string)) (string, error) {
	dir := savedErrantDir(r.dataDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make folder for errant transactions: %w", err)
	}
	file := filepath.Join(dir, time.Now().UTC().Format("20060102T150405.000Z")+".sql")
	progress("save errant transactions", "")
	// What was received and never executed is in no binary log.
	if _, err := r.inst.CatchUp(ctx, errant, applyErrantLimit); err != nil {
		return "", fmt.Errorf("execute errant transactions, to save them (nothing was rebuilt): %w", err)
	}
	if err := r.inst.SaveErrant(ctx, errant, file); err != nil {
		return "", fmt.Errorf("save errant transactions (nothing was rebuilt): %w", err)
	}
	return file, nil
}

// Restart ends the server by SIGKILL and starts it again, where the
// configuration says how; otherwise the server's supervisor has to.
func (r rebuilder) Restart(ctx context.Context) error {
	// No time for a polite stop: commits wait, and must not be answered.
	if err := r.inst.StopServer(ctx, dbrepl.StopOptions{CloseLimit: time.Millisecond}); err != nil {
		return err
	}
	return r.start(ctx)
}

// start starts a server that has ended, where the configuration says how.
func (r rebuilder) start(ctx context.Context) error {
	if len(r.cfg.StartCommand) == 0 {
		return nil
	}
	// Whoever ordered it may have hung up: it is down by now, and has to come back.
	return startcommand.Run(context.WithoutCancel(ctx), r.cfg.StartCommand, startcommand.Limit)
}
