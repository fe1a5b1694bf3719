package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"

	"interrex/router"
)

// Proxy serves clients on two ports as its route table says.
type Proxy struct {
	cfg   Config
	table *router.Table
	log   *zap.Logger
	ports []*port // read-write first
}

// New returns a proxy that obeys the table, or every fault of the
// configuration. It opens nothing.
func New(cfg Config, table *router.Table, log *zap.Logger) (*Proxy, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure proxy: %w", err)
	}
	p := &Proxy{cfg: cfg, table: table, log: log}
	p.ports = append(p.ports, newPort(&p.cfg, table, ReadWrite, cfg.ReadWrite, log))
	if cfg.ReadOnly != "" {
		p.ports = append(p.ports, newPort(&p.cfg, table, ReadOnly, cfg.ReadOnly, log))
	}
	return p, nil
}

// Listen opens the ports, so that their addresses are known; clients queue
// until Run. If one can't be opened, none is.
func (p *Proxy) Listen(ctx context.Context) error {
	for _, port := range p.ports {
		if err := port.listen(ctx); err != nil {
			return errors.Join(fmt.Errorf("listen for %s: %w", port.role, err), p.Close())
		}
	}
	return nil
}

// Close closes the ports that Listen opened. Run does so itself at its end; it
// is for a proxy that is never run.
func (p *Proxy) Close() error {
	var faults []error
	for _, port := range p.ports {
		faults = append(faults, port.close())
	}
	return errors.Join(faults...)
}

// Address is where a port listens, as host:port; empty before Listen and for a
// port that is not configured.
func (p *Proxy) Address(role Role) string {
	for _, port := range p.ports {
		if port.role == role && port.listener != nil {
			return port.listener.Addr().String()
		}
	}
	return ""
}

// Run serves until ctx ends, then closes the ports, tells held clients, cuts
// the sessions, waits for all of it and returns nil. It runs once.
func (p *Proxy) Run(ctx context.Context) error {
	for _, port := range p.ports {
		if port.listener == nil {
			return ErrNotListening
		}
	}
	serving, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	changed, unsubscribe := p.table.Subscribe()
	defer unsubscribe()
	p.adopt(serving)

	var wg sync.WaitGroup
	for _, port := range p.ports {
		wg.Go(func() { port.accept(serving) })
	}
	wg.Go(func() { p.watchPeers(serving) })
	p.follow(ctx, serving, changed)

	faults := p.Close()
	stop(errStopping)
	for _, port := range p.ports {
		port.stop()
	}
	wg.Wait()
	return faults
}

// follow obeys the table until ctx ends.
func (p *Proxy) follow(ctx, serving context.Context, changed <-chan struct{}) {
	grace := time.NewTimer(time.Hour)
	defer grace.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-grace.C:
		}
		if due, more := p.adopt(serving); more {
			grace.Reset(time.Until(due))
		}
	}
}

// adopt makes the ports obey the table, and returns when sessions that are
// given grace are to be looked at again.
func (p *Proxy) adopt(serving context.Context) (due time.Time, more bool) {
	for _, port := range p.ports {
		if next, some := port.adopt(serving, time.Now()); some && (!more || next.Before(due)) {
			due, more = next, true
		}
	}
	return due, more
}

// watchPeers cuts sessions with a host at either end that has gone without a
// word, until serving ends.
func (p *Proxy) watchPeers(serving context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-serving.Done():
			return
		case <-tick.C:
		}
		for _, port := range p.ports {
			port.cutSilent()
		}
	}
}

// dialer connects to instances.
func dialer(cfg *Config) *net.Dialer {
	d := &net.Dialer{Timeout: cfg.ConnectTimeout, KeepAliveConfig: keepAlive()}
	d.SetMultipathTCP(false) // sessions are spliced
	return d
}
