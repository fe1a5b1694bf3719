package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/failover"
	"interrex/internal/gtid"
	"interrex/internal/topology"
)

func loadDoc(t testing.TB, text []byte) *openapi3.T {
	t.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(text)
	require.NoError(t, err)
	require.NoError(t, doc.Validate(context.Background()))
	return doc
}

// conform holds an answer against the description of path.
func conform(t testing.TB, doc *openapi3.T, path string, a ask, r reply) {
	t.Helper()
	item := doc.Paths.Value(path)
	require.NotNil(t, item, "path %s is not described", path)
	op := item.GetOperation(a.method)
	require.NotNil(t, op, "%s %s is not described", a.method, path)
	in := &openapi3filter.RequestValidationInput{
		Request: a.request(),
		Route:   &routers.Route{Spec: doc, Path: path, PathItem: item, Method: a.method, Operation: op},
	}
	out := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: r.status, Header: r.header,
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true},
	}
	out.SetBodyBytes(r.body)
	require.NoError(t, openapi3filter.ValidateResponse(context.Background(), out), "%s %s: %s", a.method, a.path, r.body)
}

func TestDescriptionMatchesRoutes(t *testing.T) {
	b := newBench(t, "n1")
	doc := loadDoc(t, b.do(ask{method: "GET", path: "/api/v1/openapi.json"}).body)
	loadDoc(t, b.do(ask{method: "GET", path: "/api/v1/openapi.yaml"}).body)

	served := map[string]bool{}
	for _, r := range b.routes() {
		if r.access == accessMember {
			continue // between members; no part of the public API
		}
		path := regexp.MustCompile(`:(\w+)`).ReplaceAllString(r.path, "{$1}")
		for _, m := range r.methods {
			if m != http.MethodHead { // implied by GET
				served[m+" "+path] = true
			}
		}
	}
	described := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for m := range item.Operations() {
			described[m+" "+path] = true
		}
	}
	require.Equal(t, served, described)
}

// TestAnswersMatchDescription asks every route for every kind of answer.
func TestAnswersMatchDescription(t *testing.T) {
	doc := loadDoc(t, specYAML)
	empty := func(b *bench) {
		b.backend.view, b.backend.ledger, b.backend.gates = failover.View{Self: "n1"}, nil, nil
	}
	broken := func(b *bench) {
		b.backend.health = Health{Faults: []string{"the instance loop ended"}}
		b.backend.ledger, b.backend.ledgerErr = nil, election.ErrUnreachable
	}
	refused := func(err error, r failover.Report) func(*bench) {
		return func(b *bench) {
			b.backend.pauseErr = err
			b.backend.switchover = func(context.Context, topology.NodeName) (failover.Report, error) { return r, err }
		}
	}
	undone := sampleReport(5)
	undone.Outcome, undone.Reason = failover.Undone, "too slow"
	slow := func(b *bench) {
		b.backend.switchover = func(ctx context.Context, _ topology.NodeName) (failover.Report, error) {
			<-ctx.Done()
			return failover.Report{}, ctx.Err()
		}
	}
	decided := func(b *bench) { b.backend.decisions = sampleDecisions() }
	for _, c := range []struct {
		name, path string // path as described
		ask        ask
		status     int
		given      func(*bench)
	}{
		{"works", "/health", ask{method: "GET", path: "/health"}, 200, nil},
		{"works by OPTIONS", "/health", ask{method: "OPTIONS", path: "/health"}, 200, nil},
		{"does not work", "/health", ask{method: "GET", path: "/health"}, 503, broken},
		{"ready", "/ready", ask{method: "GET", path: "/ready"}, 200, nil},
		{"not ready", "/ready", ask{method: "GET", path: "/ready"}, 503, empty},
		{"does not work, so is not ready", "/ready", ask{method: "GET", path: "/ready"}, 503, broken},
		{"primary", "/primary", ask{method: "GET", path: "/primary"}, 200, nil},
		{"no primary", "/primary", ask{method: "GET", path: "/primary"}, 503, empty},
		{"no replica", "/replica", ask{method: "GET", path: "/replica"}, 503, nil},
		{"replica", "/replica", ask{method: "GET", path: "/replica?lag=5s"}, 200, func(b *bench) { b.cfg.Self = "n2" }},
		{"bad lag", "/replica", ask{method: "GET", path: "/replica?lag=5"}, 400, nil},
		{"metrics", "/metrics", ask{method: "GET", path: "/metrics"}, 200, nil},
		{"json", "/api/v1/openapi.json", ask{method: "GET", path: "/api/v1/openapi.json"}, 200, nil},
		{"yaml", "/api/v1/openapi.yaml", ask{method: "GET", path: "/api/v1/openapi.yaml"}, 200, nil},
		{"cluster", "/api/v1/cluster", ask{method: "GET", path: "/api/v1/cluster"}, 200, nil},
		{"cluster before bootstrap", "/api/v1/cluster", ask{method: "GET", path: "/api/v1/cluster"}, 200, empty},
		{"cluster in trouble", "/api/v1/cluster", ask{method: "GET", path: "/api/v1/cluster"}, 200, troubled},
		{"members", "/api/v1/members", ask{method: "GET", path: "/api/v1/members"}, 200, nil},
		{"no members", "/api/v1/members", ask{method: "GET", path: "/api/v1/members"}, 200, empty},
		{"member", "/api/v1/members/{name}", ask{method: "GET", path: "/api/v1/members/n2"}, 200, nil},
		{"troubled member", "/api/v1/members/{name}", ask{method: "GET", path: "/api/v1/members/n2"}, 200, troubled},
		{"unknown member", "/api/v1/members/{name}", ask{method: "GET", path: "/api/v1/members/n9"}, 404, nil},
		{"evidence", "/api/v1/members/{name}/evidence", ask{method: "GET", path: "/api/v1/members/n1/evidence"}, 200, nil},
		{"no evidence", "/api/v1/members/{name}/evidence", ask{method: "GET", path: "/api/v1/members/n3/evidence"}, 200, nil},
		{"evidence on nobody", "/api/v1/members/{name}/evidence", ask{method: "GET", path: "/api/v1/members/n9/evidence"}, 404, nil},
		{"gates", "/api/v1/gates", ask{method: "GET", path: "/api/v1/gates"}, 200, nil},
		{"no gates", "/api/v1/gates", ask{method: "GET", path: "/api/v1/gates"}, 200, empty},
		{"ledger", "/api/v1/failovers", ask{method: "GET", path: "/api/v1/failovers?limit=1"}, 200, nil},
		{"empty ledger", "/api/v1/failovers", ask{method: "GET", path: "/api/v1/failovers"}, 200, empty},
		{"ledger out of reach", "/api/v1/failovers", ask{method: "GET", path: "/api/v1/failovers"}, 503, broken},
		{"limit too high", "/api/v1/failovers", ask{method: "GET", path: "/api/v1/failovers?limit=1001"}, 400, nil},
		{"entry", "/api/v1/failovers/{epoch}", ask{method: "GET", path: "/api/v1/failovers/3"}, 200, nil},
		{"unfinished entry", "/api/v1/failovers/{epoch}", ask{method: "GET", path: "/api/v1/failovers/9"}, 200, func(b *bench) {
			b.backend.ledger = []failover.Report{{Epoch: 9, Kind: election.Bootstrap, Outcome: failover.Unfinished, StartedAt: began}}
		}},
		{"no entry", "/api/v1/failovers/{epoch}", ask{method: "GET", path: "/api/v1/failovers/99"}, 404, nil},
		{"entry out of reach", "/api/v1/failovers/{epoch}", ask{method: "GET", path: "/api/v1/failovers/99"}, 503, broken},
		{"no number", "/api/v1/failovers/{epoch}", ask{method: "GET", path: "/api/v1/failovers/x"}, 400, nil},
		{"explained", "/api/v1/explain", ask{method: "GET", path: "/api/v1/explain"}, 200, nil},
		{"explained before bootstrap", "/api/v1/explain", ask{method: "GET", path: "/api/v1/explain"}, 200, empty},
		{"a member explained", "/api/v1/explain", ask{method: "GET", path: "/api/v1/explain?member=n1"}, 200, func(b *bench) {
			b.backend.view.State.Primary.Node = "n2"
		}},
		{"nobody explained", "/api/v1/explain", ask{method: "GET", path: "/api/v1/explain?member=n9"}, 404, nil},
		{"an epoch explained", "/api/v1/explain", ask{method: "GET", path: "/api/v1/explain?epoch=3"}, 200, nil},
		{"no such epoch", "/api/v1/explain", ask{method: "GET", path: "/api/v1/explain?epoch=99"}, 404, nil},
		{"an epoch out of reach", "/api/v1/explain", ask{method: "GET", path: "/api/v1/explain?epoch=99"}, 503, broken},
		{"no epoch", "/api/v1/explain", ask{method: "GET", path: "/api/v1/explain?epoch=x"}, 400, nil},
		{"two questions", "/api/v1/explain", ask{method: "GET", path: "/api/v1/explain?epoch=3&member=n1"}, 400, nil},
		{"no decisions", "/api/v1/decisions", ask{method: "GET", path: "/api/v1/decisions"}, 200, nil},
		{"decisions", "/api/v1/decisions", ask{method: "GET", path: "/api/v1/decisions?member=n1&limit=1"}, 200, decided},
		{"too many decisions", "/api/v1/decisions", ask{method: "GET", path: "/api/v1/decisions?limit=0"}, 400, nil},
		{"objectives", "/api/v1/objectives", ask{method: "GET", path: "/api/v1/objectives"}, 200, nil},
		{"objectives without a ledger", "/api/v1/objectives", ask{method: "GET", path: "/api/v1/objectives"}, 200, empty},
		{"objectives out of reach", "/api/v1/objectives", ask{method: "GET", path: "/api/v1/objectives"}, 503, broken},
		{"switchover", "/api/v1/switchover", post("switchover", `{"to":"n2"}`), 200, nil},
		{"switchover in the background", "/api/v1/switchover", post("switchover", `{"wait":false}`), 202, slow},
		{"switchover refused by a gate", "/api/v1/switchover", post("switchover", `{}`), 409,
			refused(&failover.GateError{Gate: failover.Gate{Name: "idle", Operation: election.Switchover, Reason: "a failover is in flight"}}, failover.Report{})},
		{"switchover undone", "/api/v1/switchover", post("switchover", `{}`), 409, refused(failover.ErrUndone, undone)},
		{"switchover failed", "/api/v1/switchover", post("switchover", `{}`), 500, refused(errors.New("disk"), undone)},
		{"what a forced failover would lose", "/api/v1/failover/force", ask{method: "GET", path: "/api/v1/failover/force"}, 200, nil},
		{"not known for want of a leader", "/api/v1/failover/force", ask{method: "GET", path: "/api/v1/failover/force"}, 502, func(b *bench) { b.backend.forceErr = failover.ErrNotLeader }},
		{"forced failover", "/api/v1/failover/force", post("failover/force", `{"cluster":"c","epoch":3,"confirm":"3","by":"ann"}`), 200, nil},
		{"forced failover without saying what", "/api/v1/failover/force", post("failover/force", `{}`), 400, nil},
		{"forced failover without a number", "/api/v1/failover/force", post("failover/force", `{"cluster":"c","epoch":3,"by":"ann"}`), 400, nil},
		{"forced failover without a token", "/api/v1/failover/force", ask{method: "POST", path: "/api/v1/failover/force", body: `{"cluster":"c","epoch":3,"confirm":"3","by":"ann"}`}, 401, nil},
		{"forced failover with another number", "/api/v1/failover/force", post("failover/force", `{"cluster":"c","epoch":3,"confirm":"2","by":"ann"}`), 409, func(b *bench) {
			b.backend.forceErr = &failover.ConfirmationError{Field: "confirm", Given: "2", Want: "3", Bound: sampleBound()}
		}},
		{"forced failover refused by a gate", "/api/v1/failover/force", post("failover/force", `{"cluster":"c","epoch":3,"confirm":"3","by":"ann"}`), 409, func(b *bench) {
			b.backend.forceErr = &failover.GateError{Gate: failover.Gate{Name: "primary_failed", Operation: failover.Force, Reason: "n1 answers"}}
		}},
		{"switchover busy", "/api/v1/switchover", post("switchover", `{}`), 409, refused(failover.ErrBusy, failover.Report{})},
		{"no candidate", "/api/v1/switchover", post("switchover", `{}`), 409, refused(failover.ErrNoCandidate, failover.Report{})},
		{"primary failed meanwhile", "/api/v1/switchover", post("switchover", `{}`), 409, refused(failover.ErrPrimaryFailed, undone)},
		{"switchover too slow", "/api/v1/switchover", post("switchover", `{}`), 504, refused(context.DeadlineExceeded, failover.Report{})},
		{"leadership lost under way", "/api/v1/switchover", post("switchover", `{}`), 503, refused(failover.ErrNotLeader, undone)},
		{"leader out of reach", "/api/v1/switchover", post("switchover", `{}`), 502, refused(failover.ErrNotLeader, failover.Report{})},
		{"switchover without a token", "/api/v1/switchover", ask{method: "POST", path: "/api/v1/switchover", body: "{}"}, 401, nil},
		{"bad name", "/api/v1/switchover", post("switchover", `{"to":"n2;reboot"}`), 400, nil},
		{"pause", "/api/v1/pause", post("pause", `{"reason":"maintenance"}`), 200, nil},
		{"pause without reason", "/api/v1/pause", post("pause", `{"reason":" "}`), 400, nil},
		{"pause refused", "/api/v1/pause", post("pause", `{"reason":"x"}`), 500, refused(election.ErrConflict, failover.Report{})},
		{"pause with no outcome", "/api/v1/pause", post("pause", `{"reason":"x"}`), 502, refused(election.ErrOutcomeUnknown, failover.Report{})},
		{"resume", "/api/v1/resume", post("resume", ``), 200, nil},
		{"member added", "/api/v1/membership/add", post("membership/add", `{"name":"n4","voter":true}`), 200, nil},
		{"member of no name", "/api/v1/membership/add", post("membership/add", `{}`), 400, nil},
		{"member of a bad name", "/api/v1/membership/add", post("membership/add", `{"name":"N4;"}`), 400, nil},
		{"member with an unknown field", "/api/v1/membership/add", post("membership/add", `{"name":"n4","vote":true}`), 400, nil},
		{"add without a token", "/api/v1/membership/add", ask{method: "POST", path: "/api/v1/membership/add", body: `{"name":"n4"}`}, 401, nil},
		{"add refused by a gate", "/api/v1/membership/add", post("membership/add", `{"name":"n4"}`), 409, func(b *bench) {
			b.backend.memberErr = &failover.GateError{Gate: failover.Gate{Name: "member", Operation: failover.MemberAdd, Reason: "it is one"}}
		}},
		{"add on an old build", "/api/v1/membership/add", post("membership/add", `{"name":"n4"}`), 409, func(b *bench) { b.backend.memberErr = election.ErrNewerFormat }},
		{"member removed", "/api/v1/membership/remove", post("membership/remove", `{"name":"n3"}`), 200, nil},
		{"removal given up", "/api/v1/membership/remove", post("membership/remove", `{"name":"n3"}`), 409, func(b *bench) { b.backend.memberErr = failover.ErrUndone }},
		{"nobody removed", "/api/v1/membership/remove", post("membership/remove", `{}`), 400, nil},
		{"remove without a token", "/api/v1/membership/remove", ask{method: "POST", path: "/api/v1/membership/remove", body: `{"name":"n3"}`}, 401, nil},
		{"drills", "/api/v1/drill", ask{method: "GET", path: "/api/v1/drill"}, 200, func(b *bench) {
			b.backend.drills = DrillState{Node: "n1", Enabled: true, Gate: &b.backend.gates[1], Active: &ActiveFault{Fault: FaultKillServer, Since: began, Until: began, By: "ann"}}
		}},
		{"no drills", "/api/v1/drill", ask{method: "GET", path: "/api/v1/drill"}, 200, nil},
		{"fault", "/api/v1/drill/faults", post("drill/faults", `{"fault":"kill_server","seconds":5}`), 200, nil},
		{"fault where drills are disabled", "/api/v1/drill/faults", post("drill/faults", `{"fault":"kill_server"}`), 403, func(b *bench) {
			b.backend.faultErr = ErrDrillsDisabled
		}},
		{"fault refused by a gate", "/api/v1/drill/faults", post("drill/faults", `{"fault":"kill_server"}`), 409, func(b *bench) {
			b.backend.faultErr = &failover.GateError{Gate: b.backend.gates[1]}
		}},
		{"no such fault", "/api/v1/drill/faults", post("drill/faults", `{"fault":"rm"}`), 400, nil},
		{"fault for too long", "/api/v1/drill/faults", post("drill/faults", `{"fault":"freeze_server","seconds":31}`), 400, nil},
		{"fault without a token", "/api/v1/drill/faults", ask{method: "POST", path: "/api/v1/drill/faults", body: `{"fault":"kill_server"}`}, 401, nil},
		{"resume with a field", "/api/v1/resume", post("resume", `{"x":1}`), 400, nil},
	} {
		t.Run(c.path+" "+c.name, func(t *testing.T) {
			b := newBench(t, "n1")
			t.Cleanup(b.stop)
			if c.given != nil {
				c.given(b)
			}
			r := b.do(c.ask)
			require.Equal(t, c.status, r.status, "%s", r.body)
			conform(t, doc, c.path, c.ask, r)
		})
	}
}

// troubled is a cluster in which everything optional is there.
func troubled(b *bench) {
	v := clusterView("n1")
	v.State.Primary.Forced = &election.Forced{By: "ann", At: began, Accepted: "unbounded", Epoch: 3}
	v.State.Register.Shut, v.State.Degraded = []topology.NodeName{"n3"}, &election.Degraded{Since: began, Reason: "nobody is left"}
	v.State.Paused = &election.Pause{By: "ann", Reason: "disks", Since: began}
	v.State.Operation = &election.Operation{Kind: election.Failover, Epoch: 4, Leader: "n2", Step: "revoke", From: "n1", Cause: "exited", StartedAt: time.Now()}
	errant := gtid.MustParse(n1UUID + ":200")
	n2 := v.Nodes["n2"]
	n2.Errant, n2.Rebuild = &errant, &failover.RebuildProgress{Stage: "clone", Errant: errant, Since: began, Error: "no space"}
	n2.Nginx = []failover.NginxFile{{File: "/etc/nginx/nginx.conf", Epoch: 2, Wanted: 3, Error: "it is edited", ErrorFor: time.Minute, Stopped: true, Warnings: []string{"old sessions stay"}}}
	n2.EtcdUsed, n2.CertificateUntil = 0.7, began
	v.Nodes["n2"] = n2
	delete(v.Nodes, "n3")
	v.Unreachable["n3"] = "connection refused"
	leaving := began
	v.State.Members = map[topology.NodeName]election.Seat{"n1": {}, "n2": {}, "n3": {Leaving: &leaving}, "n4": {}}
	v.Primary.Verdict, v.Primary.Cause = topology.Failed, "exited"
	b.backend.view = v
}

func post(name, body string) ask {
	return ask{method: http.MethodPost, path: "/api/v1/" + name, body: body, token: operatorToken}
}

func names(gates []any) []any {
	var list []any
	for _, g := range gates {
		list = append(list, g.(map[string]any)["name"])
	}
	return list
}

// TestReportShape pins what dashboards and drills read of a ledger entry.
func TestReportShape(t *testing.T) {
	b := newBench(t, "n1")
	var got map[string]any
	require.NoError(t, json.Unmarshal(b.do(ask{method: "GET", path: "/api/v1/failovers/3"}).body, &got))
	require.InDelta(t, 400, got["rto_ms"], 0)
	require.Equal(t, []any{380.0, 400.0}, got["rto_bounds_ms"])
	rpo := got["rpo"].(map[string]any)
	require.InDelta(t, 0, rpo["lost_commits"], 0)
	require.Contains(t, rpo, "in_doubt")
	require.Nil(t, rpo["in_doubt"])
	require.Contains(t, rpo, "proof")
	require.Equal(t, []any{"primary_failed"}, names(got["gates"].([]any)), "the gates of its own kind")
	evidence := got["evidence"].(map[string]any)
	require.InDelta(t, 120, evidence["last_good_ms"], 0)
	require.InDelta(t, 1.5, evidence["votes"].([]any)[0].(map[string]any)["age_ms"], 0)
}
