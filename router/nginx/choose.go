package nginx

import (
	"fmt"
	"slices"
	"strings"

	"interrex/router"
)

// facts is what choosing needs to know.
type facts struct {
	route router.Route
	// closedLong: the route has been closed for CloseAfter.
	closedLong    bool
	readsFallBack bool
	// unhealthy are the addresses of the members, by upstream name, that fail
	// their check.
	unhealthy map[memberKey]bool
}

// memberKey names a checked member: the same service may be in two upstreams
// with different checks.
type memberKey struct{ upstream, address string }

// isOlder tells whether route a must not follow route b (I5).
func isOlder(a, b router.Route) bool {
	return a.Epoch < b.Epoch || a.Epoch == b.Epoch && a.Phase == router.Closed && b.Phase == router.Open
}

// choose says what each owned upstream should hold. An address the route names
// that may not be written is an error, and nothing is chosen then.
func choose(upstreams []Upstream, f facts) ([]want, error) {
	wants := make([]want, 0, len(upstreams))
	for i := range upstreams {
		u := &upstreams[i]
		var w want
		var err error
		switch {
		case u.Role == Members:
			w, err = chooseMembers(u, f)
		case u.Via == Proxy:
			w, err = chooseAll(u.Proxies)
		case u.Role == RW:
			w, err = chooseRW(f)
		default:
			w, err = chooseRO(f)
		}
		if err != nil {
			return nil, fmt.Errorf("choose servers of %s %s: %w", u.Context, u.Name, err)
		}
		w.upstream = u
		wants = append(wants, w)
	}
	return wants, nil
}

func chooseAll(addresses []string) (want, error) {
	var w want
	for _, s := range addresses {
		a, err := ParseAddress(s)
		if err != nil {
			return want{}, err
		}
		w.servers = append(w.servers, server{address: a})
	}
	return w, nil
}

// chooseRW leads to the primary. A closed route leaves the block as it is at
// first: the old primary can acknowledge nothing any more (I2), and most
// closures are over before a reload would be.
func chooseRW(f facts) (want, error) {
	switch {
	case f.route.Phase == router.Open && f.route.Primary != nil:
		return chooseAll([]string{f.route.Primary.Address})
	case f.route.Epoch == 0:
		return want{keep: true, note: "no route is known yet; left as it is"}, nil
	case f.closedLong:
		return want{closed: true, note: "closed: " + f.route.Reason}, nil
	default:
		return want{keep: true, note: "closed just now; left as it is"}, nil
	}
}

// chooseRO leads to the replicas, in a stable order.
func chooseRO(f facts) (want, error) {
	if f.route.Epoch == 0 {
		return want{keep: true, note: "no route is known yet; left as it is"}, nil
	}
	if len(f.route.Replicas) > 0 {
		var addresses []string
		for _, b := range f.route.Replicas {
			addresses = append(addresses, b.Address)
		}
		slices.Sort(addresses)
		return chooseAll(slices.Compact(addresses))
	}
	if !f.readsFallBack {
		return want{closed: true, note: "no replica may serve reads"}, nil
	}
	if f.route.Phase != router.Open || f.route.Primary == nil {
		return want{keep: true, note: "no replica may serve reads and no primary is open; left as it is"}, nil
	}
	w, err := chooseAll([]string{f.route.Primary.Address})
	w.note = "no replica may serve reads; the primary does"
	return w, err
}

// chooseMembers marks those down that fail their check, unless all do: then
// the check says more about the checker, or the tier's own backend, than about
// any one of them.
func chooseMembers(u *Upstream, f facts) (want, error) {
	var addresses, failing []string
	for _, m := range u.Members {
		addresses = append(addresses, m.Address)
		if f.unhealthy[memberKey{u.Name, m.Address}] {
			failing = append(failing, m.Address)
		}
	}
	w, err := chooseAll(addresses)
	if err != nil || len(failing) == 0 {
		return w, err
	}
	if len(failing) == len(addresses) {
		w.note = "every member fails its health check; all are kept up"
		return w, nil
	}
	for i, address := range addresses {
		w.servers[i].down = slices.Contains(failing, address)
	}
	w.note = "down by health check: " + strings.Join(failing, ", ")
	return w, nil
}
