package mysqld

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"interrex/internal/sandbox/fetch"
)

// Distribution is one set of MySQL programs.
type Distribution struct {
	// Version is what the server calls itself, such as 9.7.4-2 or 8.4.3.
	Version string
	// Mysqld is the path of the server program.
	Mysqld string

	tree   *fetch.Tree // set when the programs run from an unpacked folder
	prefix []string    // loader arguments for programs of the host
}

// Find returns the MySQL server to use: the program at explicit or, if that
// is empty, at $INTERREX_MYSQLD; else a mysqld on PATH or in the usual system
// folders; else the distribution's packages in the user's cache, fetched if
// they are not there. A MariaDB found on the way is passed over.
func Find(ctx context.Context, explicit string, progress fetch.Progress) (Distribution, error) {
	if explicit == "" {
		explicit = os.Getenv("INTERREX_MYSQLD")
	}
	if explicit != "" {
		path, err := exec.LookPath(explicit)
		if err != nil {
			return Distribution{}, fmt.Errorf("find mysqld: %w", err)
		}
		return host(ctx, path)
	}
	var passedOver []error
	for _, path := range installed() {
		dist, err := host(ctx, path)
		if err == nil {
			return dist, nil
		}
		passedOver = append(passedOver, err)
	}
	tree, err := fetch.MySQL(ctx, progress)
	if err != nil {
		return Distribution{}, errors.Join(append(passedOver, err)...)
	}
	dist := Distribution{Mysqld: filepath.Join(tree.Root, "usr/sbin/mysqld"), tree: &tree}
	dist.Version, err = version(ctx, dist.Command("mysqld"))
	return dist, err
}

// installed lists the server programs of the host. The folders besides PATH
// are where packages put servers, which an ordinary user's PATH lacks.
func installed() []string {
	var found []string
	if path, err := exec.LookPath("mysqld"); err == nil {
		found = append(found, path)
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/usr/libexec", "/usr/local/mysql/bin"} {
		path := filepath.Join(dir, "mysqld")
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			found = append(found, path)
		}
	}
	return found
}

// host is a server program outside the cache.
func host(ctx context.Context, path string) (Distribution, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Distribution{}, fmt.Errorf("find mysqld: %w", err)
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	dist := Distribution{Mysqld: path, prefix: aroundProfile(path)}
	dist.Version, err = version(ctx, dist.Command("mysqld"))
	return dist, err
}

// aroundProfile is the loader to run path through where the host confines
// that very path (AppArmor on Ubuntu) to the data directory of the packaged
// service. A sandbox is no service, and the profile would keep it from its
// own folder.
func aroundProfile(path string) []string {
	enabled, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	profile := filepath.Join("/etc/apparmor.d", strings.ReplaceAll(strings.TrimPrefix(path, "/"), "/", "."))
	if _, err := os.Stat(profile); err != nil || !strings.HasPrefix(string(enabled), "Y") {
		return nil
	}
	program, err := elf.Open(path)
	if err != nil {
		return nil
	}
	defer program.Close()
	for _, p := range program.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		if name, err := io.ReadAll(p.Open()); err == nil {
			return []string{strings.TrimRight(string(name), "\x00")}
		}
	}
	return nil
}

var versionPattern = regexp.MustCompile(`Ver (\S+)`)

// version asks the program what it is.
func version(ctx context.Context, command []string) (string, error) {
	args := append(command[1:], "--no-defaults", "--version")
	out, err := exec.CommandContext(ctx, command[0], args...).CombinedOutput()
	path := command[len(command)-1]
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w: %s", path, err, strings.TrimSpace(string(out)))
	}
	m := versionPattern.FindSubmatch(out)
	if m == nil || strings.Contains(string(out), "MariaDB") {
		return "", fmt.Errorf("use %s: %w: it says %q", path, ErrNotMySQL, strings.TrimSpace(string(out)))
	}
	return string(m[1]), nil
}

// Command is the argument list that runs one of the distribution's programs:
// mysqld, mysql, mysqlbinlog, mysqladmin … Append the program's arguments.
func (d Distribution) Command(tool string) []string {
	switch {
	case d.tree != nil && tool == "mysqld":
		return d.tree.Command("usr/sbin/mysqld")
	case d.tree != nil:
		return d.tree.Command(filepath.Join("usr/bin", tool))
	case tool == "mysqld":
		return append(append([]string(nil), d.prefix...), d.Mysqld)
	}
	for _, dir := range []string{filepath.Dir(d.Mysqld), filepath.Join(filepath.Dir(d.Mysqld), "../bin")} {
		path := filepath.Join(dir, tool)
		if _, err := os.Stat(path); err == nil {
			return []string{path}
		}
	}
	return []string{tool}
}

// places are the arguments that tell a server where its own files are. An
// installed one knows.
func (d Distribution) places() []string {
	if d.tree == nil {
		return nil
	}
	usr := filepath.Join(d.tree.Root, "usr")
	share := filepath.Join(usr, "share/mysql")
	return []string{
		"--basedir=" + usr,
		"--lc-messages-dir=" + share,
		"--character-sets-dir=" + filepath.Join(share, "charsets"),
		"--plugin-dir=" + filepath.Join(usr, "lib/mysql/plugin"),
	}
}
