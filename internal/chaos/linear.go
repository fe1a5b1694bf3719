package chaos

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// registerModel is one register that is read, written, and compared and set,
// one operation after another.
var registerModel = porcupine.Model{
	Init: func() any { return int64(0) },
	Step: func(state, input, _ any) (bool, any) {
		op := input.(Op)
		value := state.(int64)
		if op.Before != value {
			return false, value
		}
		wrote := op.Kind == Write || op.Kind == CAS && op.Expect == value
		if op.Swapped != wrote {
			return false, value
		}
		if wrote {
			value = op.ID
		}
		return true, value
	},
}

// linearLimit is how long the search for one register may take.
const linearLimit = time.Minute

// checkLinearizable: there is an order of all operations on a register in which
// each finds what the one before it left, and each takes effect between its
// invocation and its answer. One without an answer takes effect at any time
// after its invocation if it is committed, and never if it is not.
func checkLinearizable(h *History, truth Committed) Finding {
	f := Finding{Name: "each register's history is linearizable", Of: "registers"}
	for key, ops := range byRegister(h, truth) {
		f.Checked++
		history := make([]porcupine.Operation, len(ops))
		for i, op := range ops {
			returned := int64(op.Returned)
			if op.Outcome == Unknown {
				returned = math.MaxInt64
			}
			history[i] = porcupine.Operation{ClientId: op.Client, Input: op, Call: int64(op.Invoked), Return: returned}
		}
		switch porcupine.CheckOperationsTimeout(registerModel, history, linearLimit) {
		case porcupine.Ok:
		case porcupine.Illegal:
			f.Violate("register %d: no order explains its %d operations", key, len(ops))
		default:
			f.Violate("register %d: not decided within %s (%d operations)", key, linearLimit, len(ops))
		}
	}
	slices.Sort(f.Violations)
	return f
}

// byRegister are the operations that took effect.
func byRegister(h *History, truth Committed) map[int64][]Op {
	registers := map[int64][]Op{}
	for _, op := range h.Ops {
		_, committed := truth[op.ID]
		if op.Kind == Append {
			continue
		}
		if op.Outcome == Acknowledged || op.Outcome == Unknown && committed {
			registers[op.Key] = append(registers[op.Key], op)
		}
	}
	return registers
}

// Registers tells how many registers a history has, and how many operations on
// the one with the most.
func Registers(h *History) string {
	count := map[int64]int{}
	for _, op := range h.Ops {
		if op.Kind != Append {
			count[op.Key]++
		}
	}
	if len(count) == 0 {
		return "no registers"
	}
	return fmt.Sprintf("%d registers with up to %d operations", len(count), slices.Max(slices.Collect(maps.Values(count))))
}
