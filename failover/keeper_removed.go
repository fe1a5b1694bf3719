package failover

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// leave is what the keeper of a node that was removed from the cluster does: the
// instance is left closed, and receives from nobody, so that it is nobody's
// replica when the primary moves.
func (k *Keeper) leave(ctx context.Context) {
	cctx, end, err := k.begin(ctx, k.reg.Snapshot().State.Epoch)
	if err != nil {
		return
	}
	defer end()
	snap, err := k.reg.Read(cctx)
	if err != nil || !snap.State.WasRemoved(k.cfg.Member.Name) {
		return // it was added again
	}
	lctx, cancel := context.WithTimeout(cctx, 5*time.Second)
	defer cancel()
	if _, _, _, err := k.inst.Freeze(lctx); err != nil {
		k.log.Warn("this node was removed from the cluster, and its instance receives still", zap.Error(err))
		return
	}
	k.log.Warn("this node was removed from the cluster: its instance is left closed and receives from nobody")
}
