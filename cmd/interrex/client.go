package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/topology"
)

const (
	// dialLimit is how long one agent may take to be reached before the next
	// one is tried.
	dialLimit = 2 * time.Second
	// readLimit is how long one agent may take to answer a question.
	readLimit = 5 * time.Second
	// orderLimit is how long an order may take. A switchover has limits of its
	// own on the leader; this is for an agent that freezes under it.
	orderLimit = 5 * time.Minute
	// answerLimit bounds the bytes of one answer.
	answerLimit = 32 << 20
)

// endpoint is one agent's API.
type endpoint struct {
	address string // host:port
	secure  bool
	// serverName is what the agent's certificate must name; empty for the host
	// in address.
	serverName string
}

// apiClient asks the agents of one cluster, whichever answers. It is safe for
// concurrent use.
type apiClient struct {
	endpoints []endpoint
	http      []*http.Client // one for each endpoint
	token     string
	// tokenHint says why there is no token, for the moment one is needed.
	tokenHint string
	// known are members' names as far as they are known without asking.
	known []topology.NodeName
}

// newAPIClient makes a client of the agents at endpoints, in the order in which
// they are tried. base is the TLS configuration; it may be nil.
func newAPIClient(endpoints []endpoint, token string, base *tls.Config) *apiClient {
	c := &apiClient{endpoints: endpoints, token: token}
	for _, e := range endpoints {
		transport := &http.Transport{
			DialContext:         (&net.Dialer{Timeout: dialLimit}).DialContext,
			TLSHandshakeTimeout: dialLimit,
			IdleConnTimeout:     30 * time.Second,
		}
		if e.secure {
			t := &tls.Config{MinVersion: tls.VersionTLS13}
			if base != nil {
				t = base.Clone()
			}
			t.ServerName = cmp.Or(e.serverName, t.ServerName)
			transport.TLSClientConfig = t
		}
		c.http = append(c.http, &http.Client{
			Transport: transport,
			// The API redirects nowhere; what does is no agent, and must not
			// be sent the token on to.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		})
	}
	return c
}

// close closes the connections nobody uses.
func (c *apiClient) close() {
	for _, h := range c.http {
		h.CloseIdleConnections()
	}
}

// Cluster asks for the cluster at a glance.
func (c *apiClient) Cluster(ctx context.Context) (api.Cluster, error) {
	return get[api.Cluster](ctx, c, "/api/v1/cluster")
}

// Gates asks what each operation would be refused for now.
func (c *apiClient) Gates(ctx context.Context) ([]failover.Gate, error) {
	l, err := get[api.GateList](ctx, c, "/api/v1/gates")
	return l.Gates, err
}

// Reports asks for the newest n entries of the ledger, newest first.
func (c *apiClient) Reports(ctx context.Context, n int) ([]api.Report, error) {
	l, err := get[api.ReportList](ctx, c, "/api/v1/failovers?limit="+strconv.Itoa(n))
	return l.Failovers, err
}

// Report asks for one entry of the ledger.
func (c *apiClient) Report(ctx context.Context, epoch topology.Epoch) (api.Report, error) {
	return get[api.Report](ctx, c, reportPath(epoch))
}

func reportPath(epoch topology.Epoch) string {
	return "/api/v1/failovers/" + strconv.FormatUint(uint64(epoch), 10)
}

// Objectives asks how the objectives were met.
func (c *apiClient) Objectives(ctx context.Context) (failover.Attainment, error) {
	return get[failover.Attainment](ctx, c, "/api/v1/objectives")
}

// Switchover moves the primary to a member, or to the best candidate when to
// is empty, and returns when that ended. The report is that of an operation
// which was begun, whether err is nil or not; otherwise it is zero.
func (c *apiClient) Switchover(ctx context.Context, to topology.NodeName) (api.Report, error) {
	report, err := post[api.Report](ctx, c, "/api/v1/switchover", api.SwitchoverRequest{To: string(to), Wait: true})
	var refused *problemError
	if errors.As(err, &refused) && refused.Report != nil {
		return *refused.Report, err
	}
	return report, err
}

// Pause stops automatic operations.
func (c *apiClient) Pause(ctx context.Context, reason string) error {
	_, err := post[api.PauseState](ctx, c, "/api/v1/pause", api.PauseRequest{Reason: reason})
	return err
}

// Resume lifts the pause.
func (c *apiClient) Resume(ctx context.Context) error {
	_, err := post[api.PauseState](ctx, c, "/api/v1/resume", struct{}{})
	return err
}

func get[T any](ctx context.Context, c *apiClient, path string) (T, error) {
	var out T
	body, err := c.read(ctx, path)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return out, fmt.Errorf("understand the answer to %s: %w; is it an agent of this version?", path, err)
	}
	return out, nil
}

func post[T any](ctx context.Context, c *apiClient, path string, body any) (T, error) {
	var out T
	text, err := json.Marshal(body)
	if err != nil {
		return out, fmt.Errorf("encode order: %w", err)
	}
	if c.token == "" {
		return out, &noTokenError{hint: c.tokenHint}
	}
	answer, err := c.order(ctx, path, text)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(answer, &out); err != nil {
		return out, fmt.Errorf("understand the answer to %s: %w; the order was carried out", path, err)
	}
	return out, nil
}

// read asks a question, of the next agent if one does not answer, and returns
// the answer as it came.
func (c *apiClient) read(ctx context.Context, path string) ([]byte, error) {
	var silent []error
	for i := range c.endpoints {
		rctx, cancel := context.WithTimeout(ctx, readLimit)
		body, _, err := c.call(rctx, i, http.MethodGet, path, nil)
		cancel()
		if !isSilence(err) || ctx.Err() != nil {
			return body, err
		}
		silent = append(silent, err)
	}
	return nil, c.nobody(silent)
}

// order gives an order once: another agent is asked only if the order was
// certainly not sent to the former.
func (c *apiClient) order(ctx context.Context, path string, text []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, orderLimit)
	defer cancel()
	var silent []error
	for i := range c.endpoints {
		body, sent, err := c.call(ctx, i, http.MethodPost, path, text)
		switch {
		case isSilence(err) && sent:
			return nil, fmt.Errorf("%w; the order was sent and may have been carried out: look at `interrex status` and `interrex history` before giving it again", err)
		case !isSilence(err) || ctx.Err() != nil:
			return body, err
		}
		silent = append(silent, err)
	}
	return nil, c.nobody(silent)
}

// silenceError: an agent could not be reached or did not answer like one.
type silenceError struct {
	address string
	err     error
}

func (e *silenceError) Error() string { return fmt.Sprintf("agent %s: %v", e.address, e.err) }
func (e *silenceError) Unwrap() error { return e.err }

func isSilence(err error) bool {
	var s *silenceError
	return errors.As(err, &s)
}

func (c *apiClient) nobody(silent []error) error {
	if len(silent) == 0 {
		return usageError{errors.New("no agent to ask: name one with --agent host:port")}
	}
	lines := make([]string, len(silent))
	for i, err := range silent {
		lines[i] = "\n  " + err.Error()
	}
	return fmt.Errorf("%w%s\n  fix: start an agent (`interrex agent --config FILE`), or name one that runs with --agent host:port, --config FILE or --dir SANDBOX",
		errNoAgent, strings.Join(lines, ""))
}

// errNoAgent is returned when no agent could be reached; nothing was changed.
var errNoAgent = errors.New("no agent answers; nothing was changed")

// call makes one request. sent tells whether the agent may have begun to act
// on it.
func (c *apiClient) call(ctx context.Context, i int, method, path string, text []byte) (body []byte, sent bool, err error) {
	e := c.endpoints[i]
	scheme := "http"
	if e.secure {
		scheme = "https"
	}
	var wrote atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { wrote.Store(true) }})
	req, err := http.NewRequestWithContext(traced, method, scheme+"://"+e.address+path, bytes.NewReader(text))
	if err != nil {
		return nil, false, usageError{fmt.Errorf("agent %q is not host:port: %w", e.address, err)}
	}
	req.Header.Set("Accept", "application/json")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", rand.Text())
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http[i].Do(req)
	if err != nil {
		return nil, wrote.Load(), &silenceError{e.address, plainError(err)}
	}
	defer func() { _ = resp.Body.Close() }()
	body, err = io.ReadAll(io.LimitReader(resp.Body, answerLimit))
	if err != nil {
		return nil, true, &silenceError{e.address, fmt.Errorf("read answer: %w", err)}
	}
	if resp.StatusCode == http.StatusOK {
		return body, true, nil
	}
	return nil, true, problemOf(e.address, path, resp, body)
}

// plainError leaves out what a person has no use for.
func plainError(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var notTLS tls.RecordHeaderError
	if errors.As(err, &notTLS) || errors.Is(err, http.ErrSchemeMismatch) {
		return errors.New("it does not speak TLS: leave out --ca, --cert, --key and https://")
	}
	return err
}

// problemOf is the error of an answer that is no success.
func problemOf(address, path string, resp *http.Response, body []byte) error {
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	var p api.Problem
	if kind == "application/problem+json" && json.Unmarshal(body, &p) == nil && p.Type != "" {
		return &problemError{Problem: p, address: address}
	}
	err := fmt.Errorf("HTTP status %s to %s: this is no agent's answer", resp.Status, path)
	if resp.StatusCode == http.StatusBadRequest && bytes.Contains(body, []byte("HTTPS server")) {
		err = errors.New("it speaks TLS: give --ca FILE, or --config FILE of an agent of the cluster")
	}
	return &silenceError{address, err}
}

// problemError is what an agent answered instead of doing what it was asked.
type problemError struct {
	api.Problem
	address string
}

// name is the problem's name without the URN's prefix.
func (e *problemError) name() string { return strings.TrimPrefix(e.Type, api.ProblemType) }

// refused tells whether a gate kept the operation from beginning.
func (e *problemError) refused() bool {
	switch e.name() {
	case "gate-closed", "busy", "no-quorum":
		return true
	case "not-confirmed":
		return e.Report == nil // with one, something was begun
	}
	return false
}

// Error says what is wrong, where, and what to do about it.
func (e *problemError) Error() string {
	var b strings.Builder
	b.WriteString(e.Title)
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(&b, "\n  %-6s %s", name+":", text)
		}
	}
	if e.Gate != nil {
		line("gate", fmt.Sprintf("%s (of %s)", e.Gate.Name, e.Gate.Operation))
		line("why", e.Gate.Reason)
	} else {
		line("why", e.Detail)
	}
	for _, f := range e.Fields {
		line("field", f.Field+" "+f.Message)
	}
	where := "agent " + e.address
	if id, ok := strings.CutPrefix(e.Instance, "urn:interrex:request:"); ok {
		where += ", request_id " + id + " in its log"
	}
	line("where", where)
	line("fix", e.fix())
	return b.String()
}

func (e *problemError) fix() string {
	switch e.name() {
	case "unauthorized":
		return "give the operator's token: --token-file FILE, INTERREX_TOKEN_FILE, or --config FILE of an agent"
	case "too-many-attempts":
		return "wait a second, then give the right token"
	case "foreign-host":
		return "name the agent by an address of its own, its node name or localhost"
	case "gate-closed":
		return "see `interrex gates`; remove the cause, then ask again"
	case "not-confirmed":
		return "look at what would be lost now: `interrex failover`"
	case "no-quorum":
		return "bring back the agents (or etcd members) that are down; `interrex status` names them"
	case "busy":
		return "wait for it to end: `interrex status --watch`"
	case "undone", "operation-refused", "operation-failed":
		return "see `interrex history` for how far it came and what was missing"
	case "no-leader", "not-leader", "leader-unreachable", "not-ready", "ledger-unavailable":
		return "ask again in a few seconds; if it stays so, see `interrex status` and `interrex doctor`"
	case "outcome-unknown", "deadline-passed":
		return "look at `interrex status` and `interrex history` before giving the order again"
	case "not-found", "method-not-allowed":
		return "see `interrex history` and `interrex status` for what there is; is the agent of this program's version?"
	}
	return ""
}

// noTokenError: an order needs a token and there is none.
type noTokenError struct{ hint string }

func (e *noTokenError) Error() string {
	text := "changing anything needs the operator's token; nothing was asked\n  fix:   --token-file FILE, INTERREX_TOKEN_FILE, --config FILE of an agent, or --dir of a sandbox"
	if e.hint != "" {
		text += "\n  why:   " + e.hint
	}
	return text
}
