package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"interrex/election"
	"interrex/failover"
	"interrex/internal/topology"
)

// MetricsConfig is what the metrics show beside what the API counts itself.
type MetricsConfig struct {
	Self    topology.NodeName
	Cluster string
	Version string // of the agent
	// Backend is asked at every scrape.
	Backend Backend
	// Proxy counts what the ports of the own proxy do; nil where there is none.
	Proxy func() []ProxyPort
}

// ProxyPort is what one port of the own proxy does and has done since the agent
// began.
type ProxyPort struct {
	Route    string // rw or ro
	Sessions int    // connections served now, held ones included
	Held     int    // held now
	// Accepted counts connections taken; of them were HeldTotal held, Refused
	// answered with an error packet, and Left gone while they were held.
	Accepted, HeldTotal, Refused, Left uint64
	ConnectFailures                    uint64 // attempts to connect to a server that failed
	Cut                                uint64 // sessions ended by the proxy
}

// Metrics is the registry that /metrics shows. It is apart from the process's
// default registry, in which libraries put what they like.
type Metrics struct {
	registry *prometheus.Registry
	handler  http.Handler

	requests       *prometheus.CounterVec
	requestSeconds *prometheus.HistogramVec
	commands       *prometheus.CounterVec
	commandSeconds *prometheus.HistogramVec
	operations     *prometheus.CounterVec
	lastRTO        *prometheus.GaugeVec
	lastLost       *prometheus.GaugeVec
}

// NewMetrics makes the registry with all of interrex's metrics.
func NewMetrics(cfg MetricsConfig) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "interrex", Name: name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "interrex", Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "interrex", Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9), // 0.5 ms to 33 s
		}, labels)
	}
	m.requests = counter("http_requests_total", "HTTP requests answered.", "route", "code")
	m.requestSeconds = histogram("http_request_duration_seconds", "Time to answer an HTTP request.", "route")
	m.commands = counter("commands_total", "Commands of other members executed on this node.", "command", "outcome")
	m.commandSeconds = histogram("command_duration_seconds", "Time to execute a command of another member.", "command")
	m.operations = counter("operations_total", "Operations that ended while this member led.", "kind", "outcome")
	m.lastRTO = gauge("last_operation_rto_seconds", "RTO (upper bound) of the last operation that this member led.", "kind")
	m.lastLost = gauge("last_operation_lost_commits", "Acknowledged commits lost by the last operation that this member led; absent when not known.", "kind")
	// From the start: of a series that begins with 1, nobody sees an increase.
	for _, kind := range []election.Kind{election.Bootstrap, election.Failover, election.Switchover, election.Resume} {
		for _, outcome := range []failover.Outcome{failover.Completed, failover.Undone, failover.Failure, failover.Superseded} {
			m.operations.WithLabelValues(string(kind), string(outcome))
		}
	}
	info := gauge("info", "Constant 1, with the member's name, cluster and version.", "cluster", "node", "version")
	info.WithLabelValues(cfg.Cluster, string(cfg.Self), cfg.Version).Set(1)
	m.registry.MustRegister(
		m.requests, m.requestSeconds, m.commands, m.commandSeconds, m.operations, m.lastRTO, m.lastLost, info,
		newViewCollector(cfg), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
	return m
}

// Register adds a collector of another part; it fails on a name already taken.
func (m *Metrics) Register(c prometheus.Collector) error { return m.registry.Register(c) }

// ObserveOperation counts an operation that ended.
func (m *Metrics) ObserveOperation(r failover.Report) {
	kind := string(r.Kind)
	m.operations.WithLabelValues(kind, string(r.Outcome)).Inc()
	if r.Outcome == failover.Completed || r.Outcome == failover.Undone {
		m.lastRTO.WithLabelValues(kind).Set(r.RTOMillis / 1000)
	}
	if r.RPO.LostCommits != nil {
		m.lastLost.WithLabelValues(kind).Set(float64(*r.RPO.LostCommits))
	} else {
		m.lastLost.DeleteLabelValues(kind)
	}
}

func (m *Metrics) request(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	m.requestSeconds.WithLabelValues(route).Observe(took.Seconds())
}

func (m *Metrics) command(name string, err error, took time.Duration) {
	outcome := "ok"
	if err != nil {
		outcome = "error"
	}
	m.commands.WithLabelValues(name, outcome).Inc()
	m.commandSeconds.WithLabelValues(name).Observe(took.Seconds())
}

// viewCollector shows the cluster as the member sees it at the scrape.
type viewCollector struct {
	cfg  MetricsConfig
	desc map[string]*prometheus.Desc
}

func newViewCollector(cfg MetricsConfig) *viewCollector {
	c := &viewCollector{cfg: cfg, desc: map[string]*prometheus.Desc{}}
	add := func(name, help string, labels ...string) {
		c.desc[name] = prometheus.NewDesc("interrex_"+name, help, labels, nil)
	}
	add("epoch", "Highest epoch issued, as this member knows it.")
	add("promised_epoch", "Highest epoch this member has seen in a command.")
	add("primary_epoch", "Epoch of the recorded primary; 0 before there is one.")
	add("primary", "1 for the recorded primary.", "node")
	add("primary_forced", "1 while the primary is one that was promoted by force, without proof that nothing acknowledged is lost.")
	add("is_primary", "1 if this member's instance is the open recorded primary.")
	add("is_leader", "1 if this member leads.")
	add("has_leader", "1 if any member is known to lead.")
	add("etcd_reachable", "1 if etcd answered last.")
	add("isolated", "1 while this member sees neither etcd's quorum nor a majority of the members.")
	add("paused", "1 while automatic operations are paused.")
	add("status", "1 for the cluster's status, 0 for the others.", "status")
	add("operation_in_flight", "1 while an operation of the kind is in flight.", "kind")
	add("register_ackers", "Replicas registered as ackers.")
	add("register_acks", "Acknowledgements a commit waits for (k).")
	add("acknowledging", "Registered ackers that acknowledge now.")
	add("lossless", "1 while every acknowledged commit is on k ackers too.")
	add("verdict", "1 for the verdict on the member, 0 for the others.", "node", "verdict")
	add("lag_seconds", "How far a replica is behind in time; absent when not known.", "node")
	add("missing_transactions", "Transactions of the primary a replica has not executed; absent when not known.", "node")
	add("route_epoch", "Epoch of the route this member obeys.")
	add("route_open", "1 while the route lets new work through to the primary.")
	add("nginx_in_step", "1 while this member's nginx follows its route, 0 while a change cannot be made.", "file")
	add("nginx_epoch", "Epoch of the route this member's nginx lives by.", "file")
	add("nginx_warnings", "Settings of this member's nginx that a failover will suffer from.", "file")
	add("etcd_used_ratio", "Part of its database's quota that etcd has taken, as far as this member knows.")
	add("certificate_expiry_timestamp_seconds", "When this member's certificate ends, in Unix time; absent without TLS.")
	add("gate_open", "1 while the gate lets the operation pass.", "operation", "gate")
	add("proxy_sessions", "Client sessions in this member's proxy, held ones included.", "route")
	add("proxy_sessions_held", "Clients that this member's proxy holds now.", "route")
	add("proxy_accepted_total", "Connections this member's proxy took.", "route")
	add("proxy_held_total", "Connections it held for a while.", "route")
	add("proxy_refused_total", "Connections it answered with an error.", "route")
	add("proxy_left_total", "Clients that left while they were held.", "route")
	add("proxy_cut_total", "Sessions it ended, to a server that clients must not use any more.", "route")
	add("proxy_connect_failures_total", "Attempts to connect to a server that failed.", "route")
	return c
}

// Describe lists the metrics.
func (c *viewCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.desc {
		out <- d
	}
}

// Collect reads the view.
func (c *viewCollector) Collect(out chan<- prometheus.Metric) {
	set := func(name string, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(c.desc[name], prometheus.GaugeValue, value, labels...)
	}
	v, gates := c.cfg.Backend.View(), c.cfg.Backend.Gates()
	glance := newCluster(time.Now(), c.cfg.Cluster, v, gates, c.cfg.Backend.Evidence)
	c.collectRecord(set, v, glance)
	for _, m := range glance.Members {
		for _, verdict := range []topology.Verdict{topology.Unknown, topology.Healthy, topology.Suspect, topology.Failed} {
			set("verdict", number(m.Verdict == verdict), string(m.Name), verdict.String())
		}
		if m.LagMS != nil {
			set("lag_seconds", *m.LagMS/1000, string(m.Name))
		}
		if m.Missing != nil {
			set("missing_transactions", float64(*m.Missing), string(m.Name))
		}
	}
	seen := map[[2]string]bool{} // a name given twice would fail the scrape
	for _, g := range gates {
		if id := [2]string{string(g.Operation), g.Name}; !seen[id] {
			seen[id] = true
			set("gate_open", number(g.Open), id[0], id[1])
		}
	}
	if c.cfg.Proxy != nil {
		for _, p := range c.cfg.Proxy() {
			c.collectPort(out, p)
		}
	}
}

func (c *viewCollector) collectPort(out chan<- prometheus.Metric, p ProxyPort) {
	send := func(name string, kind prometheus.ValueType, value uint64) {
		out <- prometheus.MustNewConstMetric(c.desc[name], kind, float64(value), p.Route)
	}
	send("proxy_sessions", prometheus.GaugeValue, uint64(max(0, p.Sessions)))
	send("proxy_sessions_held", prometheus.GaugeValue, uint64(max(0, p.Held)))
	send("proxy_accepted_total", prometheus.CounterValue, p.Accepted)
	send("proxy_held_total", prometheus.CounterValue, p.HeldTotal)
	send("proxy_refused_total", prometheus.CounterValue, p.Refused)
	send("proxy_left_total", prometheus.CounterValue, p.Left)
	send("proxy_cut_total", prometheus.CounterValue, p.Cut)
	send("proxy_connect_failures_total", prometheus.CounterValue, p.ConnectFailures)
}

func (c *viewCollector) collectRecord(set func(string, float64, ...string), v failover.View, glance Cluster) {
	own := v.Nodes[c.cfg.Self]
	set("epoch", float64(v.State.Epoch))
	set("promised_epoch", float64(own.Promised))
	primaryEpoch := topology.Epoch(0)
	if p := glance.Primary; p != nil {
		primaryEpoch = p.Epoch
		set("primary", 1, string(p.Node))
	}
	set("primary_epoch", float64(primaryEpoch))
	set("primary_forced", number(glance.Primary != nil && glance.Primary.Forced != nil))
	set("is_primary", number(notPrimary(v, c.cfg.Self) == ""))
	set("is_leader", number(v.Leadership.Mine))
	set("has_leader", number(glance.Leader != ""))
	set("etcd_reachable", number(v.EtcdReachable))
	set("isolated", number(v.Isolated != nil))
	set("paused", number(glance.Paused != nil))
	for _, status := range Statuses() {
		set("status", number(glance.Status == status), string(status))
	}
	for _, kind := range []election.Kind{election.Bootstrap, election.Failover, election.Switchover, election.Resume} {
		set("operation_in_flight", number(glance.Operation != nil && glance.Operation.Kind == kind), string(kind))
	}
	set("register_ackers", float64(len(glance.Durability.Ackers)))
	set("register_acks", float64(glance.Durability.K))
	set("acknowledging", float64(len(glance.Durability.Acknowledging)))
	set("lossless", number(glance.Durability.Lossless))
	set("route_epoch", float64(own.Route.Epoch))
	set("route_open", number(own.Route.Phase == "open"))
	set("etcd_used_ratio", own.EtcdUsed)
	if u := own.CertificateUntil; !u.IsZero() {
		set("certificate_expiry_timestamp_seconds", float64(u.Unix()))
	}
	told := map[string]bool{}
	for _, f := range own.Nginx {
		if told[f.File] {
			continue // two sections for one file; the same series twice would be refused
		}
		told[f.File] = true
		set("nginx_in_step", number(f.Error == ""), f.File)
		set("nginx_epoch", float64(f.Epoch), f.File)
		set("nginx_warnings", float64(len(f.Warnings)), f.File)
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
