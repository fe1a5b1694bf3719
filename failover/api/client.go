package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync/atomic"
	"time"

	"interrex/failover"
	"interrex/internal/topology"
	"interrex/router"
)

const (
	// warmConns is how many idle connections to one member are kept: an
	// operation gives a node few commands at a time.
	warmConns = 8
	// clientIdle is shorter than the server's limit, so that a connection is
	// never found closed by the other side just when it is needed.
	clientIdle = 90 * time.Second
	keepAlive  = 5 * time.Second
	// answerBytes bounds what a member may answer.
	answerBytes = 16 << 20
)

// Client gives commands to one member. It is safe for concurrent use, keeps
// connections open, never repeats a command, and has no limit of its own: the
// context's deadline bounds the call and, sent along, the work over there.
//
// An error is a *RemoteError if the node returned one; otherwise it is
// ErrNotExecuted or ErrOutcomeUnknown.
type Client struct {
	node    topology.NodeName
	cluster string // whose member it is to be; empty: of any
	address string
	token   string
	scheme  string
	pool    *http.Transport
}

var _ failover.Node = (*Client)(nil)

// NewClient makes a client of the member node at address (host:port of its API
// listener). token is the member token; t is nil where the listener has no TLS.
func NewClient(node topology.NodeName, address, token string, t *TLS) *Client {
	dialer := &net.Dialer{KeepAlive: keepAlive}
	c := &Client{node: node, address: address, token: token, scheme: "http", pool: &http.Transport{
		DialContext:            dialer.DialContext,
		MaxIdleConnsPerHost:    warmConns,
		IdleConnTimeout:        clientIdle,
		DisableCompression:     true,
		MaxResponseHeaderBytes: headerBytes,
	}}
	if t != nil {
		c.scheme = "https"
		c.pool.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			// The configuration is made anew for each connection, so that a
			// rotated certificate or CA is used from the next one on.
			d := tls.Dialer{NetDialer: dialer, Config: t.ClientConfig(node)}
			return d.DialContext(ctx, network, addr)
		}
	}
	return c
}

// CloseIdle closes the connections nobody uses.
func (c *Client) CloseIdle() { c.pool.CloseIdleConnections() }

// Status asks what the member says of itself.
func (c *Client) Status(ctx context.Context) (failover.NodeStatus, error) {
	return do[failover.NodeStatus](ctx, c, commandStatus, nothing{})
}

// Freeze orders a replica's receiver to stop.
func (c *Client) Freeze(ctx context.Context, req failover.FreezeRequest) (failover.Frozen, error) {
	return do[failover.Frozen](ctx, c, commandFreeze, req)
}

// CatchUp orders a frozen replica to execute a set.
func (c *Client) CatchUp(ctx context.Context, req failover.CatchUpRequest) (failover.CaughtUp, error) {
	return do[failover.CaughtUp](ctx, c, commandCatchUp, req)
}

// Promote orders the recorded primary to open.
func (c *Client) Promote(ctx context.Context, req failover.PromoteRequest) (failover.Promoted, error) {
	return do[failover.Promoted](ctx, c, commandPromote, req)
}

// Follow orders an instance to replicate.
func (c *Client) Follow(ctx context.Context, req failover.FollowRequest) error {
	_, err := do[nothing](ctx, c, commandFollow, req)
	return err
}

// Close orders an instance to stop taking writes. It does not close the
// client; see CloseIdle.
func (c *Client) Close(ctx context.Context, req failover.CloseRequest) (failover.Closed, error) {
	return do[failover.Closed](ctx, c, commandClose, req)
}

// Obey orders the recorded primary to be what its register asks for.
func (c *Client) Obey(ctx context.Context, req failover.ObeyRequest) (failover.Obeyed, error) {
	return do[failover.Obeyed](ctx, c, commandObey, req)
}

// Rebuild orders an instance to be cloned.
func (c *Client) Rebuild(ctx context.Context, req failover.RebuildRequest) error {
	_, err := do[nothing](ctx, c, commandRebuild, req)
	return err
}

// Route tells the member the route.
func (c *Client) Route(ctx context.Context, route router.Route) error {
	_, err := do[nothing](ctx, c, commandRoute, route)
	return err
}

func do[Res any](ctx context.Context, c *Client, name string, req any) (Res, error) {
	var res Res
	body, err := json.Marshal(req)
	if err != nil {
		return res, fmt.Errorf("%s %s: encode: %w: %w", name, c.node, ErrNotExecuted, err)
	}
	resp, err := c.send(ctx, call{method: http.MethodPost, path: commandPath + name, body: body})
	if err != nil {
		return res, fmt.Errorf("%s %s: %w", name, c.node, err)
	}
	if resp.status == http.StatusOK {
		if err := json.Unmarshal(resp.body, &res); err != nil {
			return res, fmt.Errorf("%s %s: decode answer: %w: %w", name, c.node, ErrOutcomeUnknown, err)
		}
		return res, nil
	}
	var p Problem
	switch err := json.Unmarshal(resp.body, &p); {
	case err == nil && p.Error != nil:
		return res, p.Error.decode(c.node, name)
	case err == nil && p.Status < http.StatusInternalServerError && p.Type != "":
		return res, fmt.Errorf("%s %s: %w: %s: %s", name, c.node, ErrNotExecuted, p.Title, p.Detail)
	case err == nil && p.Type == ProblemType+problemDeadline:
		return res, fmt.Errorf("%s %s: %w: %s: %w", name, c.node, ErrNotExecuted, p.Detail, context.DeadlineExceeded)
	}
	return res, fmt.Errorf("%s %s: %w: HTTP status %d %s", name, c.node, ErrOutcomeUnknown, resp.status, p.Title)
}

type call struct {
	method, path string
	header       http.Header // further headers; may be nil
	body         []byte
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

// send makes one request. Its error is ErrNotExecuted if the request was never
// sent in full, else ErrOutcomeUnknown.
func (c *Client) send(ctx context.Context, k call) (answer, error) {
	limit, err := remaining(ctx)
	if err != nil {
		return answer{}, fmt.Errorf("%w: %w", ErrNotExecuted, err)
	}
	var sent atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
	req, err := http.NewRequestWithContext(traced, k.method, c.scheme+"://"+c.address+k.path, bytes.NewReader(k.body))
	if err != nil {
		return answer{}, fmt.Errorf("%w: %w", ErrNotExecuted, err)
	}
	req.GetBody = nil // the transport may not send it a second time
	req.Host = string(c.node)
	for name, values := range k.header {
		req.Header[name] = values
	}
	req.Header.Set("Content-Type", contentTypeJSON)
	if limit != "" {
		req.Header.Set(headerTimeout, limit)
	}
	if c.cluster != "" {
		req.Header.Set(headerCluster, c.cluster)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.pool.RoundTrip(req)
	if err != nil {
		kind := ErrNotExecuted
		if sent.Load() {
			kind = ErrOutcomeUnknown
		}
		return answer{}, fmt.Errorf("%w: %w", kind, asContext(ctx, err))
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerBytes+1))
	switch {
	case err != nil:
		return answer{}, fmt.Errorf("%w: read answer: %w", ErrOutcomeUnknown, asContext(ctx, err))
	case len(body) > answerBytes:
		return answer{}, fmt.Errorf("%w: the answer is longer than %d bytes", ErrOutcomeUnknown, answerBytes)
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: body}, nil
}

// remaining is the time that ctx leaves, as the header says it.
func remaining(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		return "", nil
	}
	left := time.Until(deadline)
	if left < time.Microsecond {
		return "", context.DeadlineExceeded
	}
	return strconv.FormatInt(left.Microseconds(), 10), nil
}

// asContext makes an error that came of the context ending say so: a dialer
// reports a timeout of its own.
func asContext(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}
