package failover

import (
	"time"

	"interrex/internal/topology"
)

// NginxFile is one nginx configuration whose upstreams a member keeps in step
// with its route.
type NginxFile struct {
	File string `json:"file"`
	// Epoch is that of the route which nginx lives by, Wanted that of the newest
	// one; they differ while a change is under way, or cannot be made.
	Epoch  topology.Epoch `json:"epoch"`
	Wanted topology.Epoch `json:"wanted_epoch"`
	// Error is why the last change failed, empty if it did not; ErrorFor is for
	// how long changes have been failing.
	Error    string        `json:"error,omitempty"`
	ErrorFor time.Duration `json:"error_for_ns,omitempty"`
	// Stopped: the error is that nginx does not run. The file is right for when it
	// starts.
	Stopped bool `json:"stopped,omitempty"`
	// Warnings are settings of nginx that a failover will suffer from.
	Warnings []string `json:"warnings,omitempty"`
}

// describeNode tells what of the node is neither its server nor its orders.
func (k *Keeper) describeNode(st *NodeStatus) {
	if k.cfg.Etcd != nil {
		st.Etcd = k.cfg.Etcd()
	}
	if k.cfg.EtcdUsed != nil {
		st.EtcdUsed = k.cfg.EtcdUsed()
	}
	if k.cfg.Nginx != nil {
		st.Nginx = k.cfg.Nginx()
	}
	if k.cfg.Certificate != nil {
		st.CertificateUntil = k.cfg.Certificate()
	}
}
