package election

import (
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"interrex/internal/topology"
)

// keys are the names under which one cluster is kept.
type keys struct {
	cluster string
	prefix  string
	state   string
	leader  string
	members string // prefix
	ledger  string // prefix
	request string // of this member
}

func newKeys(cluster string, self topology.NodeName) keys {
	prefix := "/interrex/" + cluster + "/"
	return keys{
		cluster: cluster,
		prefix:  prefix,
		state:   prefix + "state",
		leader:  prefix + "leader",
		members: prefix + "members/",
		ledger:  prefix + "ledger/",
		request: prefix + "requests/" + string(self),
	}
}

func (k keys) member(name topology.NodeName) string { return k.members + string(name) }

// report pads the epoch so that keys sort as epochs do.
func (k keys) report(epoch topology.Epoch) string { return fmt.Sprintf("%s%020d", k.ledger, epoch) }

func (k keys) emptySnapshot(now time.Time) Snapshot {
	return Snapshot{State: State{Format: Format, Cluster: k.cluster}, ReadAt: now}
}

// snapshot decodes the record; kv is nil when there is none yet.
func (k keys) snapshot(kv *mvccpb.KeyValue, now time.Time) (Snapshot, error) {
	if kv == nil {
		return k.emptySnapshot(now), nil
	}
	state, err := decodeState(kv.Value)
	if err != nil {
		return Snapshot{}, err
	}
	return Snapshot{State: state, Revision: kv.ModRevision, ReadAt: now, raw: kv.Value}, nil
}
