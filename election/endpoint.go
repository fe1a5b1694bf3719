package election

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// endpoint is one etcd member with a connection of its own.
type endpoint struct {
	address string
	failed  time.Time // zero while it answers; guarded by pool.mu

	mu     sync.Mutex
	client *clientv3.Client // nil until first used
}

// dial returns the endpoint's client. Without a user name it never waits; with
// one it may wait CallTimeout for the first token.
func (e *endpoint) dial(p *pool) (*clientv3.Client, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil {
		return e.client, nil
	}
	client, err := clientv3.New(clientv3.Config{
		Context:     p.ctx,
		Endpoints:   []string{e.address},
		DialTimeout: p.cfg.CallTimeout,
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
	e.client = client
	return client, nil
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

// keepAlive renews a lease once and returns its time to live.
// clientv3.KeepAliveOnce does the same but spins without a pause on an endpoint
// that refuses connections.
func keepAlive(ctx context.Context, client *clientv3.Client, id clientv3.LeaseID) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the stream
	defer cancel()
	stream, err := pb.NewLeaseClient(client.ActiveConnection()).LeaseKeepAlive(ctx)
	if err != nil {
		return 0, err
	}
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)}); err != nil {
		return 0, err
	}
	answer, err := stream.Recv()
	if err != nil {
		return 0, rpctypes.Error(err)
	}
	if answer.TTL <= 0 {
		return 0, rpctypes.ErrLeaseNotFound
	}
	return time.Duration(answer.TTL) * time.Second, nil
}
