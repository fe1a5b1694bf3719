package failover

import (
	"testing"

	"github.com/stretchr/testify/require"

	"interrex/election"
	"interrex/internal/topology"
)

func TestNextRegister(t *testing.T) {
	type sources = map[topology.NodeName]topology.NodeName
	for _, c := range []struct {
		name    string
		kind    election.Kind
		to      topology.NodeName
		seen    []Frozen
		reg     election.Register
		before  sources
		acks    int
		want    election.Register
		sources sources
	}{
		{
			name: "failover: the followers that proved to be complete", kind: election.Failover, to: "n2",
			seen: []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-8"), replica("n4", "1:1-3")},
			reg:  register(1, "n2", "n3", "n4"), before: sources{"n2": "n1", "n3": "n1", "n4": "n1"},
			want: register(1, "n3"), sources: sources{"n3": "n2"},
		},
		{
			name: "failover: all, where too few are complete", kind: election.Failover, to: "n2",
			seen: []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-8", amnesiac), replica("n4", "1:1-9", amnesiac)},
			reg:  register(3, "n2", "n3", "n4"), acks: 1,
			want: register(1, "n3", "n4"), sources: sources{"n3": "n2", "n4": "n2"},
		},
		{
			name: "failover: who was not reached and was ordered to the candidate before is registered again", kind: election.Failover, to: "n2",
			seen: []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-9")},
			reg:  register(2, "n2", "n3"), before: sources{"n2": "n1", "n3": "n1", "n4": "n2", "n5": "n1"},
			want: register(1, "n3", "n4"), sources: sources{"n3": "n2", "n4": "n2", "n5": "n1"},
		},
		{
			name: "failover: so is one whose last order may not have arrived", kind: election.Failover, to: "n2",
			seen: []Frozen{replica("n2", "1:1-9"), replica("n3", "1:1-9")},
			reg:  register(1, "n2", "n3"), before: sources{"n2": "n1", "n3": anyPrimary, "n4": anyPrimary},
			want: register(1, "n3", "n4"), sources: sources{"n3": "n2", "n4": anyPrimary},
		},
		{
			name: "switchover: nobody is frozen, so orders are not certain", kind: election.Switchover, to: "n2",
			seen: []Frozen{replica("n1", "1:1-9"), replica("n2", "1:1-9"), replica("n3", "1:1-9")},
			reg:  register(1, "n2", "n3"), before: sources{"n2": "n1", "n3": "n1"},
			want: register(1, "n1", "n3"), sources: sources{"n1": "n2", "n3": anyPrimary},
		},
		{
			name: "the same primary lets in who is kept out, where nobody else is left", kind: election.Resume, to: "n1",
			seen: []Frozen{replica("n1", "1:1-9"), replica("n3", "1:1-9")},
			reg:  election.Register{K: 1, Ackers: []topology.NodeName{"n2", "n3"}, Shut: []topology.NodeName{"n3"}}, before: sources{"n2": "n1", "n3": "n1"},
			want: election.Register{K: 1, Ackers: []topology.NodeName{"n2", "n3"}, Shut: []topology.NodeName{}}, sources: sources{"n2": "n1", "n3": "n1"},
		},
		{
			name: "the same primary keeps its register, reached or not", kind: election.Resume, to: "n1",
			seen: []Frozen{replica("n1", "1:1-9"), replica("n2", "1:1-9"), replica("n4", "1:1-9")},
			reg:  register(1, "n2", "n3"), before: sources{"n2": "n1", "n3": "n1"},
			want: register(1, "n2", "n3"), sources: sources{"n2": "n1", "n3": "n1"},
		},
		{
			name: "and k, whatever the configuration says by now (I3)", kind: election.Resume, to: "n1",
			seen: []Frozen{replica("n1", "1:1-9"), replica("n2", "1:1-9")}, acks: 2,
			reg: register(1, "n2", "n3"), want: register(1, "n2", "n3"), sources: sources{"n2": "n1", "n3": "n1"},
		},
		{
			name: "if none of it is there, those that are there join it", kind: election.Resume, to: "n1",
			seen: []Frozen{replica("n1", "1:1-9"), replica("n4", "1:1-9", amnesiac)},
			reg:  register(1, "n2", "n3"), want: register(1, "n2", "n3", "n4"), sources: sources{"n2": "n1", "n3": "n1", "n4": "n1"},
		},
		{
			name: "failover back to the old primary that returned", kind: election.Failover, to: "n1",
			seen: []Frozen{replica("n1", "1:1-10"), replica("n2", "1:1-9")},
			reg:  register(1, "n2", "n3"), before: sources{"n2": "n1", "n3": "n1"},
			want: register(1, "n2", "n3"), sources: sources{"n2": "n1", "n3": "n1"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			plan := Plan{Kind: c.kind, From: "n1", Old: primaryOf("1:1-5"), Register: c.reg, Acks: max(c.acks, 1)}
			s := surveyOf(c.seen, nil, plan.Old, c.reg)
			var up caughtUp
			up.survey = s
			for _, f := range c.seen {
				if f.Node == c.to {
					up.candidate = f
				} else {
					up.followers = append(up.followers, f)
				}
			}
			state := election.State{Register: c.reg, Sources: c.before}
			reg, got := nextRegister(&state, plan, up)
			require.Equal(t, c.want, reg)
			require.Equal(t, c.sources, got)
			for n := range c.before {
				require.Contains(t, state.Sources, n, "the snapshot's map is not changed")
			}
		})
	}
}
