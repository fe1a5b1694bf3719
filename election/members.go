package election

import (
	"context"
	"encoding/json"
	"fmt"

	"go.uber.org/zap"

	"interrex/internal/topology"
)

// Members are the registered members, ordered by name, as last seen.
func (c *Client) Members() []topology.Member { return c.view.membersNow() }

// Register writes down how this member can be reached. It stays written when
// the member dies, and Run writes it again should it be missing later. Errors:
// ErrInvalidChange if member is not this one; ErrUnreachable, after which Run
// goes on trying.
func (c *Client) Register(ctx context.Context, member topology.Member) error {
	if member.Name != c.cfg.Self {
		return fmt.Errorf("register member: %w: name is %q, not %q", ErrInvalidChange, member.Name, c.cfg.Self)
	}
	c.registeredMu.Lock()
	c.registered = &member
	c.registeredMu.Unlock()
	return c.register(ctx, member)
}

func (c *Client) register(ctx context.Context, member topology.Member) error {
	value, err := json.Marshal(member)
	if err != nil {
		return fmt.Errorf("encode member: %w", err)
	}
	if err := c.replace(ctx, c.keys.member(member.Name), value); err != nil {
		return fmt.Errorf("register member: %w", err)
	}
	return nil
}

// reregister repairs the registration if the store does not have it.
func (c *Client) reregister(ctx context.Context) {
	c.registeredMu.Lock()
	want := c.registered
	c.registeredMu.Unlock()
	if want == nil {
		return
	}
	if seen := c.view.member(want.Name); seen != nil && *seen == *want {
		return
	}
	if err := c.register(ctx, *want); err != nil {
		c.log.Debug("member is not registered yet", zap.Error(err))
	}
}
