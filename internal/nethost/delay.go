package nethost

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Delay says how late everything comes that a host sends, and that is sent to
// it.
type Delay struct {
	At *Host
	// Each packet is late by Mean, and by up to Jitter more or less at random:
	// a round trip takes twice as long, and between two such hosts four times.
	Mean, Jitter time.Duration
	// Reorder lets packets overtake each other. Else none does: one that is
	// later than usual holds back those behind it.
	Reorder bool
}

// Slow is a set of delays in force.
type Slow struct{ relays []*relay }

// Delay puts delays in force until Heal: at most one at a host. Packets on
// their way at these two moments may be lost, as when a link is plugged.
func (n *Network) Delay(ctx context.Context, delays ...Delay) (*Slow, error) {
	s := &Slow{}
	for _, d := range delays {
		r, err := startRelay(ctx, d)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("delay at %s: %w", d.At.Name, err), s.Heal(context.WithoutCancel(ctx)))
		}
		s.relays = append(s.relays, r)
	}
	return s, nil
}

// Heal ends the delays.
func (s *Slow) Heal(ctx context.Context) error {
	var errs []error
	for _, r := range s.relays {
		if err := r.stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("end delay at %s: %w", r.At.Name, err))
		}
	}
	s.relays = nil
	return errors.Join(errs...)
}

// relay carries frames between a host's wire, which is off the bridge
// meanwhile, and another one that is on it in its place.
type relay struct {
	Delay

	near, far *os.File
	wg        sync.WaitGroup
}

func startRelay(ctx context.Context, d Delay) (*relay, error) {
	r := &relay{Delay: d}
	var err error
	if r.near, err = openWire(d.At.wire); err != nil {
		return nil, err
	}
	if r.far, err = openWire(d.At.far); err != nil {
		return nil, errors.Join(err, r.near.Close())
	}
	r.wg.Go(func() { r.carry(r.near, r.far) })
	r.wg.Go(func() { r.carry(r.far, r.near) })
	if err := d.At.plug(ctx, true); err != nil {
		return nil, errors.Join(err, r.stop(context.WithoutCancel(ctx)))
	}
	return r, nil
}

// stop lets what was taken in arrive, and puts the host's wire back.
func (r *relay) stop(ctx context.Context) error {
	now := time.Now()
	err := errors.Join(r.near.SetReadDeadline(now), r.far.SetReadDeadline(now))
	r.wg.Wait()
	return errors.Join(err, r.near.Close(), r.far.Close(), r.At.plug(ctx, false))
}

// plug puts the relay's wire or the host's own on the bridge.
func (h *Host) plug(ctx context.Context, relayed bool) error {
	off, on := h.late, h.wire
	if relayed {
		off, on = h.wire, h.late
	}
	commands := fmt.Sprintf("link set %s nomaster\nlink set %s master %s up\n", off, on, bridge)
	return run(ctx, commands, "ip", "-batch", "-")
}

// frame is one on its way.
type frame struct {
	due     time.Time
	content []byte
}

// backlog is how many frames may be on their way in one direction; the next is
// lost.
const backlog = 1 << 14

// carry carries frames until from's deadline, and returns when the last one is
// written.
func (r *relay) carry(from, to *os.File) {
	inOrder := make(chan frame, backlog)
	var writers sync.WaitGroup
	writers.Go(func() {
		for f := range inOrder {
			<-time.After(time.Until(f.due))
			_, _ = to.Write(f.content) // to a link that is down: lost
		}
	})
	buffer := make([]byte, wireSize)
	for {
		n, err := from.Read(buffer)
		if err != nil && !errors.Is(err, unix.ENETDOWN) {
			break
		}
		if n == 0 {
			continue
		}
		f := frame{due: time.Now().Add(r.late()), content: slices.Clone(buffer[:n])}
		if r.Reorder {
			writers.Go(func() {
				<-time.After(time.Until(f.due))
				_, _ = to.Write(f.content)
			})
			continue
		}
		select {
		case inOrder <- f:
		default:
		}
	}
	close(inOrder)
	writers.Wait()
}

// late is for how long to keep one frame.
func (d Delay) late() time.Duration {
	if d.Jitter <= 0 {
		return d.Mean
	}
	return d.Mean - d.Jitter + rand.N(2*d.Jitter)
}

// wireSize holds the largest frame: 64 KiB where the kernel leaves it to the
// card to cut it up, with the headers of the link and of virtio_net.
const wireSize = 1<<16 + 256

// openWire opens an interface for reading and writing whole frames, those that
// are not yet cut up or without their checksums too: a header of virtio_net
// before each says so.
func openWire(name string) (*os.File, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("open interface %s: %w", name, err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open interface %s: %w", name, err)
	}
	const every = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in the order of the network
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: every, Ifindex: link.Index}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open interface %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}
