package detector

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// memnet is a network in memory for memberlist, fit for synctest bubbles: any
// host can be cut off, and one that is answers nothing, like a dead host.
type memnet struct {
	mu    sync.Mutex
	hosts map[string]*memhost
	cut   map[string]bool // "a|b": packets from a to b vanish
	sizes []int           // of every datagram
	delay time.Duration
}

func newMemnet() *memnet {
	return &memnet{hosts: map[string]*memhost{}, cut: map[string]bool{}, delay: 200 * time.Microsecond}
}

type memhost struct {
	net     *memnet
	addr    string
	packets chan *memberlist.Packet
	streams chan net.Conn
	mu      sync.Mutex
	down    bool
	conns   []net.Conn
}

func (n *memnet) host(addr string) *memhost {
	h := &memhost{net: n, addr: addr, packets: make(chan *memberlist.Packet, 4096), streams: make(chan net.Conn, 64)}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[addr] = h
	return h
}

// set cuts or heals the way from a to b.
func (n *memnet) set(a, b string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[a+"|"+b] = cut
}

// isolate cuts or heals all ways to and from a.
func (n *memnet) isolate(a string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for b := range n.hosts {
		n.cut[a+"|"+b], n.cut[b+"|"+a] = cut, cut
	}
}

// way finds the host at b unless the way from a is cut.
func (n *memnet) way(a, b string) *memhost {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut[a+"|"+b] || n.hosts[b] == nil {
		return nil
	}
	return n.hosts[b]
}

func (h *memhost) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	return net.ParseIP(ip), port, nil
}

func (h *memhost) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	h.net.mu.Lock()
	h.net.sizes = append(h.net.sizes, len(b))
	h.net.mu.Unlock()
	to := h.net.way(h.addr, addr)
	if to == nil {
		return now, nil
	}
	from, _ := net.ResolveUDPAddr("udp", h.addr)
	p := &memberlist.Packet{Buf: slices.Clone(b), From: from, Timestamp: now.Add(h.net.delay)}
	time.AfterFunc(h.net.delay, func() {
		to.mu.Lock()
		defer to.mu.Unlock()
		if to.down {
			return
		}
		select {
		case to.packets <- p:
		default:
		}
	})
	return now, nil
}

func (h *memhost) PacketCh() <-chan *memberlist.Packet { return h.packets }
func (h *memhost) StreamCh() <-chan net.Conn           { return h.streams }

func (h *memhost) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to := h.net.way(h.addr, addr)
	back := h.net.way(addr, h.addr)
	if to == nil || back == nil {
		time.Sleep(timeout)
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("i/o timeout")}
	}
	ours, theirs := net.Pipe()
	to.mu.Lock()
	defer to.mu.Unlock()
	if to.down {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("refused")}
	}
	to.conns = append(to.conns, ours, theirs)
	select {
	case to.streams <- theirs:
	default:
		_ = theirs.Close()
	}
	return ours, nil
}

func (h *memhost) Shutdown() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = true
	for _, c := range h.conns {
		_ = c.Close()
	}
	return nil
}
