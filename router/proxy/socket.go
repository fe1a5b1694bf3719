package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// keepAlive finds peers that vanish while a session is idle: within 20 s.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: time.Second, Count: 5}
}

// peek waits until the connection has something to read and leaves it unread.
// It returns io.EOF if the peer has closed, os.ErrDeadlineExceeded once
// patience is over (0: none), and the cause of ctx when that ends. No other
// goroutine may read from the connection meanwhile; its read deadline is used
// up.
func peek(ctx context.Context, conn *net.TCPConn, patience time.Duration) error {
	var deadline time.Time
	if patience > 0 {
		deadline = time.Now().Add(patience)
	}
	if err := conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // wakes it; a closed one wakes by itself
	})
	err := waitReadable(conn)
	if !stop() {
		<-woken // or its deadline would hit the next reader
		err = context.Cause(ctx)
	}
	if reset := conn.SetReadDeadline(time.Time{}); err == nil {
		err = reset
	}
	return err
}

func waitReadable(conn *net.TCPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	var peekErr error
	err = raw.Read(func(fd uintptr) bool {
		n, peekErr = peekNow(int(fd))
		return !errors.Is(peekErr, unix.EAGAIN)
	})
	switch {
	case err != nil:
		return err
	case peekErr != nil:
		return peekErr
	case n == 0:
		return io.EOF
	default:
		return nil
	}
}

func peekNow(fd int) (n int, err error) {
	var one [1]byte
	for {
		n, _, err = unix.Recvfrom(fd, one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// ended tells, without waiting, whether the peer has closed or reset the
// connection and nothing is left to read. It may be called while another
// goroutine reads.
func ended(conn *net.TCPConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	gone := true
	_ = raw.Control(func(fd uintptr) { // an error leaves gone as it is
		n, err := peekNow(int(fd))
		gone = err == nil && n == 0 || err != nil && !errors.Is(err, unix.EAGAIN)
	})
	return gone
}

// silent tells whether the peer's host has acknowledged nothing for that long
// although it was asked more than once. TCP_USER_TIMEOUT would also cut peers
// that answer but do not read, such as a client that takes its time over a
// large result.
func silent(conn *net.TCPConn, limit time.Duration) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	var info *unix.TCPInfo
	if err := raw.Control(func(fd uintptr) {
		info, _ = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) // nil on error
	}); err != nil || info == nil {
		return false
	}
	return unanswered(info, limit)
}

// unanswered judges what the kernel knows of a connection. Retransmits and
// probes count what was sent since the last acknowledgement; one may be on its
// way, two in a row are lost.
func unanswered(info *unix.TCPInfo, limit time.Duration) bool {
	sinceAck := time.Duration(info.Last_ack_recv) * time.Millisecond
	return int(info.Retransmits)+int(info.Probes) >= 2 && sinceAck >= limit
}

// reset closes the connection so that the peer is told at once and nothing
// unsent lingers.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // fails only on a closed connection
	_ = conn.Close()
}
