package porttest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

const (
	lowest    = 61000
	highest   = 65500
	blockSize = 20
)

// taken are the blocks of this process, for as long as it lives.
var taken struct {
	sync.Mutex
	holders []net.Listener
	ports   []int // of all blocks
	next    int   // index into ports
}

// Port returns a port on 127.0.0.1, free for TCP and UDP, that no other
// process asks for and that this one is not given again while it has others.
// The test fails if there is none.
func Port(t testing.TB) int {
	t.Helper()
	taken.Lock()
	defer taken.Unlock()
	for {
		for ; taken.next < len(taken.ports); taken.next++ {
			if port := taken.ports[taken.next]; bindable(port) {
				taken.next++
				return port
			}
		}
		if !takeBlock() {
			break
		}
	}
	// All blocks are taken: what was used before may be free again.
	for i, port := range taken.ports {
		if bindable(port) {
			taken.next = i + 1
			return port
		}
	}
	t.Fatalf("find a free port: none in %d blocks from %d to %d; end what listens there", (highest-lowest)/blockSize, lowest, highest)
	return 0
}

// Address is 127.0.0.1 with a Port.
func Address(t testing.TB) string {
	t.Helper()
	return address(Port(t))
}

// takeBlock adds a block that no process holds. The first one tried is
// random, so that processes rarely try the same.
func takeBlock() bool {
	blocks := (highest - lowest) / blockSize
	first := rand.IntN(blocks)
	for i := range blocks {
		base := lowest + (first+i)%blocks*blockSize
		holder, err := net.Listen("tcp", address(base))
		if err != nil {
			continue
		}
		taken.holders = append(taken.holders, holder)
		for port := base + 1; port < base+blockSize; port++ {
			taken.ports = append(taken.ports, port)
		}
		return true
	}
	return false
}

func bindable(port int) bool {
	l, err := net.Listen("tcp", address(port))
	if err != nil {
		return false
	}
	defer func() { _ = l.Close() }()
	p, err := net.ListenPacket("udp", address(port))
	if err != nil {
		return false
	}
	_ = p.Close()
	return true
}

func address(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
