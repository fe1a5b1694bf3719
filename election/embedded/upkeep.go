package embedded

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.uber.org/zap"
)

const (
	upkeepEvery = 5 * time.Second
	upkeepLimit = 10 * time.Second // of one compaction or alarm request
)

// keepHouse compacts old revisions and clears a full-database alarm, until ctx
// ends. etcd's own compaction acts every five minutes at best, and a cluster
// that ran full stays read-only until somebody disarms the alarm.
func keepHouse(ctx context.Context, server *etcdserver.EtcdServer, keep int64, log *zap.Logger) {
	tick := time.NewTicker(upkeepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if server.Leader() == server.MemberID() {
			if err := compact(ctx, server, keep); err != nil && ctx.Err() == nil {
				log.Warn("old revisions were not compacted", zap.Error(err))
			}
		}
		if err := clearAlarm(ctx, server, log); err != nil && ctx.Err() == nil {
			log.Error("full-database alarm was not cleared", zap.Error(err))
		}
	}
}

func compact(ctx context.Context, server *etcdserver.EtcdServer, keep int64) error {
	revision := server.KV().Rev() - keep
	if revision <= server.KV().FirstRev() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, upkeepLimit)
	defer cancel()
	_, err := server.Compact(ctx, &pb.CompactionRequest{Revision: revision})
	if err != nil && !errors.Is(err, mvcc.ErrCompacted) {
		return fmt.Errorf("compact to revision %d: %w", revision, err)
	}
	return nil
}

// clearAlarm gives the space that compaction freed back and disarms this
// member's own full-database alarm once there is room again.
func clearAlarm(ctx context.Context, server *etcdserver.EtcdServer, log *zap.Logger) error {
	own := uint64(server.MemberID())
	for _, alarm := range server.Alarms() {
		if alarm.MemberID != own || alarm.Alarm != pb.AlarmType_NOSPACE {
			continue
		}
		if err := server.Backend().Defrag(); err != nil {
			return fmt.Errorf("defragment: %w", err)
		}
		if size, quota := server.Backend().Size(), server.Cfg.QuotaBackendBytes; size > quota*8/10 {
			return fmt.Errorf("database has %d of %d bytes even after compaction", size, quota)
		}
		ctx, cancel := context.WithTimeout(ctx, upkeepLimit)
		defer cancel()
		if _, err := server.Alarm(ctx, &pb.AlarmRequest{MemberID: own, Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE}); err != nil {
			return fmt.Errorf("disarm: %w", err)
		}
		log.Info("full-database alarm cleared")
	}
	return nil
}
