package election

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// watchLoop keeps the view current: read everything, watch from there, and
// begin again after any trouble.
func (c *Client) watchLoop(ctx context.Context) {
	const restart = 100 * time.Millisecond
	for ctx.Err() == nil {
		err := c.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		c.log.Debug("watch is begun anew", zap.Error(err))
		pause(ctx, restart)
	}
}

// follow reads everything once and then watches, until the watch fails, its
// endpoint stops answering probes, or the store goes back.
func (c *Client) follow(ctx context.Context) error {
	from, _, err := c.load(ctx)
	if err != nil {
		return err
	}
	// Without a required leader, a watch on a member that is cut off from the
	// others stays silent for ever.
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	source := c.pool.best()
	client, err := source.dial(c.pool)
	if err != nil {
		return err
	}
	events := client.Watch(ctx, c.keys.prefix, clientv3.WithPrefix(), clientv3.WithRev(from+1))
	resync := time.NewTicker(c.cfg.ResyncEvery)
	defer resync.Stop()
	check := time.NewTicker(c.cfg.ProbeEvery / 2)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case response, open := <-events:
			if !open {
				return errors.New("watch ended")
			}
			if err := response.Err(); err != nil {
				return fmt.Errorf("watch: %w", err)
			}
			c.take(response.Events)
		case <-resync.C:
			if _, wentBack, err := c.load(ctx); err != nil || wentBack {
				return fmt.Errorf("read again (went back: %t): %w", wentBack, err)
			}
		case <-check.C:
			// A frozen server keeps the connection open and says nothing.
			if !c.pool.healthy(source) && c.pool.anyHealthy() {
				return fmt.Errorf("%s does not answer", source.address)
			}
		}
	}
}

func (c *Client) take(events []*clientv3.Event) {
	if len(events) == 0 {
		return
	}
	now := time.Now()
	for _, event := range events {
		kv := event.Kv
		if event.Type == mvccpb.Event_DELETE {
			c.view.put(kv.ModRevision, string(kv.Key), nil, now)
			continue
		}
		c.view.put(kv.ModRevision, string(kv.Key), kv, now)
	}
	c.notify()
}

// load reads state, leader and members as they are at one revision, and
// returns it.
func (c *Client) load(ctx context.Context) (revision int64, wentBack bool, err error) {
	since := c.view.newest()
	answer, err := call(ctx, c.pool, func(ctx context.Context, client Etcd) (*clientv3.TxnResponse, error) {
		return client.Txn(ctx).Then(
			clientv3.OpGet(c.keys.state),
			clientv3.OpGet(c.keys.leader),
			clientv3.OpGet(c.keys.members, clientv3.WithPrefix()),
		).Commit()
	})
	if err != nil {
		return 0, false, fmt.Errorf("read cluster: %w", err)
	}
	var all []*mvccpb.KeyValue
	for _, r := range answer.Responses {
		all = append(all, r.GetResponseRange().Kvs...)
	}
	wentBack = c.view.replace(answer.Header.Revision, since, all, time.Now())
	c.reregister(ctx)
	c.notify()
	return answer.Header.Revision, wentBack, nil
}
