package nginx

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"interrex/internal/porttest"
	"interrex/internal/topology"
	"interrex/router"
)

// victimEnv holds what the process that is to be killed works with.
const victimEnv = "INTERREX_TEST_NGINX_VICTIM"

type victimWork struct {
	Config    Config
	Primaries []string
}

// TestMain also serves as the agent that is killed in TestKilledMidWrite.
func TestMain(m *testing.M) {
	if work := os.Getenv(victimEnv); work != "" {
		if err := beVictim(work); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// beVictim moves the primary to and fro until it is killed.
func beVictim(text string) error {
	var work victimWork
	if err := json.Unmarshal([]byte(text), &work); err != nil {
		return err
	}
	table := router.NewTable()
	r, err := New(work.Config, table, zap.NewNop())
	if err != nil {
		return err
	}
	go func() {
		for epoch := topology.Epoch(1); ; epoch++ {
			_, _ = table.Apply(opened(epoch, work.Primaries[int(epoch)%len(work.Primaries)]))
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return r.Run(context.Background())
}

// TestKilledMidWrite: an agent killed at any moment leaves a file that nginx
// accepts, and the next one ends what was begun (R2). The files kept beside the
// configuration are not read by an include of the whole folder.
func TestKilledMidWrite(t *testing.T) {
	a, b, rw := sayer(t), sayer(t), porttest.Address(t)
	n := newNginx(t, "worker_shutdown_timeout 100ms;\nstream {\n include stream.d/*;\n server { listen "+rw+"; proxy_pass db; }\n}\n").unpacked()
	cfg := n.config(rwUpstream())
	cfg.File = filepath.Join(filepath.Dir(n.file), "stream.d", "db")
	n.write(cfg.File, "upstream db { # ours\n    server "+a+";\n}\n")
	n.start()
	work, err := json.Marshal(victimWork{Config: cfg, Primaries: []string{a, b}})
	require.NoError(t, err)
	target, err := findTarget(cfg.File)
	require.NoError(t, err)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random, unfinished := rand.New(rand.NewPCG(seed, 0)), 0
	for i := range 10 {
		victim := exec.Command(os.Args[0])
		victim.Env = append(os.Environ(), victimEnv+"="+string(work))
		require.NoError(t, victim.Start())
		time.Sleep(time.Duration(50+random.IntN(300)) * time.Millisecond)
		require.NoError(t, victim.Process.Kill())
		require.ErrorContains(t, victim.Wait(), "killed")
		text := n.read(cfg.File)
		require.Contains(t, []string{"upstream db { # ours\n    server " + a + ";\n}\n", "upstream db { # ours\n    server " + b + ";\n}\n"}, text, "kill %d", i)
		if _, is := target.unfinished(); is {
			unfinished++
		}
		stderr, _, err := runCommand(t.Context(), cfg.TestCommand, patience)
		require.NoError(t, err, stderr)
	}
	t.Logf("%d of 10 kills were in the middle of a change", unfinished)

	// The worst moment: the new text is in place, nginx has not read it.
	text := "upstream db { # ours\n    server " + b + ";\n}\n"
	n.write(cfg.File, text)
	require.NoError(t, target.begin([]byte(text)))
	table := router.NewTable()
	obey(t, table, opened(1000, b))
	r, stop := run(t, cfg, table)
	require.NotZero(t, applied(t, r, 1000).Reloads)
	require.Equal(t, b, says(t, rw))
	require.NoFileExists(t, target.pending)
	stop()

	// And a text that nginx refuses, which only a fault of ours could write.
	require.NoError(t, os.WriteFile(target.previous, []byte(text), 0o600))
	broken := strings.Replace(text, "# ours", "# ours\n bogus;", 1)
	n.write(cfg.File, broken)
	require.NoError(t, target.begin([]byte(broken)))
	r, _ = run(t, cfg, table)
	applied(t, r, 1000)
	require.Equal(t, text, n.read(cfg.File))
}
