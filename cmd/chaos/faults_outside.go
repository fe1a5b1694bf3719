package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"interrex/internal/nethost"
)

// awaitStep returns when a log says that a step is done; false if it does not
// within stepLimit.
func awaitStep(ctx context.Context, log *os.File, operation, step string) bool {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	var text []byte
	for {
		more, err := io.ReadAll(log)
		if err != nil {
			return false
		}
		text = append(text, more...)
		for {
			line, left, whole := bytes.Cut(text, []byte("\n"))
			if !whole {
				break
			}
			text = left
			var entry struct{ Message, Kind, Step string }
			if json.Unmarshal(line, &entry) != nil || entry.Kind != operation {
				continue
			}
			if entry.Message == "step done" && entry.Step == step || entry.Message == "operation begins" && step == "begin" {
				return true
			}
		}
		if pause(ctx, time.Millisecond) != nil {
			return false
		}
	}
}

// etcdFaults are of the etcd that the agents run.
func etcdFaults() []kind {
	return []kind{
		{name: "freeze one etcd", strike: func(_ context.Context, r *round) (*strike, error) { return freezeEtcd(r, 1) }},
		{name: "freeze etcd's quorum", strike: func(_ context.Context, r *round) (*strike, error) { return freezeEtcd(r, 2) }},
		{name: "freeze all of etcd", strike: func(_ context.Context, r *round) (*strike, error) { return freezeEtcd(r, 3) }},
		{name: "kill one etcd", strike: on((*round).any, killEtcd)},
	}
}

// freezeEtcd stops some of the etcd processes.
func freezeEtcd(r *round, count int) (*strike, error) {
	nodes := r.others(nil)[:count]
	s := &strike{Detail: names(nodes)}
	var stopped []int
	for _, n := range nodes {
		if err := r.take("etcd", n); err != nil {
			return nil, err
		}
	}
	for _, n := range nodes {
		pid, err := etcdOf(n)
		if err != nil {
			continue // its agent is down, and etcd with it
		}
		if err := syscall.Kill(pid, syscall.SIGSTOP); err == nil {
			stopped = append(stopped, pid)
		}
	}
	s.heal = func(context.Context) error {
		var errs []error
		for _, pid := range stopped {
			errs = append(errs, resume(pid))
		}
		return errors.Join(errs...)
	}
	return s, nil
}

func killEtcd(_ context.Context, r *round, n *node) (*strike, error) {
	if err := r.take("etcd", n); err != nil {
		return nil, err
	}
	pid, err := etcdOf(n)
	if err != nil {
		return nil, errors.Join(errUnfit, err)
	}
	return &strike{Detail: n.Name}, syscall.Kill(pid, syscall.SIGKILL)
}

// networkFaults are cuts of many shapes.
func networkFaults() []kind {
	list := []kind{
		cutKind("isolate the primary's node", func(r *round) ([]nethost.Drop, string) { return isolate(r.primary()) }),
		cutKind("isolate a replica's node", func(r *round) ([]nethost.Drop, string) { return isolate(r.replica()) }),
		cutKind("nothing reaches the primary's node", func(r *round) ([]nethost.Drop, string) {
			return []nethost.Drop{{At: r.primary().host, In: true}}, r.primary().Name
		}),
		cutKind("nothing leaves the primary's node", func(r *round) ([]nethost.Drop, string) {
			return []nethost.Drop{{At: r.primary().host, Out: true}}, r.primary().Name
		}),
		cutKind("nothing leaves a replica's node", func(r *round) ([]nethost.Drop, string) {
			n := r.replica()
			return []nethost.Drop{{At: n.host, Out: true}}, n.Name
		}),
		cutKind("cut the primary from one replica", func(r *round) ([]nethost.Drop, string) { return apart(r.primary(), r.replica()) }),
		cutKind("cut the primary from both replicas", func(r *round) ([]nethost.Drop, string) { return apart(r.primary(), r.others(r.primary())...) }),
		cutKind("cut the replicas from each other", func(r *round) ([]nethost.Drop, string) {
			o := r.others(r.primary())
			return apart(o[0], o[1])
		}),
		cutKind("cut the primary and a replica from the rest", func(r *round) ([]nethost.Drop, string) {
			// The third is alone, but for the clients.
			o := r.others(r.primary())
			return apart(o[0], o[1], r.primary())
		}),
		cutKind("one direction between two nodes", func(r *round) ([]nethost.Drop, string) {
			from := r.any()
			to := r.others(from)[0]
			return []nethost.Drop{{At: to.host, In: true, Peer: from.host.Address}}, from.Name + " to " + to.Name
		}),
		cutKind("cut the primary's MySQL ports", func(r *round) ([]nethost.Drop, string) {
			n := r.primary()
			return ports(n, n.Ports.MySQL, n.Ports.MySQLAdmin)
		}),
		cutKind("cut a node's gossip", func(r *round) ([]nethost.Drop, string) { return ports(r.any(), r.all(gossipPorts)...) }),
		cutKind("cut a node's etcd", func(r *round) ([]nethost.Drop, string) { return ports(r.any(), r.all(etcdPorts)...) }),
		cutKind("cut etcd between all nodes", func(r *round) (drops []nethost.Drop, _ string) {
			for _, n := range r.c.nodes {
				drop, _ := ports(n, r.all(etcdPorts)...)
				drops = append(drops, drop...)
			}
			return drops, names(r.c.nodes)
		}),
		cutKind("cut the leader's API", func(r *round) ([]nethost.Drop, string) { return ports(r.leader(), r.all(apiPorts)...) }),
		cutKind("cut clients from the primary's node", func(r *round) ([]nethost.Drop, string) {
			return []nethost.Drop{{At: r.primary().host, In: true, Out: true, Peer: nethost.Address}}, r.primary().Name
		}),
	}
	return append(list,
		kind{name: "link down at the primary's node", needs: hosts, strike: on((*round).primary, linkDown)},
		kind{name: "link down at a replica's node", needs: hosts, strike: on((*round).replica, linkDown)},
		kind{name: "link of a node flaps", needs: hosts, strike: on((*round).any, linkFlaps)},
	)
}

func gossipPorts(n *node) []int { return []int{n.Ports.Gossip} }
func etcdPorts(n *node) []int   { return []int{n.Ports.EtcdClient, n.Ports.EtcdPeer} }
func apiPorts(n *node) []int    { return []int{n.Ports.API} }

// all are ports of every node.
func (r *round) all(of func(*node) []int) (ports []int) {
	for _, n := range r.c.nodes {
		ports = append(ports, of(n)...)
	}
	return ports
}

// cutKind makes a kind of fault of what it drops.
func cutKind(name string, drops func(*round) ([]nethost.Drop, string)) kind {
	return kind{name: name, needs: hosts, strike: func(ctx context.Context, r *round) (*strike, error) {
		what, detail := drops(r)
		cut, err := r.c.network.Cut(ctx, what...)
		if err != nil {
			return nil, err
		}
		return &strike{Detail: detail, heal: cut.Heal}, nil
	}}
}

func isolate(n *node) ([]nethost.Drop, string) {
	return []nethost.Drop{{At: n.host, In: true, Out: true}}, n.Name
}

// apart cuts a node from others, both ways; clients still reach it.
func apart(n *node, from ...*node) (drops []nethost.Drop, _ string) {
	for _, o := range from {
		drops = append(drops, nethost.Drop{At: n.host, In: true, Out: true, Peer: o.host.Address})
	}
	return drops, n.Name + " from " + names(from)
}

// ports cuts connections to and from ports at a node.
func ports(n *node, list ...int) ([]nethost.Drop, string) {
	return []nethost.Drop{{At: n.host, In: true, Out: true, Ports: list}}, n.Name
}

func linkDown(ctx context.Context, r *round, n *node) (*strike, error) {
	if err := r.take("link", n); err != nil {
		return nil, err
	}
	return &strike{Detail: n.Name, heal: func(ctx context.Context) error { return n.host.SetLink(ctx, true) }}, n.host.SetLink(ctx, false)
}

// linkFlaps takes a link down and up until it is healed.
func linkFlaps(ctx context.Context, r *round, n *node) (*strike, error) {
	if err := r.take("link", n); err != nil {
		return nil, err
	}
	flapping, stop := context.WithCancel(ctx)
	period, stopped := r.between(200*time.Millisecond, 1500*time.Millisecond), make(chan error, 1)
	go func() {
		var errs []error
		for up := false; flapping.Err() == nil; up = !up {
			errs = append(errs, n.host.SetLink(ctx, up))
			_ = pause(flapping, period)
		}
		stopped <- errors.Join(errs...)
	}()
	return &strike{Detail: fmt.Sprintf("%s, every %s", n.Name, period.Round(time.Millisecond)), heal: func(ctx context.Context) error {
		stop()
		return errors.Join(<-stopped, n.host.SetLink(ctx, true))
	}}, nil
}

// diskFaults fill the disks of servers, and keep them from writing.
func diskFaults() []kind {
	return []kind{
		{name: "fill the disk of the primary's server", needs: disks, strike: on((*round).primary, fillDisk)},
		{name: "fill the disk of a replica's server", needs: disks, strike: on((*round).replica, fillReplica)},
		{name: "stall the disk of the primary's server", needs: disks, strike: on((*round).primary, stallDisk)},
		{name: "stall the disk of a replica's server", needs: disks, strike: on((*round).replica, stallDisk)},
	}
}

func fillDisk(_ context.Context, r *round, n *node) (*strike, error) {
	if err := r.take("disk", n); err != nil {
		return nil, err
	}
	r.limit += diskRetry
	return &strike{Detail: n.Name, heal: func(context.Context) error { return n.disk.Free() }}, n.disk.Fill()
}

// fillReplica: when there is room again its server is restarted, as the runbook
// has it done: left alone it looks for room once a minute, and went on waiting for
// up to two and a half.
func fillReplica(_ context.Context, r *round, n *node) (*strike, error) {
	if err := errors.Join(r.take("disk", n), r.take("mysqld", n)); err != nil {
		return nil, err
	}
	return &strike{Detail: n.Name, heal: func(ctx context.Context) error {
		return errors.Join(n.disk.Free(), r.c.Restart(ctx, n.Name))
	}}, n.disk.Fill()
}

// stallDisk: nothing else befalls the server meanwhile. One that waits for a
// stalled disk does not end when it is killed, and who kills it would wait, too.
func stallDisk(_ context.Context, r *round, n *node) (*strike, error) {
	if err := errors.Join(r.take("disk", n), r.take("mysqld", n)); err != nil {
		return nil, err
	}
	return &strike{Detail: n.Name, heal: func(context.Context) error { return n.disk.Resume() }}, n.disk.Stall()
}

// clockFaults set clocks an hour off, and right again.
func clockFaults() []kind {
	var list []kind
	for _, off := range []time.Duration{time.Hour, -time.Hour} {
		word := "ahead"
		if off < 0 {
			word = "back"
		}
		list = append(list,
			kind{name: "an agent's clock jumps an hour " + word, needs: clocks, strike: on((*round).any, jump(off))},
			kind{name: "the leader's clock jumps an hour " + word, needs: clocks, strike: on((*round).leader, jump(off))})
	}
	return list
}

// jump sets the clock of a node's agent.
func jump(off time.Duration) func(context.Context, *round, *node) (*strike, error) {
	return func(ctx context.Context, r *round, n *node) (*strike, error) {
		if err := r.take("clock", n); err != nil {
			return nil, err
		}
		return &strike{Detail: n.Name, heal: func(ctx context.Context) error { return r.c.setClock(ctx, n, 0) }}, r.c.setClock(ctx, n, off)
	}
}
