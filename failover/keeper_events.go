package failover

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/internal/topology"
)

// eventsEvery is how often a primary's events are looked at: what was turned on
// or off in the last of these before the primary died is not known of. eventsLimit
// bounds it, as other commands of the epoch wait.
const (
	eventsEvery = 5 * time.Second
	eventsLimit = time.Second
)

// tendedEvents is when a primary's events were looked at last, and what was said
// of them.
type tendedEvents struct {
	epoch topology.Epoch
	next  time.Time
	said  string
}

// tendEvents has the events of the event scheduler follow the primary (M10): at
// once when the instance was promoted, then from time to time.
func (k *Keeper) tendEvents(ctx context.Context, state election.State, st dbrepl.Status) {
	now := time.Now()
	switch {
	case !servesAs(k.cfg.Member.Name, state) || !st.Writable():
		k.events = tendedEvents{}
		return
	case k.events.epoch == state.Epoch && now.Before(k.events.next):
		return
	case st.SemiSync.Clients < state.Register.Acks():
		return // nothing could be recorded; commits wait for acknowledgements
	}
	k.events.epoch, k.events.next = state.Epoch, now.Add(eventsEvery)
	cctx, end, err := k.begin(ctx, state.Epoch)
	if err != nil {
		return // a newer command is on its way, or the promise could not be kept
	}
	defer end()
	ectx, cancel := context.WithTimeout(cctx, eventsLimit)
	defer cancel()
	left, err := k.inst.TendEvents(ectx)
	var words []string
	if len(left.Unclear) > 0 {
		words = append(words, fmt.Sprintf("off as on a replica, and it is not known whether they should be: %s (ALTER EVENT … ENABLE, or DISABLE)",
			strings.Join(left.Unclear, ", ")))
	}
	if len(left.Refused) > 0 {
		words = append(words, "cannot be turned on: "+strings.Join(left.Refused, "; "))
	}
	if err != nil {
		words = append(words, err.Error())
	}
	if said := strings.Join(words, "; "); said != k.events.said {
		if said != "" {
			k.log.Warn("events of this primary need somebody", zap.String("events", said))
		}
		k.events.said = said
	}
}
