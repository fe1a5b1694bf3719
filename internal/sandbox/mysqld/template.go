package mysqld

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"interrex/internal/sandbox/fetch"
)

// Template returns an initialised data directory in which initSQL has been
// executed once, without binary log: every copy starts with an empty GTID set.
// It is made on the first call and kept in the user's cache, by version and
// initSQL. The user root may log in through a server's socket without a
// password; the folder is private.
func Template(ctx context.Context, dist Distribution, initSQL []string) (string, error) {
	cache, err := fetch.CacheDir()
	if err != nil {
		return "", err
	}
	// The newest argument decides, so that a change of settings makes a new
	// template rather than reusing one with other log sizes.
	sum := sha256.Sum256([]byte(strings.Join(append(settings(), initSQL...), "\x00")))
	name := "template-" + dist.Version + "-" + hex.EncodeToString(sum[:6])
	final := filepath.Join(cache, name)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("create cache folder: %w", err)
	}
	unlock, err := fetch.Lock(ctx, filepath.Join(cache, "template.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	leftovers, _ := filepath.Glob(filepath.Join(cache, "tmp-template-*"))
	for _, dir := range leftovers {
		_ = os.RemoveAll(dir)
	}
	tmp, err := os.MkdirTemp(cache, "tmp-template-")
	if err != nil {
		return "", fmt.Errorf("create temporary folder: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := makeTemplate(ctx, dist, tmp, initSQL); err != nil {
		return "", fmt.Errorf("make data directory template: %w", err)
	}
	if err := os.Rename(filepath.Join(tmp, "data"), final); err != nil {
		return "", fmt.Errorf("move template into the cache: %w", err)
	}
	return final, nil
}

func makeTemplate(ctx context.Context, dist Distribution, dir string, initSQL []string) error {
	command := append(dist.Command("mysqld"), "--no-defaults", "--initialize-insecure",
		"--datadir="+filepath.Join(dir, "data"), "--innodb-redo-log-capacity=32M", "--innodb-use-native-aio=OFF")
	command = append(command, dist.places()...)
	if os.Geteuid() == 0 {
		command = append(command, "--user=root")
	}
	if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("initialise: %w: %s", err, out)
	}
	server, err := Start(ctx, dist, Spec{Dir: dir, ServerID: 1, DieWithParent: true, Args: []string{
		"--skip-networking=ON", "--disable-log-bin", "--super-read-only=OFF", "--read-only=OFF",
		// Not waited for: the template is thrown away if the host dies here.
		"--innodb-flush-log-at-trx-commit=0", "--innodb-fast-shutdown=1",
	}})
	if err != nil {
		return err
	}
	defer server.Kill() //nolint:errcheck // it is gone unless something failed before
	if err := execute(ctx, server, initSQL); err != nil {
		return err
	}
	if err := server.Terminate(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	code, err := server.Wait(ctx)
	if err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("stop server: exit code %d: %s", code, tail(server.LogFile))
	}
	_ = os.Remove(filepath.Join(server.Datadir, "auto.cnf"))
	return nil
}

// execute runs the statements as root, in order, one connection.
func execute(ctx context.Context, server *Server, statements []string) error {
	config := mysql.NewConfig()
	config.User, config.Net, config.Addr = "root", "unix", server.Socket
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return fmt.Errorf("connect to template server: %w", err)
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	db.SetMaxOpenConns(1)
	for i, statement := range statements {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			// The statement itself may hold a password.
			return fmt.Errorf("execute initial statement %d: %w", i+1, err)
		}
	}
	return nil
}

// NewDatadir gives the server folder dir a data directory of its own, a copy
// of the template. The folder must have none, or an empty one: a disk of its
// own.
func NewDatadir(template, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create folder of mysqld: %w", err)
	}
	datadir := filepath.Join(dir, "data")
	if HasData(dir) {
		return fmt.Errorf("copy template: %w: %s", fs.ErrExist, datadir)
	}
	if err := copyTree(template, datadir); err != nil {
		_ = os.RemoveAll(datadir)
		return fmt.Errorf("copy template: %w", err)
	}
	return nil
}

// HasData tells whether there is anything in the data directory of a server
// folder.
func HasData(dir string) bool {
	entries, err := os.ReadDir(filepath.Join(dir, "data"))
	return err == nil && len(entries) > 0
}

// copyTree copies folders and regular files with their permissions. Data is
// shared, not copied, where the file system can.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		info, err := entry.Info()
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir():
			return os.MkdirAll(target, info.Mode().Perm()|0o700)
		case info.Mode().IsRegular():
			return copyFile(path, target, info.Mode().Perm())
		default: // mysqld puts nothing else there that a copy needs
			return nil
		}
	})
}

func copyFile(from, to string, mode fs.FileMode) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := target.ReadFrom(source); err != nil {
		_ = target.Close()
		return err
	}
	return target.Close()
}
