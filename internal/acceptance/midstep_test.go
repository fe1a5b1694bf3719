package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"interrex/election"
)

// TestLeaderDiesWithinAStep: the leader is killed in the middle of a step of a
// failover, at moments that servers and etcd's record show. Some would be over in
// a millisecond: there a server stands still, or its applier does, until the
// leader is dead.
func TestLeaderDiesWithinAStep(t *testing.T) {
	c := borrow(t)
	var told []string
	type amid struct {
		name string
		done string // the step before
		at   moment
	}
	for _, m := range drawn(t, []amid{
		{"one acker is revoked, the other is not", "claim", oneRevoked},
		{"the candidate catches up", "choose", catchingUp},
		{"the new primary is recorded", "catch_up", recorded},
		{"the marker waits for its acknowledgement", "catch_up", markerWaits},
	}, 1) {
		t.Run(m.name, func(t *testing.T) {
			d := c.inTime(t, false, func() death {
				d := c.leaderDies(t, "failover", "", m.at)
				if d.late == "" && d.step != m.done {
					d.late = fmt.Sprintf("step %s of epoch %d was done", d.step, d.epoch)
				}
				return d
			})
			told = append(told, fmt.Sprintf("%-40s %s", m.name, d))
			require.LessOrEqual(t, d.led, *takeOver, "another one led too late")
			require.LessOrEqual(t, d.ended-d.led, *takeOver, "the operation ended too late")
		})
	}
	t.Logf("how the leader died:\n%s", strings.Join(told, "\n"))
}

// oneRevoked: the third's server stands still from before the claim until after
// the leader's death, which comes when the receiver of the leader's own is
// stopped.
func oneRevoked(t *testing.T, x *scene) func() {
	stop, goOn := x.stoppable(t, x.witness)
	begun := x.afterLine(t, x.leader, func(string) { stop() }, func(l logLine) bool { return l.Message == "operation begins" && l.Kind == x.kind })
	return func() {
		defer goOn()
		if !(<-begun).IsZero() && x.until(t, x.leader, "SELECT service_state = 'OFF' FROM performance_schema.replication_connection_status") {
			x.kill(t)
		}
	}
}

// catchingUp: nobody can apply what was received last, until the leader is dead.
func catchingUp(t *testing.T, x *scene) func() {
	var releases []func()
	for _, n := range x.names(x.old) {
		releases = append(releases, x.holdApplier(t, n, "load"))
	}
	more(t, x.clients)
	strike := after("choose")(t, x)
	return func() {
		strike()
		for _, release := range releases {
			release()
		}
	}
}

// recorded: etcd's record names the new primary, which is closed.
func recorded(t *testing.T, x *scene) func() {
	named := x.recorded(t)
	return func() {
		if <-named != "" {
			x.kill(t)
		}
	}
}

// markerWaits: the server of the only one that could acknowledge the marker
// stands still from the record on, until the leader is dead.
func markerWaits(t *testing.T, x *scene) func() {
	named := x.recorded(t)
	stop, goOn := map[string]func(){}, map[string]func(){}
	for _, n := range x.names(x.old) {
		stop[n], goOn[n] = x.stoppable(t, n)
	}
	return func() {
		candidate := <-named
		if candidate == "" {
			return
		}
		acker := x.names(x.old, candidate)[0]
		stop[acker]()
		defer goOn[acker]()
		if x.until(t, candidate, "SELECT variable_value > 0 FROM performance_schema.global_status WHERE variable_name = 'Rpl_semi_sync_source_wait_sessions'") {
			x.kill(t)
		}
	}
}

// stoppable has a node's server stand still and go on without a moment's delay;
// it goes on when the test ends.
func (x *scene) stoppable(t *testing.T, node string) (stop, goOn func()) {
	t.Helper()
	pid := pidIn(t, x.node(node).MySQL.PIDFile)
	goOn = func() { _ = syscall.Kill(pid, syscall.SIGCONT) }
	t.Cleanup(goOn)
	return func() { _ = syscall.Kill(pid, syscall.SIGSTOP) }, goOn
}

// until asks a server every millisecond until it says 1, for as long as a step
// of an operation may take.
func (x *scene) until(t *testing.T, node, query string) bool {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); rest(time.Millisecond) {
		if said, err := x.ask(t.Context(), node, query); err == nil && said == "1" {
			return true
		}
	}
	return false
}

// recorded tells the new primary as soon as the record names it; an empty name
// if it never does.
func (x *scene) recorded(t *testing.T) <-chan string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	changes := x.etcdOf(t, x.witness).Watch(ctx, recordKey, clientv3.WithCreatedNotify())
	first := <-changes
	require.True(t, first.Created, "%v", first.Err())
	named := make(chan string, 1)
	go func() { // ends with ctx
		defer close(named)
		for answer := range changes {
			for _, event := range answer.Events {
				var s election.State
				if json.Unmarshal(event.Kv.Value, &s) == nil && s.Primary != nil && s.Primary.Epoch > x.before.Epoch && s.Primary.Phase == election.Promoting {
					named <- string(s.Primary.Node)
					return
				}
			}
		}
	}()
	return named
}
