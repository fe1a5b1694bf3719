package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFaultHitsTheMemberAsked: a fault is obeyed by the member whose API was
// asked, leader or not, once per key, and on nobody else's word.
func TestFaultHitsTheMemberAsked(t *testing.T) {
	b := newBench(t, "n3")
	order := post("drill/faults", `{"fault":"freeze_server"}`)
	order.header = map[string]string{headerIdempotency: "k1"}
	first := b.do(order)
	require.Equal(t, http.StatusOK, first.status, "%s", first.body)
	again := b.do(order)
	require.Equal(t, first.body, again.body)
	require.Equal(t, "true", again.header.Get(headerIdempotencyReplay))
	require.Len(t, b.backend.noted(), 1)
	require.Contains(t, b.backend.noted()[0], "fault freeze_server for 30s by operator at 127.0.0.1:50000, request ")

	for name, a := range map[string]ask{
		"forwarded by a member": {method: "POST", path: "/api/v1/drill/faults", token: memberToken, body: `{"fault":"kill_server"}`,
			header: map[string]string{headerForwardedBy: "n2"}},
		"no fault":     post("drill/faults", `{}`),
		"zero seconds": post("drill/faults", `{"fault":"kill_server","seconds":0}`),
		"bad key": {method: "POST", path: "/api/v1/drill/faults", token: operatorToken, body: `{"fault":"kill_server"}`,
			header: map[string]string{headerIdempotency: strings.Repeat("x", 129)}},
	} {
		got := b.do(a)
		require.Equal(t, http.StatusBadRequest, got.status, "%s: %s", name, got.body)
		require.Len(t, b.backend.noted(), 1, name)
	}
}
