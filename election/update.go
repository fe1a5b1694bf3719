package election

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// settlePause is the wait between two tries to learn a change's outcome.
const settlePause = 50 * time.Millisecond

// Snapshot is the cluster record as last seen, without asking etcd. Before the
// first answer it is an empty record of revision 0 with a zero ReadAt.
func (c *Client) Snapshot() Snapshot { return c.view.snapshotNow() }

// Unreadable says why the record, as it was last seen in etcd, is not known
// here; nil if it is.
func (c *Client) Unreadable() error { return c.view.unreadable() }

// Read asks etcd for the record. It fails with ErrUnreachable, ErrNewerFormat,
// or the reason why the record cannot be read.
func (c *Client) Read(ctx context.Context) (Snapshot, error) {
	if _, _, err := c.load(ctx); err != nil {
		return Snapshot{}, err
	}
	if err := c.view.unreadable(); err != nil {
		return Snapshot{}, fmt.Errorf("read cluster: %w", err)
	}
	return c.view.snapshotNow(), nil
}

// Update changes the record by one compare-and-swap: it takes effect only if
// the record still has base's revision and the leader key the one under which
// this member leads. change gets a copy of base's state to alter.
//
// Errors: ErrInvalidChange, ErrNewerFormat and whatever change returned (nothing
// was sent), ErrNotLeader, ErrConflict and ErrUnreachable (nothing changed),
// ErrOutcomeUnknown (it may have been changed, or still be). The outcome of a
// change whose answer was lost is settled by sending the very same
// compare-and-swap again and looking for its request id, until ctx or
// SettleTimeout ends; so a change that returns ErrConflict can never take
// effect later.
func (c *Client) Update(ctx context.Context, base Snapshot, change func(*State) error) (Snapshot, error) {
	next, value, err := c.propose(base, change)
	if err != nil {
		return Snapshot{}, err
	}
	if err := ctx.Err(); err != nil {
		return Snapshot{}, fmt.Errorf("update cluster record: %w: %w", ErrUnreachable, err)
	}
	select {
	case <-c.updating:
		defer func() { c.updating <- struct{}{} }()
	case <-ctx.Done():
		return Snapshot{}, fmt.Errorf("update cluster record: %w: %w", ErrUnreachable, ctx.Err())
	}
	// A change sent into a lost quorum has an unknown outcome; asking first
	// keeps it a plain refusal. In good times this costs nothing.
	if !c.pool.anyHealthy() {
		if err := c.Healthy(ctx); err != nil {
			return Snapshot{}, fmt.Errorf("update cluster record: %w", err)
		}
	}
	if err := c.view.unreadable(); err != nil {
		return Snapshot{}, fmt.Errorf("update cluster record: %w", err)
	}
	lead := c.Leadership()
	if !lead.Mine {
		return Snapshot{}, fmt.Errorf("update cluster record: %w (leader: %q)", ErrNotLeader, lead.Holder)
	}
	w := write{base: base.Revision, lead: lead.Revision, id: newRequestID(c.cfg.Self), value: value}
	for _, name := range changedMembers(base.State, next) {
		// Where it can be reached it says itself, after it was added.
		w.forget = append(w.forget, c.keys.member(name))
	}
	revision, err := c.commit(ctx, w)
	if err != nil {
		return Snapshot{}, fmt.Errorf("update cluster record: %w", err)
	}
	snapshot := Snapshot{State: next, Revision: revision, ReadAt: time.Now(), raw: value}
	c.view.put(revision, c.keys.state, &mvccpb.KeyValue{Value: value, ModRevision: revision}, snapshot.ReadAt)
	for _, key := range w.forget {
		c.view.put(revision, key, nil, snapshot.ReadAt)
	}
	c.notify()
	return snapshot, nil
}

func (c *Client) propose(base Snapshot, change func(*State) error) (State, []byte, error) {
	stored := base.raw
	if stored == nil && base.Revision != 0 {
		// Not a snapshot of ours: only its revision can be trusted.
		seen := c.view.snapshotNow()
		if seen.Revision != base.Revision {
			return State{}, nil, fmt.Errorf("update cluster record: base of revision %d was not read here: %w", base.Revision, ErrConflict)
		}
		stored = seen.raw
	}
	next := base.State.clone()
	if err := change(&next); err != nil {
		return State{}, nil, fmt.Errorf("change cluster record: %w", err)
	}
	next.Format, next.Minor = max(next.Format, Format), max(next.Minor, Minor)
	if err := checkChange(c.cfg.Cluster, base.State, next); err != nil {
		return State{}, nil, err
	}
	value, err := encodeState(next, stored)
	return next, value, err
}

// write is one compare-and-swap of the record. Both revisions only ever grow,
// so once it was refused it stays refused, however often or late it arrives.
type write struct {
	base, lead int64
	id         string
	value      []byte
	forget     []string // keys that go with it
}

// commit sends w until its outcome is known, and returns the revision it made.
func (c *Client) commit(ctx context.Context, w write) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.SettleTimeout)
	defer cancel()
	var unsettled error
	then := []clientv3.Op{clientv3.OpPut(c.keys.state, string(w.value)), clientv3.OpPut(c.keys.request, w.id)}
	for _, key := range w.forget {
		then = append(then, clientv3.OpDelete(key))
	}
	for {
		answer, err := call(ctx, c.pool, func(ctx context.Context, client Etcd) (*clientv3.TxnResponse, error) {
			return client.Txn(ctx).If(
				clientv3.Compare(clientv3.ModRevision(c.keys.state), "=", w.base),
				clientv3.Compare(clientv3.ModRevision(c.keys.leader), "=", w.lead),
			).Then(then...).Else(
				clientv3.OpGet(c.keys.request),
				clientv3.OpGet(c.keys.state),
				clientv3.OpGet(c.keys.leader),
			).Commit()
		})
		switch {
		case err == nil && answer.Succeeded:
			return answer.Header.Revision, nil
		case err == nil:
			return c.refused(w, answer)
		case !errors.Is(err, ErrUnreachable) && unsettled == nil:
			return 0, err // etcd's own refusal, such as a full database
		}
		unsettled = err
		if !pause(ctx, settlePause) {
			return 0, fmt.Errorf("%w: request %s: %w", ErrOutcomeUnknown, w.id, withoutUnreachable(unsettled))
		}
	}
}

// refused finds out why the comparison failed: because an earlier try had
// succeeded, or because somebody else was faster.
func (c *Client) refused(w write, answer *clientv3.TxnResponse) (int64, error) {
	request := first(answer, 0)
	state := first(answer, 1)
	leader := first(answer, 2)
	now := time.Now()
	c.view.put(answer.Header.Revision, c.keys.state, state, now)
	c.view.put(answer.Header.Revision, c.keys.leader, leader, now)
	c.notify()
	if request != nil && string(request.Value) == w.id {
		return request.ModRevision, nil
	}
	if leader == nil || leader.ModRevision != w.lead {
		return 0, fmt.Errorf("%w: the leader key changed", ErrNotLeader)
	}
	return 0, fmt.Errorf("%w: the record is not of revision %d any more", ErrConflict, w.base)
}

// first is the single key that part i of an answer holds, or nil.
func first(answer *clientv3.TxnResponse, i int) *mvccpb.KeyValue {
	if kvs := answer.Responses[i].GetResponseRange().Kvs; len(kvs) > 0 {
		return kvs[0]
	}
	return nil
}

// withoutUnreachable keeps the text of an error but not ErrUnreachable, which
// promises that nothing changed.
func withoutUnreachable(err error) error { return errors.New(err.Error()) }

func newRequestID[Name ~string](self Name) string { return string(self) + "-" + rand.Text() }
