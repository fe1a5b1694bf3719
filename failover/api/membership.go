package api

import (
	"cmp"
	"context"
	"regexp"
	"slices"
	"time"

	"github.com/gin-gonic/gin"

	"interrex/election"
	"interrex/failover"
	"interrex/internal/topology"
)

// AddMemberRequest is the body of POST /api/v1/membership/add.
type AddMemberRequest struct {
	Name string `json:"name"`
	// Voter: it is to run a member of the embedded etcd.
	Voter bool `json:"voter"`
}

// RemoveMemberRequest is the body of POST /api/v1/membership/remove.
type RemoveMemberRequest struct {
	Name string `json:"name"`
}

// MemberChange is the answer to both.
type MemberChange struct {
	Name topology.NodeName `json:"name"`
	// Done is false for a removal that goes on by itself; Waiting says what for.
	Done    bool   `json:"done"`
	Waiting string `json:"waiting,omitempty"`
	// Notes say what the new set of members is not good for.
	Notes []string `json:"notes"`
	// Members are all recorded members, by name.
	Members []MemberPlace `json:"members"`
}

// MemberPlace is a recorded member and where it is reached. One that was never
// started has no addresses yet.
type MemberPlace struct {
	Name    topology.NodeName `json:"name"`
	Voter   bool              `json:"voter"`
	Since   time.Time         `json:"since"`
	Leaving bool              `json:"leaving"`

	API        string `json:"api,omitempty"`
	Gossip     string `json:"gossip,omitempty"`
	RW         string `json:"rw,omitempty"`
	RO         string `json:"ro,omitempty"`
	EtcdClient string `json:"etcd_client,omitempty"`
	EtcdPeer   string `json:"etcd_peer,omitempty"`
	MySQL      string `json:"mysql,omitempty"`
	MySQLAdmin string `json:"mysql_admin,omitempty"`
	Priority   int    `json:"priority"`
	Site       string `json:"site,omitempty"`
}

func newMemberChange(c failover.MemberChange) MemberChange {
	out := MemberChange{Name: c.Name, Done: c.Done, Waiting: c.Waiting, Notes: list(c.Notes), Members: []MemberPlace{}}
	for name, seat := range c.Seats {
		p := MemberPlace{Name: name, Voter: seat.Voter, Since: seat.Since, Leaving: seat.Leaving != nil}
		if i := slices.IndexFunc(c.Members, func(m topology.Member) bool { return m.Name == name }); i >= 0 {
			m := c.Members[i]
			p.API, p.Gossip, p.RW, p.RO, p.Priority, p.Site = m.API, m.Gossip, m.RW, m.RO, m.Priority, m.Site
			p.EtcdClient, p.EtcdPeer, p.MySQL, p.MySQLAdmin = m.EtcdClient, m.EtcdPeer, m.MySQL, m.MySQLAdmin
		}
		out.Members = append(out.Members, p)
	}
	slices.SortFunc(out.Members, func(a, b MemberPlace) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func (s *Server) postAddMember(c *gin.Context) {
	var req AddMemberRequest
	s.changeMembers(c, &req, failover.MemberAdd, func() string { return req.Name }, func(ctx context.Context) (failover.MemberChange, error) {
		return s.backend.AddMember(ctx, topology.NodeName(req.Name), req.Voter)
	})
}

func (s *Server) postRemoveMember(c *gin.Context) {
	var req RemoveMemberRequest
	s.changeMembers(c, &req, failover.MemberRemove, func() string { return req.Name }, func(ctx context.Context) (failover.MemberChange, error) {
		return s.backend.RemoveMember(ctx, topology.NodeName(req.Name))
	})
}

// changeMembers reads the order into req and carries it out.
func (s *Server) changeMembers(c *gin.Context, req any, kind election.Kind, name func() string, run func(context.Context) (failover.MemberChange, error)) {
	o, ok := s.readOrder(c, req)
	if !ok {
		return
	}
	if !isMemberName(name()) {
		s.badRequest(c, FieldFault{"name", "must be the name of a member: 1 to 63 lower-case letters, digits and dashes"})
		return
	}
	o.operation = kind
	o.run = func(ctx context.Context) (any, bool, error) {
		change, err := run(ctx)
		return newMemberChange(change), false, err
	}
	s.carryOutOnce(c, o, true)
}

// isMemberName is the rule of the configuration file.
func isMemberName(name string) bool {
	return regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`).MatchString(name)
}
