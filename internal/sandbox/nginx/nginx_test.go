package nginx

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/porttest"
	"interrex/internal/sandbox/fetch"
)

// write makes a configuration that answers with text over http, and over a
// stream route that leads to it.
func write(t *testing.T, d Distribution, dir string, web, stream int, text string) string {
	t.Helper()
	config := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `%s
events {}
http {
	%s
	server { listen 127.0.0.1:%d; return 200 %q; }
}
stream {
	server { listen 127.0.0.1:%d; proxy_pass 127.0.0.1:%d; }
}
`, d.Main(dir), d.HTTP(dir), web, text, stream, web), 0o600))
	return config
}

func read(t *testing.T, port int) string {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}

func TestNginxRunsInItsFolder(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	found, err := Find(ctx, fetch.NewProgress(os.Stderr))
	require.NoError(t, err)
	tree, err := fetch.Nginx(ctx, fetch.NewProgress(os.Stderr))
	require.NoError(t, err)
	unpacked, err := inspect(ctx, tree.Command("usr/sbin/nginx"), tree.Root)
	require.NoError(t, err)
	for name, d := range map[string]Distribution{"found": found, "unpacked": unpacked} {
		t.Run(name, func(t *testing.T) {
			dir, web, stream := t.TempDir(), porttest.Port(t), porttest.Port(t)
			config := write(t, d, dir, web, stream, "one")
			server, err := Start(ctx, d, Spec{Dir: dir, Config: config})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, server.Kill()) })
			require.Equal(t, "one", read(t, web))
			require.Equal(t, "one", read(t, stream))

			write(t, d, dir, web, stream, "two")
			run(t, d.TestCommand(dir, config))
			run(t, d.ReloadCommand(dir, config))
			require.Eventually(t, func() bool { return read(t, stream) == "two" }, 10*time.Second, 20*time.Millisecond)

			run(t, d.StopCommand(dir, config))
			code, err := server.Wait(ctx)
			require.NoError(t, err)
			require.Zero(t, code)
		})
	}
}

func TestKillEndsTheWorkersToo(t *testing.T) {
	d, err := Find(t.Context(), fetch.NewProgress(os.Stderr))
	require.NoError(t, err)
	dir, web := t.TempDir(), porttest.Port(t)
	config := write(t, d, dir, web, porttest.Port(t), "one")
	server, err := Start(t.Context(), d, Spec{Dir: dir, Config: config})
	require.NoError(t, err)
	require.Equal(t, "one", read(t, web))
	require.NoError(t, server.Kill())
	require.Eventually(t, func() bool {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", web), time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	}, 10*time.Second, 10*time.Millisecond)
}

func TestWrongConfigurationSaysWhy(t *testing.T) {
	d, err := Find(t.Context(), fetch.NewProgress(os.Stderr))
	require.NoError(t, err)
	dir := t.TempDir()
	config := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(config, []byte(d.Main(dir)+"nonsense;\n"), 0o600))
	_, err = Start(t.Context(), d, Spec{Dir: dir, Config: config})
	require.ErrorContains(t, err, `unknown directive "nonsense"`)
}

func run(t *testing.T, command []string) {
	t.Helper()
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	require.NoError(t, err, "%s", out)
}
