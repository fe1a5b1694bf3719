package cutoff

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/alonetest"
	"interrex/internal/nethost"
)

// TestW2SmallSideWithAnAcker is row W2: the primary and one of its ackers are cut
// off from the other three nodes, and clients reach them. Where a commit needs
// two ackers, the larger side goes on and the smaller one answers nobody. Where
// one is enough, what the smaller side acknowledged may be on it alone: the
// larger side waits, and says for whom.
func TestW2SmallSideWithAnAcker(t *testing.T) {
	endShared(t)
	alonetest.Alone(t)
	c := up(t, 5)
	t.Cleanup(func() {
		if t.Failed() {
			c.dump(t)
		}
		require.NoError(t, c.down())
	})
	// Five nodes share what cores there are: with the times for members near each
	// other they would be right, on slow ones, to find fault with one another.
	c.configure(t, "detection:\n  profile: wan\n")
	sides := func(x *trial) (drops []nethost.Drop) {
		for _, n := range x.others[1:] {
			drops = append(drops, x.apart(n, x.primary, x.others[0])...)
		}
		return drops
	}
	t.Run("it is not enough", func(t *testing.T) {
		x := newTrial(t, c)
		require.Equal(t, 2, c.whole(t).Durability.K)
		x.strike(func() func() { return x.cut(t, sides(x)...) })
		x.failover(t, x.others[1], 15*time.Second)
		v, _ := x.end(t)
		require.Equal(t, x.epoch+1, v.Epoch, "one failover")
		require.Contains(t, x.others[1:], string(v.Primary.Node))
	})
	t.Run("it is enough", func(t *testing.T) {
		c.configure(t, "durability:\n  acks: 1\n")
		await(t, "one acknowledgement to be enough", func() (bool, string) { k := c.whole(t).Durability.K; return k == 1, "it is not" })
		x := newTrial(t, c)
		x.strike(func() func() { return x.cut(t, sides(x)...) })
		by, missing := x.others[1], x.others[0]
		_, took := x.failed(t, by)
		t.Logf("declared after %v", took.Round(time.Millisecond))
		await(t, "word of who is needed", func() (bool, string) {
			e := c.explained(t, by, "")
			for _, g := range e.Gates {
				if !g.Open && strings.Contains(g.Reason, missing) {
					t.Logf("said after %v: %s", time.Since(x.began).Round(time.Millisecond), g.Reason)
					return true, ""
				}
			}
			return false, fmt.Sprint(e.Answer, e.Gates)
		})
		for said := time.Now(); time.Since(said) < cutTime; {
			for _, n := range x.others[1:] {
				if v := c.view(t, n); v.Primary != nil {
					require.Equal(t, x.primary, string(v.Primary.Node), "%s after %v", n, time.Since(x.began))
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
		v, _ := x.end(t)
		// An attempt that began before the acker was missed ends without a
		// promotion, and the primary is resumed under another epoch.
		t.Logf("%d epochs used up", v.Epoch-x.epoch)
		// One that is under way when the cut heals reaches the acker then, and may
		// come to its end, with proof.
		require.Contains(t, []string{x.primary, missing}, string(v.Primary.Node))
	})
}
