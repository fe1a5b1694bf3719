package api

import (
	"crypto/rand"
	"encoding/hex"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"go.uber.org/zap"
)

const (
	arrivalKey   = "interrex.arrival"
	requestIDKey = "interrex.request"
)

// begin notes when the request arrived and gives it a name.
func (s *Server) begin(c *gin.Context) {
	c.Set(arrivalKey, time.Now())
	id := c.GetHeader(headerRequestID)
	if !isToken(id, 64) {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
		id = hex.EncodeToString(b[:])
	}
	c.Set(requestIDKey, id)
	h := c.Writer.Header()
	h.Set(headerRequestID, id)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}

func arrival(c *gin.Context) time.Time { return c.GetTime(arrivalKey) }

func requestID(c *gin.Context) string { return c.GetString(requestIDKey) }

// isToken tells whether text is 1 to limit letters, digits or . _ - characters.
func isToken(text string, limit int) bool {
	if text == "" || len(text) > limit {
		return false
	}
	for _, r := range text {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
		default:
			return false
		}
	}
	return true
}

// observe logs the request and counts it, by the route's pattern and never by
// the path, which anybody may choose.
func (s *Server) observe(c *gin.Context) {
	c.Next()
	path := c.FullPath()
	if path == "" {
		path = "none"
	}
	took, status := time.Since(arrival(c)), c.Writer.Status()
	s.metrics.request(path, status, took)
	level := zap.DebugLevel
	// The probes answer 503 in the ordinary course of things.
	if status >= http.StatusInternalServerError && status != http.StatusServiceUnavailable {
		level = zap.WarnLevel
	}
	if entry := s.log.Check(level, "request"); entry != nil {
		entry.Write(
			zap.String("request_id", requestID(c)), zap.String("method", c.Request.Method),
			zap.String("route", path), zap.Int("status", status), zap.Int("bytes", c.Writer.Size()),
			zap.Float64("took_ms", float64(took)/float64(time.Millisecond)), zap.String("peer", c.Request.RemoteAddr),
		)
	}
}

// recover turns a panic into a 500 with the stack in the log only.
func (s *Server) recover(c *gin.Context) {
	defer func() {
		cause := recover()
		if cause == nil {
			return
		}
		if cause == http.ErrAbortHandler { //nolint:errorlint // net/http compares it so
			panic(cause)
		}
		s.log.Error("request panicked", zap.String("request_id", requestID(c)), zap.String("route", c.FullPath()),
			zap.Any("panic", cause), zap.ByteString("stack", debug.Stack()))
		if !c.Writer.Written() {
			s.fail(c, problem(problemInternal, ""))
		}
		c.Abort()
	}()
	c.Next()
}

// guardHost refuses a Host header that names no address of this member: a web
// page whose name was pointed at this address would send its own (DNS
// rebinding). No Host at all is HTTP/1.0, which no browser speaks. Commands are
// checked more strictly: they must name this very member.
func (s *Server) guardHost(c *gin.Context) {
	if strings.HasPrefix(c.FullPath(), commandPath) {
		return
	}
	if host := c.Request.Host; host != "" && !s.isOwnHost(c, bareHost(host)) {
		s.fail(c, problem(problemForeignHost, "not a name of this member: "+host))
	}
}

func (s *Server) isOwnHost(c *gin.Context, host string) bool {
	if host == "localhost" || host == strings.ToLower(string(s.cfg.Self)) {
		return true
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.IsLoopback() {
			return true
		}
		if local, ok := c.Request.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok &&
			local.AddrPort().Addr().Unmap() == ip.Unmap() {
			return true
		}
	}
	for _, h := range s.cfg.Hosts {
		if bareHost(h) == host {
			return true
		}
	}
	return s.tls != nil && s.tls.names(host)
}

// bareHost is the host of "host", "host:port", "[v6]" or "[v6]:port".
func bareHost(hostport string) string {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// guardSite refuses what a browser sends for another site: forms, images,
// scripts. Clients that are no browsers send none of these headers.
func (s *Server) guardSite(c *gin.Context) {
	switch site := c.GetHeader("Sec-Fetch-Site"); site {
	case "", "none", "same-origin":
	default:
		s.fail(c, problem(problemCrossSite, "Sec-Fetch-Site is "+site))
		return
	}
	origin := c.GetHeader("Origin")
	if origin == "" {
		return
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || !strings.EqualFold(u.Host, c.Request.Host) {
		s.fail(c, problem(problemCrossSite, "the origin is "+origin))
	}
}
