package nginx

import (
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

	"interrex/internal/sandbox/fetch"
	"interrex/internal/sandbox/process"
)

// ErrNoStream is the reason an installed nginx is passed over: it cannot
// balance MySQL connections. It is seen only when fetching one failed as well.
var ErrNoStream = errors.New("nginx has no stream module")

// Distribution is one nginx with its stream module.
type Distribution struct {
	// Version is nginx's own, such as 1.22.1.
	Version string

	command []string
	stream  string // the module's file; empty if it is built in
	built   string // what nginx -V prints
}

// Find returns the nginx to use: the installed one, if it has the stream
// module, else the distribution's packages in the user's cache, fetched if
// they are not there.
func Find(ctx context.Context, progress fetch.Progress) (Distribution, error) {
	var passedOver error
	for _, path := range []string{"nginx", "/usr/sbin/nginx", "/usr/local/sbin/nginx"} {
		found, err := exec.LookPath(path)
		if err != nil {
			continue
		}
		dist, err := inspect(ctx, []string{found}, "")
		if err == nil {
			return dist, nil
		}
		passedOver = err
	}
	tree, err := fetch.Nginx(ctx, progress)
	if err != nil {
		return Distribution{}, errors.Join(passedOver, err)
	}
	return inspect(ctx, tree.Command("usr/sbin/nginx"), tree.Root)
}

var (
	versionPattern = regexp.MustCompile(`nginx/(\S+)`)
	builtInPattern = regexp.MustCompile(`--with-stream(\s|$)`)
	modulesPattern = regexp.MustCompile(`--modules-path=(\S+)`)
)

// inspect asks an nginx what it can do. Root is the folder it was unpacked
// in, if it was.
func inspect(ctx context.Context, command []string, root string) (Distribution, error) {
	path := command[len(command)-1]
	args := append(command[1:len(command):len(command)], "-V")
	out, err := exec.CommandContext(ctx, command[0], args...).CombinedOutput()
	if err != nil {
		return Distribution{}, fmt.Errorf("ask %s for its version: %w: %s", path, err, out)
	}
	d := Distribution{command: command, built: string(out)}
	if m := versionPattern.FindStringSubmatch(d.built); m != nil {
		d.Version = m[1]
	}
	switch {
	case strings.Contains(d.built, "--with-stream=dynamic"):
		modules := "/usr/lib/nginx/modules"
		if m := modulesPattern.FindStringSubmatch(d.built); m != nil {
			modules = m[1]
		}
		d.stream = filepath.Join(root, modules, "ngx_stream_module.so")
		if _, err := os.Stat(d.stream); err != nil {
			return Distribution{}, fmt.Errorf("use %s: %w: %w", path, ErrNoStream, err)
		}
	case !builtInPattern.MatchString(d.built):
		return Distribution{}, fmt.Errorf("use %s: %w", path, ErrNoStream)
	}
	return d, nil
}

// Main is what a configuration must begin with: the stream module, and the
// files of the main context that belong in dir.
func (d Distribution) Main(dir string) string {
	var b strings.Builder
	if d.stream != "" {
		fmt.Fprintf(&b, "load_module %q;\n", d.stream)
	}
	if os.Geteuid() == 0 { // the folder is private to its owner
		b.WriteString("user root;\n")
	}
	fmt.Fprintf(&b, "pid %q;\nerror_log %q notice;\n", pidFile(dir), filepath.Join(dir, "nginx.log"))
	return b.String()
}

// HTTP is what the http block must begin with: the files of that context that
// belong in dir.
func (d Distribution) HTTP(dir string) string {
	var b strings.Builder
	b.WriteString("access_log off;\n")
	paths := [][2]string{
		{"", "client_body_temp_path"}, {"proxy", "proxy_temp_path"}, {"fastcgi", "fastcgi_temp_path"},
		{"uwsgi", "uwsgi_temp_path"}, {"scgi", "scgi_temp_path"},
	}
	for _, p := range paths {
		if p[0] != "" && strings.Contains(d.built, "--without-http_"+p[0]+"_module") {
			continue
		}
		fmt.Fprintf(&b, "%s %q;\n", p[1], filepath.Join(dir, "tmp", p[1]))
	}
	return b.String()
}

// arguments run nginx inside dir with a configuration file.
func (d Distribution) arguments(dir, config string, more ...string) []string {
	args := append(d.command[:len(d.command):len(d.command)], "-p", dir+"/", "-c", config)
	if d.takesErrorLog() { // else it opens the host's log before it reads ours
		args = append(args, "-e", filepath.Join(dir, "nginx.log"))
	}
	return append(args, more...)
}

// takesErrorLog tells whether this nginx knows -e: 1.19.5 and later do.
func (d Distribution) takesErrorLog() bool {
	var major, minor, patch int
	_, _ = fmt.Sscanf(d.Version, "%d.%d.%d", &major, &minor, &patch)
	return major > 1 || minor > 19 || minor == 19 && patch >= 5
}

// TestCommand checks the configuration file.
func (d Distribution) TestCommand(dir, config string) []string {
	return d.arguments(dir, config, "-t")
}

// ReloadCommand has the nginx that runs in dir read the configuration again.
func (d Distribution) ReloadCommand(dir, config string) []string {
	return d.arguments(dir, config, "-s", "reload")
}

// StopCommand has the nginx that runs in dir close its connections and end.
func (d Distribution) StopCommand(dir, config string) []string {
	return d.arguments(dir, config, "-s", "stop")
}

func pidFile(dir string) string { return filepath.Join(dir, "nginx.pid") }

// Spec says which nginx to start.
type Spec struct {
	// Dir is nginx's folder.
	Dir string
	// Config is the configuration file.
	Config string
	// Env are variables added to the process's environment, key=value.
	Env []string
}

// Server is an nginx that was started. Kill ends its workers too.
type Server struct {
	*process.Process
	PIDFile string
	LogFile string
}

// Start starts an nginx and returns when it listens. If it ends before, the
// error has the last lines of its log; if ctx ends first, it is killed.
func Start(ctx context.Context, dist Distribution, spec Spec) (*Server, error) {
	s := &Server{PIDFile: pidFile(spec.Dir), LogFile: filepath.Join(spec.Dir, "nginx.log")}
	if err := os.MkdirAll(filepath.Join(spec.Dir, "tmp"), 0o700); err != nil {
		return nil, fmt.Errorf("create folder of nginx: %w", err)
	}
	_ = os.Remove(s.PIDFile) // of an nginx that was killed
	var err error
	s.Process, err = process.Start(process.Spec{
		Command: dist.arguments(spec.Dir, spec.Config, "-g", "daemon off;"),
		Env:     spec.Env,
		LogFile: s.LogFile,
		Group:   true, DieWithParent: true,
	})
	if err != nil {
		return nil, fmt.Errorf("start nginx: %w", err)
	}
	if err := s.awaitPIDFile(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start nginx in %s: %w", spec.Dir, err), s.Kill())
	}
	return s, nil
}

// awaitPIDFile returns when nginx has written its process id, which it does
// when its sockets listen.
func (s *Server) awaitPIDFile(ctx context.Context) error {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-s.Done():
			return fmt.Errorf("it ended with code %d: %s", s.ExitCode(), tail(s.LogFile))
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
		text, err := os.ReadFile(s.PIDFile)
		if err == nil && strings.TrimSpace(string(text)) == strconv.Itoa(s.PID()) {
			return nil
		}
	}
}

// tail is the end of a log, for error messages.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return "\n" + strings.Join(lines[max(0, len(lines)-5):], "\n")
}
