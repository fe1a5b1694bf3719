package nginx

import (
	"slices"
	"testing"
	"time"

	"interrex/internal/porttest"
	"interrex/internal/topology"
	"interrex/router"
)

// BenchmarkSwitch measures, for one change of the primary, the time until a new
// connection is led to the new one, and until all are.
func BenchmarkSwitch(b *testing.B) {
	for name, command := range map[string]bool{"HUP": false, "nginx -s reload": true} {
		b.Run(name, func(b *testing.B) {
			primaries, port := []string{sayer(b), sayer(b)}, porttest.Address(b)
			n := newNginx(b, streamBody(port, "server "+primaries[0]+";"))
			n.start()
			cfg := n.config(rwUpstream())
			if !command {
				cfg.ReloadCommand = nil
			}
			table := router.NewTable()
			r, _ := run(b, cfg, table)
			var first, all []float64
			for i := 1; b.Loop(); i++ {
				primary := primaries[i%2]
				start := time.Now()
				obey(b, table, opened(topology.Epoch(i), primary))
				eventually(b, func() string {
					if got := says(b, port); got != primary {
						return "the port leads to " + got
					}
					return ""
				})
				first = append(first, time.Since(start).Seconds()*1000)
				applied(b, r, topology.Epoch(i))
				all = append(all, time.Since(start).Seconds()*1000)
			}
			for unit, samples := range map[string][]float64{"first": first, "all": all} {
				slices.Sort(samples)
				b.ReportMetric(samples[len(samples)/2], unit+"-p50-ms")
				b.ReportMetric(samples[len(samples)-1], unit+"-max-ms")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
