package election

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Format and Minor are the version of the cluster record that this build
// writes. Minor 1 added the list of members, 2 the count of unrest, 3 the mark of a
// forced primary, 4 the word that the record is past, 5 the time in which a primary
// did not wait.
const (
	Format = 1
	Minor  = 5
)

// clone returns a copy that shares nothing that can be changed.
func (s State) clone() State {
	if s.Primary != nil {
		primary := *s.Primary
		if primary.Forced != nil {
			forced := *primary.Forced
			primary.Forced = &forced
		}
		if primary.Lossy != nil {
			lossy := *primary.Lossy
			primary.Lossy = &lossy
		}
		s.Primary = &primary
	}
	if s.Operation != nil {
		operation := *s.Operation
		operation.Facts = slices.Clone(operation.Facts)
		s.Operation = &operation
	}
	if s.Paused != nil {
		paused := *s.Paused
		s.Paused = &paused
	}
	if s.Unrest != nil {
		unrest := *s.Unrest
		s.Unrest = &unrest
	}
	if s.Degraded != nil {
		degraded := *s.Degraded
		s.Degraded = &degraded
	}
	s.Register.Ackers = slices.Clone(s.Register.Ackers)
	s.Register.Shut = slices.Clone(s.Register.Shut)
	s.Register.Accounts = maps.Clone(s.Register.Accounts)
	for n, users := range s.Register.Accounts {
		s.Register.Accounts[n] = slices.Clone(users)
	}
	s.Sources = maps.Clone(s.Sources)
	s.Members = maps.Clone(s.Members)
	for name, seat := range s.Members {
		if seat.Leaving != nil {
			leaving := *seat.Leaving
			seat.Leaving = &leaving
			s.Members[name] = seat
		}
	}
	s.Removed = maps.Clone(s.Removed)
	return s
}

func (s Snapshot) clone() Snapshot {
	s.State = s.State.clone()
	return s
}

func decodeState(raw []byte) (State, error) {
	// The format alone first: nothing is known of how a newer one says the rest.
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(raw, &version); err != nil {
		return State{}, fmt.Errorf("decode cluster record: %w", err)
	}
	if version.Format > Format {
		return State{}, fmt.Errorf("%w: it is of format %d, this build knows %d: run a newer one on this node", ErrNewerFormat, version.Format, Format)
	}
	var state State
	if err := json.Unmarshal(raw, &state); err != nil {
		return State{}, fmt.Errorf("decode cluster record: %w", err)
	}
	return state, nil
}

// encodeState returns state as JSON, with the fields of stored that this build
// does not know. stored is the record that state was made from, or nil.
func encodeState(state State, stored []byte) ([]byte, error) {
	own, err := json.Marshal(state)
	if err != nil {
		return nil, fmt.Errorf("encode cluster record: %w", err)
	}
	if stored == nil {
		return own, nil
	}
	kept, err := keepUnknown(own, stored, reflect.TypeFor[State]())
	if err != nil {
		return nil, fmt.Errorf("keep unknown fields of the cluster record: %w", err)
	}
	return kept, nil
}

// KeepUnknown returns own, the JSON of a T, with what stored has beyond T's
// fields: who changes a part of something that a newer build wrote keeps the
// rest of it.
func KeepUnknown[T any](own, stored []byte) ([]byte, error) {
	kept, err := keepUnknown(own, stored, reflect.TypeFor[T]())
	if err != nil {
		return nil, fmt.Errorf("keep unknown fields: %w", err)
	}
	return kept, nil
}

// keepUnknown adds to own the members of stored that the struct type has no
// field for, in nested objects too. A nested object that carries an epoch is
// about that epoch: what it said of another one is not kept.
func keepUnknown(own, stored json.RawMessage, as reflect.Type) (json.RawMessage, error) {
	var ours, theirs map[string]json.RawMessage
	if err := json.Unmarshal(own, &ours); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(stored, &theirs); err != nil {
		return nil, err
	}
	known := fieldsOf(as)
	for name, value := range theirs {
		field, isKnown := known[name]
		if !isKnown {
			ours[name] = value
			continue
		}
		mine, present := ours[name]
		if !present {
			continue
		}
		merged, err := keepUnknownIn(mine, value, field)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		ours[name] = merged
	}
	return json.Marshal(ours)
}

// keepUnknownIn is keepUnknown for the value of a field, which may be an object
// of its own or a map of such.
func keepUnknownIn(own, stored json.RawMessage, as reflect.Type) (json.RawMessage, error) {
	if !isJSONObject(own) || !isJSONObject(stored) {
		return own, nil
	}
	if inner, ok := structOf(as); ok {
		if !sameEpoch(own, stored) {
			return own, nil
		}
		return keepUnknown(own, stored, inner)
	}
	if as.Kind() != reflect.Map {
		return own, nil
	}
	var ours, theirs map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(own, &ours), json.Unmarshal(stored, &theirs)); err != nil {
		return nil, err
	}
	for name, mine := range ours {
		merged, err := keepUnknownIn(mine, theirs[name], as.Elem())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		ours[name] = merged
	}
	return json.Marshal(ours)
}

// fieldsOf returns the JSON names of a struct's fields.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields := make(map[string]reflect.Type)
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			fields[name] = f.Type
		}
	}
	return fields
}

// structOf returns the struct behind a field whose JSON members are its own
// fields; types that write themselves are left as they are.
func structOf(t reflect.Type) (reflect.Type, bool) {
	marshaler := reflect.TypeFor[json.Marshaler]()
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t.Implements(marshaler) || reflect.PointerTo(t).Implements(marshaler) {
		return nil, false
	}
	return t, true
}

func isJSONObject(raw json.RawMessage) bool {
	return bytes.HasPrefix(bytes.TrimSpace(raw), []byte("{"))
}

func sameEpoch(a, b json.RawMessage) bool {
	type dated struct {
		Epoch json.RawMessage `json:"epoch"`
	}
	var x, y dated
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && bytes.Equal(x.Epoch, y.Epoch)
}

// checkChange refuses a record that must never follow another (I5).
func checkChange(cluster string, from, to State) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrInvalidChange, fmt.Sprintf(format, args...))
	}
	switch {
	case to.Cluster != cluster:
		return refuse("cluster is %q, not %q", to.Cluster, cluster)
	case to.Format < from.Format:
		return refuse("format goes back from %d to %d", from.Format, to.Format)
	case to.Epoch < from.Epoch:
		return refuse("epoch goes back from %d to %d", from.Epoch, to.Epoch)
	case to.Primary == nil && from.Primary != nil:
		return refuse("the primary of epoch %d is forgotten", from.Primary.Epoch)
	case to.Primary != nil && to.Primary.Epoch > to.Epoch:
		return refuse("epoch %d of the primary was never issued: the highest is %d", to.Primary.Epoch, to.Epoch)
	case to.Primary != nil && from.Primary != nil && to.Primary.Epoch < from.Primary.Epoch:
		return refuse("epoch of the primary goes back from %d to %d", from.Primary.Epoch, to.Primary.Epoch)
	case to.Operation != nil && to.Operation.Epoch > to.Epoch:
		return refuse("epoch %d of the operation was never issued: the highest is %d", to.Operation.Epoch, to.Epoch)
	}
	if why := checkMembers(from, to); why != "" {
		return refuse("%s", why)
	}
	return nil
}
