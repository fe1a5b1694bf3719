package election

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"interrex/internal/topology"
)

// LedgerKept is how many entries the ledger has at most, or a hundred more. One
// takes some kilobytes, and etcd's space must not run out over a primary that is
// resumed in vain for days.
const LedgerKept = 2_000

// SaveReport writes the ledger entry of an epoch, in place of an earlier one; the
// oldest make room. Any member may. Errors: ErrUnreachable (it is not, or not
// surely, written: call again).
func (c *Client) SaveReport(ctx context.Context, epoch topology.Epoch, report []byte) error {
	if err := c.replace(ctx, c.keys.report(epoch), report); err != nil {
		return fmt.Errorf("save report of epoch %d: %w", epoch, err)
	}
	if epoch%100 == 0 {
		_ = c.trim(ctx) // the entry is written; the next hundredth has it tried again
	}
	return nil
}

// trim drops the oldest entries beyond LedgerKept.
func (c *Client) trim(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.SettleTimeout)
	defer cancel()
	kvs, err := c.get(ctx, c.keys.ledger, clientv3.WithPrefix(), clientv3.WithKeysOnly(),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend), clientv3.WithLimit(LedgerKept))
	if err != nil || len(kvs) < LedgerKept {
		return err
	}
	_, err = call(ctx, c.pool, func(ctx context.Context, client Etcd) (*clientv3.TxnResponse, error) {
		return client.Txn(ctx).Then(clientv3.OpDelete(c.keys.report(0), clientv3.WithRange(string(kvs[len(kvs)-1].Key)))).Commit()
	})
	return err
}

// Report reads the ledger entry of an epoch. Errors: ErrNotFound,
// ErrUnreachable.
func (c *Client) Report(ctx context.Context, epoch topology.Epoch) ([]byte, error) {
	kvs, err := c.get(ctx, c.keys.report(epoch))
	if err != nil {
		return nil, fmt.Errorf("read report of epoch %d: %w", epoch, err)
	}
	if len(kvs) == 0 {
		return nil, fmt.Errorf("read report of epoch %d: %w", epoch, ErrNotFound)
	}
	return kvs[0].Value, nil
}

// Reports reads the newest n ledger entries, the highest epoch first; none for
// n < 1. It fails with ErrUnreachable.
func (c *Client) Reports(ctx context.Context, n int) ([][]byte, error) {
	if n < 1 {
		return nil, nil
	}
	kvs, err := c.get(ctx, c.keys.ledger, clientv3.WithPrefix(),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend), clientv3.WithLimit(int64(n)))
	if err != nil {
		return nil, fmt.Errorf("read reports: %w", err)
	}
	reports := make([][]byte, len(kvs))
	for i, kv := range kvs {
		reports[i] = kv.Value
	}
	return reports, nil
}

func (c *Client) get(ctx context.Context, key string, options ...clientv3.OpOption) ([]*mvccpb.KeyValue, error) {
	answer, err := call(ctx, c.pool, func(ctx context.Context, client Etcd) (*clientv3.GetResponse, error) {
		return client.Get(ctx, key, options...)
	})
	if err != nil {
		return nil, err
	}
	return answer.Kvs, nil
}

// replace gives key a value whatever it had. It compares the revision it saw
// all the same, so that a request delayed on its way cannot bring the value
// back after a later one.
func (c *Client) replace(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.SettleTimeout)
	defer cancel()
	kvs, err := c.get(ctx, key)
	if err != nil {
		return err
	}
	seen := int64(0)
	if len(kvs) > 0 {
		if bytes.Equal(kvs[0].Value, value) {
			return nil
		}
		seen = kvs[0].ModRevision
	}
	for {
		answer, err := call(ctx, c.pool, func(ctx context.Context, client Etcd) (*clientv3.TxnResponse, error) {
			return client.Txn(ctx).
				If(clientv3.Compare(clientv3.ModRevision(key), "=", seen)).
				Then(clientv3.OpPut(key, string(value))).
				Else(clientv3.OpGet(key)).
				Commit()
		})
		switch {
		case err == nil && answer.Succeeded:
			c.view.put(answer.Header.Revision, key, &mvccpb.KeyValue{Key: []byte(key), Value: value, ModRevision: answer.Header.Revision}, time.Now())
			return nil
		case err == nil:
			seen = 0
			if kv := first(answer, 0); kv != nil {
				if bytes.Equal(kv.Value, value) {
					return nil // an earlier try had arrived
				}
				seen = kv.ModRevision
			}
		case !errors.Is(err, ErrUnreachable):
			return err
		case !pause(ctx, settlePause):
			return err
		}
	}
}
