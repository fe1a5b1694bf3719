package nginx

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// MemberStatus is what the health check knows of one HTTP member.
type MemberStatus struct {
	Upstream string `json:"upstream"`
	Address  string `json:"address"`
	Healthy  bool   `json:"healthy"`
	// Since is when it became so, or when watching it began.
	Since time.Time `json:"since"`
	// Streak is how many answers in a row have spoken against Healthy.
	Streak int `json:"streak"`
	// Error is why the last answer was not healthy; empty if it was.
	Error string `json:"error,omitempty"`
}

// judgeMember counts one answer; err is why it was not healthy.
func judgeMember(s MemberStatus, m Member, err error, now time.Time) MemberStatus {
	s.Error = ""
	if err != nil {
		s.Error = err.Error()
	}
	if (err == nil) == s.Healthy {
		s.Streak = 0
		return s
	}
	s.Streak++
	limit := m.MaxFails
	if err == nil {
		limit = m.Rise
	}
	if s.Streak >= limit {
		s.Healthy, s.Since, s.Streak = err == nil, now, 0
	}
	return s
}

// newChecker makes the client for health checks: a new connection for each, so
// that a dead listener is seen at once, and no redirect followed.
func newChecker() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, Proxy: nil},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// askMember asks a member once for its health.
func askMember(ctx context.Context, client *http.Client, m Member) error {
	ctx, cancel := context.WithTimeout(ctx, m.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.Address+m.HealthPath, nil)
	if err != nil {
		return fmt.Errorf("make health request: %w", err)
	}
	req.Header.Set("User-Agent", "interrex")
	resp, err := client.Do(req)
	if err != nil {
		return err // it says method, URL and cause
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)); err != nil {
		return fmt.Errorf("read health answer: %w", err)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("health answer is %s", resp.Status)
	}
	return nil
}

// watchMember asks a member at its interval until ctx ends.
func (r *Rewriter) watchMember(ctx context.Context, key memberKey, m Member) {
	client := newChecker()
	ticker := time.NewTicker(m.Interval)
	defer ticker.Stop()
	for {
		err := askMember(ctx, client, m)
		if ctx.Err() != nil {
			return
		}
		r.noteMember(key, m, err)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
