package election

import "errors"

// The sentinels of this package. Compare with errors.Is.
var (
	// ErrConflict: the record, or the leader key, is no longer what the caller
	// had read; nothing changed. Read again and decide anew.
	ErrConflict = errors.New("changed by another member meanwhile")
	// ErrNotLeader: this member does not hold the leader key, or no longer
	// holds it; nothing changed. Stand down.
	ErrNotLeader = errors.New("this member does not lead")
	// ErrOutcomeUnknown: a change was sent and etcd could not be asked, within
	// the time given, whether it was made; it may still be made later. Read
	// the record before doing anything that depends on it.
	ErrOutcomeUnknown = errors.New("outcome of the change is unknown")
	// ErrNotFound: there is no such entry.
	ErrNotFound = errors.New("not found in etcd")
	// ErrUnreachable: no etcd member that can reach a quorum answered in time;
	// nothing was changed by the call. Try again later.
	ErrUnreachable = errors.New("etcd quorum is out of reach")
	// ErrNotMember: this node is no member of the cluster, or not any more;
	// nothing was changed. The operator adds it.
	ErrNotMember = errors.New("this node is no member of the cluster")
	// ErrNewerFormat: the cluster record is of a version that this build must
	// not act on or change; nothing was changed. A newer build is needed here.
	ErrNewerFormat = errors.New("the cluster record is newer than this build")
	// ErrInvalidChange: a change would break a rule of the record: an epoch
	// that goes back, another cluster's name, a primary that vanishes. It is
	// an error of the program, never of its surroundings; nothing was sent.
	ErrInvalidChange = errors.New("change breaks a rule of the cluster record")
)
