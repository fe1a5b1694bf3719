package sandbox

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports are the loopback ports of one node.
type Ports struct {
	MySQL      int `json:"mysql"`
	MySQLAdmin int `json:"mysql_admin"`
	API        int `json:"api"`
	Gossip     int `json:"gossip"` // TCP and UDP
	RW         int `json:"rw"`
	RO         int `json:"ro"`
	EtcdClient int `json:"etcd_client"`
	EtcdPeer   int `json:"etcd_peer"`
}

// portStride is how far the ports of one node are from the next one's.
const portStride = 10

// portsOf gives node i of a sandbox its ports: base + 10 i + a fixed offset.
func portsOf(base, i int) Ports {
	first := base + portStride*i
	return Ports{
		MySQL: first, MySQLAdmin: first + 1, API: first + 2, Gossip: first + 3,
		RW: first + 4, RO: first + 5, EtcdClient: first + 6, EtcdPeer: first + 7,
	}
}

// named lists the ports with what they are for.
func (p Ports) named() []namedPort {
	return []namedPort{
		{"mysql", p.MySQL}, {"mysql admin", p.MySQLAdmin}, {"api", p.API}, {"gossip", p.Gossip},
		{"rw", p.RW}, {"ro", p.RO}, {"etcd client", p.EtcdClient}, {"etcd peer", p.EtcdPeer},
	}
}

type namedPort struct {
	what string
	port int
}

// Free ranges are looked for below the ports that kernels give to outgoing
// connections (32768 and up), so that none of those gets in between.
const (
	lowestBase  = 15000
	highestBase = 32000
)

// ClaimPorts finds n ports for servers that run beside a sandbox, and keeps them
// from every sandbox and other caller until they are released, which is to be
// done when the servers have bound them.
func ClaimPorts(n int) (ports []int, release func(), err error) {
	strides := 1 + (n-1)/len(portsOf(0, 0).named())
	base, release, err := chooseBase(strides)
	if err != nil {
		return nil, nil, err
	}
	for i := range strides {
		for _, p := range portsOf(base, i).named() {
			ports = append(ports, p.port)
		}
	}
	return ports[:n], release, nil
}

// chooseBase finds a base port with all ports of n nodes free, and claims
// them.
func chooseBase(n int) (base int, release func(), err error) {
	size := portStride * n
	slots := (highestBase - lowestBase) / size
	first := rand.IntN(slots)
	for i := range slots {
		base := lowestBase + (first+i)%slots*size
		if release, err := claimPorts(base, n); err == nil {
			return base, release, nil
		}
	}
	return 0, nil, fmt.Errorf("choose ports: no %d free ones in a row from %d to %d: %w", size, lowestBase, highestBase, ErrPortTaken)
}

// claimPorts checks the ports of a sandbox, naming all at once that are taken,
// and keeps them from other sandboxes that come up meanwhile, by a listener on
// the last port of each node's stride. They are to be released when its
// servers have bound them.
func claimPorts(base, n int) (release func(), err error) {
	if last := base + portStride*n - 1; base < 1024 || last > 65535 {
		return nil, fmt.Errorf("use base port %d: %d nodes need ports %d to %d, which must be within 1024 to 65535", base, n, base, last)
	}
	var held []net.Listener
	release = func() {
		for _, l := range held {
			_ = l.Close()
		}
	}
	var taken []error
	for i := range n {
		name, claim := nodeName(i), base+portStride*(i+1)-1
		l, err := net.Listen("tcp", Addr(claim))
		if err != nil {
			taken = append(taken, fmt.Errorf("use port %d (%s, while the sandbox comes up): %w", claim, name, ErrPortTaken))
			continue
		}
		held = append(held, l)
		taken = append(taken, checkNode(name, portsOf(base, i)))
	}
	if err := errors.Join(taken...); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

func checkNode(name string, ports Ports) error {
	var taken []error
	for _, p := range ports.named() {
		if !isFree(p.port, p.what == "gossip") {
			taken = append(taken, fmt.Errorf("use port %d (%s, %s): %w", p.port, name, p.what, ErrPortTaken))
		}
	}
	return errors.Join(taken...)
}

func isFree(port int, datagrams bool) bool {
	listener, err := net.Listen("tcp", Addr(port))
	if err != nil {
		return false
	}
	_ = listener.Close()
	if !datagrams {
		return true
	}
	conn, err := net.ListenPacket("udp", Addr(port))
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
