// Package api is the one HTTP listener of a member: the probes that balancers
// ask, the public API for operators, the commands members give one another,
// and the clients for the latter.
//
// It owns who may ask what (the table in routes.go), the shapes of the answers
// (openapi.yaml is the contract, tests hold every answer against it), and that
// an error a node returns is the same error for the leader that asked.
//
// It never decides anything about the cluster: it shows what the Backend says
// and passes orders on. Its clients never repeat a command by themselves.
//
// Invariants kept here: a command whose time has passed, or whose sender has
// gone, is not begun (I5 does the rest); what is refused is explained (I10).
//
// Start reading at routes.go, then guard.go for authentication and rpc.go for
// the commands between members.
package api
