package acceptance

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/failover"
	"interrex/failover/api"
)

// stuck waits until an agent's gate says for whom a failover waits.
func (c *cluster) stuck(t *testing.T, witness, reason string) string {
	t.Helper()
	var gate *failover.Gate
	await(t, patience, "the closed gate", func() (bool, string) {
		gate = c.closedGate(witness, "ackers_revocable")
		return gate != nil && strings.Contains(gate.Reason, reason), fmt.Sprintf("%+v", gate)
	})
	return gate.Reason
}

// X4: TestPrimaryAndAnAckerLost: the primary dies while an acker stands still.
// Nothing is promoted, and every agent names the acker; when it goes on, it or
// the other one is promoted by itself and lacks nothing.
func TestPrimaryAndAnAckerLost(t *testing.T) {
	c := borrow(t)
	before := c.healthy(t)
	primary := string(before.Primary.Node)
	survivor, acker := c.names(primary)[0], c.names(primary)[1]
	w := c.load(t, survivor)
	await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })
	c.order(t, "freeze", acker)
	acked := w.Acknowledged()
	await(t, patience, "writes with the other acker", func() (bool, string) { return w.Acknowledged() > acked+enough, "too few rows" })
	c.order(t, "kill", primary)
	reason := c.stuck(t, survivor, "waiting for 1 of ["+acker+"]")
	require.Contains(t, reason, "or for the old primary "+primary+" itself")
	for _, n := range c.names() {
		c.stuck(t, n, "waiting for 1 of ["+acker+"]")
	}
	status, err := c.run("status", "--dir", c.dir)
	require.NoError(t, err)
	require.Contains(t, status, "ackers_revocable refuses a failover")
	rest(5 * time.Second) // in which one that did not wait would have been promoted
	v := c.see(t)
	require.Equal(t, primary, string(v.Primary.Node), "promoted without proof")

	c.order(t, "thaw", acker)
	thawed := time.Now()
	after := c.moved(t, before, survivor)
	took := time.Since(thawed)
	require.Nil(t, after.Primary.Forced)
	c.order(t, "start", primary)
	c.healthy(t)
	c.following(t)
	c.verify(t, w.Stop())
	c.lostNothing(t)
	t.Logf("the gate said: %s; promoted %.1f s after %s went on; epoch %s", reason, took.Seconds(), acker, c.story(t, before.Epoch))
}

// preview is what a forced failover would lose, as an agent tells.
func (c *cluster) preview(node string) (api.ForcePreview, error) {
	var p api.ForcePreview
	err := c.get(node, "/api/v1/failover/force", &p)
	return p, err
}

// refusedForce gives an order that must not be carried out, and returns why it
// was not.
func (c *cluster) refusedForce(t *testing.T, node string, p api.ForcePreview, change func(*api.ForceRequest)) api.Problem {
	t.Helper()
	req := api.ForceRequest{Cluster: p.Cluster, Epoch: p.Epoch, Confirm: p.Bound.Confirm, By: "acceptance", Wait: true}
	change(&req)
	body, err := json.Marshal(req)
	require.NoError(t, err)
	var problem api.Problem
	await(t, patience, "no other operation", func() (bool, string) {
		status, text, err := c.call(http.MethodPost, node, "/api/v1/failover/force", c.info.OperatorToken, string(body))
		require.NoError(t, err)
		require.Equal(t, http.StatusConflict, status, "%s", text)
		problem = api.Problem{}
		require.NoError(t, json.Unmarshal(text, &problem))
		return problem.Gate == nil || problem.Gate.Name != "no_operation_in_flight", string(text)
	})
	return problem
}

// TestForcedFailover: primary and an acker are lost for good. An operator
// accepts what may be missing, by its number; record, ledger, status and metrics
// say so; who comes back is not let in before what it alone holds is saved.
func TestForcedFailover(t *testing.T) {
	c := own(t)
	before := c.healthy(t)
	primary := string(before.Primary.Node)
	survivor, acker := c.names(primary)[0], c.names(primary)[1]
	p, err := c.preview(survivor)
	require.NoError(t, err)
	require.Equal(t, "primary_failed", c.refusedForce(t, survivor, p, func(*api.ForceRequest) {}).Gate.Name, "the primary is well")

	w := c.load(t, survivor)
	await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })
	c.order(t, "kill", acker)
	c.order(t, "kill", primary)
	c.stuck(t, survivor, acker)
	await(t, patience, "a bound", func() (bool, string) {
		p, err = c.preview(survivor)
		idle := c.closedGate(survivor, "no_operation_in_flight") == nil
		return err == nil && idle && p.Bound.Ended && p.Bound.LastTold != nil && string(p.Bound.Candidate) == survivor, fmt.Sprintf("%+v %v", p, err)
	})
	require.Regexp(t, `^\d+$`, p.Bound.Confirm)
	require.Contains(t, p.Bound.Needs, primary)
	for field, change := range map[string]func(*api.ForceRequest){
		"confirm": func(r *api.ForceRequest) { r.Confirm = strconv.FormatUint(p.Bound.Count+1, 10) },
		"epoch":   func(r *api.ForceRequest) { r.Epoch++ },
		"cluster": func(r *api.ForceRequest) { r.Cluster = "another" },
	} {
		problem := c.refusedForce(t, survivor, p, change)
		require.Equal(t, api.ProblemType+"not-confirmed", problem.Type, "%s: %s", field, problem.Detail)
		require.Contains(t, problem.Detail, field)
	}
	require.Empty(t, c.writable(t))

	var out string
	await(t, patience, "no other operation", func() (bool, string) { // the leader tries every few seconds
		out, err = c.run("failover", "--force", "--dir", c.dir, "--cluster", p.Cluster, "--epoch", fmt.Sprint(p.Epoch), "--confirm", p.Bound.Confirm, "--by", "the acceptance test")
		return err == nil || !strings.Contains(err.Error(), "another operation is running"), out
	})
	require.NoError(t, err)
	require.Contains(t, out, "lossy")
	forced := c.moved(t, before, survivor)
	require.Equal(t, survivor, string(forced.Primary.Node))
	require.Equal(t, "the acceptance test", forced.Primary.Forced.By)
	require.False(t, forced.Durability.Lossless)
	require.NotNil(t, forced.Durability.DegradedSince)
	acked := w.Acknowledged()
	await(t, patience, "writes", func() (bool, string) { return w.Acknowledged() > acked+enough, "too few rows" })
	c.saysForced(t, survivor, forced)

	c.order(t, "start", primary)
	c.order(t, "start", acker)
	after := c.healthy(t)
	require.NotNil(t, after.Primary.Forced, "how it became primary is not forgotten")
	require.True(t, after.Durability.Lossless)
	c.following(t)
	saved := c.inDoubt(t, uint64(forced.Epoch))
	check, err := w.Stop().Verify(t.Context(), c.node(survivor).MySQL.Address)
	require.NoError(t, err)
	require.Empty(t, check.Ghosts)
	t.Logf("%s; confirmed %s, %d acknowledged rows were lost; %s: %s; epoch %s",
		p.Bound.Statement, p.Bound.Confirm, len(check.Lost), primary, saved, c.story(t, before.Epoch))
}

// saysForced checks that ledger, status and metrics tell of a forced failover.
func (c *cluster) saysForced(t *testing.T, node string, v api.Cluster) {
	t.Helper()
	r := c.ledger(t)[uint64(v.Primary.Forced.Epoch)]
	require.NotNil(t, r.Forced)
	require.True(t, r.Forced.Lossy)
	require.Equal(t, "the acceptance test", r.Forced.By)
	require.Nil(t, r.RPO.LostCommits, "a loss that is not known is not 0")
	require.Contains(t, r.RPO.Proof.Statement, "not proven: forced by the acceptance test")
	status, err := c.run("status", "--dir", c.dir)
	require.NoError(t, err)
	require.Regexp(t, regexp.MustCompile(`forced by the acceptance test in epoch \d+`), status)
	_, text, err := c.call(http.MethodGet, node, "/metrics", c.info.OperatorToken, "")
	require.NoError(t, err)
	require.Contains(t, string(text), "interrex_primary_forced 1\n")
	require.Contains(t, string(text), "interrex_lossless 0\n")
}

// TestPrimaryAndAnAgentDieTogether: with the primary's server the agent of one
// node dies, and its etcd with it, for each node: so also that of etcd's leader. Where it is an acker's, its
// server cannot be frozen: that one is waited for, and its agent is enough.
func TestPrimaryAndAnAgentDieTogether(t *testing.T) {
	c := borrow(t)
	for name, agent := range map[string]func(primary, leader string) string{
		"of the primary's node":  func(primary, _ string) string { return primary },
		"of the leader":          func(_, leader string) string { return leader },
		"of the remaining acker": func(primary, leader string) string { return c.names(primary, leader)[0] },
	} {
		well := t.Run(name, func(t *testing.T) {
			v := c.led(t)
			c.dieTogether(t, v, agent(string(v.Primary.Node), string(v.Leader)))
		})
		if !well {
			return // what is left is no state to go on from
		}
	}
	// Leadership stays on the new primary's node for a moment.
	t.Run("leader and primary on one node", func(t *testing.T) {
		before := c.led(t)
		status, report, problem := c.switchover(t, string(before.Leader), string(before.Leader))
		require.Equal(t, http.StatusOK, status, "%+v %+v", report, problem)
		c.dieTogether(t, c.see(t), string(before.Leader))
	})
}

func (c *cluster) dieTogether(t *testing.T, before api.Cluster, agent string) {
	primary := string(before.Primary.Node)
	route := c.names(primary, agent)[0]
	w := c.load(t, route)
	if agent != primary || before.Leader != before.Primary.Node { // otherwise there is no time
		await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })
	}
	// The agent first: a failover may be over before an order to end it, given at
	// the same time, is carried out.
	c.order(t, "stop-agent", agent)
	began := time.Now()
	c.order(t, "kill", primary)
	if agent != primary {
		c.stuck(t, route, "waiting for 1 of ["+agent+"]")
		began = time.Now()
		c.order(t, "start-agent", agent)
	}
	c.moved(t, before, route)
	acked := w.Acknowledged()
	await(t, patience, "writes", func() (bool, string) { return w.Acknowledged() > acked+enough, "too few rows" })
	took := time.Since(began)
	if agent == primary {
		c.order(t, "start-agent", agent)
	}
	c.order(t, "start", primary)
	c.healthy(t)
	c.following(t)
	c.verify(t, w.Stop())
	c.lostNothing(t)
	t.Logf("%s was the primary, %s led, the agent of %s died; the writes %.1f s after the death or, of an acker's agent, after its start; epoch %s",
		primary, before.Leader, agent, took.Seconds(), c.story(t, before.Epoch))
}

// TestCandidateDiesCatchingUp: the replica that is about to be promoted dies
// while it applies what it received. Nobody else may take its place, as it alone
// may hold what was acknowledged; with the old primary back, nothing is missing.
func TestCandidateDiesCatchingUp(t *testing.T) {
	c := borrow(t)
	before := c.led(t)
	primary := string(before.Primary.Node)
	c.direct(t, primary, "backlog", 1, 5).done.Wait()
	var release []func()
	for _, n := range c.names(primary) {
		await(t, patience, "the table on "+n, func() (bool, string) {
			rows, err := c.ask(t.Context(), n, "SELECT COUNT(*) > 4 FROM app.backlog")
			return rows == "1", fmt.Sprint(rows, err)
		})
		release = append(release, c.holdApplier(t, n, "backlog"))
	}
	clients := c.direct(t, primary, "backlog", 8, 25)
	clients.done.Wait()
	require.Equal(t, 200, clients.count(told), clients.errors())
	var candidate string
	chosen := c.afterStep(t, string(before.Leader), "failover", "choose", func(detail string) {
		candidate, _, _ = strings.Cut(detail, ",")
	})
	c.order(t, "kill", primary)
	require.False(t, (<-chosen).IsZero(), "nobody was chosen")
	c.order(t, "kill", candidate)
	for _, r := range release {
		r()
	}
	c.order(t, "start", candidate)
	rest(5 * time.Second)
	require.Empty(t, c.writable(t), "promoted without proof")
	c.order(t, "start", primary)
	c.healthy(t)
	c.following(t)
	require.Empty(t, clients.missing(t, c, c.primary(t)))
	c.lostNothing(t)
	t.Logf("%s died catching up; epoch %s", candidate, c.story(t, before.Epoch))
}
