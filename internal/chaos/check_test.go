package chaos_test

import (
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"interrex/internal/chaos"
)

const ms = time.Millisecond

// The servers of the histories below.
const (
	one = "11111111-1111-1111-1111-111111111111"
	two = "22222222-2222-2222-2222-222222222222"
)

// story is a history that is being told.
type story struct {
	h     chaos.History
	truth chaos.Committed
}

// op tells of an operation on register 1, which is committed if it was
// acknowledged.
func (s *story) op(kind chaos.Kind, invoked, returned int, line chaos.Line) *chaos.Op {
	op := chaos.Op{
		ID: int64(len(s.h.Ops) + 1), Client: len(s.h.Ops), Key: 1, Kind: kind, Outcome: chaos.Acknowledged,
		Invoked: time.Duration(invoked) * ms, Returned: time.Duration(returned) * ms, Line: line,
	}
	s.h.Ops = append(s.h.Ops, op)
	s.truth[op.ID] = line
	return &s.h.Ops[len(s.h.Ops)-1]
}

func (s *story) glance(client, invoked int, version int64) {
	s.h.Glances = append(s.h.Glances, chaos.Glance{
		Client: client, Key: 1, Invoked: time.Duration(invoked) * ms, Returned: time.Duration(invoked+1) * ms, Version: version, Server: two,
	})
}

// told is a short history without fault: two writes and a read on the first
// server, then a failover, a compare-and-set that misses and one that hits on
// the second, and reads elsewhere.
func told() *story {
	s := &story{truth: chaos.Committed{}}
	s.op(chaos.Write, 0, 10, chaos.Line{Before: 0, Swapped: true, Version: 1, Server: one, Epoch: 1})
	s.op(chaos.Write, 5, 20, chaos.Line{Before: 1, Swapped: true, Version: 2, Server: one, Epoch: 1})
	s.op(chaos.Read, 30, 40, chaos.Line{Before: 2, Version: 2, Server: one, Epoch: 1})
	s.op(chaos.CAS, 100, 110, chaos.Line{Before: 2, Version: 2, Server: two, Epoch: 2}).Expect = 77
	s.op(chaos.CAS, 120, 130, chaos.Line{Before: 2, Swapped: true, Version: 3, Server: two, Epoch: 2}).Expect = 2
	s.op(chaos.Append, 140, 150, chaos.Line{Server: two, Epoch: 2})
	s.glance(1, 50, 1) // 2 was acknowledged 30 ms before
	s.glance(1, 60, 2)
	s.glance(1, 140, 3)
	return s
}

// last is the newest operation of a history.
func (s *story) last() *chaos.Op { return &s.h.Ops[len(s.h.Ops)-1] }

// check makes all checks, with every server as the truth has it unless evidence
// is changed, and returns the names of those that found something.
func (s *story) check(t *testing.T, change func(*chaos.Evidence)) []string {
	t.Helper()
	copies := func() map[string]chaos.Committed {
		return map[string]chaos.Committed{"db1": maps.Clone(s.truth), "db2": maps.Clone(s.truth)}
	}
	e := chaos.Evidence{Primary: "db2", First: copies(), Second: copies()}
	if change != nil {
		change(&e)
	}
	found := []string{}
	for _, f := range chaos.Check(&s.h, e, 50*ms) {
		require.Positive(t, f.Checked, f.Name)
		require.Len(t, f.Violations, f.Count)
		if f.Count > 0 {
			found = append(found, f.Name)
		}
	}
	return found
}

const (
	lost         = "no acknowledged write is lost"
	ghost        = "nothing that was refused is there"
	unsettled    = "operations without an answer are settled"
	altered      = "what is committed is what was sent"
	split        = "one server acknowledges in an epoch"
	stale        = "no server of a past epoch acknowledges"
	disorder     = "each register's history is linearizable"
	old          = "reads on ro are within the lag limit"
	nonMonotonic = "reads on ro are monotonic within the lag limit"
)

// TestEachBrokenPromiseIsFound tells histories in which one promise is broken.
func TestEachBrokenPromiseIsFound(t *testing.T) {
	for name, c := range map[string]struct {
		spoil  func(*story)
		change func(*chaos.Evidence)
		want   []string
	}{
		"none": {want: []string{}},
		"an acknowledged write is on no server": {
			change: func(e *chaos.Evidence) {
				for _, c := range []chaos.Committed{e.First["db1"], e.First["db2"], e.Second["db1"], e.Second["db2"]} {
					delete(c, 6)
				}
			},
			want: []string{lost},
		},
		"an acknowledged write is not on a replica": {
			change: func(e *chaos.Evidence) { delete(e.First["db1"], 6); delete(e.Second["db1"], 6) },
			want:   []string{lost, unsettled},
		},
		"an acknowledged write goes away": {
			change: func(e *chaos.Evidence) { delete(e.Second["db1"], 6) },
			want:   []string{unsettled},
		},
		"a refused write is there": {
			spoil: func(s *story) { s.last().Outcome = chaos.Refused },
			want:  []string{ghost},
		},
		"a write without an answer comes later": {
			spoil:  func(s *story) { s.last().Outcome = chaos.Unknown; delete(s.truth, 6) },
			change: func(e *chaos.Evidence) { e.Second["db1"][6] = chaos.Line{} },
			want:   []string{unsettled},
		},
		"a write without an answer is settled, there or not": {
			spoil: func(s *story) {
				s.op(chaos.Write, 160, 170, chaos.Line{Before: 5, Swapped: true, Version: 4, Server: two, Epoch: 2}).Outcome = chaos.Unknown
				s.op(chaos.Write, 160, 170, chaos.Line{Before: 5, Swapped: true, Version: 4, Server: two, Epoch: 2}).Outcome = chaos.Unknown
				delete(s.truth, 8)
			},
			want: []string{},
		},
		"a line says something else": {
			spoil: func(s *story) { s.truth[6] = chaos.Line{Server: one, Epoch: 2} },
			want:  []string{altered},
		},
		"a line is of nobody": {
			spoil: func(s *story) { s.truth[77] = chaos.Line{} },
			want:  []string{altered},
		},
		"two servers in an epoch": {
			spoil: func(s *story) { s.op(chaos.Append, 160, 170, chaos.Line{Server: one, Epoch: 2}) },
			want:  []string{split},
		},
		"an old primary acknowledges": {
			spoil: func(s *story) { s.op(chaos.Append, 131, 170, chaos.Line{Server: one, Epoch: 1}) },
			want:  []string{stale},
		},
		"an old primary had it acknowledged meanwhile": {
			spoil: func(s *story) { s.op(chaos.Append, 109, 170, chaos.Line{Server: one, Epoch: 1}) },
			want:  []string{},
		},
		"two overwrite the same value": {
			spoil: func(s *story) {
				s.op(chaos.Write, 150, 160, chaos.Line{Before: 2, Swapped: true, Version: 3, Server: two, Epoch: 2})
			},
			want: []string{disorder},
		},
		"a read of the past": {
			spoil: func(s *story) { s.op(chaos.Read, 150, 160, chaos.Line{Before: 2, Version: 2, Server: two, Epoch: 2}) },
			want:  []string{disorder},
		},
		"a compare-and-set that should have missed": {
			spoil: func(s *story) {
				s.op(chaos.CAS, 150, 160, chaos.Line{Before: 5, Swapped: true, Version: 4, Server: two, Epoch: 2}).Expect = 4
			},
			want: []string{disorder},
		},
		"a read of a write that is committed nowhere": {
			spoil: func(s *story) {
				s.op(chaos.Write, 150, 160, chaos.Line{Before: 5, Swapped: true, Version: 4, Server: two, Epoch: 2}).Outcome = chaos.Unknown
				delete(s.truth, 7)
				s.op(chaos.Read, 170, 180, chaos.Line{Before: 7, Version: 4, Server: two, Epoch: 2})
			},
			want: []string{disorder},
		},
		"a write that takes effect after its client gave up": {
			spoil: func(s *story) {
				s.op(chaos.Write, 150, 160, chaos.Line{Before: 5, Swapped: true, Version: 4, Server: two, Epoch: 2}).Outcome = chaos.Unknown
				s.op(chaos.Read, 170, 180, chaos.Line{Before: 5, Version: 3, Server: two, Epoch: 2})
				s.op(chaos.Read, 190, 200, chaos.Line{Before: 7, Version: 4, Server: two, Epoch: 2})
			},
			want: []string{},
		},
		"a replica is behind": {
			spoil: func(s *story) { s.glance(2, 181, 2) },
			want:  []string{old},
		},
		"a replica is behind within the limit": {
			spoil: func(s *story) { s.glance(2, 180, 2) },
			want:  []string{},
		},
		"a client sees a write undone": {
			spoil: func(s *story) {
				s.op(chaos.Write, 150, 400, chaos.Line{Before: 5, Swapped: true, Version: 4, Server: two, Epoch: 2})
				s.glance(1, 160, 4)
				s.glance(1, 212, 3)
			},
			want: []string{nonMonotonic},
		},
		"another client sees less": {
			spoil: func(s *story) {
				s.op(chaos.Write, 150, 400, chaos.Line{Before: 5, Swapped: true, Version: 4, Server: two, Epoch: 2})
				s.glance(1, 160, 4)
				s.glance(2, 212, 3)
			},
			want: []string{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := told()
			if c.spoil != nil {
				c.spoil(s)
			}
			// Without a refused operation nothing would be looked at.
			refused := s.op(chaos.Append, 500, 510, chaos.Line{})
			refused.Outcome = chaos.Refused
			delete(s.truth, refused.ID)
			require.Equal(t, c.want, s.check(t, c.change))
		})
	}
}
