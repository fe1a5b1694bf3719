package election

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"

	"interrex/internal/topology"
)

// leaderKey is the leader key as last seen.
type leaderKey struct {
	Holder topology.NodeName `json:"holder"`
	Since  time.Time         `json:"since"`
	// Offered is set by Transfer: Holder has not taken it yet.
	Offered bool `json:"offered,omitempty"`

	revision int64 // modification revision; 0 when nobody holds it
	lease    int64
}

// slot is something known, with the store revision it was known at, so that
// answers and events may arrive in any order.
type slot[T any] struct {
	at    int64
	value T
}

func (s *slot[T]) set(at int64, value T) bool {
	if at < s.at {
		return false
	}
	s.at, s.value = at, value
	return true
}

// view is what this member knows of the store.
type view struct {
	keys keys
	log  *zap.Logger

	mu      sync.Mutex
	loaded  bool // everything was read at least once
	state   slot[Snapshot]
	faulty  slot[error] // why the record as it is now cannot be read; nil if it can
	leader  slot[leaderKey]
	members map[topology.NodeName]*slot[*topology.Member] // nil member: deleted
}

func newView(k keys, log *zap.Logger) *view {
	v := &view{keys: k, log: log}
	v.forget()
	return v
}

// forget empties the view; the caller holds mu or owns v.
func (v *view) forget() {
	v.state = slot[Snapshot]{value: v.keys.emptySnapshot(time.Time{})}
	v.faulty = slot[error]{}
	v.leader = slot[leaderKey]{}
	v.members = make(map[topology.NodeName]*slot[*topology.Member])
}

// newest is the highest store revision that anything here was known at.
func (v *view) newest() int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.newestLocked()
}

func (v *view) newestLocked() int64 {
	newest := max(v.state.at, v.faulty.at, v.leader.at)
	for _, m := range v.members {
		newest = max(newest, m.at)
	}
	return newest
}

// replace takes in a complete reading of the store at revision at, begun when
// the view was at revision since. It returns true if the store has gone back,
// as one restored from an old copy does.
func (v *view) replace(at, since int64, kvs []*mvccpb.KeyValue, now time.Time) (wentBack bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if wentBack = at < since; wentBack {
		v.log.Error("etcd went back to an older revision: was it restored from a copy?",
			zap.Int64("seen", since), zap.Int64("now", at))
		v.forget()
	}
	present := make(map[string]*mvccpb.KeyValue, len(kvs))
	for _, kv := range kvs {
		present[string(kv.Key)] = kv
	}
	v.putLocked(at, v.keys.state, present[v.keys.state], now)
	v.putLocked(at, v.keys.leader, present[v.keys.leader], now)
	for name := range v.members {
		if key := v.keys.member(name); present[key] == nil {
			v.putLocked(at, key, nil, now)
		}
	}
	for key, kv := range present {
		if strings.HasPrefix(key, v.keys.members) {
			v.putLocked(at, key, kv, now)
		}
	}
	v.loaded = true
	return wentBack
}

// put takes in one key as it is at revision at; kv is nil when it is absent.
func (v *view) put(at int64, key string, kv *mvccpb.KeyValue, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.putLocked(at, key, kv, now)
}

func (v *view) putLocked(at int64, key string, kv *mvccpb.KeyValue, now time.Time) {
	var err error
	switch {
	case key == v.keys.state:
		var snapshot Snapshot
		snapshot, err = v.keys.snapshot(kv, now)
		if err == nil {
			v.state.set(at, snapshot)
		}
		before := v.faulty.value
		if v.faulty.set(at, err); err != nil && before != nil && err.Error() == before.Error() {
			return // it was said before
		}
	case key == v.keys.leader:
		var leader leaderKey
		if leader, err = decodeLeader(kv); err == nil {
			v.leader.set(at, leader)
		}
	case strings.HasPrefix(key, v.keys.members):
		var member *topology.Member
		if member, err = decodeMember(kv); err == nil {
			v.memberSlot(topology.NodeName(strings.TrimPrefix(key, v.keys.members))).set(at, member)
		}
	}
	if err != nil {
		// What was known before stays known: a record that cannot be read
		// must not look like one that is gone.
		v.log.Error("etcd holds something unreadable", zap.String("key", key), zap.Error(err))
	}
}

func (v *view) memberSlot(name topology.NodeName) *slot[*topology.Member] {
	s := v.members[name]
	if s == nil {
		s = &slot[*topology.Member]{}
		v.members[name] = s
	}
	return s
}

func (v *view) snapshotNow() Snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state.value.clone()
}

func (v *view) leaderNow() (leader leaderKey, loaded bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.leader.value, v.loaded
}

func (v *view) member(name topology.NodeName) *topology.Member {
	v.mu.Lock()
	defer v.mu.Unlock()
	if s := v.members[name]; s != nil {
		return s.value
	}
	return nil
}

// unreadable says why the record, as it is in etcd now, is not known here.
func (v *view) unreadable() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.faulty.value
}

// membersNow returns those of the members that have registered, by name.
func (v *view) membersNow() []topology.Member {
	v.mu.Lock()
	defer v.mu.Unlock()
	var members []topology.Member
	for name, s := range v.members {
		if s.value != nil && v.state.value.State.Belongs(name) {
			members = append(members, *s.value)
		}
	}
	slices.SortFunc(members, func(a, b topology.Member) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return members
}

func decodeLeader(kv *mvccpb.KeyValue) (leaderKey, error) {
	if kv == nil {
		return leaderKey{}, nil
	}
	var leader leaderKey
	if err := json.Unmarshal(kv.Value, &leader); err != nil {
		return leaderKey{}, fmt.Errorf("decode leader key: %w", err)
	}
	leader.revision, leader.lease = kv.ModRevision, kv.Lease
	return leader, nil
}

func decodeMember(kv *mvccpb.KeyValue) (*topology.Member, error) {
	if kv == nil {
		return nil, nil
	}
	var member topology.Member
	if err := json.Unmarshal(kv.Value, &member); err != nil {
		return nil, fmt.Errorf("decode member: %w", err)
	}
	return &member, nil
}
