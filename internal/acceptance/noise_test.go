package acceptance

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

	"interrex/failover/api"
	"interrex/internal/topology"
)

// noisy is a cluster under load while something goes on that is hard on it.
type noisy struct {
	*cluster
	primary  string
	replicas []string
	full     bool // large statements are to be as large as described
	rand     *rand.Rand
}

// TestNoiseMovesNobody: whatever is hard on a cluster and no failure of its
// primary moves nobody, and no acknowledged row is lost. Lost packets are
// interrex/internal/acceptance/cutoff.TestW9BadNetwork.
func TestNoiseMovesNobody(t *testing.T) {
	for _, kind := range []struct {
		name string
		// make has it go on until ctx ends.
		make func(t *testing.T, ctx context.Context, n *noisy)
		// named is what the primary's evidence says meanwhile, if anything.
		named string
	}{
		{name: "four busy loops per core", make: busyLoops},
		{name: "pauses of 300 ms", make: pauses},
		{name: "connections used up", make: useUpConnections, named: "saturated"},
		{name: "large statements", make: largeStatements},
		{name: "replicas restart", make: restartReplicas},
		{name: "agents restart", make: restartAgents},
	} {
		t.Run(kind.name, func(t *testing.T) {
			c := borrow(t)
			before := c.healthy(t)
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			n := &noisy{
				cluster: c, primary: string(before.Primary.Node), replicas: c.names(string(before.Primary.Node)),
				full: *noise > noiseInTests, rand: rand.New(rand.NewPCG(seed, 0)), //nolint:gosec // what is paused when
			}
			w := c.underLoad(t, before)
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			began := time.Now()
			var watched sync.WaitGroup
			var named bool
			watched.Go(func() { named = n.unmoved(t, ctx, before, kind.named) })
			loud, hush := context.WithTimeout(ctx, *noise)
			defer hush()
			kind.make(t, loud, n)
			took := time.Since(began)
			stop()
			watched.Wait()
			if kind.named != "" && !t.Failed() {
				require.True(t, named, "nobody said that %s is %s", n.primary, kind.named)
			}
			after := c.whole(t, w)
			require.Equal(t, before.Epoch, after.Epoch, "after the noise")
			r := w.Stop()
			t.Logf("for %.0f s: nobody moved, %d rows acknowledged, longest time without one %d ms%s",
				took.Seconds(), r.Acknowledged(), r.LongestOutage(began, began.Add(took)).Length().Milliseconds(), n.suspicions(t, began))
		})
	}
}

// unmoved looks until ctx ends whether the epoch or the primary changes, and
// whether somebody's evidence of the primary names the cause.
func (n *noisy) unmoved(t *testing.T, ctx context.Context, before api.Cluster, cause string) (named bool) {
	for ctx.Err() == nil {
		for _, by := range n.names() {
			// An agent that has just started knows of no primary yet.
			if v, err := n.view(by); err == nil && v.Primary != nil && (v.Epoch != before.Epoch || v.Primary.Node != before.Primary.Node) {
				t.Errorf("%s says: %s", by, words(v))
				return named
			}
			var j api.Judgement
			if cause != "" && !named && n.get(by, "/api/v1/members/"+n.primary+"/evidence", &j) == nil {
				named = j.Cause == cause && j.Verdict != topology.Failed
			}
		}
		rest(250 * time.Millisecond)
	}
	return named
}

// suspicions says how often each member suspected the primary since then.
func (n *noisy) suspicions(t *testing.T, since time.Time) string {
	t.Helper()
	var told strings.Builder
	for _, by := range n.names() {
		status, text, err := n.call(http.MethodGet, by, "/api/v1/decisions?limit=1000", n.info.OperatorToken, "")
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, string(text))
		var list api.DecisionList
		require.NoError(t, json.Unmarshal(text, &list))
		causes := map[string]int{}
		for _, d := range list.Decisions {
			if string(d.Subject) == n.primary && d.BeganAt.After(since) {
				causes[d.Evidence.Cause] += d.Times
			}
		}
		fmt.Fprintf(&told, "; %s had it under suspicion: %v", by, causes)
	}
	return told.String()
}

func busyLoops(t *testing.T, ctx context.Context, _ *noisy) {
	var loops sync.WaitGroup
	for range 4 * runtime.NumCPU() {
		loops.Go(func() { _ = exec.CommandContext(ctx, "sh", "-c", "while :; do :; done").Run() })
	}
	loops.Wait()
}

// pauses has a server, an agent or an etcd member stand still, one at a time.
func pauses(t *testing.T, ctx context.Context, n *noisy) {
	for ctx.Err() == nil {
		node := n.node(n.names()[n.rand.IntN(3)])
		var pid int
		switch n.rand.IntN(3) {
		case 0:
			pid = pidIn(t, node.MySQL.PIDFile)
		case 1:
			pid = pidIn(t, node.Agent.PIDFile)
		default:
			children := n.etcdChildren(t)
			require.Len(t, children, 3)
			pid = children[n.rand.IntN(3)]
		}
		require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
		rest(300 * time.Millisecond)
		require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
		rest(time.Duration(200+n.rand.IntN(1000)) * time.Millisecond)
	}
}

// useUpConnections holds every connection that the primary has for clients.
func useUpConnections(t *testing.T, ctx context.Context, n *noisy) {
	greedy := n.app(t, n.node(n.primary).MySQL.Address, 5*time.Second)
	greedy.SetMaxIdleConns(0)
	var held []*sql.Conn
	refused := 0
	for ctx.Err() == nil {
		conn, err := greedy.Conn(ctx)
		var full *mysql.MySQLError
		switch {
		case err == nil:
			held = append(held, conn)
		case errors.As(err, &full) && full.Number == 1040: // ER_CON_COUNT_ERROR
			refused++
			rest(20 * time.Millisecond) // another one's place may be free then
		case ctx.Err() == nil:
			require.NoError(t, err)
		}
	}
	for _, conn := range held {
		_ = conn.Close()
	}
	require.NotZero(t, refused, "%d connections were not all", len(held))
	t.Logf("%d connections held, %d refused", len(held), refused)
}

// largeStatements has one transaction of a million rows and then a table that is
// rebuilt for 20 seconds, again and again.
func largeStatements(t *testing.T, ctx context.Context, n *noisy) {
	rows, hashed := 50_000, 100
	if n.full {
		rows, hashed = 1_000_000, 800
	}
	// The limit of the other connections of root's is too short for these.
	root := openDB(t, "unix", n.node(n.primary).MySQL.Socket, "root", "", n.info.Nodes[0].MySQL.AppDatabase, 10*time.Minute)
	defer root.Close()
	root.SetMaxOpenConns(1)
	for round := 0; round == 0 || ctx.Err() == nil; round++ {
		for _, statement := range []string{
			"DROP TABLE IF EXISTS large",
			"CREATE TABLE large (id BIGINT AUTO_INCREMENT PRIMARY KEY, v CHAR(40))",
			fmt.Sprintf("SET cte_max_recursion_depth = %d", rows+1),
			fmt.Sprintf("INSERT INTO large (v) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) SELECT REPEAT('y', 40) FROM n", rows),
			fmt.Sprintf("ALTER TABLE large ADD COLUMN h CHAR(128) AS (SHA2(REPEAT(v, %d), 512)) STORED", hashed),
		} {
			began := time.Now()
			_, err := root.ExecContext(t.Context(), statement)
			require.NoError(t, err, statement)
			if took := time.Since(began); round == 0 && took > 100*time.Millisecond {
				t.Logf("%.1f s: %s", took.Seconds(), statement)
			}
		}
	}
	_, err := root.ExecContext(t.Context(), "DROP TABLE large")
	require.NoError(t, err)
}

// restartReplicas ends one replica's server after the other with SIGKILL and
// starts it again, as soon as the one before acknowledges.
func restartReplicas(t *testing.T, ctx context.Context, n *noisy) {
	count := 0
	for ; ctx.Err() == nil; count++ {
		_, err := n.run("sandbox", "restart", n.replicas[count%len(n.replicas)], "--dir", n.dir)
		require.NoError(t, err)
		n.healthy(t)
	}
	t.Logf("%d restarts", count)
}

// restartAgents ends one agent after the other, in turn as its service does for
// an upgrade and with SIGKILL, and has it started again.
func restartAgents(t *testing.T, ctx context.Context, n *noisy) {
	count := 0
	for ; ctx.Err() == nil; count++ {
		name := n.names()[count%3]
		if count/3%2 == 0 {
			file := n.node(name).Agent.PIDFile
			old := pidIn(t, file)
			require.NoError(t, syscall.Kill(old, syscall.SIGTERM))
			await(t, patience, "another agent of "+name, func() (bool, string) {
				text, err := os.ReadFile(file)
				return err == nil && strings.TrimSpace(string(text)) != strconv.Itoa(old), fmt.Sprint(string(text), err)
			})
		} else {
			n.order(t, "stop-agent", name)
			n.order(t, "start-agent", name)
		}
		n.healthy(t)
	}
	t.Logf("%d restarts", count)
}
