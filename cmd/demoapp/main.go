// Command demoapp is a small order service on top of an interrex cluster, and
// an example of how an application of yours may use one: copy what you need.
//
// It is a Gin service that reaches MySQL through two routes: rw, which leads to
// the primary, and ro, which leads to replicas. Both are ordinary addresses
// (the agents' proxy ports, or an nginx in front of them); nothing here knows
// of interrex. What makes it ride out a failover:
//
//   - Orders have ids chosen by the client, so that storing one twice is
//     harmless. When a connection breaks amid an INSERT nobody knows whether it
//     was committed; because of the id, asking again is safe (store.go).
//   - New connections are held by the proxy while the primary moves, so a
//     request waits some hundred milliseconds rather than fails. The limits
//     here are therefore longer than a failover, and every one is set.
//   - Connections are pooled, but neither for ever nor without being looked at,
//     so none stays with a former primary.
//   - Reads go to replicas, and to the primary when the replicas cannot answer
//     or don't know the order yet.
//
// The service answers
//
//	GET  /health        200 while it can reach a server, else 503
//	POST /orders        {"id": "…"}: 201 stored, 200 was stored already
//	GET  /orders/:id    200, or 404
//	GET  /orders/count  200 {"count": n}
//
// and 503 with "retry": true where asking again, with the same id, is right.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/gin-gonic/gin"
	"go.uber.org/zap"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "demoapp:", err)
		os.Exit(1)
	}
}

// run serves until ctx ends, then finishes the requests in flight.
func run(ctx context.Context, args []string) (err error) {
	cfg, err := parseConfig(args, os.Getenv)
	if err != nil {
		return err
	}
	log, err := zap.NewProduction()
	if err != nil {
		return fmt.Errorf("make logger: %w", err)
	}
	orders, err := openStore(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, orders.close()) }()
	if err := orders.createTable(ctx, log); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", cfg.listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	log.Info("serving", zap.String("address", listener.Addr().String()), zap.String("rw", cfg.rw), zap.String("ro", cfg.ro))
	gin.SetMode(gin.ReleaseMode)
	return serve(ctx, listener, newHandler(orders, cfg.requestLimit, log))
}

// shutdownLimit is how long requests in flight may take once the service is
// told to end.
const shutdownLimit = 15 * time.Second

// serve serves until ctx ends. It returns when no request is in flight.
func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler: handler,
		// A client that sends slowly, or nothing, costs us a connection for
		// this long at most.
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
	defer cancel()
	err := server.Shutdown(limit)
	if err != nil {
		err = errors.Join(fmt.Errorf("finish requests: %w", err), server.Close())
	}
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}
