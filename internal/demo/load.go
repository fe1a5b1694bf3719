package demo

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// LoadConfig says which service is asked, and how hard.
type LoadConfig struct {
	URL string
	// Prefix begins every order's id.
	Prefix string
	// Clients is how many ask at the same time.
	Clients int
	// Pause is how long a client rests between two requests.
	Pause time.Duration
	// Timeout is how long one request may take.
	Timeout time.Duration
}

// Load is HTTP clients that store orders with ids of their own and read them
// again, and keep count of what they were told.
type Load struct {
	cfg    LoadConfig
	client *http.Client
	cancel context.CancelFunc
	wg     sync.WaitGroup
	began  time.Time

	mu     sync.Mutex
	orders []orderOutcome
	reads  int
	failed map[string]int
}

// orderOutcome is one order as its client knows it.
type orderOutcome struct {
	id     string
	stored bool
	ended  time.Time
}

// StartLoad starts the clients; Stop ends them.
func StartLoad(ctx context.Context, c LoadConfig) *Load {
	ctx, cancel := context.WithCancel(ctx)
	l := &Load{
		cfg: c, cancel: cancel, began: time.Now(), failed: map[string]int{},
		client: &http.Client{Timeout: c.Timeout, Transport: &http.Transport{MaxIdleConnsPerHost: c.Clients}},
	}
	for i := range c.Clients {
		l.wg.Go(func() { l.run(ctx, i) })
	}
	return l
}

// run is one client: an order is stored, and every other one read again.
func (l *Load) run(ctx context.Context, client int) {
	for n := 0; ctx.Err() == nil; n++ {
		id := fmt.Sprintf("%s-%d-%d", l.cfg.Prefix, client, n)
		err := l.post(ctx, id)
		l.note(orderOutcome{id: id, stored: err == nil, ended: time.Now()}, err)
		if err == nil && n%2 == 0 {
			l.noteRead(l.get(ctx, id))
		}
		rest := time.NewTimer(l.cfg.Pause)
		select {
		case <-ctx.Done():
		case <-rest.C:
		}
		rest.Stop()
	}
}

func (l *Load) post(ctx context.Context, id string) error {
	// A request is not cut off by the end of the load: its answer counts.
	request, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodPost, l.cfg.URL+"/orders",
		strings.NewReader(fmt.Sprintf(`{"id":%q}`, id)))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	// It may be sent again on a new connection if an idle one was just closed
	// by the other side: storing an order twice is harmless.
	request.Header.Set("Idempotency-Key", id)
	return l.ask(request)
}

func (l *Load) get(ctx context.Context, id string) error {
	request, err := http.NewRequestWithContext(context.WithoutCancel(ctx), http.MethodGet, l.cfg.URL+"/orders/"+id, http.NoBody)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	return l.ask(request)
}

func (l *Load) ask(request *http.Request) error {
	response, err := l.client.Do(request)
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err // without the ports, which differ each time
		}
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if response.StatusCode == http.StatusOK || response.StatusCode == http.StatusCreated {
		return nil
	}
	var said struct {
		Error string `json:"error"`
	}
	_ = json.Unmarshal(body, &said) // nginx's own pages have none
	return fmt.Errorf("%s %s", response.Status, said.Error)
}

func (l *Load) note(o orderOutcome, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.orders = append(l.orders, o)
	if err != nil {
		l.failed["POST: "+err.Error()]++
	}
}

func (l *Load) noteRead(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	if err != nil {
		l.failed["GET: "+err.Error()]++
	}
}

// Stored is how many orders were acknowledged so far.
func (l *Load) Stored() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return countStored(l.orders)
}

func countStored(orders []orderOutcome) int {
	n := 0
	for _, o := range orders {
		if o.stored {
			n++
		}
	}
	return n
}

// Stop ends the clients, waits for their last answers and returns what they
// saw.
func (l *Load) Stop() Seen {
	l.cancel()
	l.wg.Wait()
	l.client.CloseIdleConnections()
	return Seen{began: l.began, ended: time.Now(), orders: l.orders, Reads: l.reads, Errors: l.failed}
}

// Seen is what the clients saw.
type Seen struct {
	began, ended time.Time
	orders       []orderOutcome
	// Reads is how many orders were read again.
	Reads int
	// Errors counts the failed requests by their text.
	Errors map[string]int
}

// Stored is how many orders were acknowledged.
func (s Seen) Stored() int { return countStored(s.orders) }

// Attempts is how many orders were tried.
func (s Seen) Attempts() int { return len(s.orders) }

// Failed is how many requests failed, reads included.
func (s Seen) Failed() int {
	n := 0
	for _, times := range s.Errors {
		n += times
	}
	return n
}

// LongestOutage is the longest time between two acknowledged orders that
// began within from and to.
func (s Seen) LongestOutage(from, to time.Time) time.Duration {
	moments := []time.Time{s.began}
	for _, o := range s.orders {
		if o.stored {
			moments = append(moments, o.ended)
		}
	}
	moments = append(moments, s.ended)
	slices.SortFunc(moments, time.Time.Compare)
	longest := time.Duration(0)
	for i, m := range moments[1:] {
		if began := moments[i]; m.After(from) && !began.After(to) {
			longest = max(longest, m.Sub(began))
		}
	}
	return longest
}

// Missing reads the orders row by row and returns the acknowledged ones that
// are not there, and how many orders without an acknowledgement are.
func (s Seen) Missing(ctx context.Context, db *sql.DB) (missing []string, unacknowledged int, err error) {
	rows, err := db.QueryContext(ctx, "SELECT id FROM orders")
	if err != nil {
		return nil, 0, fmt.Errorf("read orders: %w", err)
	}
	defer rows.Close() //nolint:errcheck // its error is rows.Err
	there := map[string]bool{}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, 0, fmt.Errorf("read orders: %w", err)
		}
		there[id] = true
	}
	if err := rows.Err(); err != nil {
		return nil, 0, fmt.Errorf("read orders: %w", err)
	}
	for _, o := range s.orders {
		switch {
		case o.stored && !there[o.id]:
			missing = append(missing, o.id)
		case !o.stored && there[o.id]:
			unacknowledged++
		}
	}
	return missing, unacknowledged, nil
}
