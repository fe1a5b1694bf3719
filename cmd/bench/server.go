package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"
	"go.uber.org/zap"

	"interrex/dbrepl"
	"interrex/internal/config"
	"interrex/internal/sandbox"
	"interrex/internal/sandbox/fetch"
	"interrex/internal/sandbox/mysqld"
)

// server is one of the sandbox's servers, reached as its agent reaches it.
type server struct {
	*dbrepl.Instance
	name    string
	address string // host:port
	account dbrepl.Config
}

// openServers opens all servers of a sandbox with the agents' accounts. On an
// error none is left open.
func openServers(ctx context.Context, c sandbox.Cluster) (all []*server, err error) {
	defer func() {
		if err == nil {
			return
		}
		for _, one := range all {
			_ = one.Close()
		}
	}()
	dist, err := mysqld.Find(ctx, c.MySQLD, fetch.Quiet{})
	if err != nil {
		return nil, err
	}
	accounts := config.DefaultMySQL()
	cfg := dbrepl.DefaultConfig()
	cfg.User = accounts.User
	cfg.ConnectTimeout, cfg.QueryTimeout = accounts.ConnectTimeout, accounts.QueryTimeout
	cfg.MysqlBinlog = dist.Command("mysqlbinlog")
	var controllerErr, replicationErr error
	cfg.Password, controllerErr = secret(c.ControllerPasswordFile())
	cfg.ReplPassword, replicationErr = secret(c.ReplicationPasswordFile())
	if err := errors.Join(controllerErr, replicationErr); err != nil {
		return nil, err
	}
	for _, n := range c.Nodes {
		own := cfg
		own.ReplUser = accounts.ReplicationAccount(n.Name)
		own.Address, own.AdminAddress, own.Socket = sandbox.Addr(n.Ports.MySQL), sandbox.Addr(n.Ports.MySQLAdmin), n.Socket
		own.PIDFile = n.MySQLPIDFile()
		inst, err := dbrepl.Open(own, zap.NewNop())
		if err != nil {
			return all, err
		}
		all = append(all, &server{Instance: inst, name: n.Name, address: own.Address, account: own})
	}
	return all, nil
}

func secret(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

// follow has the server replicate from another and acknowledge to it.
func (s *server) follow(ctx context.Context, source *server) error {
	host, port, err := net.SplitHostPort(source.address)
	if err != nil {
		return fmt.Errorf("follow %s: %w", source.name, err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return fmt.Errorf("follow %s: %w", source.name, err)
	}
	return s.Follow(ctx, dbrepl.FollowSpec{Host: host, Port: number, Acker: true})
}

// cloneFrom makes the server a copy of another. The sandbox's supervisor
// starts it again.
func (s *server) cloneFrom(ctx context.Context, donor *server) error {
	return s.Clone(ctx, dbrepl.CloneSpec{Donor: donor.address, User: s.account.ReplUser, Password: s.account.ReplPassword})
}

// openThrough opens a pool on a route with the server's controller account. It
// keeps no connection, so that each statement goes where the route leads then.
func (s *server) openThrough(address string) (*sql.DB, error) {
	c := mysql.NewConfig()
	c.Net, c.Addr, c.User, c.Passwd = "tcp", address, s.account.User, s.account.Password
	c.InterpolateParams = true
	c.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	if err != nil {
		return nil, fmt.Errorf("open route: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxIdleConns(0)
	return db, nil
}
