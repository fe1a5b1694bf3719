package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

func samplePreview() api.ForcePreview {
	return api.ForcePreview{
		Cluster: "shop", Epoch: 7, Primary: "db1",
		Bound: failover.LossBound{
			Confirm: "3", Candidate: "db2", Missing: gtid.MustParse("11111111-1111-1111-1111-111111111111:98-100"), Count: 3,
			LastTold: pointer(testNow.Add(-1)), Ended: true, Needs: "1 of [db3], if the server there has not restarted, or for the old primary db1 itself",
			Statement: "3 commits that members told of are not on db2, and what db1 acknowledged between its last answer and its end",
		},
		Gates: []failover.Gate{{Name: "primary_failed", Operation: failover.Force, Open: true, Reason: "db1 is failed"}},
	}
}

// stuckStatus is a cluster that lost its primary and an acker.
func stuckStatus() api.Cluster {
	c := soundStatus()
	c.Status, c.Reasons = api.StatusNoPrimary, []string{"the primary db1 has failed: its process exited"}
	c.Primary.Verdict = topology.Failed
	c.Primary.Forced = &election.Forced{By: "ann", At: testNow, Accepted: "unbounded", Epoch: 6}
	c.GatesClosed = []failover.Gate{{Name: "ackers_revocable", Operation: election.Failover, Reason: "no promotion possible: 1 of 2 needed ackers frozen; waiting for 1 of [db3]"}}
	return c
}

func forcedReport() api.Report {
	r := sampleReport()
	r.RPO.LostCommits = nil
	r.Forced = &failover.Forced{By: "ann@db2", At: testNow, Accepted: "3", Lossy: true, Bound: samplePreview().Bound}
	return r
}

func TestFailoverIsForcedByNumber(t *testing.T) {
	var got api.ForceRequest
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Method == http.MethodGet {
			_ = json.NewEncoder(w).Encode(samplePreview())
			return
		}
		body, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(body, &got)
		_ = json.NewEncoder(w).Encode(forcedReport())
	}))
	t.Cleanup(server.Close)
	agent, token := server.Listener.Addr().String(), tokenFile(t)

	code, out, errOut := run(t, "failover", "--agent", agent)
	require.Zero(t, code, errOut)
	require.Contains(t, out, "db1, of epoch 7")
	require.Contains(t, out, "3 commits that members told of are not on db2")
	require.Empty(t, got, "nothing was ordered")

	code, out, errOut = run(t, "failover", "--force", "--agent", agent, "--token-file", token, "--cluster", "shop", "--epoch", "7", "--confirm", "3", "--by", "ann")
	require.Zero(t, code, errOut)
	require.Equal(t, api.ForceRequest{Cluster: "shop", Epoch: 7, Confirm: "3", By: "ann", Wait: true}, got)
	require.Contains(t, out, "db2 is the primary of epoch 4")
	require.Contains(t, out, "lossy")

	got = api.ForceRequest{}
	for name, args := range map[string][]string{
		"no terminal and no number": {"--force"},
		"a number alone":            {"--force", "--confirm", "3"},
		"without the epoch":         {"--force", "--confirm", "3", "--cluster", "shop"},
		"without --force":           {"--cluster", "shop", "--epoch", "7", "--confirm", "3"},
	} {
		code, _, errOut = run(t, append([]string{"failover", "--agent", agent, "--token-file", token}, args...)...)
		require.Equal(t, exitUsage, code, "%s: %s", name, errOut)
	}
	code, _, errOut = run(t, "failover", "--agent", agent, "--force", "--cluster", "shop", "--epoch", "7", "--confirm", "3")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errOut, "operator's token")
	require.Empty(t, got, "nothing was ordered")
}

func TestRefusedForceSaysSo(t *testing.T) {
	p := problemWith("not-confirmed", http.StatusConflict, "What may be lost was not confirmed as it stands now; nothing was promoted", `confirm is "4", not "3"`)
	code, _, errOut := run(t, "failover", "--force", "--agent", agentAt(t, map[string]any{"POST " + forcePath: p}), "--token-file", tokenFile(t),
		"--cluster", "shop", "--epoch", "7", "--confirm", "3")
	require.Equal(t, exitRefused, code)
	require.Contains(t, errOut, `confirm is "4", not "3"`)
	require.Contains(t, errOut, "interrex failover")
}
