package sim

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"interrex/election"
	"interrex/internal/topology"
)

// storePrefix is where the cluster's keys are.
const storePrefix = "/interrex/c/"

// store is etcd as its quorum keeps it: one history of changes, leases, and
// watches. It belongs to the loop.
type store struct {
	w        *world
	down     bool         // no quorum
	hangs    map[int]bool // members that answer nothing
	lost     int          // percent of the answers that get lost
	revision int64
	kvs      map[string]*mvccpb.KeyValue
	leases   map[int64]*lease
	granted  int64
	history  []*clientv3.Event
	watches  []*watch
	pending  []func() // requests that wait for a quorum

	// What the keys say.
	state   election.State
	leader  topology.NodeName
	reports map[topology.Epoch][]byte
}

type lease struct {
	of    topology.NodeName
	ttl   time.Duration
	until time.Duration
}

func newStore(w *world) *store {
	return &store{w: w, kvs: map[string]*mvccpb.KeyValue{}, leases: map[int64]*lease{}, hangs: map[int]bool{}, reports: map[topology.Epoch][]byte{}}
}

// tick lets leases run out, which they do only under a quorum.
func (s *store) tick() {
	s.w.loop.after(100*time.Millisecond, s.tick)
	if s.down {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(s.leases)) {
		if s.leases[id].until < s.w.loop.now() {
			s.revoke(id)
		}
	}
}

func (s *store) revoke(id int64) {
	delete(s.leases, id)
	var events []*clientv3.Event
	for _, key := range slices.Sorted(maps.Keys(s.kvs)) {
		if s.kvs[key].Lease == id {
			if len(events) == 0 {
				s.revision++
			}
			events = append(events, s.remove(key))
		}
	}
	s.publish(events)
}

// lose takes the quorum away; regain gives it back: what waited for it may be
// carried out now, and leases begin anew.
func (s *store) lose() {
	s.down = true
	for _, w := range s.watches {
		s.w.loop.later(500*time.Millisecond, 1500*time.Millisecond, func() {
			if s.down {
				w.end()
			}
		})
	}
}

func (s *store) regain() {
	s.down = false
	for _, l := range s.leases {
		l.until = s.w.loop.now() + l.ttl
	}
	pending := s.pending
	s.pending = nil
	for _, p := range pending {
		if s.w.loop.chance(50) {
			s.w.loop.later(0, 100*time.Millisecond, p)
		}
	}
}

func (s *store) header() *etcdserverpb.ResponseHeader {
	return &etcdserverpb.ResponseHeader{Revision: s.revision}
}

func (s *store) find(in *etcdserverpb.RangeRequest) *etcdserverpb.RangeResponse {
	out := &etcdserverpb.RangeResponse{Header: s.header()}
	for _, key := range slices.Sorted(maps.Keys(s.kvs)) {
		if key == string(in.Key) || (len(in.RangeEnd) > 0 && key >= string(in.Key) && key < string(in.RangeEnd)) {
			out.Kvs = append(out.Kvs, s.kvs[key])
		}
	}
	out.Count = int64(len(out.Kvs))
	if in.SortOrder == etcdserverpb.RangeRequest_DESCEND {
		slices.Reverse(out.Kvs)
	}
	if in.Limit > 0 && int64(len(out.Kvs)) > in.Limit {
		out.Kvs = out.Kvs[:in.Limit]
	}
	if in.CountOnly {
		out.Kvs = nil
	}
	return out
}

func (s *store) txn(in *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	holds := true
	for _, c := range in.Compare {
		if c.Target != etcdserverpb.Compare_MOD || c.Result != etcdserverpb.Compare_EQUAL {
			panic("the model knows only comparisons of modification revisions")
		}
		is := int64(0)
		if kv := s.kvs[string(c.Key)]; kv != nil {
			is = kv.ModRevision
		}
		holds = holds && is == c.GetModRevision()
	}
	holds = holds || s.w.doubles.anyBase
	ops := in.Failure
	if holds {
		ops = in.Success
	}
	for _, op := range ops {
		if put := op.GetRequestPut(); put != nil && put.Lease != 0 && s.leases[put.Lease] == nil {
			return nil, rpctypes.ErrLeaseNotFound
		}
	}
	out := &etcdserverpb.TxnResponse{Succeeded: holds}
	var events []*clientv3.Event
	change := func(do func() *clientv3.Event) {
		if len(events) == 0 {
			s.revision++
		}
		events = append(events, do())
	}
	for _, op := range ops {
		answer := &etcdserverpb.ResponseOp{}
		switch {
		case op.GetRequestRange() != nil:
			answer.Response = &etcdserverpb.ResponseOp_ResponseRange{ResponseRange: s.find(op.GetRequestRange())}
		case op.GetRequestPut() != nil:
			change(func() *clientv3.Event { return s.put(op.GetRequestPut()) })
			answer.Response = &etcdserverpb.ResponseOp_ResponsePut{ResponsePut: &etcdserverpb.PutResponse{}}
		case op.GetRequestDeleteRange() != nil:
			if key := string(op.GetRequestDeleteRange().Key); s.kvs[key] != nil {
				change(func() *clientv3.Event { return s.remove(key) })
			}
			answer.Response = &etcdserverpb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &etcdserverpb.DeleteRangeResponse{}}
		}
		out.Responses = append(out.Responses, answer)
	}
	out.Header = s.header()
	s.publish(events)
	return out, nil
}

func (s *store) put(in *etcdserverpb.PutRequest) *clientv3.Event {
	key := string(in.Key)
	kv := &mvccpb.KeyValue{Key: in.Key, Value: in.Value, CreateRevision: s.revision, ModRevision: s.revision, Version: 1, Lease: in.Lease}
	if was := s.kvs[key]; was != nil {
		kv.CreateRevision, kv.Version = was.CreateRevision, was.Version+1
	}
	s.kvs[key] = kv
	s.read(strings.TrimPrefix(key, storePrefix), in.Value)
	return &clientv3.Event{Type: mvccpb.Event_PUT, Kv: kv}
}

func (s *store) remove(key string) *clientv3.Event {
	delete(s.kvs, key)
	s.read(strings.TrimPrefix(key, storePrefix), nil)
	return &clientv3.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: s.revision}}
}

// read understands what was written, for the checker.
func (s *store) read(key string, value []byte) {
	decode := func(into any) {
		if err := json.Unmarshal(value, into); err != nil {
			panic(err)
		}
	}
	switch {
	case key == "state":
		var next election.State
		decode(&next)
		s.w.check.recorded(s.state, next)
		s.state = next
	case key == "leader" && value == nil:
		s.leader = ""
	case key == "leader":
		var is struct {
			Holder topology.NodeName `json:"holder"`
		}
		decode(&is)
		s.leader = is.Holder
		s.w.loop.trace.note(s.w.loop.now(), "leader", string(is.Holder))
	case strings.HasPrefix(key, "ledger/"):
		epoch, err := strconv.ParseUint(strings.TrimPrefix(key, "ledger/"), 10, 64)
		if err != nil {
			panic(err)
		}
		s.reports[topology.Epoch(epoch)] = bytes.Clone(value)
	}
}

func (s *store) publish(events []*clientv3.Event) {
	if len(events) == 0 {
		return
	}
	s.history = append(s.history, events...)
	s.watches = slices.DeleteFunc(s.watches, func(w *watch) bool { return w.over() })
	for _, w := range s.watches {
		w.pump()
	}
}

// lead has a member take the leader key over, as it would by itself.
func (s *store) lead(name topology.NodeName) {
	var id int64
	for _, l := range slices.Sorted(maps.Keys(s.leases)) {
		if s.leases[l].of == name {
			id = l
		}
	}
	if id == 0 {
		return
	}
	value, err := json.Marshal(map[string]any{"holder": name, "since": time.Now().UTC()})
	if err != nil {
		panic(err)
	}
	s.revision++
	s.publish([]*clientv3.Event{s.put(&etcdserverpb.PutRequest{Key: []byte(storePrefix + "leader"), Value: value, Lease: id})})
}
