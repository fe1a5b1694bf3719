package sim

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"interrex/election"
	"interrex/internal/topology"
)

// etcd is one agent's client for one member of the store; implements
// election.Etcd.
type etcd struct {
	clientv3.KV
	w      *world
	by     *process
	self   topology.NodeName
	member int
	deaf   *bool // no watch of this agent delivers anything
}

var _ election.Etcd = (*etcd)(nil)

// storeMembers is how many there are.
const storeMembers = 3

func endpoint(member int) string { return fmt.Sprintf("10.0.0.%d:2379", member+1) }

func newEtcd(a *agent, by *process, address string) *etcd {
	e := &etcd{w: a.w, by: by, self: a.name, deaf: &a.deaf}
	for e.member = 0; endpoint(e.member) != address; e.member++ {
	}
	e.KV = clientv3.NewKVFromKVClient(rpc{e: e}, nil)
	return e
}

// ask has the store do something: it may not be asked, not answer, answer too
// late, or do it long after nobody waits for it any more.
func ask[T any](ctx context.Context, e *etcd, what string, do func(s *store) (T, error)) (v T, err error) {
	key := fmt.Sprintf("%s store%d %s", e.self, e.member, what)
	got, err := e.w.loop.do(ctx, e.by, key, func(c *call) {
		s, l, n := e.w.store, e.w.loop, e.w.net
		var arrive func()
		arrive = func() {
			switch {
			case n.blocked(storage, e.self, storeHost):
				if l.chance(50) {
					n.onHeal(arrive)
				}
				return
			case s.down:
				s.pending = append(s.pending, arrive)
				return
			case s.hangs[e.member]:
				return
			}
			v, err := do(s)
			if n.blocked(storage, storeHost, e.self) || l.chance(s.lost) {
				return
			}
			l.after(n.latency(), func() { l.finish(c, v, err) })
		}
		l.after(n.latency()+l.between(100*time.Microsecond, time.Millisecond), arrive)
	})
	if err == nil {
		v = got.(T)
	}
	return v, err
}

// rpc is the part of etcd's protocol that reads and writes keys.
type rpc struct {
	etcdserverpb.KVClient
	e *etcd
}

func (r rpc) Range(ctx context.Context, in *etcdserverpb.RangeRequest, _ ...grpc.CallOption) (*etcdserverpb.RangeResponse, error) {
	return ask(ctx, r.e, "get "+strings.TrimPrefix(string(in.Key), storePrefix), func(s *store) (*etcdserverpb.RangeResponse, error) { return s.find(in), nil })
}

func (r rpc) Txn(ctx context.Context, in *etcdserverpb.TxnRequest, _ ...grpc.CallOption) (*etcdserverpb.TxnResponse, error) {
	what := "read"
	for _, op := range in.Success {
		if put := op.GetRequestPut(); put != nil {
			what = "update " + strings.TrimPrefix(string(put.Key), storePrefix)
			break
		}
	}
	return ask(ctx, r.e, what, func(s *store) (*etcdserverpb.TxnResponse, error) { return s.txn(in) })
}

func (e *etcd) Grant(ctx context.Context, seconds int64) (*clientv3.LeaseGrantResponse, error) {
	return ask(ctx, e, "grant", func(s *store) (*clientv3.LeaseGrantResponse, error) {
		s.granted++
		ttl := time.Duration(seconds) * time.Second
		s.leases[s.granted] = &lease{of: e.self, ttl: ttl, until: s.w.loop.now() + ttl}
		return &clientv3.LeaseGrantResponse{ID: clientv3.LeaseID(s.granted), TTL: seconds}, nil
	})
}

func (e *etcd) Renew(ctx context.Context, id clientv3.LeaseID) (time.Duration, error) {
	return ask(ctx, e, "renew", func(s *store) (time.Duration, error) {
		l := s.leases[int64(id)]
		if l == nil {
			return 0, rpctypes.ErrLeaseNotFound
		}
		l.until = s.w.loop.now() + l.ttl
		return l.ttl, nil
	})
}

func (e *etcd) Revoke(ctx context.Context, id clientv3.LeaseID) (*clientv3.LeaseRevokeResponse, error) {
	return ask(ctx, e, "revoke", func(s *store) (*clientv3.LeaseRevokeResponse, error) {
		if s.leases[int64(id)] == nil {
			return nil, rpctypes.ErrLeaseNotFound
		}
		s.revoke(int64(id))
		return &clientv3.LeaseRevokeResponse{}, nil
	})
}

func (e *etcd) Close() error { return nil }

// watch is a stream of changes to one agent.
type watch struct {
	e       *etcd
	ctx     context.Context
	ch      chan clientv3.WatchResponse
	prefix  string
	next    int64 // the revision that it has yet to be told of
	sending bool
	closed  bool
}

func (e *etcd) Watch(ctx context.Context, key string, options ...clientv3.OpOption) clientv3.WatchChan {
	w := &watch{e: e, ctx: ctx, ch: make(chan clientv3.WatchResponse, 1024), prefix: key, next: clientv3.OpGet(key, options...).Rev()}
	e.w.loop.post(e.by, fmt.Sprintf("%s store%d watch", e.self, e.member), func() {
		e.w.store.watches = append(e.w.store.watches, w)
		w.pump()
	})
	return w.ch
}

func (w *watch) over() bool { return w.closed || w.ctx.Err() != nil || w.e.by.dead }

// pump sends what there is, once the way is free.
func (w *watch) pump() {
	if w.sending || w.over() {
		return
	}
	s, l, n := w.e.w.store, w.e.w.loop, w.e.w.net
	w.sending = true
	var deliver func()
	deliver = func() {
		switch {
		case w.over():
			return
		case w.e.by.frozen:
			w.e.by.held = append(w.e.by.held, deliver)
			return
		case s.down, s.hangs[w.e.member], *w.e.deaf, n.blocked(storage, storeHost, w.e.self):
			l.after(100*time.Millisecond, deliver)
			return
		}
		w.sending = false
		var events []*clientv3.Event
		for _, ev := range s.history {
			if ev.Kv.ModRevision >= w.next && strings.HasPrefix(string(ev.Kv.Key), w.prefix) {
				events = append(events, ev)
			}
		}
		if len(events) == 0 {
			return
		}
		w.next = s.revision + 1
		l.push(w.e.by, func() { w.ch <- clientv3.WatchResponse{Header: s.header(), Events: events} })
	}
	l.after(n.latency(), deliver)
}

// end closes the stream, as a member without a leader does.
func (w *watch) end() {
	if w.over() || w.e.by.frozen {
		return
	}
	w.closed = true
	w.e.w.loop.push(w.e.by, func() { close(w.ch) })
}

// newElection is the agent's client of the store: the real one, on this model.
func (a *agent) newElection() *election.Client {
	cfg := election.DefaultConfig()
	cfg.Cluster, cfg.Self = "c", a.name
	for m := range storeMembers {
		cfg.Endpoints = append(cfg.Endpoints, endpoint((m+len(a.name)+int(a.name[len(a.name)-1]))%storeMembers))
	}
	proc := a.proc
	cfg.Dial = func(address string) (election.Etcd, error) {
		if proc.dead {
			return nil, errKilled
		}
		return newEtcd(a, proc, address), nil
	}
	// Uneven, so that timers which were set together do not fire together.
	cfg.CallTimeout, cfg.HedgeAfter, cfg.ProbeEvery, cfg.ResyncEvery = 497*time.Millisecond, 83*time.Millisecond, 2003*time.Millisecond, 3011*time.Millisecond
	client, err := election.New(cfg, a.w.log)
	if err != nil {
		panic(err)
	}
	client.SetCandidacy(func() (bool, time.Duration) {
		// Any member may lead; one whose node holds the primary hangs back.
		if p := client.Snapshot().State.Primary; p != nil && p.Node == a.name {
			return true, time.Second
		}
		return true, 0
	})
	return client
}
