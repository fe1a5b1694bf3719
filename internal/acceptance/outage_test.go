package acceptance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/workload"
)

// etcdChildren are the etcd processes of all agents.
func (c *cluster) etcdChildren(t *testing.T) []int {
	t.Helper()
	var agents, found []int
	for _, n := range c.names() {
		agents = append(agents, pidIn(t, c.node(n).Agent.PIDFile))
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil {
			continue // gone
		}
		// pid (name) state parent …; the name may hold anything.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		parent, _ := strconv.Atoi(fields[1])
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
		command, _ := os.ReadFile(filepath.Join(filepath.Dir(stat), "cmdline"))
		if words := strings.Split(string(command), "\x00"); slices.Contains(agents, parent) && len(words) > 1 && words[1] == "etcd" {
			found = append(found, pid)
		}
	}
	return found
}

// stopEtcd keeps every etcd member from running until resume is called; also
// those that agents start meanwhile.
func (c *cluster) stopEtcd(t *testing.T) (resume func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	require.Len(t, c.etcdChildren(t), 3)
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			for _, pid := range c.etcdChildren(t) {
				_ = syscall.Kill(pid, syscall.SIGSTOP)
			}
			rest(100 * time.Millisecond)
		}
	})
	resume = sync.OnceFunc(func() {
		cancel()
		done.Wait()
		for _, pid := range c.etcdChildren(t) {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	})
	t.Cleanup(resume)
	return resume
}

// goesOn checks for as long as d that rows are acknowledged, that the same
// primary of the same epoch serves, and that no other server takes writes.
func (c *cluster) goesOn(t *testing.T, w *workload.Workload, watch string, d time.Duration) {
	t.Helper()
	first, err := c.view(watch)
	require.NoError(t, err)
	for began := time.Now(); time.Since(began) < d; {
		acked := w.Acknowledged()
		await(t, patience, "writes to go on", func() (bool, string) { return w.Acknowledged() > acked, "no further row was acknowledged" })
		v, err := c.view(watch)
		require.NoError(t, err)
		require.Equal(t, first.Epoch, v.Epoch, words(v))
		require.Equal(t, first.Primary.Node, v.Primary.Node)
		require.Equal(t, []string{string(first.Primary.Node)}, c.writable(t))
		rest(500 * time.Millisecond)
	}
}

// TestEtcdGone: without etcd writes go on, nobody is demoted, and every agent
// says that no promotion is possible; when it is back, so is everything.
func TestEtcdGone(t *testing.T) {
	c := borrow(t)
	before := c.healthy(t)
	primary := string(before.Primary.Node)
	w := c.load(t, c.names(primary)[0])
	began := time.Now()
	resume := c.stopEtcd(t)
	for _, n := range c.names() {
		took := await(t, patience, n+" to say so", func() (bool, string) {
			v, err := c.view(n)
			gate := c.closedGate(n, "etcd_quorum")
			return err == nil && !v.EtcdReachable && strings.Contains(strings.Join(v.Reasons, "; "), "no promotion possible") &&
				gate != nil && strings.Contains(gate.Reason, "no promotion possible"), fmt.Sprint(words(v), gate, err)
		})
		t.Logf("%s says that no promotion is possible after %.1f s", n, took.Seconds())
	}
	status, _, problem := c.switchover(t, c.names()[0], "")
	require.GreaterOrEqual(t, status, 400)
	c.goesOn(t, w, c.names()[0], *etcdGone-time.Since(began))
	resume()
	back := time.Now()
	v := c.healthy(t)
	require.Equal(t, before.Epoch, v.Epoch, "a role changed for want of etcd")
	t.Logf("without etcd for %.0f s: longest time without an acknowledged row %d ms; a switchover was refused: %d %s; all is well %.1f s after its return",
		back.Sub(began).Seconds(), w.Stop().LongestOutage(began, back).Length().Milliseconds(), status, problem.Detail, time.Since(back).Seconds())

	again := c.load(t, c.names(primary)[0])
	t.Logf("then epoch %s", c.failsOver(t))
	c.verify(t, again.Stop())
}

// failsOver kills the primary, waits until another serves, starts the killed
// server and waits until all is well with it. It returns what happened.
func (c *cluster) failsOver(t *testing.T) string {
	t.Helper()
	before := c.healthy(t)
	old := string(before.Primary.Node)
	c.order(t, "kill", old)
	c.moved(t, before, c.names(old)[0])
	c.order(t, "start", old)
	c.healthy(t)
	c.following(t)
	c.lostNothing(t)
	return c.story(t, before.Epoch)
}

// TestReplicaAndAgentDeaths: the death of a replica, of the primary's agent or
// of the leader moves nobody, and writes go on; the leadership is taken over,
// and the new leader fails over when it has to.
func TestReplicaAndAgentDeaths(t *testing.T) {
	c := borrow(t)
	before := c.healthy(t)
	primary := string(before.Primary.Node)
	replicas := c.names(primary)
	w := c.load(t, replicas[0])

	c.order(t, "kill", replicas[1])
	c.goesOn(t, w, replicas[0], 3*time.Second)
	c.order(t, "start", replicas[1])
	v := c.healthy(t)
	require.Equal(t, before.Epoch, v.Epoch, "the death of a replica changed a role")

	c.order(t, "stop-agent", primary)
	c.goesOn(t, w, replicas[0], 3*time.Second)
	c.order(t, "start-agent", primary)
	v = c.healthy(t)
	require.Equal(t, before.Epoch, v.Epoch, "the death of the primary's agent changed a role")
	r := w.Stop()
	c.verify(t, r)
	t.Logf("longest time without an acknowledged row over the deaths of a replica and of the primary's agent: %d ms", r.LongestOutage(time.Time{}, time.Time{}).Length().Milliseconds())

	await(t, patience, "a leader beside the primary", func() (bool, string) {
		v = c.see(t)
		return v.Leader != "" && v.Leader != v.Primary.Node, words(v)
	})
	leader := string(v.Leader)
	route := c.names(primary, leader)[0]
	w = c.load(t, route)
	c.order(t, "stop-agent", leader)
	took := await(t, patience, "another leader", func() (bool, string) {
		now, err := c.view(route)
		return err == nil && now.Leader != "" && string(now.Leader) != leader, fmt.Sprint(words(now), err)
	})
	c.goesOn(t, w, route, 2*time.Second)
	c.order(t, "start-agent", leader)
	v = c.healthy(t)
	require.Equal(t, before.Epoch, v.Epoch, "the death of the leader changed a role")
	story := c.failsOver(t)
	r = w.Stop()
	c.verify(t, r)
	t.Logf("leader %s was replaced after %d ms; then epoch %s; clients' longest outage %d ms",
		leader, took.Milliseconds(), story, r.LongestOutage(time.Time{}, time.Time{}).Length().Milliseconds())
}

// TestColdStart: everything ends at once under load, and comes up again with
// every acknowledged row.
func TestColdStart(t *testing.T) {
	c := borrow(t)
	before := c.healthy(t)
	w := c.load(t, c.names()[0])
	await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })
	_, err := c.run("sandbox", "down", "--dir", c.dir)
	require.NoError(t, err)
	r := w.Stop()
	began := time.Now()
	_, err = c.run("sandbox", "up", "--dir", c.dir)
	require.NoError(t, err)
	took := time.Since(began)
	c.readInfo(t)
	after := c.healthy(t)
	require.Greater(t, after.Epoch, before.Epoch)
	c.following(t)
	c.verify(t, r)
	c.ledger(t)
	t.Logf("up again after %.1f s: primary %s (before: %s) of epoch %d; %d rows acknowledged before, all there, %d without answer",
		took.Seconds(), after.Primary.Node, before.Primary.Node, after.Epoch, r.Acknowledged(), r.Unknown())
}

// TestColdStartNodeByNode: with its servers crashed and its agents stopped, a
// cluster comes back in any order. Ackers that have been restarted prove nothing:
// without the primary nothing opens, and it is named. The primary opens as soon
// as one of them is there.
func TestColdStartNodeByNode(t *testing.T) {
	for _, order := range []struct {
		name  string
		first []int // who begins: 0 is the primary
		last  int
	}{
		{"the primary last", []int{1, 2}, 0},
		{"a replica last", []int{0, 1}, 2},
	} {
		t.Run(order.name, func(t *testing.T) {
			c := borrow(t)
			before := c.healthy(t)
			primary := string(before.Primary.Node)
			nodes := append([]string{primary}, c.names(primary)...)
			w := c.load(t, primary)
			await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })
			c.each(t, "stop-agent", nodes...)
			c.each(t, "kill", nodes...)
			r := w.Stop()
			began := time.Now()
			start := func(who ...int) {
				for _, i := range who {
					c.order(t, "start", nodes[i])
					c.order(t, "start-agent", nodes[i])
				}
			}
			start(order.first...)
			opened := func() (bool, string) {
				v := c.see(t)
				return v.Primary != nil && v.Primary.Epoch > before.Epoch && v.Primary.Phase == "open" && v.Operation == nil, words(v)
			}
			if order.last == 0 {
				for _, acker := range nodes[1:] {
					c.stuck(t, acker, acker+": its server restarted and has not caught up since")
				}
				t.Log(c.stuck(t, nodes[1], "for the old primary "+primary))
				rest(3 * time.Second) // in which one that did not wait would have been promoted
				require.Empty(t, c.writable(t), "opened without proof")
				start(0)
			}
			await(t, patience, "the primary to open", opened)
			took := time.Since(began)
			if order.last != 0 {
				start(order.last)
			}
			after := c.healthy(t)
			require.Equal(t, primary, string(after.Primary.Node))
			c.following(t)
			c.verify(t, r)
			c.lostNothing(t)
			t.Logf("open %.1f s after the first was started; %d rows acknowledged before, all there; epoch %s",
				took.Seconds(), r.Acknowledged(), c.story(t, before.Epoch))
		})
	}
}

// each gives all of some nodes an order at once.
func (c *cluster) each(t *testing.T, command string, nodes ...string) {
	t.Helper()
	var orders sync.WaitGroup
	for _, n := range nodes {
		orders.Go(func() { c.order(t, command, n) })
	}
	orders.Wait()
}
