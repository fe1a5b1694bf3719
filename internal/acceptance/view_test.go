package acceptance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/topology"
	"interrex/internal/workload"
)

// call asks an agent's API; body is JSON, empty for a GET.
func (c *cluster) call(method, node, path, token, body string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, c.bases[node]+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, text, err
}

func (c *cluster) get(node, path string, into any) error {
	status, text, err := c.call(http.MethodGet, node, path, c.info.OperatorToken, "")
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%s of %s: %d: %s", path, node, status, text)
	}
	return json.Unmarshal(text, into)
}

// view is the cluster as a node's agent sees it.
func (c *cluster) view(node string) (api.Cluster, error) {
	var v api.Cluster
	err := c.get(node, "/api/v1/cluster", &v)
	return v, err
}

// see is the cluster as the first agent that answers sees it.
func (c *cluster) see(t *testing.T) api.Cluster {
	t.Helper()
	var errs []string
	for _, n := range c.names() {
		v, err := c.view(n)
		if err == nil {
			return v
		}
		errs = append(errs, err.Error())
	}
	require.FailNow(t, "no agent answers", "%v", errs)
	return api.Cluster{}
}

// primary is the recorded, open primary.
func (c *cluster) primary(t *testing.T) string {
	t.Helper()
	v := c.see(t)
	require.NotNil(t, v.Primary, words(v))
	return string(v.Primary.Node)
}

// switchover asks a node for a switchover; the report or problem is decoded.
func (c *cluster) switchover(t *testing.T, node, to string) (int, api.Report, api.Problem) {
	t.Helper()
	status, text, err := c.call(http.MethodPost, node, "/api/v1/switchover", c.info.OperatorToken, fmt.Sprintf(`{"to":%q}`, to))
	require.NoError(t, err)
	var report api.Report
	var problem api.Problem
	if status == http.StatusOK {
		require.NoError(t, json.Unmarshal(text, &report), string(text))
	} else {
		require.NoError(t, json.Unmarshal(text, &problem), string(text))
	}
	return status, report, problem
}

// flaw says why a cluster is not as it should be when nothing is wrong; empty
// means healthy.
func flaw(v api.Cluster) string {
	servers, replicas := 0, 0
	for _, m := range v.Members {
		if m.Role != api.RoleArbiter {
			servers++
		}
		if m.Role == api.RoleReplica {
			replicas++
		}
	}
	switch d := v.Durability; {
	case v.Status != api.StatusHealthy || v.Primary == nil:
		return "it is " + string(v.Status)
	case replicas != servers-1 || replicas == 0:
		return fmt.Sprintf("%d replicas", replicas)
	case len(d.Ackers) != replicas || len(d.Acknowledging) != replicas:
		return fmt.Sprintf("%d ackers, %d acknowledge", len(d.Ackers), len(d.Acknowledging))
	}
	return ""
}

// healthyWithin waits until every agent finds the cluster healthy, with the
// same primary and all replicas registered and acknowledging.
func (c *cluster) healthyWithin(limit time.Duration) (api.Cluster, error) {
	deadline := time.Now().Add(limit)
	for {
		var first api.Cluster
		var err error
		for i, n := range c.names() {
			v, verr := c.view(n)
			if verr == nil {
				if why := flaw(v); why != "" {
					verr = fmt.Errorf("%s: %s", n, why)
				}
			}
			if i == 0 {
				first = v
			}
			if verr == nil && (v.Epoch != first.Epoch || v.Primary.Node != first.Primary.Node) {
				verr = fmt.Errorf("%s sees epoch %d", n, v.Epoch)
			}
			if verr != nil {
				err = verr
				break
			}
		}
		if err == nil || time.Now().After(deadline) {
			return first, err
		}
		rest(100 * time.Millisecond)
	}
}

// healthy is healthyWithin for a test.
func (c *cluster) healthy(t *testing.T) api.Cluster {
	t.Helper()
	v, err := c.healthyWithin(patience)
	require.NoError(t, err, words(v))
	return v
}

// writable asks all servers directly which of them take writes.
func (c *cluster) writable(t *testing.T) (open []string) {
	t.Helper()
	for _, n := range c.names() {
		closed, err := c.ask(t.Context(), n, "SELECT @@global.read_only OR @@global.super_read_only")
		if err == nil && closed == "0" {
			open = append(open, n)
		}
	}
	return open
}

// moved waits until a primary of a higher epoch is open, by the word of an
// agent that is left.
func (c *cluster) moved(t *testing.T, from api.Cluster, watch string) api.Cluster {
	t.Helper()
	var v api.Cluster
	await(t, patience, "a new primary", func() (bool, string) {
		var err error
		if v, err = c.view(watch); err != nil {
			return false, err.Error()
		}
		p := v.Primary
		return p != nil && p.Epoch > from.Epoch && p.Phase == "open" && p.Node != from.Primary.Node && v.Operation == nil, words(v)
	})
	return v
}

// ledger checks that every epoch has an entry that says how it ended, and
// returns the entries by epoch.
func (c *cluster) ledger(t *testing.T) map[uint64]api.Report {
	t.Helper()
	var entries map[uint64]api.Report
	await(t, patience, "a complete ledger", func() (bool, string) {
		v := c.see(t)
		var list api.ReportList
		if err := c.get(c.names()[0], "/api/v1/failovers?limit=1000", &list); err != nil {
			return false, err.Error()
		}
		entries = map[uint64]api.Report{}
		for _, r := range list.Failovers {
			entries[uint64(r.Epoch)] = r
		}
		var missing []string
		for e := uint64(1); e <= uint64(v.Epoch); e++ {
			r, ok := entries[e]
			terminal := slices.Contains([]failover.Outcome{failover.Completed, failover.Undone, failover.Failure, failover.Superseded}, r.Outcome)
			if !ok || !terminal || r.EndedAt == nil {
				missing = append(missing, fmt.Sprintf("epoch %d: %q", e, r.Outcome))
			}
		}
		return len(missing) == 0, strings.Join(missing, ", ")
	})
	return entries
}

// story tells of the operations after an epoch, in their order.
func (c *cluster) story(t *testing.T, after topology.Epoch) string {
	t.Helper()
	var told []string
	entries := c.ledger(t)
	for _, epoch := range slices.Sorted(maps.Keys(entries)) {
		if r := entries[epoch]; r.Epoch > after {
			told = append(told, fmt.Sprintf("%d: %s %s → %s %s, led by %s, writes out for %.0f to %.0f ms", epoch, r.Kind, r.From, r.To, r.Outcome, r.Leader, r.RTOBounds[0], r.RTOBounds[1]))
		}
	}
	return strings.Join(told, "; ")
}

// lostNothing checks that the ledger says so of every operation that ended
// with a primary.
func (c *cluster) lostNothing(t *testing.T) {
	t.Helper()
	for epoch, r := range c.ledger(t) {
		if r.Outcome == failover.Completed {
			require.NotNil(t, r.RPO.LostCommits, "epoch %d", epoch)
			require.Zero(t, *r.RPO.LostCommits, "epoch %d", epoch)
		}
	}
}

// verify compares what the clients of a workload were told with what every
// server holds, as soon as it has executed all that the primary has.
func (c *cluster) verify(t *testing.T, r *workload.Result) {
	t.Helper()
	v := c.see(t)
	require.NotNil(t, v.Primary)
	primary := string(v.Primary.Node)
	set, err := c.ask(t.Context(), primary, "SELECT @@global.gtid_executed")
	require.NoError(t, err)
	for _, n := range append([]string{primary}, c.names(primary)...) {
		await(t, patience, n+" to execute all that the primary has", func() (bool, string) {
			has, err := c.ask(t.Context(), n, fmt.Sprintf("SELECT GTID_SUBSET('%s', @@global.gtid_executed)", set))
			return has == "1", fmt.Sprint(has, err)
		})
		check, err := r.Verify(t.Context(), c.node(n).MySQL.Address)
		require.NoError(t, err)
		require.Empty(t, check.Lost, "%s lacks acknowledged rows", n)
		require.Empty(t, check.Ghosts, "%s has rows that were refused", n)
	}
}

// following checks on the servers themselves that each replica follows the
// primary and is closed.
func (c *cluster) following(t *testing.T) {
	t.Helper()
	primary := c.primary(t)
	require.Equal(t, []string{primary}, c.writable(t))
	uuid, err := c.ask(t.Context(), primary, "SELECT @@server_uuid")
	require.NoError(t, err)
	for _, n := range c.names(primary) {
		source, err := c.ask(t.Context(), n, `SELECT source_uuid FROM performance_schema.replication_connection_status s
			JOIN performance_schema.replication_applier_status a USING (channel_name)
			WHERE s.service_state = 'ON' AND a.service_state = 'ON'`)
		require.NoError(t, err, "%s follows nobody", n)
		require.Equal(t, uuid, source, "%s follows another server", n)
	}
}
