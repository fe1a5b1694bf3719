package acceptance

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"interrex/failover/api"
	"interrex/internal/sandbox"
	"interrex/internal/workload"
)

// The tests here are rows of docs/faults.md, after which they are named.

// underLoad is a load through the route of a node that is not the primary's,
// which has begun to be acknowledged.
func (c *cluster) underLoad(t *testing.T, before api.Cluster) *workload.Workload {
	t.Helper()
	w := c.load(t, c.names(string(before.Primary.Node))[0])
	await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })
	return w
}

// more waits until further rows are acknowledged.
func more(t *testing.T, w *workload.Workload) {
	t.Helper()
	acked := w.Acknowledged()
	await(t, patience, "further rows", func() (bool, string) { return w.Acknowledged() > acked+enough, fmt.Sprint(w.Acknowledged() - acked) })
}

// whole waits until all is well, and compares what clients were told with what
// is there.
func (c *cluster) whole(t *testing.T, w *workload.Workload) api.Cluster {
	t.Helper()
	more(t, w)
	v := c.healthy(t)
	c.following(t)
	c.verify(t, w.Stop())
	c.lostNothing(t)
	return v
}

// TestN2PrimaryRestartedAtOnce: the primary's server is killed, and started
// again by its service before anybody has decided anything. It is the primary
// again or another one is; under its old epoch it takes no write.
func TestN2PrimaryRestartedAtOnce(t *testing.T) {
	c := borrow(t)
	before := c.healthy(t)
	old := string(before.Primary.Node)
	w := c.underLoad(t, before)
	pid := pidIn(t, c.node(old).MySQL.PIDFile)
	killed := time.Now()
	_, err := c.run("sandbox", "restart", old, "--dir", c.dir)
	require.NoError(t, err)
	await(t, patience, "a primary of a higher epoch", func() (bool, string) {
		v := c.see(t)
		open := c.writable(t)
		require.False(t, slices.Contains(open, old) && v.Epoch == before.Epoch && time.Since(killed) > time.Second, "%s is open in its old epoch: %s", old, words(v))
		return v.Epoch > before.Epoch && v.Operation == nil && v.Primary.Phase == "open", words(v)
	})
	again := pidIn(t, c.node(old).MySQL.PIDFile)
	v := c.whole(t, w)
	require.NotEqual(t, pid, again, "%s was not started again", old)
	t.Logf("%s was killed, and the primary is %s; epoch %s", old, v.Primary.Node, c.story(t, before.Epoch))
}

// hostLost is how long clients may be without an acknowledgement when the
// primary's host is gone, on a busy machine; etcd takes half a second to elect a
// leader.
const hostLost = 5 * time.Second

// TestN3PrimaryHostLost: server, agent and etcd member of the primary's host are
// gone at once, where that member leads etcd and where it does not. (Agents keep
// it elsewhere; it is there for some seconds after each promotion.)
func TestN3PrimaryHostLost(t *testing.T) {
	c := borrow(t)
	for _, leads := range []bool{true, false} {
		name := "another one leads etcd"
		if leads {
			name = "it leads etcd"
		}
		t.Run(name, func(t *testing.T) {
			before := c.healthy(t)
			old := string(before.Primary.Node)
			others := c.names(old)
			w := c.underLoad(t, before)
			plan, err := sandbox.Load(c.dir)
			require.NoError(t, err)
			etcd := others[0]
			if leads {
				etcd = old
			}
			term := c.leadEtcd(t, etcd)
			lost := time.Now()
			var power sync.WaitGroup
			for _, off := range []func(context.Context, string) error{plan.Kill, plan.StopAgent} {
				power.Go(func() { assert.NoError(t, off(t.Context(), old)) })
			}
			power.Wait()
			after := c.moved(t, before, others[0])
			more(t, w)
			served := time.Now()
			elected := c.etcdStatus(t, others[0]).RaftTerm > term
			c.order(t, "start", old)
			c.order(t, "start-agent", old)
			c.whole(t, w)
			outage := w.Stop().LongestOutage(lost, served).Length()
			t.Logf("%s led; clients' outage %d ms; etcd elected another leader: %v; epoch %s", before.Leader, outage.Milliseconds(), elected, c.story(t, before.Epoch))
			require.NotEqual(t, before.Primary.Node, after.Primary.Node)
			require.Less(t, outage, hostLost)
			if leads {
				require.True(t, elected, "its leader was on the host that was lost")
			}
		})
	}
}

// etcdStatus is what a node's member of etcd says of itself.
func (c *cluster) etcdStatus(t *testing.T, node string) *clientv3.StatusResponse {
	t.Helper()
	client := c.etcdOf(t, node)
	var status *clientv3.StatusResponse
	await(t, patience, "etcd of "+node, func() (bool, string) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var err error
		status, err = client.Status(ctx, client.Endpoints()[0])
		return err == nil, fmt.Sprint(err)
	})
	return status
}

// leadEtcd makes a node's member the leader of etcd, and returns its term. The
// agents move it off the primary's node within seconds.
func (c *cluster) leadEtcd(t *testing.T, node string) (term uint64) {
	t.Helper()
	await(t, patience, "etcd to be led by "+node, func() (bool, string) {
		own := c.etcdStatus(t, node)
		if own.Leader == own.Header.MemberId {
			term = own.RaftTerm
			return true, ""
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		var refused []error
		for _, o := range c.names(node) {
			if _, err := c.etcdOf(t, o).MoveLeader(ctx, own.Header.MemberId); err != nil {
				refused = append(refused, err) // only the leader gives it away
			}
		}
		return false, fmt.Sprint(refused)
	})
	return term
}

// TestN5FrozenAgentWakesAsNobody: the leader's agent stands still after a step of
// a switchover (T2), for longer than its lease; another one completes it or undoes
// it (where this machine was busy, and the first one came to its end before it
// stood still, there is nothing left to do), and what the first still has to send
// takes no effect (X5).
func TestN5FrozenAgentWakesAsNobody(t *testing.T) {
	c := borrow(t)
	for _, step := range []string{"claim", "revoke", "promote"} {
		t.Run(step, func(t *testing.T) {
			before := c.led(t)
			leader := string(before.Leader)
			witness := c.names(string(before.Primary.Node), leader)[0]
			w := c.load(t, witness)
			await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })
			pid := pidIn(t, c.node(leader).Agent.PIDFile)
			frozen := c.signalAfter(t, leader, "switchover", step, syscall.SIGSTOP)
			stop := c.orderSwitchover(t, witness, witness)
			t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGCONT) })
			at := <-frozen
			stop()
			require.False(t, at.IsZero(), "%s never logged that step %s is done", leader, step)
			var done api.Cluster
			await(t, patience, "another leader to end it", func() (bool, string) {
				var err error
				done, err = c.view(witness)
				return err == nil && done.Operation == nil && done.Primary.Phase == "open" && done.Primary.Epoch > before.Epoch && string(done.Leader) != leader, fmt.Sprint(words(done), err)
			})
			ended := time.Since(at)
			more(t, w)
			require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
			for began := time.Now(); time.Since(began) < 2*time.Second; rest(20 * time.Millisecond) {
				require.Equal(t, []string{string(done.Primary.Node)}, c.writable(t))
			}
			v := c.whole(t, w)
			require.Equal(t, done.Epoch, v.Epoch, "it moved somebody")
			require.Equal(t, done.Primary.Node, v.Primary.Node)
			t.Logf("%s led and was frozen, another one had ended it %.1f s later; epoch %s", leader, ended.Seconds(), c.story(t, before.Epoch))
		})
	}
}

// TestN7LastAckerDies: with both replicas dead writes wait, and nobody is told
// of one that did not; with one of them back they go on.
func TestN7LastAckerDies(t *testing.T) {
	c := borrow(t)
	before := c.healthy(t)
	primary := string(before.Primary.Node)
	w := c.underLoad(t, before)
	for _, n := range c.names(primary) {
		c.order(t, "kill", n)
	}
	rest(time.Second) // what was on its way
	acked := w.Acknowledged()
	for began := time.Now(); time.Since(began) < 5*time.Second; rest(100 * time.Millisecond) {
		require.Equal(t, acked, w.Acknowledged(), "acknowledged by nobody")
	}
	v := c.see(t)
	require.True(t, v.Durability.Lossless, words(v))
	require.Equal(t, before.Epoch, v.Epoch)
	armed, err := c.ask(t.Context(), primary, "SELECT @@global.rpl_semi_sync_source_enabled AND @@global.rpl_semi_sync_source_wait_no_replica")
	require.NoError(t, err)
	require.Equal(t, "1", armed)
	c.order(t, "start", c.names(primary)[0])
	more(t, w)
	c.order(t, "start", c.names(primary)[1])
	v = c.whole(t, w)
	require.Equal(t, before.Epoch, v.Epoch, "nobody was to be moved")
}

// TestN9AgentCrashLoop: the agent of the primary's node is killed as soon as it
// is of use again, five times.
func TestN9AgentCrashLoop(t *testing.T) {
	c := borrow(t)
	before := c.healthy(t)
	primary := string(before.Primary.Node)
	w := c.underLoad(t, before)
	var slowest time.Duration
	for range 5 {
		c.order(t, "stop-agent", primary)
		c.order(t, "start-agent", primary)
		slowest = max(slowest, await(t, patience, "the agent to be of use again", func() (bool, string) {
			v, err := c.view(primary)
			return err == nil && v.EtcdReachable && v.Primary != nil, fmt.Sprint(err)
		}))
	}
	v := c.whole(t, w)
	require.Equal(t, before.Epoch, v.Epoch, "a crash loop of its agent moved the primary")
	t.Logf("of use again after at most %.1f s", slowest.Seconds())
}

// TestE3PrimaryDiesWithoutQuorum: nothing is promoted until etcd has a quorum
// again, and then one.
func TestE3PrimaryDiesWithoutQuorum(t *testing.T) {
	c := borrow(t)
	before := c.healthy(t)
	old := string(before.Primary.Node)
	w := c.underLoad(t, before)
	resume := c.stopEtcd(t)
	c.order(t, "kill", old)
	for began := time.Now(); time.Since(began) < 5*time.Second; rest(100 * time.Millisecond) {
		require.Empty(t, c.writable(t), "promoted without a quorum")
	}
	resume()
	back := time.Now()
	after := c.moved(t, before, c.names(old)[0])
	took := time.Since(back)
	c.order(t, "start", old)
	v := c.whole(t, w)
	require.Equal(t, after.Epoch, v.Epoch, "a second one")
	t.Logf("a primary %.1f s after etcd was back; epoch %s", took.Seconds(), c.story(t, before.Epoch))
}

// TestM3ErrantReplicaIsRebuilt: somebody writes on a replica. That is saved, and
// the replica made a copy of the others again.
func TestM3ErrantReplicaIsRebuilt(t *testing.T) {
	c := borrow(t)
	before := c.healthy(t)
	w := c.underLoad(t, before)
	replica := c.names(string(before.Primary.Node))[0]
	uuid, err := c.ask(t.Context(), replica, "SELECT @@server_uuid")
	require.NoError(t, err)
	conn, err := c.roots[replica].Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	agent := pidIn(t, c.node(replica).Agent.PIDFile) // it would close the server in between
	require.NoError(t, syscall.Kill(agent, syscall.SIGSTOP))
	for _, statement := range []string{
		"SET GLOBAL super_read_only = OFF", "CREATE TABLE app.stray (id INT PRIMARY KEY)", "INSERT INTO app.stray VALUES (1)",
	} {
		if _, err = conn.ExecContext(t.Context(), statement); err != nil {
			break
		}
	}
	require.NoError(t, syscall.Kill(agent, syscall.SIGCONT))
	require.NoError(t, err)
	file := ""
	await(t, patience, "what it has alone to be saved", func() (bool, string) {
		m := find(c.see(t), replica)
		if m.Rebuild != nil {
			file = m.Rebuild.SavedFile
		}
		return file != "", fmt.Sprintf("%+v", m)
	})
	saved, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, string(saved), uuid)
	await(t, patience, "it to be rid of it", func() (bool, string) {
		n, err := c.ask(t.Context(), replica, "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'app' AND table_name = 'stray'")
		return err == nil && n == "0", fmt.Sprint(n, err)
	})
	v := c.whole(t, w)
	require.Equal(t, before.Epoch, v.Epoch)
}

// TestT4ClusterFrozen: everything stands still for longer than every lease
// and every window, and goes on: nobody has seen anybody fail.
func TestT4ClusterFrozen(t *testing.T) {
	c := borrow(t)
	before := c.healthy(t)
	w := c.underLoad(t, before)
	pids := c.etcdChildren(t)
	for _, n := range c.names() {
		pids = append(pids, pidIn(t, c.node(n).Agent.PIDFile), pidIn(t, c.node(n).MySQL.PIDFile))
	}
	all := func(signal syscall.Signal) {
		var group sync.WaitGroup
		for _, pid := range pids {
			group.Go(func() { _ = syscall.Kill(pid, signal) })
		}
		group.Wait()
	}
	all(syscall.SIGSTOP)
	t.Cleanup(func() { all(syscall.SIGCONT) })
	rest(6 * time.Second)
	all(syscall.SIGCONT)
	v := c.whole(t, w)
	require.Equal(t, before.Epoch, v.Epoch, "a pause of all moved somebody: %s", c.story(t, before.Epoch))
	status, _, problem := c.switchover(t, c.names()[0], "")
	require.Equal(t, http.StatusOK, status, "%+v", problem)
}

// TestM13ReplicaThatNeedsPurgedLogs: a replica was away for so long that the
// primary has none of the binary logs any more that it needs. It is rebuilt.
func TestM13ReplicaThatNeedsPurgedLogs(t *testing.T) {
	c := borrow(t)
	before := c.healthy(t)
	w := c.underLoad(t, before)
	primary := string(before.Primary.Node)
	away, stays := c.names(primary)[0], c.names(primary)[1]
	c.order(t, "kill", away)
	last, err := c.ask(t.Context(), primary, "SELECT @@gtid_executed")
	require.NoError(t, err)
	for _, node := range []string{primary, stays} {
		await(t, patience, "its logs to be purged on "+node, func() (bool, string) {
			_, err := c.roots[node].ExecContext(t.Context(), "FLUSH BINARY LOGS")
			require.NoError(t, err)
			file, err := c.ask(t.Context(), node, "SELECT SUBSTRING_INDEX(local->>'$.binary_log_file', '/', -1) FROM performance_schema.log_status")
			require.NoError(t, err)
			_, err = c.roots[node].ExecContext(t.Context(), "PURGE BINARY LOGS TO '"+file+"'")
			require.NoError(t, err)
			lacks, err := c.ask(t.Context(), node, "SELECT GTID_SUBTRACT(@@gtid_purged, '"+strings.ReplaceAll(last, "\n", "")+"')")
			require.NoError(t, err)
			return lacks != "", lacks
		})
	}
	c.order(t, "start", away)
	v := c.whole(t, w)
	require.Equal(t, before.Epoch, v.Epoch)
	require.Contains(t, c.log(t, string(v.Leader))+c.log(t, primary)+c.log(t, away)+c.log(t, stays),
		"instance needs binary logs that the primary has purged: rebuilding")
}
