package nginx

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"interrex/internal/topology"
	"interrex/router"
)

// Status is what the rewriter has done and what keeps it from doing more.
type Status struct {
	File string `json:"file"`
	// Epoch and Phase are those of the newest route that nginx lives by;
	// Wanted is the epoch of the newest route seen. They differ while a change
	// is under way or fails.
	Epoch  topology.Epoch `json:"epoch"`
	Phase  router.Phase   `json:"phase,omitempty"`
	Wanted topology.Epoch `json:"wanted_epoch"`
	// Error is why the last pass failed; empty if it didn't. ErrorSince is
	// when it first did.
	Error      string    `json:"error,omitempty"`
	ErrorSince time.Time `json:"error_since,omitzero"`
	// Stopped: the error is ErrNotRunning.
	Stopped bool `json:"stopped,omitempty"`
	// Warnings are settings of nginx that a failover will suffer from.
	Warnings []string `json:"warnings,omitempty"`
	// Upstreams are the owned blocks as nginx lives by them.
	Upstreams []UpstreamStatus `json:"upstreams"`
	// Members is the health of the HTTP members.
	Members []MemberStatus `json:"members,omitempty"`
	// Reloads counts the reloads seen to be live. LastReload is when the last
	// one was, and ReloadDuration how long it took from asking for it until
	// the old workers took no more connections.
	Reloads        uint64        `json:"reloads"`
	LastReload     time.Time     `json:"last_reload,omitzero"`
	ReloadDuration time.Duration `json:"reload_duration_ns"`
}

// UpstreamStatus is one owned block.
type UpstreamStatus struct {
	Context Context `json:"context"`
	Name    string  `json:"name"`
	Role    Role    `json:"role"`
	// Servers are those that take connections; Down those that are wanted but
	// fail their check. Empty for a block that was left as it was, or closed:
	// Note says so.
	Servers []string `json:"servers"`
	Down    []string `json:"down,omitempty"`
	Note    string   `json:"note,omitempty"`
}

// Status is safe to call at any time.
func (r *Rewriter) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.Warnings = slices.Clone(s.Warnings)
	s.Upstreams = slices.Clone(s.Upstreams)
	for _, m := range r.members {
		s.Members = append(s.Members, *m)
	}
	slices.SortFunc(s.Members, func(a, b MemberStatus) int {
		return cmp.Or(cmp.Compare(a.Upstream, b.Upstream), cmp.Compare(a.Address, b.Address))
	})
	return s
}

// sayAgain is how often an error that goes on is logged.
const sayAgain = 10 * time.Minute

// note records how a pass went. An error is logged when it is new, not at each
// retry, and again every sayAgain.
func (r *Rewriter) note(route router.Route, wants []want, took time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.status
	s.Wanted = route.Epoch
	if took > 0 {
		s.Reloads++
		s.LastReload, s.ReloadDuration = time.Now(), took
		r.log.Info("nginx reloaded", zap.Uint64("epoch", uint64(route.Epoch)),
			zap.String("phase", string(route.Phase)), zap.Duration("took", took))
	}
	if err != nil {
		now := time.Now()
		if s.Error == "" {
			s.ErrorSince = now
		}
		if s.Error != err.Error() || now.Sub(r.said) >= sayAgain {
			r.said = now
			r.log.Error("nginx upstreams not in step with the route", zap.Uint64("epoch", uint64(route.Epoch)),
				zap.Uint64("leads_by_epoch", uint64(s.Epoch)), zap.Time("since", s.ErrorSince), zap.Error(err))
		}
		s.Error, s.Stopped = err.Error(), errors.Is(err, ErrNotRunning)
		return
	}
	if s.Error != "" {
		r.log.Info("nginx upstreams in step with the route again", zap.Uint64("epoch", uint64(route.Epoch)))
	}
	s.Error, s.ErrorSince, s.Stopped = "", time.Time{}, false
	s.Epoch, s.Phase = route.Epoch, route.Phase
	s.Upstreams = nil
	for _, w := range wants {
		s.Upstreams = append(s.Upstreams, describe(w))
	}
}

func describe(w want) UpstreamStatus {
	u := UpstreamStatus{Context: w.upstream.Context, Name: w.upstream.Name, Role: w.upstream.Role, Note: w.note, Servers: []string{}}
	for _, s := range w.servers {
		if s.down {
			u.Down = append(u.Down, s.address.text)
		} else {
			u.Servers = append(u.Servers, s.address.text)
		}
	}
	return u
}
