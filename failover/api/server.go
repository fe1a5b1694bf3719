package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"go.uber.org/zap"

	"interrex/failover"
	"interrex/internal/topology"
)

// The limits of the listener. They bound what a client can hold without
// saying anything; none of them bounds an operation.
const (
	readHeaderLimit = 5 * time.Second
	readLimit       = 15 * time.Second
	writeLimit      = 15 * time.Second
	idleLimit       = 2 * time.Minute // longer than the clients', so that they close first
	closeLimit      = 5 * time.Second
	headerBytes     = 32 << 10
	bodyBytes       = 64 << 10
	commandBytes    = 4 << 20 // GTID sets may be long
)

// Config is what the API needs to know.
type Config struct {
	Self    topology.NodeName
	Cluster string
	// Security is who may ask; see CheckExposure.
	Security Security
	// Hosts are further names by which clients call this member (the Host
	// header), without port. Loopback names, the member's name and the
	// address a connection came in on are always allowed.
	Hosts []string
	// LagLimit is how far behind a replica may be to pass /replica; a
	// request may ask for another limit.
	LagLimit time.Duration
	// OperationLimit bounds a switchover that was asked for here.
	OperationLimit time.Duration
}

// DefaultConfig is the configuration but for the names and the security.
func DefaultConfig() Config {
	return Config{LagLimit: 10 * time.Second, OperationLimit: 5 * time.Minute}
}

// Validate reports every fault, joined.
func (c Config) Validate() error {
	var errs []error
	if c.Self == "" {
		errs = append(errs, errors.New("the member's name is missing"))
	}
	if c.Cluster == "" {
		errs = append(errs, errors.New("the cluster's name is missing"))
	}
	if c.LagLimit <= 0 {
		errs = append(errs, fmt.Errorf("lag limit %v must be above 0", c.LagLimit))
	}
	if c.OperationLimit <= 0 {
		errs = append(errs, fmt.Errorf("operation limit %v must be above 0", c.OperationLimit))
	}
	switch c.Security.Reads {
	case ReadsOpen, ReadsToken:
	default:
		errs = append(errs, fmt.Errorf("reads %q must be %q or %q", c.Security.Reads, ReadsOpen, ReadsToken))
	}
	return errors.Join(errs...)
}

// Parts are what the server works with.
type Parts struct {
	Backend Backend
	// Node obeys the commands of the leader.
	Node failover.Node
	// Peers reach the leader, for calls that are forwarded.
	Peers *Peers
	// TLS is nil on a listener without it.
	TLS     *TLS
	Metrics *Metrics
	Log     *zap.Logger
}

// Server is the HTTP listener of a member.
type Server struct {
	cfg      Config
	backend  Backend
	node     failover.Node
	peers    *Peers
	tls      *TLS
	metrics  *Metrics
	log      *zap.Logger
	guesses  *guesses
	answers  *answers
	specJSON func() ([]byte, error) // converted when it is first asked for
	handler  http.Handler
	life     context.Context // ends the operations begun here
	endLife  context.CancelCauseFunc
	lifeMu   sync.Mutex // orders begin against the end of life
	inFlight sync.WaitGroup
}

// New makes a server; it listens when Serve is called.
func New(cfg Config, parts Parts) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configure API: %w", err)
	}
	s := &Server{
		cfg: cfg, backend: parts.Backend, node: parts.Node, peers: parts.Peers, tls: parts.TLS,
		metrics: parts.Metrics, log: parts.Log, specJSON: sync.OnceValues(specAsJSON),
		guesses: newGuesses(), answers: newAnswers(),
	}
	s.life, s.endLife = context.WithCancelCause(context.Background())
	s.handler = s.engine()
	return s, nil
}

// Handler is the whole API, for tests without a listener.
func (s *Server) Handler() http.Handler { return s.handler }

func (s *Server) engine() *gin.Engine {
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.HandleMethodNotAllowed = true
	e.RedirectTrailingSlash = false
	e.ForwardedByClientIP = false // only the peer's address counts
	e.Use(s.begin, s.observe, s.recover, s.guardHost, s.guardSite)
	e.NoRoute(func(c *gin.Context) {
		s.fail(c, problem(problemNotFound, "no route "+c.Request.URL.Path))
	})
	e.NoMethod(func(c *gin.Context) {
		s.fail(c, problem(problemMethod, "allowed: "+c.Writer.Header().Get("Allow")))
	})
	for _, r := range s.routes() {
		for _, m := range r.methods {
			e.Handle(m, r.path, s.guard(r.access), r.handle)
		}
	}
	return e
}

// connKey is where a request's context keeps its connection.
type connKey struct{}

// Serve answers on ln until ctx ends, then lets requests end for a few seconds
// and waits for the operations begun here. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	if s.tls != nil {
		ln = tls.NewListener(ln, s.tls.ServerConfig())
	}
	// What goes wrong before a request is there: anybody can cause it.
	errorLog, err := zap.NewStdLogAt(s.log, zap.DebugLevel)
	if err != nil {
		return fmt.Errorf("serve API: %w", err)
	}
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: readHeaderLimit,
		ReadTimeout:       readLimit,
		IdleTimeout:       idleLimit,
		MaxHeaderBytes:    headerBytes,
		ErrorLog:          errorLog,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	select {
	case err := <-ended:
		s.stop()
		return fmt.Errorf("serve API on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil {
		_ = srv.Close()
	}
	err = <-ended
	s.stop()
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve API on %s: %w", ln.Addr(), err)
	}
	return nil
}

// stop ends the operations begun here and waits for them.
func (s *Server) stop() {
	s.lifeMu.Lock()
	s.endLife(errors.New("the agent stops"))
	s.lifeMu.Unlock()
	s.inFlight.Wait()
}

// write sends v with the given status. The time for it starts now, whatever
// the request took.
func (s *Server) write(c *gin.Context, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		s.log.Error("answer cannot be encoded", zap.String("route", c.FullPath()), zap.Error(err))
		status, contentType = http.StatusInternalServerError, contentTypeProblem
		body, _ = json.Marshal(problem(problemInternal, ""))
	}
	s.send(c, status, contentType, body)
}

func (s *Server) send(c *gin.Context, status int, contentType string, body []byte) {
	_ = http.NewResponseController(c.Writer).SetWriteDeadline(time.Now().Add(writeLimit))
	c.Data(status, contentType, body)
}

// reply sends a success.
func (s *Server) reply(c *gin.Context, v any) { s.write(c, http.StatusOK, contentTypeJSON, v) }
