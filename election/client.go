package election

import (
	"context"
	"fmt"
	"runtime/pprof"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"interrex/internal/topology"
)

// Client is this member's share in the cluster's agreement. Its methods may be
// used by several goroutines; those that only tell what was last seen never
// wait, the others return within CallTimeout (changes within SettleTimeout), or
// when ctx ends.
type Client struct {
	cfg  Config
	log  *zap.Logger
	keys keys
	pool *pool
	view *view

	updating chan struct{} // holds one token: one own change at a time

	leaseMu sync.Mutex
	lease   lease

	candidacyMu sync.Mutex
	candidacy   func() (may bool, delay time.Duration)
	restUntil   time.Time // no campaign before, after Resign and Transfer

	registeredMu sync.Mutex
	registered   *topology.Member

	subscribersMu sync.Mutex
	subscribers   map[chan struct{}]struct{}
}

// New prepares a client. It does not need etcd to be up; connections are made
// when first used. Run must be running for leadership and for what is last
// seen to be kept current.
func New(cfg Config, log *zap.Logger) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure election: %w", err)
	}
	k := newKeys(cfg.Cluster, cfg.Self)
	c := &Client{
		cfg:         cfg,
		log:         log,
		keys:        k,
		pool:        newPool(cfg, sampled(log.Named("etcd-client"))),
		view:        newView(k, log),
		updating:    make(chan struct{}, 1),
		candidacy:   func() (bool, time.Duration) { return true, 0 },
		subscribers: make(map[chan struct{}]struct{}),
	}
	c.updating <- struct{}{}
	return c, nil
}

// sampled keeps a client that has lost its server from flooding the log.
func sampled(log *zap.Logger) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, 10*time.Second, 3, 0)
	}))
}

// Run watches the store, keeps this member's lease alive and campaigns, until
// ctx ends; then it gives up leadership, closes the connections and returns
// nil. The client is of no use afterwards.
func (c *Client) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	for name, loop := range map[string]func(context.Context){
		"watch": c.watchLoop, "probe": c.probeLoop, "lease": c.leaseLoop, "campaign": c.campaignLoop,
	} {
		// Profiles, and the simulator, tell by the label whose calls they see.
		loops.Go(func() { pprof.Do(ctx, pprof.Labels("election", name), loop) })
	}
	loops.Wait()

	parting, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.CallTimeout)
	defer cancel()
	c.part(parting)
	c.pool.close()
	return nil
}

// SetEndpoints replaces the addresses of Config.Endpoints, in the same order:
// etcd's members may change while this one runs. No address changes nothing.
func (c *Client) SetEndpoints(addresses []string) { c.pool.setEndpoints(addresses) }

func (c *Client) probeLoop(ctx context.Context) {
	tick := time.NewTicker(c.cfg.ProbeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.pool.probe(ctx, c.keys.leader)
		}
	}
}

// Healthy asks etcd for an answer that needs its quorum. It returns nil, or
// ErrUnreachable within CallTimeout.
func (c *Client) Healthy(ctx context.Context) error {
	_, err := call(ctx, c.pool, func(ctx context.Context, client Etcd) (struct{}, error) {
		_, err := client.Get(ctx, c.keys.leader, clientv3.WithCountOnly())
		return struct{}{}, err
	})
	if err != nil {
		return fmt.Errorf("ask etcd: %w", err)
	}
	return nil
}

// Subscribe returns a channel that holds a token whenever the record, the
// leadership or the members may have changed since the last token was taken.
// The caller ends it with cancel.
func (c *Client) Subscribe() (changes <-chan struct{}, cancel func()) {
	ch := make(chan struct{}, 1)
	c.subscribersMu.Lock()
	c.subscribers[ch] = struct{}{}
	c.subscribersMu.Unlock()
	return ch, func() {
		c.subscribersMu.Lock()
		delete(c.subscribers, ch)
		c.subscribersMu.Unlock()
	}
}

func (c *Client) notify() {
	c.subscribersMu.Lock()
	defer c.subscribersMu.Unlock()
	for ch := range c.subscribers {
		select {
		case ch <- struct{}{}:
		default: // a token is waiting already
		}
	}
}

// pause waits, and returns false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
