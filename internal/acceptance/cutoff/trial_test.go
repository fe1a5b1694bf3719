package cutoff

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/failover/api"
	"interrex/internal/topology"
	"interrex/internal/workload"
)

// trial is a fault on a cluster that was whole, under load by all of its routes.
type trial struct {
	*cluster
	primary string // before the fault
	others  []string
	epoch   topology.Epoch // before the fault
	load    *workload.Workload
	began   time.Time // when the fault was struck
	heal    func()    // ends it
}

// writeLimit is how long a client waits for an answer.
const writeLimit = 3 * time.Second

// newTrial starts writers and waits until they are answered.
func newTrial(t *testing.T, c *cluster) *trial {
	t.Helper()
	v := c.whole(t)
	x := &trial{cluster: c, primary: string(v.Primary.Node), epoch: v.Epoch}
	x.others = c.others(x.primary)
	var routes []string
	for _, n := range c.info.Nodes {
		routes = append(routes, n.Agent.RW)
	}
	app := c.info.Nodes[0].MySQL
	var err error
	x.load, err = workload.Start(t.Context(), workload.Config{
		Address: strings.Join(routes, ","), User: app.AppUser, Password: app.AppPassword, Database: app.AppDatabase,
		Table: fmt.Sprint("trial_", time.Now().UnixNano()), Writers: 2 * len(routes), Pause: 150 * time.Millisecond, Timeout: writeLimit,
	})
	require.NoError(t, err)
	t.Cleanup(func() { x.load.Stop() })
	await(t, "writes", func() (bool, string) { n := x.load.Acknowledged(); return n >= 30, fmt.Sprint(n, " rows") })
	return x
}

// strike does what heal undoes.
func (x *trial) strike(do func() (heal func())) { x.began, x.heal = time.Now(), do() }

// whole waits until all nodes find the cluster whole, and agree, and etcd is.
func (c *cluster) whole(t *testing.T) (v api.Cluster) {
	t.Helper()
	etcd := c.etcd(t)
	await(t, "a whole cluster", func() (bool, string) {
		v = c.view(t, c.Nodes[0].Name)
		for _, n := range c.Nodes {
			seen := c.view(t, n.Name)
			d := seen.Durability
			if seen.Status != api.StatusHealthy || seen.Leader == "" || len(d.Acknowledging) != len(c.Nodes)-1 || seen.Epoch != v.Epoch {
				return false, fmt.Sprintf("%s: epoch %d, leader %q, %s %v, %v acknowledge", n.Name, seen.Epoch, seen.Leader, seen.Status, seen.Reasons, d.Acknowledging)
			}
		}
		missing := c.etcdWhole(t, etcd)
		return missing == "", missing
	})
	return v
}

// evidence is what a node knows of another one's instance.
func (c *cluster) evidence(by, of string) (j api.Judgement) {
	if _, text, err := c.get(by, "/api/v1/members/"+of+"/evidence"); err == nil {
		_ = json.Unmarshal([]byte(text), &j)
	}
	return j
}

// failed waits until a node finds the primary failed, and returns how it knows
// and how long that took.
func (x *trial) failed(t *testing.T, by string) (j api.Judgement, took time.Duration) {
	t.Helper()
	await(t, "the verdict", func() (bool, string) {
		j = x.evidence(by, x.primary)
		return j.Verdict == topology.Failed, j.Explanation
	})
	return j, time.Since(x.began)
}

// explained is what a node says of the cluster, or of an epoch.
func (c *cluster) explained(t *testing.T, by, query string) (e api.Explained) {
	t.Helper()
	_, text, err := c.get(by, "/api/v1/explain"+query)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(text), &e), text)
	return e
}

// promoted waits until another primary is open in a node's view, and returns the
// evidence that the ledger has for it.
func (x *trial) promoted(t *testing.T, by string) (j api.Judgement) {
	t.Helper()
	var v api.Cluster
	await(t, "another primary", func() (bool, string) {
		v = x.view(t, by)
		return v.Primary != nil && string(v.Primary.Node) != x.primary && v.Operation == nil, fmt.Sprint(v.Status, v.Reasons, v.Operation)
	})
	e := x.explained(t, by, fmt.Sprint("?epoch=", v.Epoch))
	require.NotNil(t, e.Evidence, e.Explanation)
	return *e.Evidence
}

// failover waits for a failover as a node sees it, and for the next write. It
// returns the evidence of the verdict and that of the ledger, which may be of
// seconds later, where leaders were lost: of a node that hears nobody, nobody is
// heard any more by then.
func (x *trial) failover(t *testing.T, by string, within time.Duration) (verdict, ledger api.Judgement) {
	t.Helper()
	verdict, took := x.failed(t, by)
	t.Logf("declared after %v: %s", took.Round(time.Millisecond), verdict.Explanation)
	require.Less(t, took, within)
	ledger = x.promoted(t, by)
	t.Logf("another primary after %v (%s)", time.Since(x.began).Round(time.Millisecond), ledger.Cause)
	x.steps(t, by)
	before := x.load.Acknowledged()
	await(t, "a write", func() (bool, string) { return x.load.Acknowledged() > before, "none is acknowledged" })
	return verdict, ledger
}

// steps logs how long each step of the last operation took.
func (x *trial) steps(t *testing.T, by string) {
	t.Helper()
	_, text, err := x.get(by, fmt.Sprint("/api/v1/failovers/", x.view(t, by).Epoch))
	require.NoError(t, err)
	var r api.Report
	require.NoError(t, json.Unmarshal([]byte(text), &r), text)
	words := ""
	for _, s := range r.Steps {
		words += fmt.Sprintf("%s %.0f ms, ", s.Name, s.TookMS)
	}
	t.Log(strings.TrimSuffix(words, ", "))
}

// unmoved looks for a while whether any node takes the primary for failed or
// another one for the primary. It returns the causes that were named meanwhile, with
// the longest explanation of each, and which part of the looks found a quorum of etcd.
func (x *trial) unmoved(t *testing.T, length time.Duration, by ...string) (causes map[string]string, quorum float64) {
	t.Helper()
	causes = map[string]string{}
	looks, reached := 0, 0
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for time.Since(x.began) < length {
		for _, n := range by {
			v, j := x.view(t, n), x.evidence(n, x.primary)
			require.NotEqual(t, topology.Failed, j.Verdict, "%s after %v: %s", n, time.Since(x.began), j.Explanation)
			if v.Primary != nil {
				require.Equal(t, x.primary, string(v.Primary.Node), "%s after %v", n, time.Since(x.began))
				looks++
			}
			if v.EtcdReachable {
				reached++
			}
			if len(j.Explanation) > len(causes[j.Cause]) {
				causes[j.Cause] = j.Explanation
			}
		}
		<-tick.C
	}
	return causes, float64(reached) / float64(looks)
}

// end heals the fault, waits until the cluster is whole, counts the rows, and
// says how long no write was acknowledged.
func (x *trial) end(t *testing.T) (v api.Cluster, outage time.Duration) {
	t.Helper()
	x.heal()
	healed := time.Now()
	v = x.whole(t)
	took := time.Since(healed)
	before := x.load.Acknowledged()
	await(t, "a write", func() (bool, string) { return x.load.Acknowledged() > before+10, "none is acknowledged" })
	r := x.load.Stop()
	check, err := r.Verify(t.Context(), x.info.Nodes[x.index(string(v.Primary.Node))].Agent.RW)
	require.NoError(t, err)
	require.Empty(t, check.Lost, "acknowledged rows are lost")
	require.Empty(t, check.Ghosts, "refused rows are there")
	longest := r.LongestOutage(x.began, healed)
	t.Logf("%d rows acknowledged, all there; %d refused, %d without an answer, of which %d are there; no write acknowledged for %v at most, until %v after the fault; whole %v after it healed",
		r.Acknowledged(), r.Refused(), r.Unknown(), check.Settled, longest.Length().Round(time.Millisecond),
		longest.To.Sub(x.began).Round(time.Millisecond), took.Round(time.Millisecond))
	return v, longest.Length()
}
