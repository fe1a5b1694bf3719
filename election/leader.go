package election

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"interrex/internal/topology"
)

// Leadership is who leads, as last seen. Mine is true only while the own lease
// is confirmed by this member's monotonic clock; it is a reason to stand down
// in time, not a fence: the fence is the comparison in Update.
func (c *Client) Leadership() Leadership {
	leader, _ := c.view.leaderNow()
	return Leadership{Holder: leader.Holder, Revision: leader.revision, Offered: leader.Offered, Mine: c.holds(leader)}
}

func (c *Client) holds(leader leaderKey) bool {
	held := c.leaseNow()
	return leader.Holder == c.cfg.Self && leader.lease == int64(held.id) && held.valid(time.Now())
}

// SetCandidacy sets the rule this member campaigns by: whether it may take a
// free leader key at all, and how long it hangs back first so that better
// placed members come before it. The rule is asked often and must not wait.
// Until it is set, the member campaigns at once.
func (c *Client) SetCandidacy(rule func() (may bool, delay time.Duration)) {
	c.candidacyMu.Lock()
	c.candidacy = rule
	c.candidacyMu.Unlock()
	c.notify()
}

// campaignLoop takes the leader key when it is free, when it was offered, and
// when a former life of this member has left it behind.
func (c *Client) campaignLoop(ctx context.Context) {
	changes, cancel := c.Subscribe()
	defer cancel()
	var freeSince time.Time
	for {
		wait := c.cfg.renewEvery()
		switch leader, loaded := c.view.leaderNow(); {
		case !loaded:
		case c.barred() != nil:
			freeSince = time.Time{}
			if err := c.Resign(ctx); err != nil { // if it leads at all
				c.log.Debug("leadership was not given up", zap.Error(err))
			}
		case leader.Holder == c.cfg.Self && leader.lease != int64(c.leaseNow().id):
			// Also one that was not offered: it died with this member's name, and
			// who is back too soon to be judged failed is waited for by all. Until
			// the lease has run out nobody would lead.
			if may, _ := c.mayCampaign(time.Now()); may || leader.Offered {
				c.campaign(ctx, leader)
			}
		case leader.revision != 0:
			freeSince = time.Time{}
		default:
			now := time.Now()
			if freeSince.IsZero() {
				freeSince = now
			}
			may, begin := c.mayCampaign(freeSince)
			if may && !now.Before(begin) {
				c.campaign(ctx, leader)
			} else if may {
				wait = min(wait, begin.Sub(now))
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-changes:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// barred says why this member may not lead; nil if it may.
func (c *Client) barred() error {
	if err := c.view.unreadable(); err != nil {
		return err
	}
	if !c.view.snapshotNow().State.Belongs(c.cfg.Self) {
		return ErrNotMember
	}
	return nil
}

// mayCampaign says whether and from when on this member may take a key that
// has been free since then.
func (c *Client) mayCampaign(freeSince time.Time) (may bool, begin time.Time) {
	c.candidacyMu.Lock()
	rule, rest := c.candidacy, c.restUntil
	c.candidacyMu.Unlock()
	may, delay := rule()
	begin = freeSince.Add(delay)
	if begin.Before(rest) {
		begin = rest
	}
	return may, begin
}

// campaign tries once to take the key as it was seen.
func (c *Client) campaign(ctx context.Context, seen leaderKey) {
	switch won, err := c.seize(ctx, seen.revision); {
	case err != nil:
		c.log.Debug("campaign had no answer", zap.Error(err))
	case won:
		c.log.Info("became leader", zap.Int64("revision", c.Leadership().Revision))
	}
}

// TakeOver makes this member the leader at once, in place of from, which was
// judged Failed; it does not wait for from's lease. It changes nothing and
// returns ErrConflict if from is not, or no longer, the leader; a key that is
// free, or held by this member already, is fine. Other errors:
// ErrOutcomeUnknown when etcd could not be asked within ctx or SettleTimeout
// (this member may find itself leader later), ErrUnreachable, ErrNotMember,
// ErrNewerFormat.
func (c *Client) TakeOver(ctx context.Context, from topology.NodeName) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.SettleTimeout)
	defer cancel()
	seen, loaded := c.view.leaderNow()
	if !loaded {
		if _, _, err := c.load(ctx); err != nil {
			return fmt.Errorf("take over from %s: %w", from, err)
		}
		seen, _ = c.view.leaderNow()
	}
	if err := c.barred(); err != nil {
		return fmt.Errorf("take over from %s: %w", from, err)
	}
	if c.holds(seen) {
		return nil
	}
	if seen.revision != 0 && seen.Holder != from {
		return fmt.Errorf("take over from %s: %w: %s leads", from, ErrConflict, seen.Holder)
	}
	if !c.pool.anyHealthy() {
		if err := c.Healthy(ctx); err != nil {
			return fmt.Errorf("take over from %s: %w", from, err)
		}
	}
	for {
		won, err := c.seize(ctx, seen.revision)
		switch {
		case err == nil && won:
			c.log.Info("took over leadership", zap.String("from", string(from)))
			return nil
		case err == nil:
			return fmt.Errorf("take over from %s: %w", from, ErrConflict)
		case !errors.Is(err, ErrUnreachable):
			return fmt.Errorf("take over from %s: %w", from, err)
		}
		if !pause(ctx, settlePause) {
			return fmt.Errorf("take over from %s: %w: %w", from, ErrOutcomeUnknown, withoutUnreachable(err))
		}
	}
}

// seize puts this member into the leader key if its modification revision is
// still seen (0: nobody holds it), and tells whether this member leads now.
func (c *Client) seize(ctx context.Context, seen int64) (bool, error) {
	held := c.leaseNow()
	if !held.valid(time.Now()) {
		if err := c.renew(ctx); err != nil {
			return false, err
		}
		held = c.leaseNow()
	}
	value, err := json.Marshal(leaderKey{Holder: c.cfg.Self, Since: time.Now().UTC()})
	if err != nil {
		return false, fmt.Errorf("encode leader key: %w", err)
	}
	leader, err := c.swapLeader(ctx, seen, clientv3.OpPut(c.keys.leader, string(value), clientv3.WithLease(held.id)))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		c.dropLease(held.id)
		return false, fmt.Errorf("%w: the lease had run out", ErrUnreachable) // nothing changed; the next try asks for a new one
	}
	if err != nil {
		return false, err
	}
	return c.holds(leader), nil
}

// swapLeader applies change to the leader key if its revision is still seen,
// and returns the key as it is afterwards. A second arrival of the same request
// finds another revision and changes nothing.
func (c *Client) swapLeader(ctx context.Context, seen int64, change clientv3.Op) (leaderKey, error) {
	answer, err := call(ctx, c.pool, func(ctx context.Context, client Etcd) (*clientv3.TxnResponse, error) {
		return client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(c.keys.leader), "=", seen)).
			Then(change, clientv3.OpGet(c.keys.leader)).
			Else(clientv3.OpGet(c.keys.leader), clientv3.OpGet(c.keys.leader)).
			Commit()
	})
	if err != nil {
		return leaderKey{}, err
	}
	kv := first(answer, 1)
	c.view.put(answer.Header.Revision, c.keys.leader, kv, time.Now())
	c.notify()
	return decodeLeader(kv)
}

// Transfer hands leadership to the member named to: the key names it from now
// on, and it takes the key as soon as it sees that. If it does not within
// LeaderTTL, the key is free for all. Errors: ErrNotLeader, ErrConflict (another
// member took over meanwhile), ErrUnreachable (this member may lead or not:
// Leadership tells).
func (c *Client) Transfer(ctx context.Context, to topology.NodeName) error {
	leader, _ := c.view.leaderNow()
	if !c.holds(leader) {
		return fmt.Errorf("transfer leadership to %s: %w", to, ErrNotLeader)
	}
	if to == c.cfg.Self {
		return nil
	}
	interim, err := call(ctx, c.pool, func(ctx context.Context, client Etcd) (*clientv3.LeaseGrantResponse, error) {
		return client.Grant(ctx, int64(c.cfg.LeaderTTL/time.Second))
	})
	if err != nil {
		return fmt.Errorf("transfer leadership to %s: ask for a lease: %w", to, err)
	}
	value, err := json.Marshal(leaderKey{Holder: to, Since: time.Now().UTC(), Offered: true})
	if err != nil {
		return fmt.Errorf("encode leader key: %w", err)
	}
	c.rest()
	after, err := c.swapLeader(ctx, leader.revision, clientv3.OpPut(c.keys.leader, string(value), clientv3.WithLease(interim.ID)))
	if err != nil {
		return fmt.Errorf("transfer leadership to %s: %w", to, err)
	}
	if after.Holder != to {
		return fmt.Errorf("transfer leadership to %s: %w", to, ErrConflict)
	}
	c.log.Info("handed leadership over", zap.String("to", string(to)))
	return nil
}

// Resign gives the leader key up for anybody to take; this member does not
// campaign again for one LeaderTTL. It is no error if the member does not lead.
func (c *Client) Resign(ctx context.Context) error {
	leader, _ := c.view.leaderNow()
	if !c.holds(leader) {
		return nil
	}
	c.rest()
	if _, err := c.swapLeader(ctx, leader.revision, clientv3.OpDelete(c.keys.leader)); err != nil {
		return fmt.Errorf("resign leadership: %w", err)
	}
	return nil
}

func (c *Client) rest() {
	c.candidacyMu.Lock()
	defer c.candidacyMu.Unlock()
	c.restUntil = time.Now().Add(c.cfg.LeaderTTL)
}
