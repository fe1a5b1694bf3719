package acceptance

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/failover/api"
)

// TestLeaderDiesAfterEachStep: the leader is killed as soon as its log says
// that a step is done. Whatever the step, another leader completes or undoes
// the operation within the limit, and nothing that was acknowledged is missing.
func TestLeaderDiesAfterEachStep(t *testing.T) {
	c := borrow(t)
	var times []string
	for _, operation := range []struct {
		kind  string
		steps []string
	}{
		{"failover", []string{"claim", "revoke", "choose", "catch_up", "promote", "route", "verify"}},
		{"switchover", []string{"claim", "prepare", "revoke", "choose", "catch_up", "promote", "route", "verify"}},
	} {
		for _, step := range operation.steps {
			t.Run(operation.kind+" "+step, func(t *testing.T) {
				ended := c.leaderDies(t, operation.kind, step, "")
				times = append(times, fmt.Sprintf("%-10s %-8s %.1f s", operation.kind, step, ended.Seconds()))
				require.LessOrEqual(t, ended, *takeOver, "the operation ended too late")
			})
		}
	}
	t.Logf("from the leader's death to the end of the operation:\n%s", strings.Join(times, "\n"))
}

// TestLeaderDiesAndMore: with the leader the candidate of a switchover dies, or
// after it the old primary of a failover comes back.
func TestLeaderDiesAndMore(t *testing.T) {
	c := borrow(t)
	for _, operation := range []struct {
		kind, meanwhile string
		steps           []string
	}{
		{"switchover", candidateDies, []string{"prepare", "revoke", "catch_up", "promote"}},
		{"failover", oldPrimaryReturns, []string{"claim", "revoke", "promote"}},
	} {
		for _, step := range operation.steps {
			t.Run(operation.kind+" "+step, func(t *testing.T) { c.leaderDies(t, operation.kind, step, operation.meanwhile) })
		}
	}
}

// What happens with the leader's death.
const (
	candidateDies     = "the candidate dies"
	oldPrimaryReturns = "the old primary returns"
)

// leaderDies kills the leader after a step of an operation, and returns how long
// after that it had ended.
func (c *cluster) leaderDies(t *testing.T, kind, step, meanwhile string) (ended time.Duration) {
	before := c.led(t)
	old, leader := string(before.Primary.Node), string(before.Leader)
	witness := c.names(old, leader)[0]
	w := c.load(t, witness)
	await(t, patience, "load", func() (bool, string) { return w.Acknowledged() > enough, "too few rows" })

	died := c.signalAfter(t, leader, kind, step, syscall.SIGKILL)
	stop := func() {}
	if kind == "failover" {
		c.order(t, "kill", old)
	} else {
		to := ""
		if meanwhile == candidateDies {
			to = witness
		}
		stop = c.orderSwitchover(t, witness, to)
	}
	killed := <-died
	stop()
	require.False(t, killed.IsZero(), "%s never logged that step %s of a %s is done", leader, step, kind)
	switch meanwhile {
	case candidateDies:
		c.order(t, "kill", witness)
	case oldPrimaryReturns:
		c.order(t, "start", old)
	}
	acked := w.Acknowledged()
	await(t, patience, "writes after the leader died", func() (bool, string) {
		return w.Acknowledged() > acked+enough, fmt.Sprintf("%d rows", w.Acknowledged()-acked)
	})
	writing := time.Since(killed)
	await(t, patience, "the end of the operation", func() (bool, string) {
		v, err := c.view(witness)
		ended = time.Since(killed)
		return err == nil && v.Operation == nil && v.Epoch > before.Epoch && v.Primary != nil && v.Primary.Phase == "open", fmt.Sprint(words(v), err)
	})
	switch {
	case meanwhile == candidateDies:
		c.order(t, "start", witness)
	case kind == "failover" && meanwhile == "":
		c.order(t, "start", old)
	}
	c.healthy(t)
	c.following(t)
	r := w.Stop()
	c.verify(t, r)
	c.lostNothing(t)
	t.Logf("%s led, %s was the primary; %s; the writes %.1f s and the operation's end %.1f s after the leader's death; epoch %s",
		leader, old, cmp.Or(meanwhile, "nothing else happened"), writing.Seconds(), ended.Seconds(), c.story(t, before.Epoch))
	return ended
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

// afterStep acts when an agent logs that a step is done, and then sends when
// that was; the zero time if it never was.
func (c *cluster) afterStep(t *testing.T, node, kind, step string, act func(detail string)) <-chan time.Time {
	t.Helper()
	log, err := os.Open(c.node(node).Agent.LogFile)
	require.NoError(t, err)
	_, err = log.Seek(0, io.SeekEnd)
	require.NoError(t, err)
	died := make(chan time.Time, 1)
	var watching sync.WaitGroup
	t.Cleanup(watching.Wait)
	watching.Go(func() {
		defer log.Close()
		defer close(died)
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
				var entry struct{ Message, Kind, Step, Detail string }
				if json.Unmarshal(line, &entry) == nil && entry.Message == "step done" && entry.Kind == kind && entry.Step == step {
					act(entry.Detail)
					died <- time.Now()
					return
				}
			}
		}
	})
	return died
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
