package cutoff

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/failover/api"
	"interrex/internal/topology"
)

var rounds = flag.Int("rounds", 1, "how often TestSilentHost silences the primary's host")

// What is wanted of a silent host, and what is asked for on a machine that may be
// busy with other tests.
const (
	silentBar   = time.Second
	silentLimit = 3 * time.Second
)

// TestSilentHost measures how long it takes from the moment at which the packets
// of the primary's host are dropped until each of the others judges it failed.
func TestSilentHost(t *testing.T) {
	c := borrow(t)
	var all []time.Duration
	for range *rounds {
		old := c.healthy(t, c.Nodes[0].Name)
		others := c.others(old)
		began := time.Now()
		heal := c.cut(t, c.apart(old, others...)...)
		took, said := make(chan time.Duration, len(others)), make(chan string, len(others))
		for _, by := range others {
			go func() {
				at, words := c.judgedFailed(t.Context(), by, old)
				took <- at.Sub(began)
				said <- words
			}()
		}
		for range others {
			d, words := <-took, <-said
			require.Contains(t, words, old+" is failed", "nobody found it failed")
			all = append(all, d)
			if len(all) == 1 {
				t.Log(words)
			}
		}
		heal()
		for _, n := range c.Nodes {
			c.healthy(t, n.Name)
		}
	}
	slices.Sort(all)
	t.Logf("a silent host was judged failed after %v at least, %v in the middle, %v at most (%d rounds, %d members each; the bar is %v)",
		all[0].Round(time.Millisecond), all[len(all)/2].Round(time.Millisecond), all[len(all)-1].Round(time.Millisecond), *rounds, len(c.Nodes)-1, silentBar)
	require.LessOrEqual(t, all[len(all)-1], silentLimit)
}

// judgedFailed asks a node until it judges another one failed, or for as long as
// tests are patient; it returns when that was, and the explanation.
func (c *cluster) judgedFailed(ctx context.Context, by, subject string) (time.Time, string) {
	var j api.Judgement
	for began := time.Now(); time.Since(began) < patience && ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
		_, text, err := c.get(by, "/api/v1/members/"+subject+"/evidence")
		if err == nil {
			err = json.Unmarshal([]byte(text), &j)
		}
		if err == nil && j.Verdict == topology.Failed {
			break
		}
	}
	return time.Now(), fmt.Sprintf("%s says: %s", by, j.Explanation)
}
