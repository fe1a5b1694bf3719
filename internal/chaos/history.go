package chaos

import "time"

// Kind is what an operation does to its register.
type Kind string

// The kinds of operations.
const (
	Read  Kind = "read"
	Write Kind = "write"
	CAS   Kind = "cas" // write if the register has the expected value
	// Append leaves a line and touches no register: nothing that other clients
	// hold can delay it, so it shows how long writes are out.
	Append Kind = "append"
)

// Outcome is what the client was told.
type Outcome string

// The outcomes of an operation.
const (
	Acknowledged Outcome = "acknowledged"
	Refused      Outcome = "refused" // certainly not committed
	Unknown      Outcome = "unknown" // no answer to COMMIT
)

// Op is one operation through a read-write route.
type Op struct {
	// ID is unique, and the value that the operation writes, if it does.
	ID     int64  `json:"id"`
	Client int    `json:"client"`
	Route  string `json:"route"`
	Key    int64  `json:"key"`
	Kind   Kind   `json:"kind"`
	Expect int64  `json:"expect"` // by CAS
	// Invoked and Returned are since the load began. That of an unknown one is
	// when the client gave up; it may take effect later.
	Invoked  time.Duration `json:"invoked"`
	Returned time.Duration `json:"returned"`
	Outcome  Outcome       `json:"outcome"`
	Error    string        `json:"error,omitempty"`
	// What it found with the row locked, if it came that far.
	Line
}

// Line is what an operation leaves in the log table.
type Line struct {
	Before  int64  `json:"before"`  // the register's value that it found
	Swapped bool   `json:"swapped"` // it wrote
	Version int64  `json:"version"` // how often the register was written, with this one
	Server  string `json:"server"`  // UUID
	Epoch   uint64 `json:"epoch"`   // of the newest marker row that it saw
}

// Glance is one answered read through a read-only route.
type Glance struct {
	Client            int
	Route             string
	Key               int64
	Invoked, Returned time.Duration
	Version           int64 // 0: the register is not there yet
	Server            string
}

// History is everything that clients were told.
type History struct {
	Began   time.Time
	Length  time.Duration
	Ops     []Op
	Glances []Glance
	// Unread counts reads through read-only routes that failed.
	Unread int
}

// Count counts the operations of an outcome.
func (h *History) Count(o Outcome) int {
	n := 0
	for _, op := range h.Ops {
		if op.Outcome == o {
			n++
		}
	}
	return n
}

// Committed is what a server has in its log table.
type Committed map[int64]Line
