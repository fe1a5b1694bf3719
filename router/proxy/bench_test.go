package proxy

import (
	"context"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/router"
)

// BenchmarkQuery compares a query through the proxy with one made directly, in
// turn, so that both meet the same noise.
func BenchmarkQuery(b *testing.B) {
	ctx := context.Background()
	_, backend := startMySQL(b, 1)
	r := startRig(b, nil)
	r.open(1, backend)
	took := map[string][]time.Duration{}
	addresses := map[string]string{"direct": backend.Address, "proxied": r.proxy.Address(ReadWrite)}
	query := map[string]func(){}
	for name, address := range addresses {
		conn, err := openDB(b, address).Conn(ctx)
		require.NoError(b, err)
		defer func() { _ = conn.Close() }()
		query[name] = func() {
			began := time.Now()
			_, err := conn.ExecContext(ctx, "DO 1")
			took[name] = append(took[name], time.Since(began))
			require.NoError(b, err)
		}
	}
	for b.Loop() {
		query["direct"]()
		query["proxied"]()
	}
	for _, d := range took {
		slices.Sort(d)
	}
	at := func(name string, q float64) float64 {
		return float64(took[name][int(q*float64(len(took[name])-1))].Nanoseconds()) / 1e3
	}
	b.ReportMetric(at("direct", 0.5), "direct-p50-µs")
	b.ReportMetric(at("proxied", 0.5), "proxied-p50-µs")
	b.ReportMetric(at("direct", 0.99), "direct-p99-µs")
	b.ReportMetric(at("proxied", 0.99), "proxied-p99-µs")
	b.ReportMetric(at("proxied", 0.5)/at("direct", 0.5), "p50-ratio")
}

// BenchmarkConnect measures connections made, greeted and closed, by two
// clients at a time.
func BenchmarkConnect(b *testing.B) {
	for _, name := range []string{"direct", "proxied"} {
		b.Run(name, func(b *testing.B) {
			red := startInstance(b, "red")
			r := startRig(b, nil)
			r.open(1, red.Backend)
			address := map[string]string{"direct": red.Address, "proxied": r.proxy.Address(ReadWrite)}[name]
			b.RunParallel(func(pb *testing.PB) {
				buf := make([]byte, 8)
				for pb.Next() {
					c, err := net.Dial("tcp", address)
					if err != nil {
						b.Error(err)
						return
					}
					if _, err := c.Read(buf); err != nil {
						b.Error(err)
					}
					_ = c.(*net.TCPConn).SetLinger(0) // no port is left waiting
					_ = c.Close()
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "conns/s")
		})
	}
}

// BenchmarkThroughput measures bytes sent through and back.
func BenchmarkThroughput(b *testing.B) {
	red := startInstance(b, "red")
	r := startRig(b, nil)
	r.open(1, red.Backend)
	g := r.dial(ReadWrite)
	g.greetedBy()
	require.NoError(b, g.SetDeadline(time.Time{}))
	const size = 1 << 20
	block := make([]byte, size)
	b.SetBytes(size)
	for b.Loop() {
		sent := make(chan error, 1)
		go func() { _, err := g.Write(block); sent <- err }()
		_, err := io.CopyN(io.Discard, g.in, size)
		require.NoError(b, err)
		require.NoError(b, <-sent)
	}
}

// BenchmarkRelease measures from the moment the route opens until a held
// client has its first byte.
func BenchmarkRelease(b *testing.B) {
	red := startInstance(b, "red")
	r := startRig(b, nil)
	var took []time.Duration
	epoch := r.table.Current().Epoch
	for b.Loop() {
		epoch++
		r.closed(epoch)
		held := r.stats(ReadWrite).HeldTotal
		g := r.dial(ReadWrite)
		r.until(ReadWrite, "held", func(s PortStats) bool { return s.HeldTotal == held+1 })
		began := time.Now()
		r.apply(router.Route{Epoch: epoch, Phase: router.Open, Primary: &red.Backend})
		g.greetedBy()
		took = append(took, time.Since(began))
		require.NoError(b, g.SetLinger(0))
		require.NoError(b, g.Close())
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
}
