package api

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/failover"
)

func scrape(t *testing.T, b *bench) string {
	t.Helper()
	got := b.do(ask{method: "GET", path: "/metrics"})
	require.Equal(t, 200, got.status, "%s", got.body)
	return string(got.body)
}

func TestMetrics(t *testing.T) {
	b := newBench(t, "n1", func(_ *Config, p *Parts) {
		p.Metrics = NewMetrics(MetricsConfig{
			Self: "n1", Cluster: "c", Version: "1.2.3", Backend: p.Backend,
			Proxy: func() []ProxyPort {
				return []ProxyPort{{Route: "rw", Sessions: 7, Held: 2, Accepted: 90, HeldTotal: 12, Refused: 4, Left: 3, ConnectFailures: 5, Cut: 6}, {Route: "ro"}}
			},
		})
	})
	b.metrics.ObserveOperation(sampleReport(4))
	lost := sampleReport(5)
	lost.Kind, lost.Outcome, lost.RPO.LostCommits = election.Switchover, failover.Failure, nil
	b.metrics.ObserveOperation(lost)
	b.do(ask{method: "GET", path: "/api/v1/members/n2"})
	b.do(ask{method: "POST", path: commandPath + commandStatus, host: "n1", token: memberToken, body: "{}"})

	text := scrape(t, b)
	for _, line := range []string{
		`interrex_info{cluster="c",node="n1",version="1.2.3"} 1`,
		`interrex_epoch 3`,
		`interrex_is_leader 0`,
		`interrex_primary{node="n1"} 1`,
		`interrex_is_primary 1`,
		`interrex_register_ackers 1`,
		`interrex_register_acks 1`,
		`interrex_acknowledging 1`,
		`interrex_lossless 1`,
		`interrex_verdict{node="n1",verdict="healthy"} 1`,
		`interrex_verdict{node="n1",verdict="failed"} 0`,
		`interrex_route_epoch 3`,
		`interrex_route_open 1`,
		`interrex_proxy_sessions{route="rw"} 7`,
		`interrex_proxy_sessions_held{route="rw"} 2`,
		`interrex_proxy_accepted_total{route="rw"} 90`,
		`interrex_proxy_held_total{route="rw"} 12`,
		`interrex_proxy_refused_total{route="rw"} 4`,
		`interrex_proxy_refused_total{route="ro"} 0`,
		`interrex_proxy_left_total{route="rw"} 3`,
		`interrex_proxy_cut_total{route="rw"} 6`,
		`interrex_proxy_connect_failures_total{route="rw"} 5`,
		`interrex_operations_total{kind="failover",outcome="completed"} 1`,
		`interrex_operations_total{kind="switchover",outcome="failed"} 1`,
		`interrex_operations_total{kind="failover",outcome="undone"} 0`,
		`interrex_last_operation_rto_seconds{kind="failover"} 0.4`,
		`interrex_last_operation_lost_commits{kind="failover"} 0`,
		`interrex_lag_seconds{node="n2"} 0.02`,
		`interrex_missing_transactions{node="n2"} 3`,
		`interrex_gate_open{gate="failed",operation="failover"} 0`,
		`interrex_gate_open{gate="etcd",operation="failover"} 1`,
		`interrex_status{status="healthy"} 1`,
		`interrex_primary_forced 0`,
		`interrex_http_requests_total{code="200",route="/api/v1/members/:name"} 1`,
		`interrex_commands_total{command="status",outcome="ok"} 1`,
	} {
		require.Contains(t, text, line+"\n")
	}
	v := b.backend.View()
	v.State.Primary.Forced = &election.Forced{By: "ann", Accepted: "3", Epoch: 3}
	node(&v, "n1", func(n *failover.NodeStatus) {
		n.Nginx = []failover.NginxFile{{File: "/a.conf", Epoch: 3, Wanted: 3}, {File: "/b.conf", Epoch: 2, Wanted: 3, Error: "x", Warnings: []string{"y"}}}
	})
	node(&v, "n1", func(n *failover.NodeStatus) { n.EtcdUsed, n.CertificateUntil = 0.25, time.Unix(1800000000, 0) })
	b.backend.setView(v)
	require.Contains(t, scrape(t, b), "interrex_primary_forced 1\n")
	for _, line := range []string{
		`interrex_nginx_in_step{file="/a.conf"} 1`, `interrex_nginx_in_step{file="/b.conf"} 0`,
		`interrex_etcd_used_ratio 0.25`, `interrex_certificate_expiry_timestamp_seconds 1.8e+09`,
		`interrex_nginx_epoch{file="/b.conf"} 2`, `interrex_nginx_warnings{file="/b.conf"} 1`,
	} {
		require.Contains(t, scrape(t, b), line+"\n")
	}
	lint(t, scrape(t, b))
	lint(t, text)
	require.NotContains(t, text, `last_operation_lost_commits{kind="switchover"}`, "a loss that is not known is not 0")
}

func TestMetricsLint(t *testing.T) {
	for name, given := range map[string]func(*bench){
		"healthy": func(*bench) {}, "in trouble": troubled,
		"before bootstrap": func(b *bench) { b.backend.view = failover.View{} },
		"gate given twice": func(b *bench) { b.backend.gates = append(b.backend.gates, b.backend.gates...) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "n1")
			given(b)
			b.metrics.ObserveOperation(sampleReport(4))
			scrape(t, b)
			lint(t, scrape(t, b))
		})
	}
}

func lint(t *testing.T, text string) {
	t.Helper()
	problems, err := promlint.New(bytes.NewBufferString(text)).Lint()
	require.NoError(t, err)
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "interrex_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestMetricsOfOtherParts(t *testing.T) {
	b := newBench(t, "n1")
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "interrex_extra_total", Help: "x"})
	require.NoError(t, b.metrics.Register(c))
	require.Error(t, b.metrics.Register(c))
	require.Contains(t, scrape(t, b), "interrex_extra_total 0")
}
