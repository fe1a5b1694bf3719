package api

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// ask is one request without a listener.
type ask struct {
	method, path, body, token string
	header                    map[string]string
	host                      string
}

type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r reply) problem(t testing.TB) Problem {
	t.Helper()
	require.Equal(t, contentTypeProblem, r.header.Get("Content-Type"), "%s", r.body)
	var p Problem
	require.NoError(t, json.Unmarshal(r.body, &p), "%s", r.body)
	require.Equal(t, r.status, p.Status)
	return p
}

func (a ask) request() *http.Request {
	req, err := http.NewRequest(a.method, "http://127.0.0.1"+a.path, strings.NewReader(a.body))
	if err != nil {
		panic(err)
	}
	req.RemoteAddr = "127.0.0.1:50000"
	if a.host != "" {
		req.Host = a.host
	}
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	if a.method == http.MethodPost {
		req.Header.Set("Content-Type", contentTypeJSON)
	}
	for k, v := range a.header {
		req.Header.Set(k, v)
	}
	return req
}

// do asks the handler itself.
func (b *bench) do(a ask) reply {
	w := &recorder{header: http.Header{}}
	b.Handler().ServeHTTP(w, a.request())
	return reply{w.status, w.header, w.body.Bytes()}
}

// recorder is a response without a connection.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(b)
}

// dial asks over TCP.
func (b *bench) dial(t testing.TB, a ask) reply {
	t.Helper()
	req := a.request()
	req.URL.Host = b.addr
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return reply{resp.StatusCode, resp.Header, body}
}
