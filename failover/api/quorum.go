package api

import (
	"errors"
	"fmt"

	"interrex/election"
	"interrex/failover"
)

// gateQuorum is the gate of package failover that is closed while etcd does
// not answer.
const gateQuorum = "etcd_quorum"

// lacksQuorum tells whether err refused an order because etcd did not answer:
// nothing changed then.
func lacksQuorum(err error) bool {
	var gate *failover.GateError
	return errors.Is(err, election.ErrUnreachable) || errors.As(err, &gate) && gate.Gate.Name == gateQuorum
}

// noQuorum refuses what only etcd can decide, and says what becomes of writes
// meanwhile. A pause is for failovers, and refused by their gate.
func (s *Server) noQuorum(operation election.Kind) Problem {
	reason := fmt.Sprintf("etcd has no quorum, or cannot be reached from %s: no change is possible; %s",
		s.cfg.Self, s.cluster().Status.Writes())
	p := problem(problemNoQuorum, reason)
	p.Gate = &failover.Gate{Name: gateQuorum, Operation: operation, Reason: reason}
	return p
}
