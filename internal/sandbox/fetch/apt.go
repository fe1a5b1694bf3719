package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// unneeded are packages that the servers depend on for their scripts or for
// being installed, not for running unpacked.
var unneeded = regexp.MustCompile(`^(perl|perl-.*|libperl.*|debconf.*|cdebconf|libdebconf.*|systemd.*|libsystemd-shared.*|libpam.*|` +
	`init-system-helpers|libgdbm.*|libdb5.*|dpkg|tar|passwd|adduser|base-.*|debianutils|coreutils|sed|iproute2|lsb-base|sysvinit-utils|media-types|mount)$`)

// apt is a private apt state in a folder.
type apt struct {
	dir    string
	config string
}

// aptFetch downloads and unpacks the product's packages below dir/root.
func aptFetch(ctx context.Context, p product, dir string, progress Progress) (string, error) {
	for _, tool := range []string{"apt-get", "apt-cache", "apt-config", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "", fmt.Errorf("%w: this machine has no %s, which fetching needs", ErrUnavailable, tool)
		}
	}
	sources, err := readSources("/etc/apt")
	if err != nil {
		return "", err
	}
	attempts := plans(p, readOSRelease("/etc/os-release"), sources, debianKeyring())
	if len(attempts) == 0 {
		return "", fmt.Errorf("%w: no package archive is configured in /etc/apt", ErrUnavailable)
	}
	var failures []error
	for i, attempt := range attempts {
		version, err := tryPlan(ctx, p, attempt, filepath.Join(dir, "apt"+strconv.Itoa(i)), filepath.Join(dir, "root"), progress)
		if err == nil {
			return version, nil
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		failures = append(failures, fmt.Errorf("tried %s: %w", attempt.why, err))
	}
	return "", fmt.Errorf("%w:\n%w", ErrUnavailable, errors.Join(failures...))
}

// debianKeyring is the file with the distribution's archive keys: its
// development suite may be signed by newer keys than the release's.
func debianKeyring() string {
	for _, path := range []string{"/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

func tryPlan(ctx context.Context, p product, attempt plan, state, root string, progress Progress) (string, error) {
	a, err := newApt(ctx, state, attempt.sources)
	if err != nil {
		return "", err
	}
	progress.Step("Reading the package index (" + attempt.why + ")")
	packages, err := a.find(ctx, p)
	if err != nil {
		return "", err
	}
	files, err := a.closure(ctx, packages)
	if err != nil {
		return "", err
	}
	version := ""
	for _, f := range files {
		if f.name == packages[0] {
			version = f.version
		}
	}
	var total int64
	for _, f := range files {
		total += f.size
	}
	progress.Step(fmt.Sprintf("Downloading %s %s with %d libraries", p.name, version, len(files)-len(packages)))
	if err := a.download(ctx, files, total, progress); err != nil {
		return "", err
	}
	progress.Step("Unpacking")
	return version, a.unpack(ctx, root)
}

// find reads the archives' indexes and finds the packages in them. An archive
// that cannot be read, a third party's say, is an error only if the packages
// are in no other.
func (a *apt) find(ctx context.Context, p product) ([]string, error) {
	_, unread := a.run(ctx, "apt-get", "update", "--error-on=any")
	if unread != nil { // older ones do not know the option
		if _, err := a.run(ctx, "apt-get", "update"); err != nil {
			return nil, unread
		}
	}
	var packages []string
	for _, pattern := range p.wanted {
		name, err := a.newest(ctx, pattern)
		if err != nil {
			return nil, errors.Join(err, unread)
		}
		packages = append(packages, name)
	}
	return packages, nil
}

// newApt writes the configuration of a private apt: the machine's own way to
// reach archives (proxies, certificates), nothing else of it.
func newApt(ctx context.Context, dir string, sources []source) (*apt, error) {
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial", "debs/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("create apt state: %w", err)
		}
	}
	var stanzas []string
	for _, s := range sources {
		stanzas = append(stanzas, s.stanza())
	}
	dump, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil, fmt.Errorf("read apt configuration: %w", err)
	}
	files := map[string]string{
		"wanted.sources": strings.Join(stanzas, "\n"),
		"status":         "",
		"apt.conf":       aptConfig(dir, string(dump)),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("write apt state: %w", err)
		}
	}
	return &apt{dir: dir, config: filepath.Join(dir, "apt.conf")}, nil
}

// aptConfig is the private configuration. Of the machine's own (dump, as
// printed by apt-config) it keeps how to acquire files; hooks, pins, extra
// indexes and anything that weakens the checking of signatures stay out.
func aptConfig(dir, dump string) string {
	var b strings.Builder
	for line := range strings.Lines(dump) {
		if !strings.HasPrefix(line, "Acquire::") {
			continue
		}
		if strings.HasPrefix(line, "Acquire::IndexTargets") || strings.HasPrefix(line, "Acquire::Languages") ||
			strings.HasPrefix(line, "Acquire::Allow") || strings.HasPrefix(line, "Acquire::Changelogs") {
			continue
		}
		b.WriteString(line)
	}
	fmt.Fprintf(&b, `Acquire::Languages "none";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Retries "2";
APT::Get::AllowUnauthenticated "false";
APT::Get::List-Cleanup "false";
APT::Install-Recommends "false";
APT::Sandbox::User "";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist %[1]q;
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State %[2]q;
Dir::State::lists %[3]q;
Dir::State::status %[4]q;
Dir::Cache %[5]q;
`, dir+"/wanted.sources", dir+"/state", dir+"/state/lists", dir+"/status", dir+"/cache")
	return b.String()
}

// run runs one apt tool with the private configuration and returns what it
// printed; an error carries what it complained of.
func (a *apt) run(ctx context.Context, tool string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.config, "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.Dir = filepath.Join(a.dir, "debs")
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("run %s %s: %w: %s", tool, args[0], err, complaints(stderr.String()))
	}
	return stdout.String(), nil
}

// complaints are the error and warning lines of apt's output, or its end.
func complaints(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "E:") || strings.HasPrefix(line, "W:") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	if len(lines) == 0 {
		return strings.TrimSpace(text)
	}
	return strings.Join(lines, "; ")
}

// newest finds the package whose name matches the pattern, the one of the
// highest version if there are several (mysql-server-core-8.0, -8.4 …).
func (a *apt) newest(ctx context.Context, pattern string) (string, error) {
	out, err := a.run(ctx, "apt-cache", "search", "--names-only", pattern)
	if err != nil {
		return "", err
	}
	best, bestVersion := "", ""
	for line := range strings.Lines(out) {
		name, _, _ := strings.Cut(line, " ")
		shown, err := a.run(ctx, "apt-cache", "show", "--no-all-versions", name)
		if err != nil {
			return "", err
		}
		fields := stanzas(shown)
		if len(fields) == 0 {
			continue
		}
		version := fields[0]["version"]
		if best == "" || exec.CommandContext(ctx, "dpkg", "--compare-versions", version, "gt", bestVersion).Run() == nil {
			best, bestVersion = name, version
		}
	}
	if best == "" {
		return "", fmt.Errorf("%w: nothing there is called like %s", errNoPackage, pattern)
	}
	return best, nil
}

// debFile is one package of the closure.
type debFile struct {
	name, version string
	size          int64
}

var uriLine = regexp.MustCompile(`^'[^']*' ([^_ ]+)_([^_ ]+)_\S+\.deb (\d+)`)

// closure asks apt what it would install on an empty machine.
func (a *apt) closure(ctx context.Context, packages []string) ([]debFile, error) {
	args := append([]string{"install", "--yes", "--no-install-recommends", "--print-uris"}, packages...)
	out, err := a.run(ctx, "apt-get", args...)
	if err != nil {
		return nil, err
	}
	files := parseURIs(out)
	if len(files) == 0 {
		return nil, fmt.Errorf("list packages to download: apt named none")
	}
	return files, nil
}

func parseURIs(out string) []debFile {
	var files []debFile
	for line := range strings.Lines(out) {
		m := uriLine.FindStringSubmatch(line)
		if m == nil || unneeded.MatchString(m[1]) {
			continue
		}
		size, _ := strconv.ParseInt(m[3], 10, 64)
		files = append(files, debFile{name: m[1], version: strings.ReplaceAll(m[2], "%3a", ":"), size: size})
	}
	return files
}

// download lets apt fetch and verify the files, and shows how they grow.
func (a *apt) download(ctx context.Context, files []debFile, total int64, progress Progress) error {
	args := []string{"download"}
	for _, f := range files {
		args = append(args, f.name+"="+f.version)
	}
	done := make(chan error, 1)
	go func() {
		_, err := a.run(ctx, "apt-get", args...)
		done <- err
	}()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case err := <-done:
			if err == nil {
				progress.Bytes(total, total)
			}
			return err
		case <-ticker.C:
			progress.Bytes(a.downloaded(), total)
		}
	}
}

func (a *apt) downloaded() int64 {
	var sum int64
	for _, pattern := range []string{"debs/*", "debs/partial/*", "cache/archives/partial/*"} {
		matches, _ := filepath.Glob(filepath.Join(a.dir, pattern))
		for _, m := range matches {
			if info, err := os.Stat(m); err == nil && info.Mode().IsRegular() {
				sum += info.Size()
			}
		}
	}
	return sum
}

// unpack unpacks every downloaded package into root, and removes what running
// the servers does not need.
func (a *apt) unpack(ctx context.Context, root string) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fmt.Errorf("create folder: %w", err)
	}
	debs, _ := filepath.Glob(filepath.Join(a.dir, "debs", "*.deb"))
	for _, deb := range debs {
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", deb, root).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", filepath.Base(deb), err, out)
		}
	}
	for _, pattern := range []string{
		"usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/bug", "usr/share/doc-base",
		"usr/lib/*/gconv", "usr/lib/*/perl*", "usr/share/perl*", "usr/lib/mysql-test", "usr/share/mysql-test", "usr/lib/mysql/plugin/debug",
		"var", "etc/init.d", "usr/lib/systemd", "lib/systemd",
	} {
		matches, _ := filepath.Glob(filepath.Join(root, pattern))
		for _, m := range matches {
			_ = os.RemoveAll(m)
		}
	}
	return nil
}
