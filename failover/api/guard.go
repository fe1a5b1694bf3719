package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"strings"

	"github.com/gin-gonic/gin"
	"go.uber.org/zap"
)

// Reads says who may read.
type Reads string

const (
	// ReadsOpen: whoever reaches the listener.
	ReadsOpen Reads = "open"
	// ReadsToken: who shows a token or a client certificate of the CA.
	ReadsToken Reads = "token"
)

// Security is how callers prove who they are. The tokens are secrets: they are
// compared in constant time and never printed.
type Security struct {
	// OperatorToken allows changes. Without it nobody may change anything.
	OperatorToken string
	// MemberToken allows the commands between members.
	MemberToken string
	// GossipKey is only looked at to tell whether there is one.
	GossipKey string
	// MutualTLS tells that the listener has TLS and members prove themselves
	// by certificate.
	MutualTLS bool
	Reads     Reads
}

// guard lets a request pass that may call a route of that access.
func (s *Server) guard(a access) gin.HandlerFunc {
	switch a {
	case accessProbe:
		return func(*gin.Context) {}
	case accessRead:
		return s.guardRead
	case accessOperate:
		return s.guardOperate
	case accessMember:
		return s.guardMember
	default:
		return func(c *gin.Context) { s.refuseToken(c, "nobody may call this") }
	}
}

func (s *Server) guardRead(c *gin.Context) {
	if s.cfg.Security.Reads == ReadsOpen || s.hasCertificate(c) {
		return
	}
	s.guardToken(c, s.cfg.Security.OperatorToken, s.cfg.Security.MemberToken)
}

// guardOperate takes the operator's token; a call that another member has
// forwarded comes with the member's credentials instead.
func (s *Server) guardOperate(c *gin.Context) {
	if c.GetHeader(headerForwardedBy) != "" && s.isMember(c) {
		return
	}
	s.guardToken(c, s.cfg.Security.OperatorToken)
}

// guardToken lets a request with one of the tokens pass. An address that has
// guessed too often is not listened to for a while, right or wrong.
func (s *Server) guardToken(c *gin.Context, tokens ...string) {
	peer := peerIP(c)
	if !s.guesses.allowed(peer, arrival(c)) {
		s.refuseGuesser(c)
		return
	}
	for _, t := range tokens {
		if sameToken(bearer(c), t) {
			return
		}
	}
	s.countGuess(c, peer)
	s.refuseToken(c, "the bearer token is missing or wrong")
}

// guardMember never turns down right credentials for wrong ones that came from
// the same address: a failover must not wait for a guesser.
func (s *Server) guardMember(c *gin.Context) {
	if s.isMember(c) {
		return
	}
	peer := peerIP(c)
	if !s.guesses.allowed(peer, arrival(c)) {
		s.refuseGuesser(c)
		return
	}
	s.countGuess(c, peer)
	s.refuseToken(c, "only members may give commands")
}

// countGuess notes a wrong token; a request without any is no guess.
func (s *Server) countGuess(c *gin.Context, peer string) {
	if bearer(c) == "" {
		return
	}
	s.log.Warn("token refused", zap.String("peer", peer), zap.String("route", c.FullPath()), zap.String("request_id", requestID(c)))
	s.guesses.wrong(peer, arrival(c))
}

func (s *Server) refuseToken(c *gin.Context, detail string) {
	c.Header("WWW-Authenticate", `Bearer realm="interrex"`)
	s.fail(c, problem(problemUnauthorized, detail))
}

func (s *Server) refuseGuesser(c *gin.Context) {
	c.Header("Retry-After", "1")
	s.fail(c, problem(problemTooMany, "wait before the next attempt"))
}

// isMember tells whether the caller proved to be a member: by the token where
// one is configured and by certificate where there is TLS; never by nothing.
func (s *Server) isMember(c *gin.Context) bool {
	token := s.cfg.Security.MemberToken
	if token == "" && s.tls == nil {
		return false
	}
	if token != "" && !sameToken(bearer(c), token) {
		return false
	}
	return s.tls == nil || s.tls.isMember(c.Request.TLS)
}

func (s *Server) hasCertificate(c *gin.Context) bool {
	return c.Request.TLS != nil && len(c.Request.TLS.VerifiedChains) > 0
}

// sameToken compares in a time that tells nothing about want; an empty want is
// equal to nothing.
func sameToken(got, want string) bool {
	a, b := sha256.Sum256([]byte(got)), sha256.Sum256([]byte(want))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && want != ""
}

func bearer(c *gin.Context) string {
	scheme, token, ok := strings.Cut(c.GetHeader("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// peerIP is the address the connection comes from; forwarding headers say
// nothing here.
func peerIP(c *gin.Context) string {
	host, _, err := net.SplitHostPort(c.Request.RemoteAddr)
	if err != nil {
		return c.Request.RemoteAddr
	}
	return host
}
