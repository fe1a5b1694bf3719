package acceptance

import (
	"fmt"
	"maps"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// E8: TestRestoredEtcd: etcd is put back to the record of a former primary. Who
// serves goes on, every agent says what is wrong, and nobody acts on what is
// past; an operator's order begins a new epoch above all that were seen, with
// nothing lost.
func TestRestoredEtcd(t *testing.T) {
	c := own(t)
	before := c.healthy(t)
	home, away := string(before.Primary.Node), c.names(string(before.Primary.Node))[0]
	store := c.etcdOf(t, away)
	backup, _ := record(t, store)
	status, report, problem := c.switchover(t, away, away)
	require.Equal(t, 200, status, "%+v %+v", report, problem)
	now := c.healthy(t)
	w := c.load(t, away)
	await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })

	rewrite(t, store, func(fields map[string]any) {
		clear(fields)
		maps.Copy(fields, backup)
	})
	for _, n := range c.names() {
		await(t, patience, n+" to say so", func() (bool, string) {
			g := c.closedGate(n, "record_current")
			return g != nil, fmt.Sprint(g)
		})
	}
	acked := w.Acknowledged()
	rest(3 * time.Second) // in which the former primary would have been resumed
	require.Equal(t, []string{away}, c.writable(t), "who serves goes on")
	require.Greater(t, w.Acknowledged(), acked+100, "and so do those that acknowledge")
	fields, _ := record(t, store)
	require.Equal(t, backup["epoch"], fields["epoch"], "nobody acts on a record that is past")
	said, err := c.run("status", "--dir", c.dir)
	require.NoError(t, err)
	require.Contains(t, said, "etcd was put back to an older state")
	out, err := c.run("switchover", "--dir", c.dir)
	require.Error(t, err, out)
	require.Contains(t, out, "record_current")

	p, err := c.preview(away)
	require.NoError(t, err)
	require.Equal(t, away, string(p.Bound.Candidate), "of those that have as much, who is open")
	out, err = c.run("failover", "--force", "--dir", c.dir, "--cluster", p.Cluster, "--epoch", fmt.Sprint(p.Epoch), "--confirm", p.Bound.Confirm, "--by", "the acceptance test")
	require.NoError(t, err, out)
	after := c.healthy(t)
	require.Greater(t, after.Epoch, now.Epoch)
	require.Equal(t, away, string(after.Primary.Node))
	c.following(t)
	c.verify(t, w.Stop())
	t.Logf("%s was primary in the record, %s in fact; epoch %s", home, away, c.story(t, now.Epoch))
}

// M6: TestPrimaryPutBack: the primary's disk is put back to an older state, as a
// virtual machine is, or loses the end of its binary log with the power. It comes
// back before anybody has judged it, closed and sound to look at. Opened, it would
// give the numbers of what it has lost to other commits: another one takes over, and
// it is rebuilt, as replication passes over what a server wrote itself.
func TestPrimaryPutBack(t *testing.T) {
	c := borrow(t)
	before := c.healthy(t)
	primary := string(before.Primary.Node)
	witness := c.names(primary)[0]
	w := c.load(t, witness)
	await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })

	// A copy of its disk, as of a moment at which it was killed.
	out, err := c.run("pause", "--dir", c.dir, "--reason", "a copy is made")
	require.NoError(t, err, out)
	c.order(t, "kill", primary)
	data := c.node(primary).MySQL.Datadir
	copied := data + ".copy"
	text, err := exec.CommandContext(t.Context(), "cp", "-a", data, copied).CombinedOutput()
	require.NoError(t, err, "%s", text)
	c.order(t, "start", primary)
	acked := 0
	await(t, patience, "writes again, with it", func() (bool, string) {
		if acked == 0 && len(c.writable(t)) == 1 {
			acked = w.Acknowledged()
		}
		return acked > 0 && w.Acknowledged() > acked+enough, "too few rows"
	})

	c.order(t, "kill", primary)
	// Moved away first: the agent still tries the disk it finds there.
	text, err = exec.CommandContext(t.Context(), "sh", "-c", `mv "$0" "$0.lost" && mv "$1" "$0" && rm -rf "$0.lost"`, data, copied).CombinedOutput()
	require.NoError(t, err, "%s", text)
	c.order(t, "start", primary)
	await(t, patience, "the agents to say so", func() (bool, string) {
		g := c.closedGate(witness, "not_paused")
		return g != nil, fmt.Sprint(g)
	})
	rest(3 * time.Second) // in which it would have been opened
	require.Empty(t, c.writable(t), "opened without what it had acknowledged")
	out, err = c.run("resume", "--dir", c.dir)
	require.NoError(t, err, out)
	after := c.moved(t, before, witness)
	require.NotEqual(t, primary, string(after.Primary.Node))
	require.Contains(t, c.ledger(t)[uint64(after.Epoch)].Cause, "transactions of its own")
	c.healthy(t)
	c.following(t)
	logs := ""
	for _, n := range c.names() { // whoever led then
		logs += c.log(t, n)
	}
	require.Contains(t, logs, "lost transactions of its own, which replication does not bring back: rebuilding")
	c.verify(t, w.Stop())
	c.lostNothing(t)
	t.Logf("epoch %s", c.story(t, before.Epoch))
}
