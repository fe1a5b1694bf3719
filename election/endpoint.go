package election

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// loginLimit bounds checking the password, which etcd makes slow on purpose.
const loginLimit = 5 * time.Second

// endpoint is one etcd member with a connection of its own.
type endpoint struct {
	address string
	failed  time.Time // zero while it answers; guarded by pool.mu

	mu     sync.Mutex
	client Etcd // nil until first used
}

// Etcd is what is asked of one etcd member. But for Renew, it is a part of
// etcd's own client.
type Etcd interface {
	Get(ctx context.Context, key string, options ...clientv3.OpOption) (*clientv3.GetResponse, error)
	Txn(ctx context.Context) clientv3.Txn
	Watch(ctx context.Context, key string, options ...clientv3.OpOption) clientv3.WatchChan
	Grant(ctx context.Context, seconds int64) (*clientv3.LeaseGrantResponse, error)
	Revoke(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error)
	// Renew renews a lease once and returns its time to live; for one that is
	// gone, rpctypes.ErrLeaseNotFound.
	Renew(ctx context.Context, id clientv3.LeaseID) (time.Duration, error)
	Close() error
}

// connection is etcd's client for one endpoint, with one stream for lease
// renewals that is opened when first needed.
type connection struct {
	*clientv3.Client

	ctx      context.Context // of the stream
	renewing chan struct{}   // holds one token: one renewal at a time
	stream   pb.Lease_LeaseKeepAliveClient
	cancel   context.CancelFunc // of stream
}

// dial returns the endpoint's client. Without a user name it never waits; with
// one it may wait loginLimit for the first token.
func (e *endpoint) dial(p *pool) (Etcd, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil {
		return e.client, nil
	}
	if p.cfg.Dial != nil {
		client, err := p.cfg.Dial(e.address)
		if err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		e.client = client
		return client, nil
	}
	client, err := clientv3.New(clientv3.Config{
		Context:     p.ctx,
		Endpoints:   []string{e.address},
		DialTimeout: loginLimit,
		// gRPC raises anything lower to 10 s. With it, gRPC also bounds
		// unacknowledged data (TCP_USER_TIMEOUT) to the second value.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: time.Second,
		TLS:                  p.cfg.TLS,
		Username:             p.cfg.Username,
		Password:             p.cfg.Password,
		// One more try, for a token that has run out. Everything else is
		// retried on another endpoint.
		MaxUnaryRetries: 2,
		Logger:          p.log,
		DialOptions: []grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
				MinConnectTimeout: time.Second,
			}),
			grpc.WithChainUnaryInterceptor(failFastUnary),
			grpc.WithChainStreamInterceptor(failFastStream),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	e.client = &connection{Client: client, ctx: p.ctx, renewing: make(chan struct{}, 1)}
	return e.client, nil
}

func (e *endpoint) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil {
		_ = e.client.Close() // reports that its context has ended, as it has
	}
}

// failFastUnary makes a call to an endpoint that refuses connections fail at
// once; etcd's client would wait for it to come up until the call's deadline.
func failFastUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoker(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
}

// failFastStream is failFastUnary for streams.
func failFastStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return streamer(ctx, desc, cc, method, append(opts, grpc.WaitForReady(false))...)
}

// Renew implements Etcd. The stream is kept for the next time, as opening one
// costs a login where there is a password. clientv3.KeepAliveOnce opens one
// each time, and spins without a pause on an endpoint that refuses connections.
func (c *connection) Renew(ctx context.Context, id clientv3.LeaseID) (time.Duration, error) {
	select {
	case c.renewing <- struct{}{}:
		defer func() { <-c.renewing }()
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if c.stream == nil {
		if err := c.openStream(); err != nil {
			return 0, rpctypes.Error(err)
		}
		if ctx.Err() != nil {
			return 0, ctx.Err() // too late for this call; the next one has the stream
		}
	}
	interrupt := context.AfterFunc(ctx, c.cancel)
	answer, err := exchange(c.stream, id)
	if !interrupt() || err != nil {
		// An answer that is still to come must not be taken for the next one.
		c.cancel()
		c.stream = nil
	}
	switch {
	case err != nil:
		return 0, rpctypes.Error(err)
	case answer.TTL <= 0:
		return 0, rpctypes.ErrLeaseNotFound
	}
	return time.Duration(answer.TTL) * time.Second, nil
}

func (c *connection) openStream() error {
	ctx, cancel := context.WithCancel(c.ctx)
	late := time.AfterFunc(loginLimit, cancel)
	stream, err := pb.NewLeaseClient(c.ActiveConnection()).LeaseKeepAlive(ctx)
	if err != nil || !late.Stop() {
		cancel()
		return errors.Join(err, ctx.Err())
	}
	c.stream, c.cancel = stream, cancel
	return nil
}

func exchange(stream pb.Lease_LeaseKeepAliveClient, id clientv3.LeaseID) (*pb.LeaseKeepAliveResponse, error) {
	// A broken stream makes Send return io.EOF and Recv the reason.
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return stream.Recv()
}
