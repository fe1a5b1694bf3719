package nethost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Network is a bridge with hosts on it. This process itself is on it too, at
// Address: it is the host of whoever uses the others.
type Network struct {
	hosts []*Host
	cuts  atomic.Int64 // numbers their tables
}

// Host is a network namespace with one interface.
type Host struct {
	Name string
	// Address is its IPv4 address.
	Address string

	ns   *os.File
	wire string // the bridge's end of its link
	// late is on the bridge instead of wire while a relay carries the packets
	// between wire and far, the other end of late (delay.go).
	late, far string
}

// The network is a world's own, so its addresses need not be unique.
const (
	bridge  = "bridge0"
	subnet  = "10.99.0."
	mask    = "/24"
	ownLink = "eth0" // what a host calls its interface
	// ownMAC is the bridge's: else it changed with the ports it has, and hosts
	// would go on sending to what it was.
	ownMAC = "02:00:00:00:00:01"
)

// Address is this process's address on the network.
const Address = subnet + "1"

// NewNetwork makes a bridge with hosts of those names on it, in a world (Enter).
// A world has one network at a time; Close makes room for the next, and is not
// needed for the last.
func NewNetwork(ctx context.Context, names ...string) (*Network, error) {
	for _, command := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", bridge, "address", ownMAC, "type", "bridge"},
		{"address", "add", Address + mask, "dev", bridge},
		{"link", "set", bridge, "up"},
	} {
		if err := run(ctx, "", append([]string{"ip"}, command...)...); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	n := &Network{}
	for i, name := range names {
		number := strconv.Itoa(i)
		h := &Host{Name: name, Address: subnet + strconv.Itoa(i+2), wire: "wire" + number, late: "late" + number, far: "far" + number}
		if err := h.create(ctx); err != nil {
			return nil, fmt.Errorf("make host %s: %w", name, err)
		}
		n.hosts = append(n.hosts, h)
	}
	return n, nil
}

// Close removes the network and its hosts. What runs on them goes on without
// any.
func (n *Network) Close(ctx context.Context) error {
	var errs []error
	for _, h := range n.hosts {
		errs = append(errs, run(ctx, "", "ip", "link", "delete", h.wire), run(ctx, "", "ip", "link", "delete", h.late), h.ns.Close())
	}
	return errors.Join(append(errs, run(ctx, "", "ip", "link", "delete", bridge))...)
}

// Hosts are the hosts, in the order they were named in.
func (n *Network) Hosts() []*Host { return n.hosts }

// create makes the namespace and wires it to the bridge.
func (h *Host) create(ctx context.Context) (err error) {
	if h.ns, err = newNamespace(); err != nil {
		return err
	}
	if err := run(ctx, "", "ip", "link", "add", h.wire, "type", "veth", "peer", "name", ownLink, "netns", descriptorPath(h.ns)); err != nil {
		return err
	}
	for _, command := range [][]string{
		// The relay's ends have no address, and must not answer for the bridge's.
		{"link", "set", h.wire, "master", bridge, "arp", "off", "up"},
		{"link", "add", h.late, "type", "veth", "peer", "name", h.far},
		{"link", "set", h.far, "arp", "off", "up"},
	} {
		if err := run(ctx, "", append([]string{"ip"}, command...)...); err != nil {
			return err
		}
	}
	for _, command := range [][]string{
		{"link", "set", "lo", "up"},
		{"address", "add", h.Address + mask, "dev", ownLink},
		{"link", "set", ownLink, "up"},
	} {
		if err := h.run(ctx, "", append([]string{"ip"}, command...)...); err != nil {
			return err
		}
	}
	return nil
}

// newNamespace makes a network namespace and returns a descriptor that keeps
// it; this process stays where it is.
func newNamespace() (*os.File, error) {
	type result struct {
		ns  *os.File
		err error
	}
	made := make(chan result)
	go func() {
		// Never unlocked: the thread is in the new namespace and ends with
		// this goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{err: fmt.Errorf("make network namespace: %w", err)}
			return
		}
		ns, err := os.Open("/proc/thread-self/ns/net")
		made <- result{ns, err}
	}()
	r := <-made
	return r.ns, r.err
}

// Enter is what to put before a command for it to run on the host.
func (h *Host) Enter() []string {
	return []string{"nsenter", "--net=" + descriptorPath(h.ns)}
}

// SetLink takes the host's interface down, or up again. Programs on the host
// see that their network is unreachable; those elsewhere see silence.
func (h *Host) SetLink(ctx context.Context, up bool) error {
	state := "down"
	if up {
		state = "up"
	}
	return h.run(ctx, "", "ip", "link", "set", ownLink, state)
}

func (h *Host) run(ctx context.Context, input string, command ...string) error {
	return run(ctx, input, append(h.Enter(), command...)...)
}

// run runs a command to its end, and tells what it said if it fails.
func run(ctx context.Context, input string, command ...string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(err, cause)
		}
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
