package election

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// lease is what this member's leader key is bound to, so that it disappears
// some time after the member does. Every member keeps one at all times: then
// taking a free key is one round trip. It is never waited out for safety.
type lease struct {
	id  clientv3.LeaseID // 0: none
	ttl time.Duration
	// until is when this member stops believing in it, whatever etcd thinks:
	// the moment the last confirmed renewal was sent, plus ttl, less a margin.
	until time.Time
}

func (l lease) valid(now time.Time) bool { return l.id != 0 && now.Before(l.until) }

func (c *Client) leaseNow() lease {
	c.leaseMu.Lock()
	defer c.leaseMu.Unlock()
	return c.lease
}

func (c *Client) setLease(l lease) {
	c.leaseMu.Lock()
	defer c.leaseMu.Unlock()
	c.lease = l
}

// dropLease forgets a lease that etcd says is gone.
func (c *Client) dropLease(id clientv3.LeaseID) {
	c.leaseMu.Lock()
	defer c.leaseMu.Unlock()
	if c.lease.id == id {
		c.lease = lease{}
	}
}

// leaseLoop renews the lease, asks for a new one when it is gone, and tells
// subscribers when this member's leadership begins or lapses by the clock.
func (c *Client) leaseLoop(ctx context.Context) {
	led := false
	for {
		begun := time.Now()
		if err := c.renew(ctx); err != nil && ctx.Err() == nil {
			c.log.Debug("lease was not renewed", zap.Error(err))
		}
		wait := max(c.cfg.renewEvery()-time.Since(begun), settlePause)
		if left := time.Until(c.leaseNow().until); led && left > 0 {
			wait = min(wait, left)
		}
		if leads := c.Leadership().Mine; leads != led {
			led = leads
			c.log.Info("leadership", zap.Bool("mine", leads))
			c.notify()
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

func (c *Client) renew(ctx context.Context) error {
	held := c.leaseNow()
	if held.id == 0 {
		return c.grant(ctx)
	}
	sent := time.Now()
	ttl, err := call(ctx, c.pool, func(ctx context.Context, client Etcd) (time.Duration, error) {
		return client.Renew(ctx, held.id)
	})
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		c.dropLease(held.id)
		return c.grant(ctx)
	}
	if err != nil {
		return fmt.Errorf("renew lease: %w", err)
	}
	c.setLease(lease{id: held.id, ttl: ttl, until: sent.Add(ttl - c.cfg.margin())})
	return nil
}

// grant asks for a new lease. One that is granted twice because the call was
// hedged runs out by itself.
func (c *Client) grant(ctx context.Context) error {
	sent := time.Now()
	granted, err := call(ctx, c.pool, func(ctx context.Context, client Etcd) (*clientv3.LeaseGrantResponse, error) {
		return client.Grant(ctx, int64(c.cfg.LeaderTTL/time.Second))
	})
	if err != nil {
		return fmt.Errorf("ask for a lease: %w", err)
	}
	ttl := time.Duration(granted.TTL) * time.Second
	c.setLease(lease{id: granted.ID, ttl: ttl, until: sent.Add(ttl - c.cfg.margin())})
	c.notify()
	return nil
}

// part gives up leadership and the lease, so that nobody has to wait for them.
func (c *Client) part(ctx context.Context) {
	held := c.leaseNow()
	if held.id == 0 {
		return
	}
	c.setLease(lease{})
	_, err := call(ctx, c.pool, func(ctx context.Context, client Etcd) (*clientv3.LeaseRevokeResponse, error) {
		return client.Revoke(ctx, held.id) // deletes the leader key with it
	})
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		c.log.Info("lease was not given back; it runs out by itself", zap.Error(err))
	}
}
