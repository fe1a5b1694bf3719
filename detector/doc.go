// Package detector says whether an instance or a member has failed.
//
// It owns the gossip between members (hashicorp/memberlist, encrypted), the
// probes of the instances, the watch on the local server process, the evidence
// all of these bring, and the judgement of it.
//
// It never decides what is done about a failure, never talks to etcd, and
// never speaks MySQL: the instance is probed through the Prober it is given.
// Gossip carries hints and evidence; only a strict majority of the registered
// members with fresh evidence makes a verdict Failed, so one observer alone,
// however sure, moves nothing. Silence is not a vote.
//
// Time is monotonic only. Evidence travels as ages, never as wall-clock
// times, and each receiver counts on with its own clock (see wire.go for what
// is done about messages that were long on their way).
//
// The judgement (judge.go) is pure: the time, the windows, the registered
// members and the evidence go in; verdict, votes and an explanation come out.
//
// Invariants: I9 (a gossip hiccup demotes nobody), I10 (each verdict explains
// itself).
//
// Start reading at judge.go, then detector.go.
package detector
