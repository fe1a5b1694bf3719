package main

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"interrex/dbrepl"
	"interrex/detector"
	"interrex/election"
	"interrex/internal/faultdisk"
	"interrex/internal/porttest"
	"interrex/internal/sandbox/mysqld"
	"interrex/internal/sandbox/mysqld/mysqldtest"
	"interrex/internal/topology"
)

// watched is a real server on a disk of its own, open for writes and written
// to, and three members' detectors that look at it as agents do; the first one
// is its own agent's.
type watched struct {
	root   string // this thread's mounts, for others
	spec   mysqld.Spec
	server *mysqld.Server
	disk   *faultdisk.Disk
	admin  *sql.DB
	dets   []*detector.Detector
	writes sync.WaitGroup
	stop   context.CancelFunc
}

const watchedPassword = "controller"

func watchedSQL() []string {
	return append(dbrepl.Grants(dbrepl.GrantSpec{Controller: dbrepl.Account{User: "controller", Host: "%", Password: watchedPassword}}),
		"CREATE SCHEMA app", "CREATE TABLE app.t (id BIGINT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(64))")
}

// newWatched: without admin, the two who are not beside it get in only where there
// is a connection left.
func newWatched(t *testing.T, root string, admin bool) *watched {
	t.Helper()
	w := &watched{root: root, spec: mysqldtest.NewSpec(t, watchedSQL(), 1)}
	data := filepath.Join(w.spec.Dir, "data")
	require.NoError(t, os.Rename(data, data+".new"))
	w.newDisk(t)
	w.start(t)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	w.stop = stop
	w.watch(t, ctx, admin)
	t.Cleanup(func() {
		stop()
		_ = w.disk.Resume()
		_ = w.server.Kill()
		w.writes.Wait()
		require.NoError(t, w.disk.Unmount())
	})
	return w
}

// newDisk gives the server a disk, and a new server's data on it.
func (w *watched) newDisk(t *testing.T) {
	t.Helper()
	data := filepath.Join(w.spec.Dir, "data")
	var err error
	w.disk, err = faultdisk.Mount(data, 1<<30)
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), "cp", "-a", data+".new/.", data).CombinedOutput()
	require.NoError(t, err, string(out))
}

// start starts the server, opens it, and has clients write.
func (w *watched) start(t *testing.T) {
	t.Helper()
	w.server = mysqldtest.Run(t, w.spec)
	w.admin = w.connect(t)
	_, err := w.admin.ExecContext(t.Context(), "SET GLOBAL super_read_only = OFF, GLOBAL read_only = OFF")
	require.NoError(t, err)
	for range 2 {
		client := w.connect(t)
		client.SetMaxOpenConns(1)
		w.writes.Go(func() {
			for failed := 0; failed < 20; {
				if _, err := client.ExecContext(context.Background(), "INSERT INTO app.t (v) VALUES (REPEAT('x', 60))"); err != nil {
					failed++
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
}

func (w *watched) connect(t *testing.T) *sql.DB {
	t.Helper()
	c := mysql.NewConfig()
	c.Net, c.Addr, c.User, c.Logger = "unix", w.server.Socket, "root", &mysql.NopLogger{}
	connector, err := mysql.NewConnector(c)
	require.NoError(t, err)
	db := sql.OpenDB(connector)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// watch runs the detectors.
func (w *watched) watch(t *testing.T, ctx context.Context, admin bool) {
	t.Helper()
	var members []topology.Member
	for i := range 3 {
		members = append(members, topology.Member{Name: topology.NodeName(fmt.Sprintf("db%d", i+1)), Gossip: porttest.Address(t)})
	}
	var running sync.WaitGroup
	for i, m := range members {
		c := detector.DefaultConfig()
		c.Self, c.Cluster, c.Key, c.Bind = m.Name, "watched", []byte("0123456789abcdef"), m.Gossip
		windows, err := c.EffectiveWindows()
		require.NoError(t, err)
		ic := dbrepl.DefaultConfig()
		if ic.Address = w.server.Addr; i == 0 || admin {
			ic.AdminAddress = w.server.AdminAddr
		}
		ic.User, ic.Password, ic.ReplUser = "controller", watchedPassword, "none"
		ic.ConnectTimeout, ic.QueryTimeout = windows.Timeout, windows.Timeout
		inst, err := dbrepl.Open(ic, zap.NewNop())
		require.NoError(t, err)
		t.Cleanup(func() { _ = inst.Close() })
		deps := detector.Deps{Log: zap.NewNop(), Classify: classify}
		if i == 0 {
			deps.FindProcess = func() (int, error) { return inst.PID(ctx) }
			deps.Disk = detector.NewDisk(func() ([]string, error) {
				folders, err := inst.Folders(ctx)
				for n := range folders {
					folders[n] = w.root + folders[n]
				}
				return folders, err
			})
		}
		d, err := detector.New(c, deps)
		require.NoError(t, err)
		d.SetRegistered(members)
		d.SetSubjects([]detector.Subject{{
			Name: "db1", Address: w.server.Addr, Local: i == 0,
			Prober: &instanceProber{
				inst: inst, name: "db1", primary: func() *election.Primary { return nil },
				source: func(string, int) topology.NodeName { return "" }, limit: 2 * time.Second, local: i == 0,
			},
			Writer: instanceWriter{inst: inst, observer: m.Name},
		}})
		running.Go(func() {
			if err := d.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		w.dets = append(w.dets, d)
	}
	t.Cleanup(func() {
		w.stop()
		running.Wait()
	})
}

// failFlush has the next flush of a file by each of the server's threads fail
// with EIO, and returns when the first one did.
func (w *watched) failFlush() error {
	cmd := exec.Command("strace", "-f", "-q", "-e", "trace=fsync,fdatasync", "-e", "inject=fsync,fdatasync:error=EIO:when=1",
		"-e", "signal=none", "-p", strconv.Itoa(w.server.PID()))
	said, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	failed := make(chan error, 1)
	w.writes.Go(func() { // it ends with the server
		var last string
		for lines := bufio.NewScanner(said); lines.Scan(); last = lines.Text() {
			if strings.Contains(lines.Text(), "(INJECTED)") {
				select {
				case failed <- nil:
				default:
				}
			}
		}
		select {
		case failed <- fmt.Errorf("nothing was flushed: strace: %w: %s", cmd.Wait(), last):
		default:
			_ = cmd.Wait()
		}
	})
	return <-failed
}

// until waits until every member's verdict is as wanted, and returns how long
// the second one's took and what it says.
func (w *watched) until(t *testing.T, want topology.Verdict, limit time.Duration) (took time.Duration, j detector.Judgement) {
	t.Helper()
	began := time.Now()
	for {
		j = w.dets[1].Judgement("db1")
		if j.Verdict == want {
			return time.Since(began), j
		}
		if time.Since(began) > limit {
			t.Fatalf("not %s within %v: %s", want, limit, j.Explanation)
		}
		time.Sleep(time.Millisecond)
	}
}

// whole waits until all members have found the server healthy for a while.
func (w *watched) whole(t *testing.T) {
	t.Helper()
	deadline, since := time.Now().Add(time.Minute), time.Now()
	for time.Since(since) < time.Second {
		for _, d := range w.dets {
			if j := d.Judgement("db1"); j.Verdict != topology.Healthy {
				since = time.Now()
				if since.After(deadline) {
					t.Fatal("not whole: " + j.Explanation)
				}
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

var detectionRounds = flag.Int("rounds", 1, "how often TestFaultsOfARealServerAreDeclared makes each of its faults at least")

// detectionBar is within what time a fault of a real server has to be declared
// under the lan profile, and by which name.
type detectionBar struct {
	name   string
	fault  func(*watched) error
	heal   func(*watched, *testing.T)
	cause  []detector.Kind
	limit  time.Duration
	rounds int
	needs  string // a program
}

func detectionBars() []detectionBar {
	restart := func(w *watched, t *testing.T) {
		_ = w.server.Kill()
		w.writes.Wait()
		w.start(t)
	}
	return []detectionBar{
		{
			"killed", func(w *watched) error { return w.server.Signal(syscall.SIGKILL) }, restart,
			[]detector.Kind{detector.ProcessExited}, 50 * time.Millisecond, 5, "",
		},
		{
			"frozen", func(w *watched) error { return w.server.Freeze() },
			func(w *watched, t *testing.T) { require.NoError(t, w.server.Thaw()) },
			[]detector.Kind{detector.Frozen}, 900 * time.Millisecond, 5, "",
		},
		{
			"disk full", func(w *watched) error { return w.disk.Fill() },
			// MySQL looks for room once a minute; nobody waits for it here.
			func(w *watched, t *testing.T) { require.NoError(t, w.disk.Free()); restart(w, t) },
			[]detector.Kind{detector.DiskFull}, time.Second, 5, "",
		},
		{
			// Two seconds after there is room again, the server still waits.
			"disk full for a moment", func(w *watched) error {
				err := w.disk.Fill()
				time.Sleep(time.Second)
				err = errors.Join(err, w.disk.Free())
				time.Sleep(2 * time.Second)
				return err
			},
			restart, []detector.Kind{detector.DiskFull}, time.Second, 2, "",
		},
		{
			"disk stalled", func(w *watched) error { return w.disk.Stall() },
			func(w *watched, t *testing.T) { require.NoError(t, w.disk.Resume()) },
			[]detector.Kind{detector.DiskStalled}, 2 * time.Second, 5, "",
		},
		{
			// Clients use them up when their writes hang. Nobody else is let in.
			"disk stalled, connections used up", func(w *watched) error {
				_, err := w.admin.Exec("SET GLOBAL max_connections = 3")
				for range 2 * time.Second / (10 * time.Millisecond) {
					if w.dets[1].Judgement("db1").Cause == detector.Saturated {
						break
					}
					time.Sleep(10 * time.Millisecond)
				}
				return errors.Join(err, w.disk.Stall())
			},
			func(w *watched, t *testing.T) {
				require.NoError(t, w.disk.Resume())
				_, err := w.admin.Exec("SET GLOBAL max_connections = 200")
				require.NoError(t, err)
			},
			[]detector.Kind{detector.DiskStalled}, 2 * time.Second, 3, "",
		},
		{
			// D3. The server ends itself, as what it holds in memory cannot be
			// trusted any more, and takes up what is on the disk.
			"fsync fails", (*watched).failFlush,
			func(w *watched, t *testing.T) {
				select {
				case <-w.server.Done():
				case <-time.After(10 * time.Second):
					t.Fatal("the server lives on with what it could not flush")
				}
				w.writes.Wait()
				w.start(t)
			},
			[]detector.Kind{detector.ProcessExited}, 2 * time.Second, 2, "strace",
		},
		{
			"disk read-only", func(w *watched) error { return w.disk.Break() },
			func(w *watched, t *testing.T) { // it stays so
				_ = w.server.Kill()
				w.writes.Wait()
				<-w.server.Done()
				require.NoError(t, w.disk.Unmount())
				w.newDisk(t)
				w.start(t)
			},
			// The server gives up at its next write: its end is declared first,
			// where it is not the disk's.
			[]detector.Kind{detector.DiskReadOnly, detector.ProcessExited}, time.Second, 1, "",
		},
	}
}

// TestFaultsOfARealServerAreDeclared: from the fault to the verdict of another
// member.
func TestFaultsOfARealServerAreDeclared(t *testing.T) {
	root, err := faultdisk.Private()
	if errors.Is(err, faultdisk.ErrUnavailable) && os.Getenv("CI") == "" {
		leaveOut(t, "THE FAULTS OF REAL DISKS ARE LEFT OUT: "+err.Error())
	}
	require.NoError(t, err)
	w := newWatched(t, root, false)
	missing, table := "", fmt.Sprintf("from the fault to the verdict, in ms\n%-34s %6s %9s %9s %9s %9s", "", "rounds", "least", "middle", "most", "bar")
	for _, bar := range detectionBars() {
		if _, err := exec.LookPath(bar.needs); bar.needs != "" && err != nil {
			require.Empty(t, os.Getenv("CI"), "%s is missing", bar.needs)
			missing = fmt.Sprintf("THE FAULT THAT %s IS LEFT OUT: %v", bar.name, err)
			continue
		}
		var all []time.Duration
		for range max(bar.rounds, *detectionRounds) {
			w.whole(t)
			require.NoError(t, bar.fault(w), bar.name)
			ended := w.server.Done()
			began := time.Now()
			took, j := w.until(t, topology.Failed, 10*time.Second)
			if bar.name == "killed" { // from the end of the process, which takes the kernel a while
				declared := began.Add(took)
				<-ended
				took = time.Until(declared)
			}
			require.Contains(t, bar.cause, j.Cause, "%s: %s", bar.name, j.Explanation)
			if len(all) == 0 {
				t.Logf("%s: %s", bar.name, j.Explanation)
			}
			all = append(all, took)
			bar.heal(w, t)
		}
		slices.Sort(all)
		line := fmt.Sprintf("%-34s %6d %9d %9d %9d %9d", bar.name, len(all), all[0].Milliseconds(), all[len(all)/2].Milliseconds(),
			all[len(all)-1].Milliseconds(), bar.limit.Milliseconds())
		t.Log(line)
		table += "\n" + line
		assert.LessOrEqual(t, all[len(all)-1], bar.limit, bar.name)
	}
	t.Log(table)
	if missing != "" {
		leaveOut(t, missing)
	}
}

// leaveOut skips, and says so also where nobody asks what was skipped.
func leaveOut(t *testing.T, what string) {
	t.Helper()
	fmt.Fprintln(os.Stderr, what)
	t.Skip(what)
}

// TestNoiseFailsNothing: what is hard on a server, and no failure of it. In a
// server's life each of it is ordinary.
func TestNoiseFailsNothing(t *testing.T) {
	root, err := faultdisk.Private()
	if errors.Is(err, faultdisk.ErrUnavailable) && os.Getenv("CI") == "" {
		leaveOut(t, "THE NOISE ON REAL DISKS IS LEFT OUT: "+err.Error())
	}
	require.NoError(t, err)
	w := newWatched(t, root, true)
	sql := func(t *testing.T, statements ...string) {
		conn, err := w.admin.Conn(t.Context())
		require.NoError(t, err)
		defer conn.Close()
		for _, statement := range statements {
			_, err := conn.ExecContext(t.Context(), statement)
			require.NoError(t, err, statement)
		}
	}
	for _, noise := range []struct {
		name  string
		cause detector.Kind // that is named meanwhile, if any
		make  func(t *testing.T)
	}{
		{"pauses of 300 ms", "", func(t *testing.T) {
			for range 5 {
				require.NoError(t, w.server.Freeze())
				time.Sleep(300 * time.Millisecond)
				require.NoError(t, w.server.Thaw())
				time.Sleep(500 * time.Millisecond)
			}
		}},
		{"the disk stalls for 300 ms", "", func(t *testing.T) {
			for range 5 {
				require.NoError(t, w.disk.Stall())
				time.Sleep(300 * time.Millisecond)
				require.NoError(t, w.disk.Resume())
				time.Sleep(500 * time.Millisecond)
			}
		}},
		{"connections used up", detector.Saturated, func(t *testing.T) {
			sql(t, "SET GLOBAL max_connections = 3")
			time.Sleep(2 * time.Second)
			sql(t, "SET GLOBAL max_connections = 200")
		}},
		{"run-away threads", detector.Saturated, func(t *testing.T) {
			sessions := max(runAwayAtLeast, runAwayPerProcessor*runtime.NumCPU()) + 20
			sql(t, fmt.Sprintf("SET GLOBAL max_connections = %d", sessions+100))
			many := w.connect(t)
			var asleep sync.WaitGroup
			for range sessions {
				asleep.Go(func() { _, _ = many.ExecContext(t.Context(), "DO SLEEP(4)") })
			}
			asleep.Wait()
			require.NoError(t, many.Close())
			sql(t, "SET GLOBAL max_connections = 200")
		}},
		{"a transaction of a million rows", "", func(t *testing.T) {
			sql(t, "CREATE TABLE app.large (id BIGINT AUTO_INCREMENT PRIMARY KEY, v CHAR(40))", "SET cte_max_recursion_depth = 1100000",
				"INSERT INTO app.large (v) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000) SELECT REPEAT('y', 40) FROM n")
		}},
		{"a large table is rebuilt", "", func(t *testing.T) { sql(t, "ALTER TABLE app.large FORCE", "DROP TABLE app.large") }},
		{"four busy loops per core", "", func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), 6*time.Second)
			defer stop()
			var loops sync.WaitGroup
			for range 4 * runtime.NumCPU() {
				loops.Go(func() { _ = exec.CommandContext(ctx, "sh", "-c", "while :; do :; done").Run() })
			}
			loops.Wait()
		}},
		{"everything is locked for a backup", "", func(t *testing.T) { sql(t, "FLUSH TABLES WITH READ LOCK", "DO SLEEP(8)", "UNLOCK TABLES") }},
	} {
		w.whole(t)
		ctx, stop := context.WithCancel(t.Context())
		wrong := make(chan string, 1)
		go func() { wrong <- w.observe(ctx, noise.cause) }()
		began := time.Now()
		noise.make(t)
		took := time.Since(began)
		stop()
		require.Empty(t, <-wrong, noise.name)
		t.Logf("%s: %v", noise.name, took.Round(time.Millisecond))
	}
}

// observe looks until ctx ends whether anybody takes the server for failed, and
// whether its cause is named.
func (w *watched) observe(ctx context.Context, cause detector.Kind) string {
	named := cause == ""
	for ctx.Err() == nil {
		for _, d := range w.dets {
			j := d.Judgement("db1")
			if j.Verdict == topology.Failed {
				return j.Explanation
			}
			named = named || j.Cause == cause
		}
		time.Sleep(5 * time.Millisecond)
	}
	if !named {
		return fmt.Sprintf("nobody named it %s", cause)
	}
	return ""
}
