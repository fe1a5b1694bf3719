package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"interrex/internal/topology"
)

// attendEvery is how often an operation that waits for an instance looks
// whether there is still somebody to wait for.
const attendEvery = 50 * time.Millisecond

// attended is ctx for at most limit, and until the instance or its agent comes
// to be judged Failed: nobody can write before the operation has ended, and
// another one may do without that instance. One that was judged so before it was
// chosen is waited for all the same, since it answered.
func (o *operation) attended(ctx context.Context, name topology.NodeName, limit time.Duration) (context.Context, context.CancelFunc) {
	tctx, stop := context.WithTimeout(ctx, limit)
	actx, cancel := context.WithCancelCause(tctx)
	if !o.doubted {
		o.wg.Go(func() {
			tick := time.NewTicker(attendEvery)
			defer tick.Stop()
			for {
				select {
				case <-actx.Done():
					return
				case <-tick.C:
				}
				if err := o.lost(name); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	return actx, func() { cancel(nil); stop() }
}

// lost says why there is no use in waiting for an instance.
func (o *operation) lost(name topology.NodeName) error {
	if j := o.det.Judge(name); j.Verdict == topology.Failed {
		return fmt.Errorf("%w: %s", ErrNoInstance, j.Explanation)
	}
	if o.det.MemberFailed(name) {
		return fmt.Errorf("%w: the agent of %s is gone", ErrNoInstance, name)
	}
	return nil
}

// because adds to the error of a call under an attended context why that ended.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, ErrNoInstance) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}
