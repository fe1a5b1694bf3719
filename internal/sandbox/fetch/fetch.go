package fetch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Tree is a folder with unpacked packages, laid out like a root file system.
type Tree struct {
	Root string
}

// product is what a fetch brings: how the tree is called in the cache, and
// the packages it is made of.
type product struct {
	name string // prefix of the tree's folder name
	// program is the path, relative to the root, that a usable tree has.
	program string
	// wanted finds the packages among those apt knows; the pattern is matched
	// by apt-cache search and the newest match is taken.
	wanted []string
	// advice tells what a person can do when the fetch cannot.
	advice string
	// newer allows the distribution's development suite: the release itself
	// has no such package.
	newer bool
}

var errNoPackage = errors.New("no such package")

func mysqlProduct() product {
	return product{
		name:    "mysql",
		program: "usr/sbin/mysqld",
		wanted:  []string{`^mysql-server-core(-[0-9.]+)?$`, `^mysql-client-core(-[0-9.]+)?$`},
		advice: "install MySQL 8.0.26 or later (https://dev.mysql.com/downloads/) and put mysqld on PATH, " +
			"or name it with --mysqld or INTERREX_MYSQLD",
		newer: true,
	}
}

func nginxProduct() product {
	return product{
		name:    "nginx",
		program: "usr/sbin/nginx",
		wanted:  []string{`^nginx$`, `^libnginx-mod-stream$`},
		advice:  "install nginx with its stream module (packages nginx and libnginx-mod-stream)",
	}
}

// MySQL returns the distribution's MySQL server and client programs as a
// folder, fetching them if the cache has none. It needs apt; elsewhere, and
// when no mirror has the packages, the error is ErrUnavailable.
func MySQL(ctx context.Context, progress Progress) (Tree, error) {
	return get(ctx, mysqlProduct(), progress)
}

// Nginx returns the distribution's nginx with its stream module as a folder,
// fetching it if the cache has none. Errors as for MySQL.
func Nginx(ctx context.Context, progress Progress) (Tree, error) {
	return get(ctx, nginxProduct(), progress)
}

// CacheDir is the folder everything fetched or prepared is kept in. It may be
// removed at any time when no sandbox runs.
func CacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache folder: %w (set XDG_CACHE_HOME)", err)
	}
	return filepath.Join(base, "interrex"), nil
}

func get(ctx context.Context, p product, progress Progress) (Tree, error) {
	cache, err := CacheDir()
	if err != nil {
		return Tree{}, err
	}
	return getFrom(ctx, p, cache, progress, aptFetch)
}

// fetcher fills dir/root with a product's packages and returns the version of
// the first wanted package.
type fetcher func(ctx context.Context, p product, dir string, progress Progress) (version string, err error)

func getFrom(ctx context.Context, p product, cache string, progress Progress, fetch fetcher) (Tree, error) {
	if tree, ok := cached(cache, p); ok {
		return tree, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Tree{}, fmt.Errorf("create cache folder: %w", err)
	}
	unlock, err := Lock(ctx, filepath.Join(cache, p.name+".lock"))
	if err != nil {
		return Tree{}, err
	}
	defer unlock()
	if tree, ok := cached(cache, p); ok { // another process fetched it meanwhile
		return tree, nil
	}
	removeLeftovers(cache, p)
	tmp, err := os.MkdirTemp(cache, tmpPrefix(p))
	if err != nil {
		return Tree{}, fmt.Errorf("create temporary folder: %w", err)
	}
	defer os.RemoveAll(tmp)
	version, err := fetch(ctx, p, tmp, progress)
	if ctx.Err() != nil {
		return Tree{}, fmt.Errorf("fetch %s: %w", p.name, context.Cause(ctx))
	}
	if err != nil {
		return Tree{}, fmt.Errorf("fetch %s: %w\n%s", p.name, err, p.advice)
	}
	root := filepath.Join(tmp, "root")
	if _, err := os.Stat(filepath.Join(root, p.program)); err != nil {
		return Tree{}, fmt.Errorf("fetch %s: packages hold no %s: %w\n%s", p.name, p.program, ErrUnavailable, p.advice)
	}
	final := filepath.Join(cache, p.name+"-"+safeName(version))
	if err := os.Rename(root, final); err != nil {
		return Tree{}, fmt.Errorf("move %s into the cache: %w", p.name, err)
	}
	return Tree{Root: final}, nil
}

// cached finds the newest whole tree of the product.
func cached(cache string, p product) (Tree, bool) {
	matches, _ := filepath.Glob(filepath.Join(cache, p.name+"-*", p.program))
	var best string
	var bestTime time.Time
	for _, m := range matches {
		info, err := os.Stat(m)
		if err != nil {
			continue
		}
		if best == "" || info.ModTime().After(bestTime) {
			best, bestTime = m, info.ModTime()
		}
	}
	if best == "" {
		return Tree{}, false
	}
	return Tree{Root: strings.TrimSuffix(best, "/"+p.program)}, true
}

func tmpPrefix(p product) string { return "tmp-" + p.name + "-" }

// removeLeftovers removes what interrupted fetches left. The lock is held.
func removeLeftovers(cache string, p product) {
	matches, _ := filepath.Glob(filepath.Join(cache, tmpPrefix(p)+"*"))
	for _, m := range matches {
		_ = os.RemoveAll(m)
	}
}

var unsafeChars = regexp.MustCompile(`[^A-Za-z0-9.+~_-]+`)

func safeName(version string) string { return unsafeChars.ReplaceAllString(version, "_") }

// Lock takes the lock file at path, waiting for another process that has it,
// until ctx ends. The lock is gone when the process is.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("wait for the process that holds %s: %w", path, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

// Loader is the tree's own dynamic loader and the folders it must search. A
// tree without a C library has none: its programs run by the host's.
func (t Tree) Loader() (loader string, libraries []string) {
	for _, pattern := range []string{"usr/lib/*/ld-linux*.so.*", "lib/*/ld-linux*.so.*", "usr/lib64/ld-linux*.so.*", "lib64/ld-linux*.so.*"} {
		matches, _ := filepath.Glob(filepath.Join(t.Root, pattern))
		slices.Sort(matches)
		for _, m := range matches {
			if _, err := os.Stat(m); err == nil {
				return m, t.libraries()
			}
		}
	}
	return "", nil
}

// libraries are the folders of the tree that hold shared libraries.
func (t Tree) libraries() []string {
	var dirs []string
	for _, pattern := range []string{"usr/lib/*-linux-gnu*", "lib/*-linux-gnu*", "usr/lib/mysql/private", "usr/lib64", "lib64", "usr/lib", "lib"} {
		matches, _ := filepath.Glob(filepath.Join(t.Root, pattern))
		for _, m := range matches {
			if info, err := os.Stat(m); err == nil && info.IsDir() {
				dirs = append(dirs, m)
			}
		}
	}
	return dirs
}

// Command is the argument list that runs a program of the tree, given by its
// path below the root, with the tree's own loader and libraries.
func (t Tree) Command(program string) []string {
	path := filepath.Join(t.Root, program)
	loader, libraries := t.Loader()
	if loader == "" {
		return []string{path}
	}
	return []string{loader, "--library-path", strings.Join(libraries, ":"), path}
}
