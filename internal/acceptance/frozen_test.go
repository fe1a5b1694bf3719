package acceptance

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/failover/api"
)

// session is a client with one connection to one server, past all routes. It
// inserts a row at a time, and again after an error.
type session struct {
	db       *sql.DB
	id       int
	attempts []attempt
}

// attempt is one insert.
type attempt struct {
	number       int
	began, ended time.Time
	err          error
}

// sessions are clients that write past the routes.
type sessions struct {
	table string
	all   []*session
	stop  context.CancelFunc
	done  sync.WaitGroup
	mu    sync.Mutex // guards attempts
}

// direct starts n clients on a server's own port. Each makes limit attempts, or
// goes on until it is ended where that is 0.
func (c *cluster) direct(t *testing.T, node, table string, n, limit int) *sessions {
	t.Helper()
	setup := c.app(t, c.node(node).MySQL.Address, 10*time.Second)
	var first int
	// Not IF NOT EXISTS: that is a transaction also where the table exists, and
	// would wait where commits wait.
	require.NoError(t, setup.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?", table).Scan(&first))
	if first == 0 {
		_, err := setup.ExecContext(t.Context(), "CREATE TABLE `"+table+"` (client INT, number INT, PRIMARY KEY (client, number))")
		require.NoError(t, err)
	}
	require.NoError(t, setup.QueryRowContext(t.Context(), "SELECT COALESCE(MAX(client) + 1, 0) FROM `"+table+"`").Scan(&first))
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	s := &sessions{table: table, stop: stop}
	for i := range n {
		one := &session{db: c.app(t, c.node(node).MySQL.Address, 2*time.Minute), id: first + i}
		one.db.SetMaxOpenConns(1)
		require.NoError(t, one.db.PingContext(t.Context()))
		s.all = append(s.all, one)
		s.done.Go(func() { s.write(ctx, one, limit) })
	}
	t.Cleanup(stop)
	return s
}

func (s *sessions) write(ctx context.Context, one *session, limit int) {
	for number := 0; ctx.Err() == nil && (limit == 0 || number < limit); number++ {
		a := attempt{number: number, began: time.Now()}
		// On one connection, so that nothing is tried again unseen.
		_, a.err = one.db.ExecContext(context.WithoutCancel(ctx), "INSERT INTO `"+s.table+"` VALUES (?, ?)", one.id, number)
		a.ended = time.Now()
		s.mu.Lock()
		one.attempts = append(one.attempts, a)
		s.mu.Unlock()
		rest(5 * time.Millisecond)
	}
}

// end lets each client finish its last attempt.
func (s *sessions) end() {
	s.stop()
	s.done.Wait()
}

// count counts the attempts that which holds for.
func (s *sessions) count(which func(attempt) bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, one := range s.all {
		for _, a := range one.attempts {
			if which(a) {
				n++
			}
		}
	}
	return n
}

func told(a attempt) bool { return a.err == nil }

// errors counts what the clients were told otherwise.
func (s *sessions) errors() string {
	texts := map[string]int{}
	s.count(func(a attempt) bool {
		if a.err != nil {
			texts[a.err.Error()]++
		}
		return false
	})
	var lines []string
	for text, n := range texts {
		lines = append(lines, fmt.Sprintf("%d × %s", n, text))
	}
	slices.Sort(lines)
	return strings.Join(lines, "; ")
}

// missing lists the acknowledged rows that a server does not have.
func (s *sessions) missing(t *testing.T, c *cluster, node string) (missing []string) {
	t.Helper()
	rows, err := c.roots[node].QueryContext(t.Context(), "SELECT client, number FROM app.`"+s.table+"`")
	require.NoError(t, err)
	defer rows.Close()
	there := map[[2]int]bool{}
	for rows.Next() {
		var client, number int
		require.NoError(t, rows.Scan(&client, &number))
		there[[2]int{client, number}] = true
	}
	require.NoError(t, rows.Err())
	for _, one := range s.all {
		for _, a := range one.attempts {
			if a.err == nil && !there[[2]int{one.id, a.number}] {
				missing = append(missing, fmt.Sprintf("client %d row %d", one.id, a.number))
			}
		}
	}
	return missing
}

// TestFrozenPrimary: a primary that stops running is replaced, and when it goes
// on it acknowledges nothing, although clients hold sessions with it that were
// amid their commits; it ends closed, behind the new primary.
func TestFrozenPrimary(t *testing.T) {
	c := borrow(t)
	before := c.healthy(t)
	old := string(before.Primary.Node)
	routed, straight := c.load(t, c.names(old)[0]), c.direct(t, old, "straight", 8, 0)
	await(t, patience, "load", func() (bool, string) {
		return routed.Acknowledged() > 100 && straight.count(told) > 300, "too few rows"
	})
	began := time.Now()
	c.order(t, "freeze", old)
	frozen := time.Now()
	after := c.moved(t, before, c.names(old)[0])
	acked := routed.Acknowledged()
	await(t, patience, "writes after the failover", func() (bool, string) { return routed.Acknowledged() > acked+enough, "too few rows" })
	established := time.Now() // rows of the new epoch are acknowledged by now
	atThaw := straight.count(told)
	c.order(t, "thaw", old)
	rest(3 * time.Second)
	require.NotContains(t, c.writable(t), old)
	c.healthy(t)
	straight.end()
	late := straight.count(func(a attempt) bool { return a.err == nil && a.ended.After(established) })
	stale := straight.count(func(a attempt) bool { return a.err == nil && a.began.After(frozen) })
	require.Zero(t, stale, "the old primary acknowledged what was asked of it after another had taken its place")
	// What its ackers had received before they were frozen, and their
	// acknowledgement lay in its socket: true, and kept.
	require.Empty(t, straight.missing(t, c, string(after.Primary.Node)), "acknowledged by the old primary and lost")
	c.following(t)
	r := routed.Stop()
	c.verify(t, r)
	outage := r.LongestOutage(began, established)
	reported := c.ledger(t)[uint64(after.Epoch)].RTOMillis
	t.Logf("clients' outage %d ms; epoch %s; %d rows acknowledged past the routes before the thaw, %d after it of those begun before the freeze; then: %s; old primary: %s",
		outage.Length().Milliseconds(), c.story(t, before.Epoch), atThaw, late, straight.errors(), c.inDoubt(t, uint64(after.Epoch)))
	require.Less(t, outage.Length(), 5*time.Second)
	require.Greater(t, reported+200, float64(outage.Length().Milliseconds())/2, "the report belittles what clients saw")
}

// inDoubt is what the ledger tells of the old primary after its return: what
// it held alone, and where that was saved before the server was rebuilt.
func (c *cluster) inDoubt(t *testing.T, epoch uint64) string {
	t.Helper()
	var text string
	await(t, patience, "the comparison with the old primary", func() (bool, string) {
		v, r := c.see(t), c.ledger(t)[epoch]
		i := slices.IndexFunc(v.Members, func(m api.Member) bool { return m.Name == r.From })
		rebuild := v.Members[i].Rebuild
		switch n := r.RPO.InDoubt; {
		case n == nil:
			return false, "not compared"
		case rebuild == nil && *n == 0:
			text = "nothing in doubt"
		case rebuild != nil && *n > 0 && r.RPO.Proof.SavedFile != "":
			_, err := os.Stat(r.RPO.Proof.SavedFile)
			require.NoError(t, err)
			text = fmt.Sprintf("%d commits in doubt, saved before it was rebuilt", *n)
		default:
			return false, fmt.Sprintf("in doubt: %d, saved to %q, rebuild: %+v", *n, r.RPO.Proof.SavedFile, rebuild)
		}
		return true, ""
	})
	return text
}
