package api

import (
	"fmt"
	"time"

	"interrex/failover"
	"interrex/internal/topology"
)

// Nginx is one nginx configuration whose upstreams a member keeps in step with
// its route.
type Nginx struct {
	File string `json:"file"`
	// Epoch is that of the route which nginx lives by, Wanted that of the newest
	// one that the member has seen.
	Epoch  topology.Epoch `json:"epoch"`
	Wanted topology.Epoch `json:"wanted_epoch"`
	// Error is why nginx cannot be brought in step, ErrorMS for how long that has
	// been so; absent if it is in step.
	Error   string  `json:"error,omitempty"`
	ErrorMS float64 `json:"error_for_ms,omitempty"`
	// Stopped: the error is that nginx does not run.
	Stopped bool `json:"stopped,omitempty"`
	// Warnings are settings of nginx that a failover will suffer from.
	Warnings []string `json:"warnings,omitempty"`
}

// nginxPatience is how long a change may fail before that is a weakness of the
// cluster: an edit may be half done, or nginx be restarted.
const nginxPatience = 2 * time.Second

func newNginx(files []failover.NginxFile) []Nginx {
	var out []Nginx
	for _, f := range files {
		out = append(out, Nginx{
			File: f.File, Epoch: f.Epoch, Wanted: f.Wanted, Error: f.Error, ErrorMS: millis(f.ErrorFor),
			Stopped: f.Stopped, Warnings: f.Warnings,
		})
	}
	return out
}

// weaknessesOfNginx are the files that lead where they should not, for some time.
// An nginx that has not been started yet is none: it leads nobody anywhere, and a
// cluster is brought up before what is in front of it.
func weaknessesOfNginx(m Member) []string {
	var reasons []string
	for _, n := range m.Nginx {
		if n.Error == "" || n.ErrorMS < millis(nginxPatience) || n.Stopped && n.Epoch == 0 {
			continue
		}
		leads := "it has followed none yet"
		if n.Epoch > 0 {
			leads = fmt.Sprintf("it leads as in epoch %d", n.Epoch)
		}
		reasons = append(reasons, fmt.Sprintf("nginx on %s does not follow the route of epoch %d (%s): %s: %s; put that right there, the agent tries again by itself",
			m.Name, n.Wanted, leads, n.File, n.Error))
	}
	return reasons
}
