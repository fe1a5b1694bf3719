package nginx

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/porttest"
	"interrex/internal/topology"
	"interrex/router"
)

func rwUpstream() Upstream { return Upstream{Context: Stream, Name: "db", Role: RW, Via: Direct} }

// streamBody is a stream upstream with a port in front of it.
func streamBody(port, servers string) string {
	return "worker_shutdown_timeout 500ms; # old sessions\nstream {\n    upstream db {\n        zone db 64k;\n        " + servers +
		"\n    }\n    server { listen " + port + "; proxy_pass db; }\n}\n"
}

// TestSwitch: a new route leads new connections to the new primary and old
// sessions away from the old one; replicas follow; what a person edited
// meanwhile is kept, and so are mode and former version of the file.
func TestSwitch(t *testing.T) {
	a, b, c := sayer(t), sayer(t), sayer(t)
	rw, ro := porttest.Address(t), porttest.Address(t)
	n := newNginx(t, streamBody(rw, "server "+a+"; # today's")+"stream { upstream ro { server "+a+" weight=3; } server { listen "+ro+"; proxy_pass ro; } }\n")
	n.write(n.file, strings.Replace(n.read(n.file), "}\nstream {", "", 1)) // nginx allows one stream block
	n.start()
	first := n.read(n.file)
	table := router.NewTable()
	obey(t, table, opened(1, a, a))
	r, _ := run(t, n.config(rwUpstream(), Upstream{Context: Stream, Name: "ro", Role: RO, Via: Direct}), table)
	require.Zero(t, applied(t, r, 1).Reloads, "nothing to change, nothing to reload")
	require.Equal(t, first, n.read(n.file))
	said, session, err := ask(rw)
	require.NoError(t, err)
	require.Equal(t, a, said)
	defer session.Close()

	n.write(n.file, strings.Replace(first, "# today's", "# a person was here", 1)+"# and here\n")
	start := time.Now()
	obey(t, table, opened(2, b, b, c))
	eventually(t, func() string {
		if got := says(t, rw); got != b {
			return fmt.Sprintf("the port leads to %s, want %s", got, b)
		}
		return ""
	})
	seen := time.Since(start)
	s := applied(t, r, 2)
	t.Logf("change to first connection on the new primary: %s; to live: %s, of which the reload %s", seen, time.Since(start), s.ReloadDuration)
	for range 20 {
		require.Equal(t, b, says(t, rw), "no worker leads to the old primary any more")
	}
	require.Contains(t, []string{b, c}, says(t, ro))
	_, err = io.Copy(io.Discard, session)
	require.False(t, errors.Is(err, os.ErrDeadlineExceeded), "the old session was not ended by worker_shutdown_timeout")

	text := n.read(n.file)
	require.Contains(t, text, "server "+b+"; # a person was here\n")
	require.True(t, strings.HasSuffix(text, "# and here\n"))
	require.Contains(t, text, "server "+a+" weight=3 down;")
	info, err := os.Stat(n.file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), info.Mode().Perm())
	require.Contains(t, n.read(filepath.Join(filepath.Dir(n.file), ".nginx.conf.interrex-previous")), "server "+a+"; # a person was here\n")
	require.Empty(t, s.Warnings)
}

// TestClosed: a route that stays closed has its servers marked down, so that
// clients are told at once; a route that opens again ends that.
func TestClosed(t *testing.T) {
	a, rw := sayer(t), porttest.Address(t)
	n := newNginx(t, strings.Replace(streamBody(rw, "server "+a+" max_fails=0;"), "worker_shutdown_timeout 500ms;", "", 1)).unpacked()
	n.start()
	cfg := n.config(rwUpstream())
	cfg.CloseAfter = 200 * time.Millisecond
	cfg.ReloadCommand = nil // SIGHUP
	table := router.NewTable()
	obey(t, table, opened(1, a))
	r, _ := run(t, cfg, table)
	applied(t, r, 1)
	obey(t, table, router.Route{Epoch: 2, Phase: router.Closed, Reason: "failover"})
	applied(t, r, 2)
	require.Equal(t, a, says(t, rw), "not yet")
	eventually(t, func() string {
		if got := says(t, rw); got == a {
			return "the port still leads to " + got
		}
		return ""
	})
	eventually(t, func() string {
		if s := r.Status(); s.Upstreams[0].Note != "closed: failover" || len(s.Warnings) != 1 {
			return fmt.Sprintf("status %+v", s)
		}
		return ""
	})
	require.Contains(t, n.read(n.file), "server "+a+" max_fails=0 down;")
	obey(t, table, opened(2, a))
	eventually(t, func() string {
		if got := says(t, rw); got != a {
			return "the port leads to " + got
		}
		return ""
	})
}

// TestRefusedByNginx: a configuration that nginx refuses, here for what a
// person broke elsewhere in it, stays as the person left it, nginx goes on, and
// the change is made once the configuration is sound.
func TestRefusedByNginx(t *testing.T) {
	for _, name := range []string{"main file, tested beforehand", "included file behind a link, tested in place"} {
		t.Run(name, func(t *testing.T) {
			included := strings.HasPrefix(name, "included")
			a, b, rw := sayer(t), sayer(t), porttest.Address(t)
			upstream := "upstream db { server " + a + "; }\n"
			n := newNginx(t, "stream {\n include stream.d/*;\n @UP@ server { listen "+rw+"; proxy_pass db; }\n}\n")
			cfg := n.config(rwUpstream())
			if included {
				dir := filepath.Dir(n.file)
				n.write(n.file, strings.Replace(n.read(n.file), "@UP@", "", 1))
				n.write(filepath.Join(dir, "available", "db.conf"), upstream)
				require.NoError(t, os.MkdirAll(filepath.Join(dir, "stream.d"), 0o755))
				cfg.File = filepath.Join(dir, "stream.d", "db.conf")
				require.NoError(t, os.Symlink("../available/db.conf", cfg.File))
			} else {
				n.write(n.file, strings.Replace(n.read(n.file), "@UP@", upstream, 1))
			}
			n.start()
			table := router.NewTable()
			obey(t, table, opened(1, a))
			r, _ := run(t, cfg, table)
			applied(t, r, 1)

			sound := n.read(cfg.File)
			broken := strings.Replace(sound, "upstream db", "bogus on;\nupstream db", 1)
			alone(t, cfg.File, func() { n.write(cfg.File, broken) })
			obey(t, table, opened(2, b))
			failed(t, r, `unknown directive "bogus"`)
			require.Equal(t, topology.Epoch(1), r.Status().Epoch)
			require.Equal(t, topology.Epoch(2), r.Status().Wanted)
			require.NotZero(t, r.Status().ErrorSince)
			require.Equal(t, a, says(t, rw))
			alone(t, cfg.File, func() {
				require.Equal(t, broken, n.read(cfg.File))
				n.write(cfg.File, sound)
			})
			require.Zero(t, applied(t, r, 2).ErrorSince)
			eventually(t, func() string {
				if got := says(t, rw); got != b {
					return "the port leads to " + got
				}
				return ""
			})
			if included {
				target, err := os.Readlink(cfg.File)
				require.NoError(t, err)
				require.Equal(t, "../available/db.conf", target)
			}
		})
	}
}

// alone does something to the file while no agent does, as a person's script
// would with flock(1).
func alone(t *testing.T, file string, do func()) {
	t.Helper()
	target, err := findTarget(file)
	require.NoError(t, err)
	release, err := target.acquire(t.Context(), patience)
	require.NoError(t, err)
	defer release()
	do()
}

// TestOwnedBlockGone: an upstream block that vanished, or a file that cannot be
// read, is an error that is shown, and nothing is written.
func TestOwnedBlockGone(t *testing.T) {
	a, b, rw := sayer(t), sayer(t), porttest.Address(t)
	n := newNginx(t, streamBody(rw, "server "+a+";"))
	n.start()
	table := router.NewTable()
	obey(t, table, opened(1, a))
	r, _ := run(t, n.config(rwUpstream()), table)
	applied(t, r, 1)
	for text, want := range map[string]string{
		strings.Replace(n.read(n.file), "upstream db {", "upstream other {", 1): ErrUpstreamMissing.Error(),
		"stream { upstream db { server 'x":                                      ErrSyntax.Error(),
	} {
		n.write(n.file, text)
		failed(t, r, want)
		obey(t, table, opened(table.Current().Epoch+1, b))
		failed(t, r, want)
		require.Equal(t, text, n.read(n.file))
	}
	require.Equal(t, a, says(t, rw))
}

// TestReloadFails: a reload that fails, or that nginx doesn't live by in time,
// brings the previous file back.
func TestReloadFails(t *testing.T) {
	for want, command := range map[string][]string{"exit status 1": {"false"}, ErrNotLive.Error(): {"true"}, "stopped after": {"sleep", "60"}} {
		t.Run(want, func(t *testing.T) {
			a, b, rw := sayer(t), sayer(t), porttest.Address(t)
			n := newNginx(t, streamBody(rw, "server "+a+";"))
			n.start()
			first := n.read(n.file)
			table := router.NewTable()
			obey(t, table, opened(1, b))
			cfg := n.config(rwUpstream())
			cfg.ReloadCommand, cfg.LiveLimit, cfg.Recheck = command, 200*time.Millisecond, time.Hour
			if command[0] == "sleep" {
				cfg.CommandLimit = 500 * time.Millisecond
			}
			r, stop := run(t, cfg, table)
			failed(t, r, want)
			stop()
			require.Equal(t, first, n.read(n.file))
			require.NoFileExists(t, filepath.Join(filepath.Dir(n.file), ".nginx.conf.interrex-pending"))
			require.Zero(t, r.Status().Reloads)
			require.Equal(t, a, says(t, rw))
		})
	}
}

// TestNginxNotRunning: the file is made right for nginx to start with, the
// state is shown, and it ends when nginx runs.
func TestNginxNotRunning(t *testing.T) {
	a, b, rw := sayer(t), sayer(t), porttest.Address(t)
	n := newNginx(t, streamBody(rw, "server "+a+";"))
	table := router.NewTable()
	obey(t, table, opened(1, b))
	r, _ := run(t, n.config(rwUpstream()), table)
	failed(t, r, ErrNotRunning.Error())
	require.Contains(t, n.read(n.file), "server "+b+";")
	n.start()
	applied(t, r, 1)
	require.Equal(t, b, says(t, rw))
}

// fakeTable can do what a real one never does: go back.
type fakeTable struct {
	mu    sync.Mutex
	route router.Route
	ch    chan struct{}
}

func (f *fakeTable) Current() router.Route {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.route
}

func (f *fakeTable) Subscribe() (<-chan struct{}, func()) { return f.ch, func() {} }

func (f *fakeTable) set(r router.Route) {
	f.mu.Lock()
	f.route = r
	f.mu.Unlock()
	f.ch <- struct{}{}
}

// TestInvariant_I5_RoutesNeverGoBack: a delayed route of a lower epoch is
// refused, and shown.
func TestInvariant_I5_RoutesNeverGoBack(t *testing.T) {
	a, b, rw := sayer(t), sayer(t), porttest.Address(t)
	n := newNginx(t, streamBody(rw, "server "+a+";"))
	n.start()
	table := &fakeTable{route: opened(5, b), ch: make(chan struct{})}
	r, _ := run(t, n.config(rwUpstream()), table)
	applied(t, r, 5)
	table.set(opened(4, a))
	failed(t, r, router.ErrStaleRoute.Error())
	require.Equal(t, topology.Epoch(5), r.Status().Epoch)
	require.Equal(t, b, says(t, rw))
	table.set(opened(6, a))
	applied(t, r, 6)
	require.Equal(t, a, says(t, rw))
}

// TestNewestRouteWins: routes that come faster than nginx reloads are made one
// change, and two agents that own one file don't break it.
func TestNewestRouteWins(t *testing.T) {
	a, b, rw := sayer(t), sayer(t), porttest.Address(t)
	n := newNginx(t, streamBody(rw, "server "+a+";"))
	n.start()
	table := router.NewTable()
	r1, _ := run(t, n.config(rwUpstream()), table)
	r2, _ := run(t, n.config(rwUpstream()), table)
	const routes = 101
	for i := 1; i <= routes; i++ {
		obey(t, table, opened(topology.Epoch(i), []string{a, b}[i%2]))
		time.Sleep(2 * time.Millisecond)
	}
	s1, s2 := applied(t, r1, routes), applied(t, r2, routes)
	require.Equal(t, b, says(t, rw))
	require.Less(t, s1.Reloads+s2.Reloads, uint64(routes/4))
	require.NoError(t, r1.test(t.Context(), n.file))
}

// TestMembersHealth: a member that fails its check is marked down, one that
// heals comes back, and when all fail all stay.
func TestMembersHealth(t *testing.T) {
	m1, m2, port := newWebMember(t), newWebMember(t), porttest.Address(t)
	body := strings.Join([]string{"http {\n@HTTP@\n    upstream app {", "        server " + m1.address + " weight=2; # one", "        keepalive 4;", "    }",
		"    server { listen " + port + "; location / { proxy_pass http://app; } }\n}\n"}, "\n")
	n := newNginx(t, body)
	n.start()
	members := []Member{checkedMember(m1.address), checkedMember(m2.address)}
	for i := range members {
		members[i].Interval, members[i].Timeout, members[i].MaxFails = 50*time.Millisecond, 50*time.Millisecond, 3
	}
	r, stop := run(t, n.config(Upstream{Context: HTTP, Name: "app", Role: Members, Members: members}), router.NewTable())
	file := func(one, two string) {
		t.Helper()
		eventually(t, func() string {
			want := "        server " + m1.address + " weight=2" + one + "; # one\n        server " + m2.address + two + ";\n        keepalive 4;\n"
			if got := n.read(n.file); !strings.Contains(got, want) || r.Status().Error != "" {
				return fmt.Sprintf("want\n%sin\n%swith status %+v", want, got, r.Status())
			}
			return ""
		})
	}
	file("", "")
	m2.set(http.StatusServiceUnavailable)
	file("", " down")
	eventually(t, func() string {
		if s := r.Status(); s.Upstreams[0].Note != "down by health check: "+m2.address {
			return fmt.Sprintf("status %+v", s)
		}
		return ""
	})
	for range 10 {
		resp, err := http.Get("http://" + port + "/")
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, errors.Join(err, resp.Body.Close()))
		require.Equal(t, m1.address, string(body))
	}
	stop() // another agent, or this one restarted, adopts what the file says
	r, _ = run(t, r.cfg, router.NewTable())
	file("", " down")
	m1.set(http.StatusInternalServerError)
	file("", "")
	eventually(t, func() string {
		if s := r.Status(); !strings.Contains(s.Upstreams[0].Note, "every member fails") || s.Members[0].Healthy || s.Members[1].Error == "" {
			return fmt.Sprintf("status %+v", s)
		}
		return ""
	})
	m2.set(http.StatusOK)
	file(" down", "")
	m1.set(http.StatusNoContent)
	file("", "")
}
