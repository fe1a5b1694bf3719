package proxy

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// closingTime is how long a client may take to close after its server has.
const closingTime = time.Second

// session is a client joined to its instance. Bytes are spliced between the
// sockets in the kernel: both ends must stay plain *net.TCPConn.
type session struct {
	port           *port
	to             target
	client, server *net.TCPConn
	isCut          atomic.Bool
	first          sync.Once
}

// run passes bytes in both directions until both have ended, and closes both
// sockets.
func (s *session) run() {
	var upstream sync.WaitGroup
	upstream.Go(func() {
		_, err := s.server.ReadFrom(s.client)
		s.over(err, false)
	})
	_, err := s.client.ReadFrom(s.server)
	s.over(err, true)
	upstream.Wait()
	_ = s.client.Close() // both may be closed by cut
	_ = s.server.Close()
}

// over ends one direction. The end of what one side sends is passed on and the
// other direction goes on; an error ends both.
func (s *session) over(err error, fromServer bool) {
	s.first.Do(func() {
		if !s.isCut.Load() && s.serverBroke(err, fromServer) {
			s.port.broken(s.to)
		}
	})
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded): // closingTime: what is on its way to the client may arrive
	case err != nil:
		reset(s.client)
		reset(s.server)
	case fromServer:
		// A server that closes is done with its client; one that never
		// notices must not keep its place.
		_ = s.client.CloseWrite() // an error ends the other direction, too
		_ = s.client.SetReadDeadline(time.Now().Add(closingTime))
	default:
		_ = s.server.CloseWrite()
	}
}

// serverBroke tells whether the instance ended the session. One that closes
// because its client said goodbye did not: that client has closed as well.
func (s *session) serverBroke(err error, fromServer bool) bool {
	if err != nil {
		return ended(s.server)
	}
	return fromServer && !ended(s.client)
}

// cut ends the session at once: both peers are reset.
func (s *session) cut() {
	s.isCut.Store(true)
	reset(s.client)
	reset(s.server)
}
