package api

import (
	"context"
	"errors"

	"interrex/dbrepl"
	"interrex/election"
	"interrex/failover"
	"interrex/internal/topology"
)

// wireError is an error on its way between members: its text, the names of the
// sentinels it is, and the typed errors in it.
type wireError struct {
	Message string                    `json:"message"`
	Codes   []string                  `json:"codes,omitempty"`
	Stale   *failover.StaleEpochError `json:"stale_epoch,omitempty"`
	Errant  *failover.ErrantError     `json:"errant,omitempty"`
	Gate    *failover.GateError       `json:"gate,omitempty"`
}

type codedError struct {
	code string
	err  error
}

// codedErrors lists every error that keeps its identity between members. A
// code, once released, is never given another meaning.
func codedErrors() []codedError {
	return []codedError{
		{"stale_epoch", failover.ErrStaleEpoch},
		{"errant", failover.ErrErrant},
		{"no_instance", failover.ErrNoInstance},
		{"busy", failover.ErrBusy},
		{"not_recorded", failover.ErrNotRecorded},
		{"close_timed_out", failover.ErrCloseTimedOut},
		{"gate_closed", failover.ErrGateClosed},
		{"not_leader", failover.ErrNotLeader},
		{"no_proof", failover.ErrNoProof},
		{"no_candidate", failover.ErrNoCandidate},
		{"not_confirmed", failover.ErrNotConfirmed},
		{"undone", failover.ErrUndone},
		{"primary_failed", failover.ErrPrimaryFailed},
		{"election.conflict", election.ErrConflict},
		{"election.not_leader", election.ErrNotLeader},
		{"election.outcome_unknown", election.ErrOutcomeUnknown},
		{"election.not_found", election.ErrNotFound},
		{"election.unreachable", election.ErrUnreachable},
		{"election.invalid_change", election.ErrInvalidChange},
		{"election.not_member", election.ErrNotMember},
		{"election.newer_format", election.ErrNewerFormat},
		{"dbrepl.unsupported", dbrepl.ErrUnsupported},
		{"dbrepl.outcome_unknown", dbrepl.ErrOutcomeUnknown},
		{"dbrepl.given_up", dbrepl.ErrGivenUp},
		{"dbrepl.commits_waiting", dbrepl.ErrCommitsWaiting},
		{"dbrepl.close_timed_out", dbrepl.ErrCloseTimedOut},
		{"dbrepl.applier_stopped", dbrepl.ErrApplierStopped},
		{"dbrepl.not_caught_up", dbrepl.ErrNotCaughtUp},
		{"dbrepl.not_replicated", dbrepl.ErrNotReplicated},
		{"dbrepl.rolling_back", dbrepl.ErrRollingBack},
		{"dbrepl.forgotten", dbrepl.ErrForgotten},
		{"dbrepl.incomplete", dbrepl.ErrIncomplete},
		{"dbrepl.no_account", dbrepl.ErrNoAccount},
		{"dbrepl.not_local", dbrepl.ErrNotLocal},
		{"deadline_exceeded", context.DeadlineExceeded},
		{"canceled", context.Canceled},
	}
}

func encodeError(err error) *wireError {
	w := &wireError{Message: err.Error()}
	for _, k := range codedErrors() {
		if errors.Is(err, k.err) {
			w.Codes = append(w.Codes, k.code)
		}
	}
	errors.As(err, &w.Stale)
	errors.As(err, &w.Errant)
	errors.As(err, &w.Gate)
	return w
}

// decode is the inverse of encodeError. Codes this build does not know are
// dropped: the text remains.
func (w *wireError) decode(node topology.NodeName, command string) *RemoteError {
	e := &RemoteError{Node: node, Command: command, Message: w.Message}
	// Typed errors first: they unwrap to their sentinels.
	if w.Stale != nil {
		e.causes = append(e.causes, w.Stale)
	}
	if w.Errant != nil {
		e.causes = append(e.causes, w.Errant)
	}
	if w.Gate != nil {
		e.causes = append(e.causes, w.Gate)
	}
	known := codedErrors()
	for _, code := range w.Codes {
		for _, k := range known {
			if k.code == code && !errors.Is(errors.Join(e.causes...), k.err) {
				e.causes = append(e.causes, k.err)
			}
		}
	}
	return e
}
