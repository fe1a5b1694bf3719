package detector

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/topology"
)

// What is not judged anew must be what changes no vote.
func TestRepeats(t *testing.T) {
	for _, c := range []struct {
		name        string
		before, now *evb
		want        bool
	}{
		{"it answers again", says("n2", Alive).age(300 * ms), says("n2", Alive), true},
		{"its disk is well again", says("n1", DiskWell), says("n1", DiskWell), true},
		{"it is open now", says("n2", Closed), says("n2", Alive), false},
		{"it does not answer again", says("n2", Frozen), says("n2", Frozen), false},
		{"another error", says("n2", Erring), says("n2", Erring), false},
		{"what came before did not count any more", says("n2", Alive).age(1001 * ms), says("n2", Alive), false},
		{"the observer has become slow", says("n2", Alive), says("n2", Alive).slow(), false},
	} {
		require.Equal(t, c.want, c.now.repeats(c.before.Evidence, time.Second), c.name)
	}
}

// Evidence that repeats is judged all the same where it helps its subject: one
// that is not healthy any more.
func TestRejudges(t *testing.T) {
	d := &Detector{w: lanWindows(t), verdicts: map[matter]opinion{}}
	m, alive := matter{name: "n1"}, says("n2", Alive).Evidence
	require.True(t, d.rejudges(m, alive, &alive), "nothing was judged yet")
	d.verdicts[m] = opinion{verdict: topology.Healthy}
	require.False(t, d.rejudges(m, alive, &alive))
	require.True(t, d.rejudges(m, alive, nil), "the first word of an observer")
	d.verdicts[m] = opinion{verdict: topology.Suspect}
	require.True(t, d.rejudges(m, alive, &alive))
}
