package acceptance

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/failover"
	"interrex/failover/api"
	"interrex/internal/sandbox"
	"interrex/internal/workload"
)

// TestLeaderDiesAfterEachStep: the leader is killed as soon as its log says
// that a step is done, and stays dead until another one leads. That one finds
// the operation in the record and completes or undoes it within the limit, under
// an epoch of its own, and nothing that was acknowledged is missing.
func TestLeaderDiesAfterEachStep(t *testing.T) {
	c := borrow(t)
	var told []string
	for _, operation := range []struct {
		kind  string
		steps []string
	}{
		{"failover", []string{"claim", "revoke", "choose", "catch_up", "promote", "route", "verify"}},
		{"switchover", []string{"claim", "prepare", "revoke", "choose", "catch_up", "promote", "route", "verify"}},
	} {
		for _, step := range drawn(t, operation.steps, 2) {
			// After the last one only the record is left to be closed, which takes
			// as long as to be killed.
			last := step == "verify"
			t.Run(operation.kind+" "+step, func(t *testing.T) {
				d := c.inTime(t, last, func() death { return c.leaderDies(t, operation.kind, "", after(step)) })
				told = append(told, fmt.Sprintf("%-10s after %-8s %s", operation.kind, step, d))
				require.LessOrEqual(t, d.led, *takeOver, "another one led too late")
				require.LessOrEqual(t, d.ended-d.led, *takeOver, "the operation ended too late")
			})
		}
	}
	t.Logf("how the leader died:\n%s", strings.Join(told, "\n"))
}

// drawn are n of all, or with -each-step all of them: each costs a failover and
// the old primary's return. Which they were, the tests' names say.
func drawn[T any](t *testing.T, all []T, n int) []T {
	t.Helper()
	if *eachStep {
		return all
	}
	t.Logf("%d of %d moments are drawn; all of them: -args -each-step", n, len(all))
	out := slices.Clone(all)
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] }) //nolint:gosec // nobody is to guess it
	return out[:n]
}

// withMore is the limit where something else happens with the leader's death: a
// second one is to be found dead, or a server starts beside it. A new leader that
// has tried in vain waits up to 5 s before it tries again.
const withMore = 10 * time.Second

// TestLeaderDiesAndMore: with the leader the candidate of a switchover dies, or
// after it the old primary of a failover comes back.
func TestLeaderDiesAndMore(t *testing.T) {
	c := borrow(t)
	var told []string
	for _, operation := range []struct {
		kind, meanwhile string
		steps           []string
	}{
		{"switchover", candidateDies, []string{"prepare", "revoke", "catch_up", "promote"}},
		{"failover", oldPrimaryReturns, []string{"claim", "revoke", "promote"}},
	} {
		for _, step := range drawn(t, operation.steps, 1) {
			t.Run(operation.kind+" "+step, func(t *testing.T) {
				d := c.inTime(t, false, func() death { return c.leaderDies(t, operation.kind, operation.meanwhile, after(step)) })
				told = append(told, fmt.Sprintf("%-10s after %-8s %s", operation.kind, step, d))
				require.LessOrEqual(t, d.led, *takeOver, "another one led too late")
				require.LessOrEqual(t, d.ended-d.led, withMore, "the operation ended too late")
			})
		}
	}
	t.Logf("how the leader died:\n%s", strings.Join(told, "\n"))
}

// What happens with the leader's death.
const (
	candidateDies     = "the candidate dies"
	oldPrimaryReturns = "the old primary returns"
)

// tries is how often a leader may be killed too late.
const tries = 3

// inTime has leaders die until one does before its operation has ended. Who was
// killed too late left nothing to take over: that has shown nothing, and failed
// in nothing, so that it is done again is no second chance for what went wrong.
// Where it may be late it is done once.
func (c *cluster) inTime(t *testing.T, mayBeLate bool, die func() death) (d death) {
	t.Helper()
	for n := range tries {
		d = die()
		if d.late == "" || mayBeLate {
			return d
		}
		t.Logf("killed too late, %d of %d: %s", n+1, tries, d.late)
	}
	require.FailNow(t, "the leader was killed too late each time", d.late)
	return d
}

// scene is a leader that is to die amid an operation.
type scene struct {
	*cluster
	kind                 string
	before               api.Cluster
	old, leader, witness string // the primary, who leads, and the third
	clients              *workload.Workload
	plan                 sandbox.Cluster
	pid                  int // of the leader's agent
	died                 time.Time
}

func (c *cluster) scene(t *testing.T, kind string) *scene {
	t.Helper()
	x := &scene{cluster: c, kind: kind, before: c.led(t)}
	x.old, x.leader = string(x.before.Primary.Node), string(x.before.Leader)
	x.witness = c.names(x.old, x.leader)[0]
	x.clients = c.load(t, x.witness)
	await(t, patience, "load", func() (bool, string) { return x.clients.Acknowledged() > enough, "too few rows" })
	x.pid = pidIn(t, c.node(x.leader).Agent.PIDFile)
	var err error
	x.plan, err = sandbox.Load(c.dir)
	require.NoError(t, err)
	return x
}

// kill ends the leader's agent, and its etcd with it, until it is started again.
// It is stopped first, which takes no time.
func (x *scene) kill(t *testing.T) {
	x.died = time.Now()
	_ = syscall.Kill(x.pid, syscall.SIGSTOP)
	if err := x.plan.StopAgent(t.Context(), x.leader); err != nil {
		t.Errorf("the leader was not killed: %v", err)
	}
}

// moment prepares to kill the leader; what it returns runs beside the operation,
// and kills it when its moment has come.
type moment func(t *testing.T, x *scene) (strike func())

// after is when the leader logs that a step is done.
func after(step string) moment {
	return func(t *testing.T, x *scene) func() {
		done := x.afterStep(t, x.leader, x.kind, step, func(string) { x.kill(t) })
		return func() { <-done }
	}
}

// death is how a leader died, and what became of its operation.
type death struct {
	epoch uint64
	step  string // the last one that it logged as done
	late  string // why it was no death amid the operation
	next  string // who went on, and how
	// How long after it another one led, and that operation had ended.
	led, ended time.Duration
}

func (d death) String() string {
	return fmt.Sprintf("dead after %-8s another one led after %.1f s, ended after %.1f s: %s", d.step, d.led.Seconds(), d.ended.Seconds(), cmp.Or(d.next, "too late"))
}

// leaderDies kills the leader amid an operation, and looks at what comes of it.
func (c *cluster) leaderDies(t *testing.T, kind, meanwhile string, at moment) death {
	x := c.scene(t, kind)
	x.strike(t, meanwhile, at)
	var d death
	d.led = x.another(t)
	await(t, patience, "the end of the operation", func() (bool, string) {
		v, err := c.view(x.witness)
		d.ended = time.Since(x.died)
		return err == nil && v.Operation == nil && v.Epoch > x.before.Epoch && v.Primary != nil &&
			v.Primary.Epoch == v.Epoch && v.Primary.Phase == "open", fmt.Sprint(words(v), err)
	})
	more(t, x.clients)
	switch {
	case meanwhile == candidateDies:
		c.order(t, "start", x.witness)
	case kind == "failover" && meanwhile == "":
		c.order(t, "start", x.old)
	}
	c.healthy(t)
	c.following(t)
	c.verify(t, x.clients.Stop())
	c.lostNothing(t)
	x.judge(t, &d)
	t.Logf("%s led, %s was the primary; %s; %s; epoch %s", x.leader, x.old, cmp.Or(meanwhile, "nothing else happened"), d, c.story(t, x.before.Epoch))
	return d
}

// strike begins the operation and returns when the leader is dead, and what
// happens with its death has happened.
func (x *scene) strike(t *testing.T, meanwhile string, at moment) {
	t.Helper()
	struck := make(chan struct{})
	strike := at(t, x)
	go func() {
		defer close(struck)
		strike()
	}()
	stop := func() {}
	if x.kind == "failover" {
		x.order(t, "kill", x.old)
	} else {
		to := ""
		if meanwhile == candidateDies {
			to = x.witness
		}
		stop = x.orderSwitchover(t, x.witness, to)
	}
	<-struck
	stop()
	require.False(t, x.died.IsZero(), "the moment to kill %s never came", x.leader)
	switch meanwhile {
	case candidateDies:
		require.NoError(t, x.plan.Kill(t.Context(), x.witness))
	case oldPrimaryReturns:
		var returning sync.WaitGroup
		t.Cleanup(returning.Wait)
		returning.Go(func() { x.order(t, "start", x.old) })
	}
}

// another waits for another leader, and then starts the agent that died: its
// server may be needed, and earlier it would take its leadership up again itself.
func (x *scene) another(t *testing.T) (led time.Duration) {
	t.Helper()
	await(t, patience, "another leader", func() (bool, string) {
		v, err := x.view(x.witness)
		led = time.Since(x.died)
		return err == nil && v.Leader != "" && string(v.Leader) != x.leader, fmt.Sprint(words(v), err)
	})
	x.order(t, "start-agent", x.leader)
	return led
}

// judge says from the log of who died how far it had come, and from the ledger
// who went on.
func (x *scene) judge(t *testing.T, d *death) {
	t.Helper()
	for line := range strings.Lines(x.log(t, x.leader)) {
		var said logLine
		if json.Unmarshal([]byte(line), &said) == nil && said.Message == "step done" && said.Kind == x.kind && said.Epoch > uint64(x.before.Epoch) {
			d.epoch, d.step = said.Epoch, said.Step
		}
	}
	entries := x.ledger(t)
	own, next := entries[d.epoch], uint64(0)
	for _, epoch := range slices.Sorted(maps.Keys(entries)) {
		if next == 0 && epoch > d.epoch {
			next = epoch
		}
	}
	// It is told to have been left by who found it in the record; where its own
	// entry was written already, and the record not closed, by the next one's.
	left := fmt.Sprintf("%s of epoch %d was left at step ", x.kind, d.epoch)
	switch {
	case own.Outcome == failover.Superseded && strings.HasPrefix(own.Reason, "left at step "):
	case own.Outcome == failover.Completed && next != 0 && strings.HasPrefix(entries[next].Cause, left):
	default:
		d.late = fmt.Sprintf("%s of epoch %d ended as %s after step %s", x.kind, d.epoch, own.Outcome, d.step)
		return
	}
	require.Equal(t, x.leader, string(own.Leader))
	require.NotZero(t, next, "nobody went on with epoch %d: %s", d.epoch, own.Reason)
	require.NotEqual(t, x.leader, string(entries[next].Leader), "who died went on itself")
	d.next = fmt.Sprintf("%s by %s, %s", entries[next].Kind, entries[next].Leader, entries[next].Outcome)
}

// orderSwitchover asks a node for one in the background (to the best candidate
// if to is empty), again and again while it is refused because the candidate
// lags for the moment, until stop is called.
func (c *cluster) orderSwitchover(t *testing.T, node, to string) (stop func()) {
	t.Helper()
	asking, stop := context.WithCancel(t.Context())
	var order sync.WaitGroup
	t.Cleanup(func() { stop(); order.Wait() })
	order.Go(func() {
		for asking.Err() == nil {
			status, _, err := c.call(http.MethodPost, node, "/api/v1/switchover", c.info.OperatorToken, fmt.Sprintf(`{"to":%q}`, to))
			if err != nil || status != http.StatusConflict {
				return // or who asked is left without an answer
			}
			rest(100 * time.Millisecond)
		}
	})
	return stop
}

// signalAfter sends an agent a signal when it logs that a step is done, and
// tells when that was; the zero time if it never was.
func (c *cluster) signalAfter(t *testing.T, node, kind, step string, signal syscall.Signal) <-chan time.Time {
	t.Helper()
	pid := pidIn(t, c.node(node).Agent.PIDFile)
	return c.afterStep(t, node, kind, step, func(string) { _ = syscall.Kill(pid, signal) })
}

// logLine is what of an agent's log is looked at.
type logLine struct {
	Message, Kind, Step, Detail string
	Epoch                       uint64
}

// afterStep acts when an agent logs that a step is done, and then sends when
// that was; the zero time if it never was.
func (c *cluster) afterStep(t *testing.T, node, kind, step string, act func(detail string)) <-chan time.Time {
	t.Helper()
	return c.afterLine(t, node, act, func(l logLine) bool { return l.Message == "step done" && l.Kind == kind && l.Step == step })
}

// afterLine acts when an agent logs a line that is looked for.
func (c *cluster) afterLine(t *testing.T, node string, act func(detail string), looked func(logLine) bool) <-chan time.Time {
	t.Helper()
	log, err := os.Open(c.node(node).Agent.LogFile)
	require.NoError(t, err)
	_, err = log.Seek(0, io.SeekEnd)
	require.NoError(t, err)
	acted := make(chan time.Time, 1)
	var watching sync.WaitGroup
	t.Cleanup(watching.Wait)
	watching.Go(func() {
		defer log.Close()
		defer close(acted)
		var text []byte
		for end := time.Now().Add(patience); time.Now().Before(end); rest(time.Millisecond) {
			more, err := io.ReadAll(log)
			if err != nil {
				return
			}
			text = append(text, more...)
			for {
				line, left, whole := bytes.Cut(text, []byte("\n"))
				if !whole {
					break
				}
				text = left
				var said logLine
				if json.Unmarshal(line, &said) == nil && looked(said) {
					act(said.Detail)
					acted <- time.Now()
					return
				}
			}
		}
	})
	return acted
}

// led waits until a member leads that is not on the primary's node, where
// leadership stays for a moment after an operation.
func (c *cluster) led(t *testing.T) (v api.Cluster) {
	t.Helper()
	await(t, patience, "a leader off the primary's node", func() (bool, string) {
		v = c.healthy(t)
		return v.Leader != "" && v.Leader != v.Primary.Node, words(v)
	})
	return v
}
