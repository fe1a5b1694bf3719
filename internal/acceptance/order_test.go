package acceptance

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/failover"
	"interrex/failover/api"
)

// TestSwitchover: the primary moves to a named replica and back while clients
// write, who see a short pause and lose nothing; and a switchover that cannot
// close the old primary within its limit is undone.
func TestSwitchover(t *testing.T) {
	c := borrow(t)
	v := c.healthy(t)
	home := string(v.Primary.Node)
	away := c.names(home)[1]
	for _, to := range []string{away, home} {
		w := c.load(t, c.names()[0])
		await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })
		began := time.Now()
		status, report, problem := c.switchover(t, c.names(to)[0], to)
		require.Equal(t, http.StatusOK, status, "%+v", problem)
		acked := w.Acknowledged()
		await(t, patience, "writes after the switchover", func() (bool, string) { return w.Acknowledged() > acked+enough, "too few rows" })
		require.Equal(t, to, c.primary(t))
		require.Equal(t, []string{to}, c.writable(t))
		r := w.Stop()
		c.healthy(t)
		c.following(t)
		c.verify(t, r)
		require.Zero(t, *report.RPO.LostCommits)
		t.Logf("switchover to %s: clients' pause %d ms, reported %.0f ms (bounds %.0f); %d rows acknowledged, errors that clients saw: %v",
			to, r.LongestOutage(began, began.Add(10*time.Second)).Length().Milliseconds(), report.RTOMillis, report.RTOBounds, r.Acknowledged(), r.Errors)
		require.Less(t, r.LongestOutage(began, began.Add(10*time.Second)).Length(), 5*time.Second)
	}
	t.Run("is undone when the old primary cannot be closed in time", func(t *testing.T) { c.undone(t, home, away) })
}

func (c *cluster) undone(t *testing.T, home, away string) {
	w := c.load(t, c.names()[0])
	await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })
	before := c.healthy(t)
	// A session of root, which the agent may not end, holds a lock that the
	// closing has to wait for. It is taken on a table that nobody writes to.
	c.exec(t, home, "CREATE TABLE IF NOT EXISTS app.held (id INT PRIMARY KEY)")
	conn, err := c.roots[home].Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.ExecContext(t.Context(), "LOCK TABLES app.held WRITE")
	require.NoError(t, err)
	began := time.Now()

	// While it is tried, a second order is refused.
	var second sync.WaitGroup
	var refused api.Problem
	second.Go(func() {
		await(t, patience, "the operation in flight", func() (bool, string) {
			v, err := c.view(home)
			return err == nil && v.Operation != nil, fmt.Sprint(words(v), err)
		})
		_, _, refused = c.switchover(t, home, away)
	})
	status, _, problem := c.switchover(t, home, away)
	took := time.Since(began)
	second.Wait()
	require.Equal(t, http.StatusConflict, status, "%+v", problem)
	require.Equal(t, api.ProblemType+"undone", problem.Type, "%+v", problem)
	require.NotNil(t, problem.Report)
	require.NotNil(t, refused.Gate, "%+v", refused)
	require.Equal(t, "no_operation_in_flight", refused.Gate.Name)
	_, err = conn.ExecContext(t.Context(), "UNLOCK TABLES")
	require.NoError(t, err)

	acked := w.Acknowledged()
	await(t, patience, "writes after the undoing", func() (bool, string) { return w.Acknowledged() > acked+enough, "too few rows" })
	after := c.healthy(t)
	require.Equal(t, home, string(after.Primary.Node))
	require.Equal(t, []string{home}, c.writable(t))
	entry := c.ledger(t)[uint64(problem.Report.Epoch)]
	require.Equal(t, failover.Undone, entry.Outcome)
	r := w.Stop()
	c.verify(t, r)
	t.Logf("undone after %.1f s (epoch %d to %d): clients' pause %d ms, errors that they saw: %v; the second order: %s",
		took.Seconds(), before.Epoch, after.Epoch, r.LongestOutage(began, began.Add(10*time.Second)).Length().Milliseconds(), r.Errors, refused.Detail)
}

// TestDisarmedPrimaryIsArmedAgain: somebody makes the primary answer commits
// that nobody acknowledged, and its own agent puts that right. (To switch the
// whole role off keeps a server from answering for half a second and more,
// which is as good as a frozen one: see TestFrozenPrimary.)
func TestDisarmedPrimaryIsArmedAgain(t *testing.T) {
	c := borrow(t)
	v := c.healthy(t)
	primary := string(v.Primary.Node)
	c.load(t, primary)
	for statement, found := range map[string]string{
		"SET GLOBAL rpl_semi_sync_source_timeout = 1000":        "rpl_semi_sync_source_timeout is 1000 ms",
		"SET GLOBAL rpl_semi_sync_source_wait_no_replica = OFF": "rpl_semi_sync_source_wait_no_replica is OFF",
	} {
		c.exec(t, primary, statement)
		took := await(t, patience, "the primary to be armed", func() (bool, string) {
			armed, err := c.ask(t.Context(), primary, "SELECT @@global.rpl_semi_sync_source_wait_no_replica AND @@global.rpl_semi_sync_source_timeout = 4294967295")
			return armed == "1", fmt.Sprint(armed, err)
		})
		t.Logf("%s: undone after %d ms", statement, took.Milliseconds())
		await(t, patience, "the epoch to be marked", func() (bool, string) {
			now, err := c.view(primary)
			l := now.Durability.Lossy
			return l != nil && !l.Ongoing() && strings.HasPrefix(l.Reason, found), fmt.Sprint(l, err)
		})
	}
	now := c.healthy(t)
	require.Equal(t, v.Epoch, now.Epoch)
	require.NotZero(t, now.Durability.Lossy.Commits)
	t.Logf("up to %d commits were not waited for from %s to %s", now.Durability.Lossy.Commits, now.Durability.Lossy.Since, now.Durability.Lossy.Until)
}

// TestBadRequests: what is not valid, not allowed or not possible is refused
// with its reason, and changes nothing.
func TestBadRequests(t *testing.T) {
	c := borrow(t)
	v := c.healthy(t)
	primary, replica := string(v.Primary.Node), c.names(string(v.Primary.Node))[0]
	token, post := c.info.OperatorToken, http.MethodPost
	for _, r := range []struct {
		name, method, path, token, body string
		status                          int
		gate                            string
	}{
		{"a wrong token", post, "/api/v1/switchover", "not-the-operators-token", `{}`, 401, ""},
		{"no token", post, "/api/v1/switchover", "", `{}`, 401, ""},
		{"a wrong token for a pause", post, "/api/v1/pause", token + "x", `{"reason":"test"}`, 401, ""},
		{"an unknown field", post, "/api/v1/switchover", token, `{"too":"db1"}`, 400, ""},
		{"a field of a wrong type", post, "/api/v1/switchover", token, `{"to":1}`, 400, ""},
		{"no object", post, "/api/v1/switchover", token, `["db1"]`, 400, ""},
		{"a name that can be none", post, "/api/v1/switchover", token, `{"to":"db1; DROP"}`, 400, ""},
		{"a pause without a reason", post, "/api/v1/pause", token, `{}`, 400, ""},
		{"a wrong limit", http.MethodGet, "/api/v1/failovers?limit=0", token, "", 400, ""},
		{"an epoch that is no number", http.MethodGet, "/api/v1/failovers/first", token, "", 400, ""},
		{"an epoch there is not", http.MethodGet, "/api/v1/failovers/999999", token, "", 404, ""},
		{"a path there is not", http.MethodGet, "/api/v1/nothing", token, "", 404, ""},
		{"a wrong method", http.MethodGet, "/api/v1/switchover", token, "", 405, ""},
		{"a wrong method to read", http.MethodDelete, "/api/v1/cluster", token, "", 405, ""},
		{"a body too large", post, "/api/v1/switchover", token, `{"to":"` + strings.Repeat("x", 1<<20) + `"}`, 413, ""},
		{"an unknown candidate", post, "/api/v1/switchover", token, `{"to":"nobody"}`, 409, "candidate_available"},
		{"the primary itself", post, "/api/v1/switchover", token, fmt.Sprintf(`{"to":%q}`, primary), 409, "candidate_available"},
	} {
		for _, node := range []string{primary, replica} { // one of them forwards, or both
			status, text, err := c.call(r.method, node, r.path, r.token, r.body)
			require.NoError(t, err, r.name)
			require.Equal(t, r.status, status, "%s: %s", r.name, text)
			if r.gate != "" {
				require.Contains(t, string(text), `"name":"`+r.gate+`"`, r.name)
			}
		}
	}
	now := c.healthy(t)
	require.Equal(t, v.Epoch, now.Epoch, "a refused request used an epoch")
	require.Equal(t, v.Primary.Node, now.Primary.Node)
	require.Nil(t, now.Paused)
	t.Run("lagging candidate", func(t *testing.T) { c.lagging(t, v, replica) })
	t.Run("switchover during a failover", c.duringFailover)
}

// lagging asks for a candidate that receives and does not apply.
func (c *cluster) lagging(t *testing.T, before api.Cluster, replica string) {
	w := c.load(t, replica)
	await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })
	release := c.holdApplier(t, replica, "load")
	rest(2 * time.Second) // behind by more than a switchover accepts
	status, _, problem := c.switchover(t, replica, replica)
	require.Equal(t, http.StatusConflict, status, "%+v", problem)
	require.NotNil(t, problem.Gate, "%+v", problem)
	require.Equal(t, "candidate_caught_up", problem.Gate.Name)
	release()
	r := w.Stop()
	now := c.healthy(t)
	require.Equal(t, before.Epoch, now.Epoch, "a refused request used an epoch")
	c.verify(t, r)
	t.Logf("refused: %s", problem.Detail)
}

// duringFailover asks for a switchover while a failover waits for its
// candidate to apply what it has received.
func (c *cluster) duringFailover(t *testing.T) {
	v := c.healthy(t)
	old := string(v.Primary.Node)
	w := c.load(t, c.names(old)[0])
	await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })
	var releases []func()
	for _, n := range c.names(old) {
		releases = append(releases, c.holdApplier(t, n, "load"))
	}
	acked := w.Acknowledged()
	await(t, patience, "unapplied rows", func() (bool, string) { return w.Acknowledged() > acked+enough, "too few rows" })
	c.order(t, "kill", old)
	watch := c.names(old)[0]
	await(t, patience, "the failover", func() (bool, string) {
		now, err := c.view(watch)
		return err == nil && now.Operation != nil, fmt.Sprint(words(now), err)
	})
	status, _, problem := c.switchover(t, watch, c.names(old)[1])
	require.Equal(t, http.StatusConflict, status, "%+v", problem)
	require.NotNil(t, problem.Gate, "%+v", problem)
	require.Equal(t, "no_operation_in_flight", problem.Gate.Name)
	for _, release := range releases {
		release()
	}
	after := c.moved(t, v, watch)
	require.Equal(t, v.Epoch+1, after.Epoch, "the refused switchover, or a second failover, used an epoch")
	c.order(t, "start", old)
	c.healthy(t)
	c.verify(t, w.Stop())
	c.ledger(t)
	t.Logf("refused: %s", problem.Detail)
}
