package api

import (
	"net/http"
	"sync"
)

// answersKept bounds the memory for idempotency keys.
const answersKept = 256

// storedAnswer is the answer to an order: outcome may be read once done is
// closed.
type storedAnswer struct {
	request [32]byte
	done    chan struct{}
	outcome outcome
}

// answers keeps the newest answers by idempotency key.
type answers struct {
	mu    sync.Mutex
	by    map[string]*storedAnswer
	order []string // oldest first
}

func newAnswers() *answers { return &answers{by: map[string]*storedAnswer{}} }

// claim finds the answer of key, or makes one that the caller must settle
// (first). It is nil if key was used for another request. An empty key is
// always first.
func (a *answers) claim(key string, request [32]byte) (answer *storedAnswer, first bool) {
	fresh := &storedAnswer{request: request, done: make(chan struct{})}
	if key == "" {
		return fresh, true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.by[key]; old != nil {
		if old.request != request {
			return nil, false
		}
		return old, false
	}
	if len(a.order) >= answersKept {
		delete(a.by, a.order[0])
		a.order = a.order[1:]
	}
	a.by[key] = fresh
	a.order = append(a.order, key)
	return fresh, true
}

// settle gives the answer to those who wait. One that says nothing about the
// order itself, only that the leader could not be asked, is not kept: with the
// same key the order may be given again.
func (a *answers) settle(key string, answer *storedAnswer, out outcome) {
	answer.outcome = out
	close(answer.done)
	if out.status != http.StatusServiceUnavailable && out.status != http.StatusBadGateway {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.by[key] != answer {
		return
	}
	delete(a.by, key)
	for i, k := range a.order {
		if k == key {
			a.order = append(a.order[:i], a.order[i+1:]...)
			return
		}
	}
}
